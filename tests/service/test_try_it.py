"""Try it: who may send an image, what is no image, where it is kept, and what comes of it."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image
from typer.testing import CliRunner

from search.cli import app
from search.dashboard.pages.jobs import MOST_STREAMS
from search.dashboard.pages.trying import MOST_UPLOADS
from search.dashboard.server import make_app
from search.dashboard.uploads import MOST_PARTS
from search.database.audit import deeds
from search.database.sessions import new_token
from search.database.store import Store, open_store
from search.database.tables import job_table
from search.files.artifacts import Artifacts
from search.files.results import Results
from search.findings.export import export_study
from search.studies import job_runs
from search.studies.job_kinds import image_name, parsed
from search.studies.job_runs import claim, end, give_back, image_of
from search.studies.jobs import (
    CANCELLED,
    ENDED,
    FAILED,
    IMAGE_BYTES,
    LOST,
    Job,
    ask,
    cancel,
    find,
    latest,
    lines_of,
)
from search.studies.slots import LEASE_SECONDS, Result
from search.studies.study import Study, open_study
from spaces.errors import InputError
from tests.browsing import Answer, Client
from tests.conftest import HOSTILE
from tests.service.test_actions import NAME, Desk, form_token
from tests.service.test_actions import study as study
from tests.service.test_job_runner import Served
from tests.service.test_job_runner import served as served
from tests.service.test_take_away import KEY, OWNER, text
from tests.service.test_take_away import artifacts as artifacts
from tests.service.test_take_away import desk as desk
from tests.statements import Statements
from tests.stores import sqlite_too
from tests.waiting import Running
from trainers.devices import ASKED
from trainers.predict import Predictor

FORM = f"/studies/{NAME}/try"
LINE = "----WebKitFormBoundaryX7"
KIND = f"multipart/form-data; boundary={LINE}"
ASKS = json.dumps({"image": "street.png"})


def png(size: tuple[int, int] = (48, 40)) -> bytes:
    body = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(body, "PNG")
    return body.getvalue()


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    """A field as Chromium sends it."""
    head = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        head += f'; filename="{filename}"\r\nContent-Type: image/png'
    return f"--{LINE}\r\n{head}\r\n\r\n".encode() + content + b"\r\n"


def send(
    client: Client,
    image: bytes = b"an image",
    name: str = "street.png",
    trial: str = "",
    token: str | None = None,
    **headers: str,
) -> Answer:
    given = form_token(client, FORM) if token is None else token
    fields = part("token", given.encode()) + part("trial", trial.encode())
    body = fields + part("image", image, name) + f"--{LINE}--\r\n".encode()
    return client("POST", FORM, body, KIND, **headers)


def sent(store: Store) -> list[Any]:
    """What is kept of images, job by job."""
    query = sa.select(job_table.c.sent).order_by(job_table.c.number)
    with store.engine.connect() as connection:
        return list(connection.execute(query).scalars())


def zipped(artifacts: Artifacts, folder: Path, **files: bytes) -> None:
    """Keep a ZIP as the result KEY; files by name, with `__` for `/` and `_` for `.`."""
    with zipfile.ZipFile(folder / "made.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(f"roads/{name.replace('__', '/').replace('_', '.')}", content)
    Results(artifacts).write(KEY, folder / "made.zip")


def ended(store: Store, result: str | None = KEY) -> Job:
    job = claim(store, OWNER)
    assert job is not None and job_runs.beat(store, job, result=result) == "ours"
    assert end(store, job, ENDED, 0, "1 images in 0.1 s")
    return job


def test_a_member_sends_an_image_and_sees_what_comes_of_it(
    desk: Desk, artifacts: Artifacts, tmp_path: Path
) -> None:
    max_, store, study = desk.client("max"), desk.study.store, desk.study
    assert FORM.encode() not in max_("GET", "/studies/roads").body  # there is no model
    trial = study.slots.claim(study.ask)
    assert trial and study.slots.end(trial, Result("COMPLETE", 0.5, "completed", {}))
    assert f'href="{FORM}"'.encode() in max_("GET", "/studies/roads").body
    said = text(max_("GET", FORM))
    assert "at most 16 MiB. 3 of your jobs may wait at a time." in said
    assert "The weights of the 3 best are kept." in said
    image = bytes(range(256)) * 99 + b"\r\n--" + LINE.encode()[:-1] + b"\r\n\r\n"
    answer = send(max_, image, "C:\\photos\\Straße 7.JPG", trial="3")
    assert (answer.status, answer.header("Location")) == (303, "/jobs/1"), answer.body
    job, deed = find(store, 1), deeds(store)[0]
    assert job is not None and job.words == "predict Stra_e_7.jpg --trial 3"
    assert (job.asked_by, job.study) == ("max", NAME)
    assert (deed.who, deed.what, deed.study) == ("max", job.words, NAME)
    with Statements.of(store) as read:
        for path in ("/jobs", "/jobs/1"):
            assert "predict Stra_e_7.jpg --trial 3" in text(max_("GET", path))
    assert not any("sent" in statement for statement in read.texts)  # no list reads images
    assert b"/picture" not in max_("GET", "/jobs/1").body
    assert max_("GET", "/jobs/1/picture").status == 404
    assert image_of(store, job) == image
    shown = png()
    zipped(artifacts, tmp_path, masks__a_png=b"a mask", overlays__a_png=shown)
    ended(store)
    assert sent(store) == [None]
    body = max_("GET", "/jobs/1").body
    assert b'<img class="picture" src="/jobs/1/picture" alt="' in body
    picture = max_("GET", "/jobs/1/picture")
    assert (picture.status, picture.body) == (200, shown)
    assert picture.header("Content-Type") == "image/png"
    assert picture.header("X-Content-Type-Options") == "nosniff"
    assert (picture.header("Content-Disposition") or "").startswith('inline; filename="a.png"')
    assert "sandbox" in (picture.header("Content-Security-Policy") or "")
    head = max_("HEAD", "/jobs/1/picture")
    assert (head.body, head.header("Content-Length")) == (b"", str(len(shown)))
    assert max_("GET", "/jobs/1/result").status == 200


@pytest.mark.parametrize("who", [None, "ray", "program"])
def test_nobody_else_sends_an_image(desk: Desk, who: str | None) -> None:
    client, headers = desk.client(None if who == "program" else who), {}
    if who == "program":  # a member's, which was given no form
        headers = {"Authorization": f"Bearer {new_token(desk.study.store, 'max', 'ci', 'test')}"}
    refused = 401 if who is None else 403
    for token in ("", "0" * 64, form_token(desk.client("max"), FORM)):
        assert send(client, token=token, **headers).status == refused
    if who != "program":
        asked = client("GET", FORM)
        assert asked.status == refused and b'name="token"' not in asked.body
    assert latest(desk.study.store) == []


def test_a_form_of_another_session_or_site_sends_nothing(desk: Desk) -> None:
    max_, mia = desk.client("max"), desk.client("mia")
    token, elsewhere = form_token(max_, FORM), "https://elsewhere.example"
    for given in ("", "0" * 64, form_token(mia, FORM), token[:-1]):
        assert send(max_, token=given).status == 403, given
    assert send(max_, token=token, Origin=elsewhere).status == 403
    assert send(max_, token=token, Referer=f"{elsewhere}/studies").status == 403
    max_.sign_in(name="max")
    assert send(max_, token=token).status == 403
    assert latest(desk.study.store) == []


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../etc/x.png", "x.png"),
        ("..\\..\\x.PNG", "x.png"),
        ("/etc/passwd\0.png", "passwd.png"),
        ("-rf --to.jpeg", "rf_--to.jpeg"),
        ("улица.webp", "image.webp"),
        ("..png", "image.png"),
        (f"{'a' * 300}.tif", f"{'a' * 60}.tif"),
        ("a.tar.tiff", "a_tar.tiff"),
        (f"{HOSTILE}.bmp", None),
    ],
)
def test_a_files_name_leads_nowhere(name: str, kept: str | None) -> None:
    found = image_name(name)
    assert kept in (None, found) and "/" not in found
    assert parsed("predict", json.dumps({"image": found})).words == [found]


WRONG = [
    (part("image", b"x", "x.exe"), KIND, "must end in .png, .jpg"),
    (part("image", b"x", "x"), KIND, "must end in .png"),
    (part("image", b"x", ".png"), KIND, "must end in .png"),
    (part("image", b"x", f"{HOSTILE}.svg"), KIND, "must end in .png"),
    (part("image", b"", ""), KIND, "choose an image"),
    (part("image", b"x"), KIND, "choose an image"),
    (part("picture", b"x", "x.png"), KIND, "choose an image"),
    (b"", KIND, "choose an image"),
    (part("image", b"", "x.png"), KIND, "must have 1 to 16777216 bytes"),
    (part("image", bytes(IMAGE_BYTES + 1), "x.png"), KIND, "must have 1 to 16777216 bytes"),
    (part("image", bytes(IMAGE_BYTES + 20_000), "x.png"), KIND, "at most 16 MiB; send a smaller"),
    (part("image", b"x", "x.png") + part("trial", b"-1"), KIND, "Trial must be a number"),
    (part("image", b"x", "x.png") + part("trial", b"3;ls"), KIND, "Trial must be a number"),
    (part("x", b"") * MOST_PARTS, KIND, f"more than {MOST_PARTS} fields"),
    (part("x", b"") * 100_000, KIND, f"more than {MOST_PARTS} fields"),
    (part("x", b"x" * 20_000), KIND, "at most 16384 bytes together"),
    (b"--" + LINE.encode() + b"\r\n" + b"a: b\r\n" * 999 + b"\r\nx\r\n", KIND, "has no name"),
    (b"--" + LINE.encode() + b"\r\n" + b"a: b\r\n" * 999_999, KIND, "has no name"),
    (b"--" + LINE.encode() + b"\r\n\r\nx\r\n", KIND, "has no name"),
    (b"before it\r\n", KIND, "cut off"),
    (b"", "multipart/form-data; boundary=other", "cut off"),
    (b"", "multipart/form-data", "must be sent as multipart"),
    (b"", "multipart/form-data; boundary=", "must be sent as multipart"),
    (b"", f"multipart/form-data; boundary={'x' * 71}", "must be sent as multipart"),
    (b"", f"multipart/mixed; boundary={LINE}", "must be sent as multipart"),
    (b"", "application/x-www-form-urlencoded", "must be sent as multipart"),
    (b"", "", "must be sent as multipart"),
]


def test_what_is_no_form_with_an_image_is_refused(desk: Desk) -> None:
    olga = desk.client("olga")
    token = part("token", form_token(olga, FORM).encode())
    for body, kind, says in WRONG:
        answer = olga("POST", FORM, body + token + f"--{LINE}--\r\n".encode(), kind)
        assert answer.status == 400 and says in text(answer), (says, body[:99], text(answer))
        assert HOSTILE.encode() not in answer.body
    cut = olga("POST", FORM, token + part("image", b"x", "x.png"), KIND)
    assert cut.status == 400 and "cut off" in text(cut)
    whole = token + part("image", b"x", "x.png") + f"--{LINE}--\r\n".encode()
    for method, where, status in (
        ("PUT", FORM, 405),
        ("POST", "/studies/road/try", 404),
        ("POST", "/studies/roads:confirm/try", 404),
        ("POST", "/studies/..%2F..%2Fetc/try", 404),
        ("POST", "/jobs/1/picture", 405),
    ):
        assert olga(method, where, whole, KIND).status == status, where
    assert latest(desk.study.store) == []
    assert olga("POST", FORM, whole, KIND).status == 303


def test_few_images_are_taken_at_once_and_few_wait(desk: Desk) -> None:
    max_ = desk.client("max")
    token, held, go = form_token(max_, FORM), threading.Semaphore(0), threading.Event()

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            held.release()
            assert go.wait(60)
            return super().read(size)

    def begin() -> None:
        environ = {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": FORM,
            "HTTP_HOST": "localhost",
            "HTTP_COOKIE": max_.cookie,
            "CONTENT_TYPE": KIND,
            "CONTENT_LENGTH": "9",
            "wsgi.input": Slow(b"x"),
        }
        b"".join(desk.app(environ, lambda status, headers, info=None: None))

    threads = [threading.Thread(target=begin) for _ in range(MOST_UPLOADS)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert held.acquire(timeout=60)
    busy = send(max_, token=token)
    assert busy.status == 503 and "images are being sent" in text(busy)
    go.set()
    for thread in threads:
        thread.join()
    for _ in range(3):
        assert send(max_, token=token).status == 303  # their places were given back
    refused = send(max_, token=token)
    assert refused.status == 400 and "3 of your jobs wait already" in text(refused)
    assert sent(desk.study.store) == 3 * [b"an image"]


def test_a_dashboard_that_is_for_reading_takes_no_image_and_one_without_names_does(
    study: Study, artifacts: Artifacts
) -> None:
    reads = Client(make_app(study.store, artifacts))
    refused = reads("GET", FORM)
    assert refused.status == 403 and b"--allow-writes" in refused.body
    assert send(reads, token="").status == 403
    assert latest(study.store) == []
    writes = Client(make_app(study.store, artifacts, allow_writes=True))
    assert send(writes).status == 303 and deeds(study.store) == []


def test_a_picture_is_for_whom_its_job_is(desk: Desk, artifacts: Artifacts, tmp_path: Path) -> None:
    max_, store = desk.client("max"), desk.study.store
    assert send(max_).status == 303
    zipped(artifacts, tmp_path, overlays__a_png=b"of max alone")
    ended(store)
    for who, status in ((None, 401), ("ray", 404), ("mia", 404), ("olga", 200), ("max", 200)):
        answer = desk.client(who)("GET", "/jobs/1/picture")
        assert answer.status == status and (b"of max" in answer.body) == (status == 200), who


def test_a_zip_without_a_picture_shows_none(
    desk: Desk, artifacts: Artifacts, tmp_path: Path
) -> None:
    """Also one that somebody has put in its place who may write there."""
    max_, store = desk.client("max"), desk.study.store
    for files in (
        {"masks__a_png": b"a mask"},
        {"overlays__a_html": b"<script>"},
        {"overlays__a_svg": b"<svg>"},
        {"overlays__deep__a_png": b"deep"},
        {"x__overlays__a_png": b"deep"},
        {"overlays__a_png": bytes(33 * 2**20)},
    ):
        zipped(artifacts, tmp_path, **files)
        assert send(max_).status == 303
        number = ended(store).number
        answer = max_("GET", f"/jobs/{number}/picture")
        assert answer.status == 404 and "no picture that can be shown" in text(answer), files
        assert max_("GET", f"/jobs/{number}/result").status == 200
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("roads/overlays/a.png", bytes(40 * 2**20))
    assert bomb.stat().st_size < 100_000
    for content in (bomb.read_bytes(), b"no ZIP", bomb.read_bytes()[:-50]):
        (tmp_path / "made.zip").write_bytes(content)
        Results(artifacts).write(KEY, tmp_path / "made.zip")
        assert max_("GET", f"/jobs/{number}/picture").status == 404
    export = ask(store, "export", "{}", NAME, by="max")
    ended(store)
    assert "has no picture" in text(max_("GET", f"/jobs/{export}/picture"))
    assert b"/picture" not in max_("GET", f"/jobs/{export}").body


def test_a_picture_out_of_a_bucket_holds_no_place(
    desk: Desk, artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file there is read from its beginning to its end; a ZIP's list stands at its end."""
    max_, shown = desk.client("max"), png()
    assert send(max_).status == 303
    zipped(artifacts, tmp_path, masks__a_png=b"a mask", overlays__a_png=shown)
    ended(desk.study.store)
    content = (tmp_path / "made.zip").read_bytes()

    class Body(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *where: Any) -> int:
            raise io.UnsupportedOperation

    monkeypatch.setattr(Results, "open", lambda results, key: (Body(content), len(content)))
    for _ in range(MOST_STREAMS + 1):
        answer = max_("GET", "/jobs/1/picture")
        assert (answer.status, answer.body) == (200, shown)


