"""Look for data in the browser: who may, what is shown, and the job that writes a study file."""

from __future__ import annotations

import json
import re
import threading
import zipfile
from html import unescape
from pathlib import Path
from urllib.parse import urlencode

import pytest
from PIL import Image

from search.dashboard.pages.data import MOST_WAITING, PICTURES
from search.dashboard.server import make_app
from search.database.audit import deeds
from search.database.people import add_user
from search.database.sessions import new_token
from search.files.artifacts import Artifacts
from search.files.results import Results
from search.studies.heartbeats import Registration
from search.studies.job_kinds import FILE_LENGTH
from search.studies.jobs import DEVICE, ENDED, FAILED, MOST_OF_USER, find, latest
from search.studies.study import Study
from tests.browsing import PASSWORD, Answer, Client
from tests.conftest import HOSTILE
from tests.service.test_actions import ROLES, Desk, form_token
from tests.service.test_actions import study as study
from tests.service.test_new_study import FILE, edited
from tests.service.test_pages import Cells
from tests.service.test_take_away import KEY, OWNER, run, text
from tests.service.test_take_away import artifacts as artifacts

DATA, PICTURE = "/data", "/data/picture"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (folder / "streets" / split / kind).mkdir(parents=True)
    for number in range(PICTURES + 1):
        Image.new("RGB", (9, 6)).save(folder / "streets" / "train" / "images" / f"{number:02}.png")
    return folder


@pytest.fixture
def desk(study: Study, artifacts: Artifacts, root: Path) -> Desk:
    for name, role in {**ROLES, "mia": "member"}.items():
        add_user(study.store, name, role, PASSWORD, "test")
    app = make_app(study.store, artifacts, allow_writes=True, roots=[root, root.parent])
    return Desk(study, app)


def of(path: Path | str, place: str = DATA, field: str = "folder") -> str:
    return f"{place}?{urlencode({field: str(path)})}"


def use(client: Client, folder: Path | str, token: str | None = None, **headers: str) -> Answer:
    given = form_token(client, of(folder)) if token is None else token
    fields = {"token": given, "folder": str(folder)}
    return client("POST", DATA, urlencode(fields).encode(), **headers)


