"""Jobs in the browser: who may ask for an export, see it, cancel it and take its file away."""

from __future__ import annotations

import io
import re
import zipfile
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import sqlalchemy as sa

from search.dashboard.pages.jobs import MOST_STREAMS
from search.dashboard.server import make_app
from search.database.audit import deeds
from search.database.people import add_user
from search.database.sessions import new_token
from search.database.store import Store
from search.database.tables import job_table
from search.files.artifacts import Artifacts
from search.files.results import FOLDER, Results
from search.studies.heartbeats import Registration
from search.studies.job_runs import beat, claim, end
from search.studies.jobs import DEVICE, ENDED, FAILED, MOST_OF_USER, Job, ask, find, latest
from search.studies.slots import Result
from search.studies.study import Study
from tests.browsing import PASSWORD, Answer, Client
from tests.conftest import HOSTILE
from tests.service.test_actions import NAME, ROLES, Desk, form_token
from tests.service.test_actions import study as study
from tests.service.test_pages import Cells, page
from tests.statements import Statements

FORM = f"/studies/{NAME}/export"
KEY = "0" * 8 + "-0000-0000-0000-" + "0" * 12
OWNER = "far:1:runner"


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "artifacts")


@pytest.fixture
def desk(study: Study, artifacts: Artifacts) -> Desk:
    """With a second member, as what is one member's is not another's."""
    for name, role in {**ROLES, "mia": "member"}.items():
        add_user(study.store, name, role, PASSWORD, "test")
    return Desk(study, make_app(study.store, artifacts, allow_writes=True))


def send(client: Client, path: str = FORM, token: str | None = None, **fields: str) -> Answer:
    """Post a form, with its token where none is given."""
    given = form_token(client, path) if token is None else token
    return client("POST", path, urlencode({"token": given, **fields}).encode())


def asked(client: Client, **fields: str) -> int:
    """Ask for a job; returns its number."""
    answer = send(client, **fields)
    assert answer.status == 303, answer.body
    found = re.fullmatch(r"/jobs/(\d+)", answer.header("Location") or "")
    assert found
    return int(found[1])


def run(store: Store, state: str = ENDED, lines: str = "", result: str | None = None) -> Job:
    """End the job that has waited longest."""
    job = claim(store, OWNER)
    assert job is not None and beat(store, job, lines=lines, result=result) == "ours"
    assert end(store, job, state, 0 if state == ENDED else 2, lines)
    return job


def text(answer: Answer) -> str:
    """What a page says, without its tags."""
    return " ".join(unescape(re.sub("<[^>]*>", " ", answer.body.decode())).split())