@sqlite_too
def test_an_image_is_gone_from_the_store_however_its_job_is_over(store: Store) -> None:
    def asked() -> int:
        return ask(store, "predict", ASKS, NAME, image=b"canary")

    first = asked()
    cancel(store, first, "max")  # it waits, and no runner lives
    assert sent(store) == [None]
    for state in (ENDED, FAILED, CANCELLED):
        asked()
        job = claim(store, OWNER)
        assert job is not None and image_of(store, job) == b"canary"
        cancel(store, job.number, "max")  # it runs: whoever runs it ends it
        assert sent(store)[-1] == b"canary"
        assert end(store, job, state, 0, "")
        assert not any(sent(store)), state
    asked()
    job = claim(store, OWNER)
    assert job is not None
    give_back(store, job)
    assert sent(store)[-1] == b"canary"  # it begins anew
    job = claim(store, OWNER)
    with store.engine.begin() as connection:
        late = job_table.c.seen_at - 2 * LEASE_SECONDS
        connection.execute(sa.update(job_table).values(seen_at=late))
    assert claim(store, "far:2:other") is None and not any(sent(store))
    assert find(store, job.number).state == LOST  # type: ignore[union-attr]


def test_a_job_has_its_image_or_is_not_asked_for(store: Store) -> None:
    with pytest.raises(InputError, match="predict takes an image that is sent along"):
        ask(store, "predict", ASKS, NAME)
    with pytest.raises(InputError, match="export takes no image that is sent along"):
        ask(store, "export", "{}", NAME, image=b"x")
    for image in (b"", bytes(IMAGE_BYTES + 1)):
        with pytest.raises(InputError, match=f"must have 1 to .*16 MiB.* but got {len(image)}"):
            ask(store, "predict", ASKS, NAME, image=image)
    assert latest(store) == []