def test_a_member_finds_a_folder_and_gets_a_study_file_for_it(
    desk: Desk, artifacts: Artifacts, root: Path, tmp_path: Path
) -> None:
    max_, store = desk.client("max"), desk.study.store
    assert b'<a href="/data">Look for data' in max_("GET", "/new").body
    roots = max_("GET", DATA).body.decode()
    assert f'href="{of(root)}">{root}<' in roots and f'href="{of(root.parent)}"' in roots
    folder = root / "streets"
    assert f'href="{of(folder)}"' in max_("GET", of(root)).body.decode()
    train = max_("GET", of(folder / "train"))
    assert re.search(rf"images {PICTURES + 1} masks 0", text(train))
    images = folder / "train" / "images"
    shown = max_("GET", of(images))
    sources = [a["src"] for t, a in Cells(shown.body).tags if t == "img"]
    assert sources == [of(images / f"{n:02}.png", PICTURE, "file") for n in range(PICTURES)]
    assert f"13 images directly in it, of which the first {PICTURES} are shown" in text(shown)
    answer = max_("GET", sources[0])
    assert (answer.status, answer.header("Content-Type")) == (200, "image/jpeg")
    assert "sandbox" in (answer.header("Content-Security-Policy") or "")
    assert answer.header("Cache-Control") == "private, no-cache"
    assert max_("GET", sources[0], If_None_Match=answer.header("ETag")).status == 304
    assert "No runner serves this store now" in text(shown)
    Registration(store, OWNER, DEVICE).enter()
    assert "No runner serves" not in text(max_("GET", of(folder)))
    asked = use(max_, folder)
    assert (asked.status, asked.header("Location")) == (303, "/jobs/1"), asked.body
    job, deed = find(store, 1), deeds(store)[0]
    assert job is not None and (job.study, job.asked_by) == (None, "max")
    assert job.words == f"init --from {folder}"
    assert (deed.who, deed.what, deed.study) == ("max", job.words, None)
    assert b"/new?job" not in max_("GET", "/jobs/1").body
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        archive.writestr("result/study.yaml", FILE)
    Results(artifacts).write(KEY, tmp_path / "made.zip")
    run(store, lines="looks like images and masks", result=KEY)
    assert b'href="/new?job=1">Open in the editor' in max_("GET", "/jobs/1").body
    assert edited(max_("GET", "/new?job=1")) == FILE
    assert desk.client("mia")("GET", "/new?job=1").status == 404  # another's
    Results(artifacts).remove(KEY)
    assert max_("GET", "/new?job=1").status == 404


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"study.yaml": FILE},
        {"result/other/study.yaml": FILE},
        {"result/study.yaml": "#" * (FILE_LENGTH + 1)},
        {"result/study.yaml": "#" * 10**7},
        {"result/study.yaml": b"\xff\xfe"},
    ],
)
def test_a_result_that_holds_no_study_file_opens_no_editor(
    desk: Desk, artifacts: Artifacts, root: Path, tmp_path: Path, files: dict[str, str | bytes]
) -> None:
    max_ = desk.client("max")
    use(max_, root)
    with zipfile.ZipFile(tmp_path / "made.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    Results(artifacts).write(KEY, tmp_path / "made.zip")
    run(desk.study.store, ENDED, result=KEY)
    answer = max_("GET", "/new?job=1")
    assert answer.status == 404 and "holds no study file" in text(answer)


def test_a_job_that_failed_has_no_editor(desk: Desk, root: Path) -> None:
    max_ = desk.client("max")
    use(max_, root)
    run(desk.study.store, FAILED, "no layout of a data set that is known")
    assert b"/new?job" not in max_("GET", "/jobs/1").body
    assert max_("GET", "/new?job=1").status == 404


ROUTES = [("GET", DATA), ("POST", DATA), ("GET", PICTURE)]


@pytest.mark.parametrize("who", [None, "ray", "program"])
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_reader_and_a_stranger_see_no_data(
    desk: Desk, root: Path, who: str | None, method: str, path: str
) -> None:
    headers, client = {}, desk.client("ray" if who == "ray" else None)
    if who == "program":  # a reader's
        headers = {"Authorization": f"Bearer {new_token(desk.study.store, 'ray', 'ci', 'test')}"}
    image = root / "streets" / "train" / "images" / "00.png"
    query = urlencode({"folder": root, "file": image})
    body = urlencode({"token": 64 * "0", "folder": root}).encode() if method == "POST" else b""
    answer = client(method, f"{path}?{query}", body, **headers)
    assert answer.status == (401 if who is None else 403)
    assert b"streets" not in answer.body and b"JFIF" not in answer.body
    assert latest(desk.study.store) == []


def test_a_form_of_another_session_or_site_asks_for_nothing(desk: Desk, root: Path) -> None:
    max_, mia = desk.client("max"), desk.client("mia")
    token = form_token(max_, of(root))
    for given in ("", 64 * "0", form_token(mia, of(root))):
        assert use(max_, root, given).status == 403
    assert use(max_, root, token, Origin="https://elsewhere.example").status == 403
    program = f"Bearer {new_token(desk.study.store, 'max', 'ci', 'test')}"
    assert use(desk.client(), root, token, Authorization=program).status == 403
    assert latest(desk.study.store) == []
    assert use(max_, root, token).status == 303


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_other_methods_are_refused(desk: Desk, method: str) -> None:
    assert desk.client("olga")(method, DATA).status == 405
    assert desk.client("olga")(method, PICTURE).status == 405
    assert desk.client("olga")("POST", PICTURE).status == 405


def test_what_lies_elsewhere_is_not_there_for_any_route(
    study: Study, artifacts: Artifacts, root: Path, tmp_path: Path
) -> None:
    """By `..`, absolute, by a link, hidden: the enumeration is that of test_data_roots.py."""
    (root / "out").symlink_to(tmp_path)
    (root / ".hidden").mkdir()
    client = Client(make_app(study.store, artifacts, allow_writes=True, roots=[root]))
    token = form_token(client, DATA)  # the one root is shown at once
    below = [f"{root}/{name}" for name in ("../artifacts", "out", ".hidden", "absent", "\0")]
    for given in ("/etc", "/etc/passwd", "/absent", "..", *below):
        page, picture = of(given), of(given, PICTURE, "file")
        for answer in (client("GET", page), client("GET", picture), use(client, given, token)):
            assert answer.status == 404
            said = f"There is nothing to look at: {given!r}; look below {root}"
            assert said in text(answer)
    assert use(client, root / "streets" / "train" / "images" / "00.png", token).status == 404
    assert client("GET", PICTURE).status == 404 and latest(study.store) == []


def test_a_picture_that_is_too_large_is_a_404_and_few_wait_for_one(
    desk: Desk, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    max_ = desk.client("max")
    Image.new("1", (7000, 6000)).save(root / "giant.png")
    answer = max_("GET", of(root / "giant.png", PICTURE, "file"))
    assert answer.status == 404 and "giant.png has more than 40,000,000 pixels" in text(answer)
    going, enough = threading.Semaphore(0), threading.Event()
    busy: list[int] = []

    def slow(path: Path) -> bytes:
        busy.append(1)
        assert len(busy) == 1  # one at a time
        going.release()
        assert enough.wait(60)
        busy.pop()
        return b"a picture"

    monkeypatch.setattr("search.dashboard.pages.data.small_picture", slow)
    path = of(root / "streets" / "train" / "images" / "00.png", PICTURE, "file")
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(max_("GET", path).status))
        for _ in range(MOST_WAITING + 1)
    ]
    for thread in threads:
        thread.start()
    assert going.acquire(timeout=60)
    while not answers:  # the one that found no place
        threads[0].join(0.01)
    enough.set()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] * MOST_WAITING + [503]
    assert max_("GET", path).status == 200