def test_a_member_takes_a_study_away(desk: Desk, artifacts: Artifacts, tmp_path: Path) -> None:
    max_, store = desk.client("max"), desk.study.store
    assert FORM.encode() not in max_("GET", "/studies/roads").body  # there is nothing to take
    number_of = desk.study.slots.claim(desk.study.ask)
    assert number_of and desk.study.slots.end(number_of, Result("COMPLETE", 0.5, "completed", {}))
    assert f'href="{FORM}"'.encode() in max_("GET", "/studies/roads").body
    assert "No runner serves this store now" in text(max_("GET", FORM))
    number = asked(max_, trial="3", onnx="1", no_test="1")
    job = find(store, number)
    assert job is not None and (job.asked_by, job.study) == ("max", NAME)
    assert job.words == "export --trial 3 --no-test --onnx"
    deed = deeds(store)[0]
    assert (deed.who, deed.what, deed.study) == ("max", job.words, NAME)
    shown = max_("GET", f"/jobs/{number}")
    assert "waiting No runner serves this store now." in text(shown) and b"/cancel" in shown.body
    assert max_("GET", f"/jobs/{number}/result").status == 404
    Registration(store, OWNER, DEVICE).enter()
    assert "It begins when a runner is free." in text(max_("GET", f"/jobs/{number}"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("roads/config.yaml", "a: 1")
    Results(artifacts).write(KEY, tmp_path / "a.zip")
    run(store, lines="wrote roads", result=KEY)
    shown = max_("GET", f"/jobs/{number}")
    assert "ended" in text(shown) and "wrote roads" in text(shown) and b"/cancel" not in shown.body
    assert "on far" in text(shown)
    sent = max_("GET", f"/jobs/{number}/result")
    assert zipfile.ZipFile(io.BytesIO(sent.body)).namelist() == ["roads/config.yaml"]
    assert sent.header("Content-Length") == str(len(sent.body))
    assert sent.header("Content-Type") == "application/octet-stream"
    assert (sent.header("Content-Disposition") or "").startswith('attachment; filename="roads.zip"')
    assert "sandbox" in (sent.header("Content-Security-Policy") or "")
    assert sent.header("Cache-Control") == "no-store"
    head = max_("HEAD", f"/jobs/{number}/result")
    assert (head.body, head.header("Content-Length")) == (b"", str(len(sent.body)))
    assert page(max_, "/jobs")[0][:5] == [str(number), "ended", NAME, job.words, "max"]
    (artifacts.folder / FOLDER / KEY).unlink()
    gone = max_("GET", f"/jobs/{number}/result")
    assert gone.status == 404 and b"the same --artifacts" in gone.body


ROUTES = [
    ("GET", FORM),
    ("POST", FORM),
    ("GET", "/jobs/1/cancel"),
    ("POST", "/jobs/1/cancel"),
    ("GET", "/jobs/1"),
    ("GET", "/jobs/1/result"),
]


@pytest.mark.parametrize("who", [None, "ray", "mia", "program"])
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_what_is_anothers_is_not_there_and_a_reader_asks_for_nothing(
    desk: Desk, who: str | None, method: str, path: str
) -> None:
    store = desk.study.store
    assert ask(store, "export", "{}", NAME, by="max") == 1
    run(store, lines="secret words", result=KEY)
    headers, client = {}, desk.client(who if who in ROLES or who == "mia" else None)
    if who == "program":  # a reader's
        headers = {"Authorization": f"Bearer {new_token(store, 'ray', 'ci', 'test')}"}
    answer = client(method, path, b"token=" + 64 * b"0" if method == "POST" else b"", **headers)
    own = path == FORM and who == "mia"
    expected = {None: 401, "mia": 200 if own and method == "GET" else 403 if own else 404}
    reader = 403 if path == FORM or method == "POST" else 404
    assert answer.status == expected.get(who, reader), answer.body
    assert b"secret words" not in answer.body
    job = find(store, 1)
    assert job is not None and job.cancelled_by is None and len(latest(store)) == 1


def test_a_member_sees_and_cancels_their_own_jobs_and_an_owner_all(desk: Desk) -> None:
    store = desk.study.store
    max_, mia, olga = desk.client("max"), desk.client("mia"), desk.client("olga")
    first, second, third = asked(max_), asked(mia), asked(olga)
    assert [row[0] for row in page(max_, "/jobs")] == [str(first)]
    assert [row[0] for row in page(olga, "/jobs")] == [str(third), str(second), str(first)]
    assert "No job was asked for yet" in page(desk.client("ray"), "/jobs")[0][0]
    assert send(max_, f"/jobs/{first}/cancel").status == 303
    assert send(olga, f"/jobs/{second}/cancel").status == 303
    assert "Cancelled by olga." in text(mia("GET", f"/jobs/{second}"))
    said = [(deed.who, deed.what) for deed in deeds(store)][:2]
    assert said == [("olga", f"cancel job {second}"), ("max", f"cancel job {first}")]
    job = claim(store, OWNER)
    assert job is not None and job.number == third  # the others never ran
    assert send(olga, f"/jobs/{third}/cancel").status == 303
    shown = olga("GET", f"/jobs/{third}")
    assert "olga has asked for its end" in text(shown) and b"/cancel" not in shown.body
    tag = desk.client("olga")("GET", f"/jobs/{first}").header("ETag")
    assert mia("GET", f"/jobs/{first}", If_None_Match=tag).status == 404


def test_a_form_of_another_session_or_site_asks_for_nothing(desk: Desk) -> None:
    max_, mia = desk.client("max"), desk.client("mia")
    token = form_token(max_, FORM)
    for given in ("", "0" * 64, form_token(mia, FORM), token[:-1]):
        assert send(max_, token=given).status == 403, given
    body = urlencode({"token": token}).encode()
    assert max_("POST", FORM, body, Origin="https://elsewhere.example").status == 403
    max_.sign_in(name="max")
    assert send(max_, token=token).status == 403
    assert latest(desk.study.store) == []
    number = asked(max_)
    cancel = f"/jobs/{number}/cancel"
    assert send(max_, cancel, token=form_token(mia, FORM)).status == 403
    assert find(desk.study.store, number).cancelled_by is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", FORM, "trial=-1", 400),
        ("POST", FORM, "trial=1;ls", 400),
        ("POST", FORM, "trial=%D9%A3", 400),  # a digit, of another script
        ("POST", FORM, "trial=99999999999", 400),
        ("POST", FORM, "onnx=1&config_only=1", 400),
        ("POST", FORM, "x=" + 20_000 * "x", 400),
        ("POST", FORM, 9 * "onnx=1&", 400),
        ("PUT", FORM, "trial=1", 405),
        ("DELETE", FORM, "", 405),
        ("POST", "/studies/road/export", "", 404),
        ("POST", "/studies/roads:confirm/export", "", 404),
        ("GET", "/studies/--to/export", "", 404),
        ("GET", "/studies/..%2F..%2Fetc/export", "", 404),
        ("POST", "/jobs", "", 405),
        ("POST", "/jobs/1", "", 405),
        ("POST", "/jobs/1/result", "", 405),
        ("GET", "/jobs/1", "", 404),
        ("GET", "/jobs/0", "", 404),
        ("GET", "/jobs/1/../2", "", 404),
        ("GET", "/jobs/999999999", "", 404),
        ("GET", "/jobs/9999999999999", "", 404),
        ("POST", "/jobs/1/cancel", "", 404),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_for_is_refused(
    desk: Desk, method: str, path: str, body: str, status: int
) -> None:
    olga = desk.client("olga")
    sent = f"token={form_token(olga, FORM)}&{body}" if method == "POST" else body
    answer = olga(method, path, sent.encode())
    assert answer.status == status, answer.body
    assert latest(desk.study.store) == []


def test_too_many_jobs_are_refused_with_the_reason(desk: Desk) -> None:
    max_ = desk.client("max")
    for _ in range(MOST_OF_USER):
        asked(max_)
    refused = send(max_)
    assert refused.status == 400 and f"{MOST_OF_USER} of your jobs wait already" in text(refused)
    assert [deed.what for deed in deeds(desk.study.store)].count("export") == MOST_OF_USER


def test_markup_in_a_job_stays_text(desk: Desk) -> None:
    """Also what no page of ours would write, but whoever may write into the store."""
    store, olga = desk.study.store, desk.client("olga")
    row = {"kind": HOSTILE[:32], "arguments": HOSTILE, "study": HOSTILE, "asked_by": HOSTILE[:64]}
    with store.engine.begin() as connection:
        added = sa.insert(job_table).values(**row, state="waiting", asked_at=0)
        number = connection.execute(added.returning(job_table.c.number)).scalar_one()
    job = claim(store, f"{HOSTILE}:1:x")
    assert job is not None and end(store, job, FAILED, 2, f"a line\n{HOSTILE}")
    for path in ("/jobs", f"/jobs/{number}"):
        answer = olga("GET", path)
        assert answer.status == 200 and HOSTILE.encode() not in answer.body, path
        tags = Cells(answer.body).tags
        assert [a for t, a in tags if t == "script"] == [{"src": "/pages/page.js", "defer": None}]
        assert not [t for t, a in tags if t in ("style", "iframe", "img") or "style" in a]
        assert not [name for _, a in tags for name in a if name.startswith("on")]
    assert HOSTILE in unescape(olga("GET", f"/jobs/{number}").body.decode())
    sent = olga("GET", f"/jobs/{number}/result")
    assert sent.status == 404 and HOSTILE.encode() not in sent.body


def test_a_poll_of_a_job_costs_one_statement(study: Study, artifacts: Artifacts) -> None:
    client, store = Client(make_app(study.store, artifacts, allow_writes=True)), study.store
    number = asked(client)
    job = claim(store, OWNER)
    assert job is not None
    path = f"/jobs/{number}"
    for change in (
        lambda: beat(store, job, lines="a line"),
        lambda: beat(store, job, lines="a line\nand one more"),
        lambda: end(store, job, ENDED, 0, "a line\nand one more"),
    ):
        before = client("GET", path)
        assert beat(store, job) == "ours"  # a sign of life is nothing new
        with Statements.of(store) as polled:
            poll = client("GET", path, If_None_Match=before.header("ETag"))
        assert (poll.status, len(polled)) == (304, 1), polled.texts
        change()
        with Statements.of(store) as read:
            assert client("GET", path, If_None_Match=before.header("ETag")).status == 200
        assert len(read) == 2
    with Statements.of(store) as listed:
        page(client, "/jobs")
    assert len(listed) == 1


def test_a_dashboard_that_is_for_reading_asks_for_nothing_but_shows_jobs(
    study: Study, artifacts: Artifacts
) -> None:
    number = ask(study.store, "export", "{}", NAME)
    client = Client(make_app(study.store, artifacts))
    for path in (FORM, f"/jobs/{number}/cancel"):
        assert client("GET", path).status == 403 and send(client, path, token="").status == 403
    shown = client("GET", f"/jobs/{number}")
    assert shown.status == 200 and b"/cancel" not in shown.body
    assert b'href="/jobs"' not in client("GET", "/studies").body
    assert [job.number for job in latest(study.store)] == [number]


def test_without_names_whoever_is_in_may_ask_and_nobody_is_written_down(
    study: Study, artifacts: Artifacts
) -> None:
    client = Client(make_app(study.store, artifacts, allow_writes=True))
    number = asked(client)
    assert b'href="/jobs"' in client("GET", "/studies").body
    assert send(client, f"/jobs/{number}/cancel").status == 303
    assert "Cancelled." in text(client("GET", f"/jobs/{number}")) and deeds(study.store) == []


def test_files_out_of_a_bucket_take_few_threads(
    study: Study, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not read by the server itself, as plain files are."""
    app = make_app(study.store, artifacts, allow_writes=True)
    client = Client(app)
    number = asked(client)
    run(study.store, result=KEY)

    class Body(io.BytesIO):
        def seekable(self) -> bool:
            return False

    monkeypatch.setattr(Results, "open", lambda results, key: (Body(b"zipped"), 6))
    path = f"/jobs/{number}/result"
    held = [begun(app, path) for _ in range(MOST_STREAMS)]
    assert client("GET", path).status == 503
    held[0].close()
    assert client("GET", path).body == b"zipped"
    assert client("GET", path).body == b"zipped"  # its place was given back
    for answer in held[1:]:
        answer.close()


def begun(app: Any, path: str) -> Any:
    """An answer that nobody reads yet."""
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "HTTP_HOST": "localhost"}
    return app(environ, lambda status, headers, info=None: None)