LOOKS = f"""\
import os, sys
words = sys.argv[1:]
print(words, os.environ[{ASKED!r}])
print(open(words[2], "rb").read())
"""


def test_a_runner_gives_the_command_its_image(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = b"\x00an image\r\n"
    number = ask(served.store, "predict", ASKS, "roads", image=image)
    assert served.runner(LOOKS).run()
    words = "['predict', 'study:roads', 'street.png', '--to', 'roads', '--overlay'] cpu"
    assert lines_of(served.store, number) == f"{words}\n{image!r}"
    assert sent(served.store) == [None]
    number = ask(served.store, "predict", ASKS, "roads", image=b"an image")
    monkeypatch.setattr(job_runs, "IMAGE_BYTES", 7)  # as if somebody had written too much there
    assert served.runner("raise SystemExit('it ran')").run()
    assert served.job(number).state == FAILED
    assert "is not in the store any more; send it anew" in lines_of(served.store, number)


def test_what_a_job_predicts_is_what_the_export_says(
    finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real runner and the real command, on a study that was really trained."""
    monkeypatch.setenv("SEGTUNE_HOME", str(finished.folder / "home"))
    artifacts, image = Artifacts(finished.artifacts), png()
    environment = {
        "SEGTUNE_STORE": finished.url,
        "SEGTUNE_ARTIFACTS": str(finished.artifacts),
        "TMPDIR": str(tmp_path),
    }
    with closing(open_store(finished.url)) as store:
        study = open_study(store, "my-study")
        number = ask(store, "predict", ASKS, "my-study", image=image)
        broken = ask(store, "predict", ASKS, "my-study", image=b"<html>no image")
        Running.segtune("jobs", "--until-idle", env=environment).finish()
        job, refused = find(store, number), find(store, broken)
        assert job is not None and job.result, lines_of(store, number)
        assert refused is not None and (refused.state, refused.code) == (FAILED, 1)
        assert "street.png: not an image that can be read" in lines_of(store, broken)
        assert sent(store)[-2:] == [None, None]
        client = Client(make_app(store, artifacts, allow_writes=True))
        answer = client("GET", f"/jobs/{number}/picture")
        with Image.open(io.BytesIO(answer.body)) as picture:
            assert picture.format == "PNG" and min(picture.size) > 40
        file, _ = Results(artifacts).open(job.result)
        with file, zipfile.ZipFile(file) as archive:
            mask = np.asarray(Image.open(io.BytesIO(archive.read("my-study/masks/street.png"))))
        export_study(study, artifacts, tmp_path / "best", test=False)
    [expected] = Predictor(tmp_path / "best").predict([Image.open(io.BytesIO(image))])
    assert (mask == expected).all()
    assert not list(tmp_path.glob("segtune-*"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["best", "--trial", "3"], "--trial is for study:NAME, but got the folder best"),
        (["study:my-stud"], "did you mean my-study?"),
        (["study:my-study", "--trial", "99"], "99"),
    ],
)
def test_a_model_that_is_none_is_named(
    finished: Any, tmp_path: Path, words: list[str], says: str
) -> None:
    environment = {"SEGTUNE_STORE": finished.url, "SEGTUNE_ARTIFACTS": str(finished.artifacts)}
    model, *more = words
    (tmp_path / "a.png").write_bytes(png())
    given = ["predict", model, str(tmp_path / "a.png"), "--to", str(tmp_path / "out"), *more]
    answer = CliRunner().invoke(app, given, env=environment)
    assert answer.exit_code == 2 and says in answer.output, answer.output
    assert not (tmp_path / "out").exists()