def test_markup_in_names_stays_text(desk: Desk, root: Path) -> None:
    max_ = desk.client("max")
    name = HOSTILE.replace("/", "&amp;\"'") + " straße 道"
    (root / name / name).mkdir(parents=True)
    Image.new("L", (4, 4)).save(root / name / f"{name}.png")
    number = use(max_, root / name).header("Location")
    for path in (of(root), of(root / name), number or "", "/jobs"):
        answer = max_("GET", path)
        assert answer.status == 200 and name in unescape(answer.body.decode())
        assert HOSTILE[:20].encode() not in answer.body
        tags = Cells(answer.body).tags
        assert [a for t, a in tags if t == "script"] == [{"src": "/pages/page.js", "defer": None}]
        assert not [
            t for t, a in tags if t in ("style", "iframe") or "style" in a or "onerror" in a
        ]
    shown = Cells(max_("GET", of(root / name)).body).tags
    [source] = [a["src"] for t, a in shown if t == "img"]
    assert max_("GET", source or "").status == 200


def test_too_many_jobs_are_refused(desk: Desk, root: Path) -> None:
    max_ = desk.client("max")
    for _ in range(MOST_OF_USER):
        assert use(max_, root).status == 303
    refused = use(max_, root)
    assert refused.status == 400
    assert f"{MOST_OF_USER} of your jobs wait already" in text(refused)
    kept = [json.loads(job.arguments) for job in latest(desk.study.store)]
    assert kept == [{"folder": str(root)}] * MOST_OF_USER


def test_without_roots_or_writes_there_is_nothing(
    study: Study, artifacts: Artifacts, root: Path
) -> None:
    without = Client(make_app(study.store, artifacts, allow_writes=True))
    for path in (DATA, of(root), of("/"), of("")):
        answer = without("GET", path)
        assert answer.status == 404 and "start it with --data-root DIR" in text(answer)
    assert use(without, root, "").status == 404 and without("GET", PICTURE).status == 404
    assert b'href="/data"' not in without("GET", "/new").body
    reads = Client(make_app(study.store, artifacts, roots=[root]))
    for method, path in ROUTES:
        assert reads(method, path).status == 403
