"""What owners do in the browser: stop and resume a study, see who may sign in and who did what."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from search.dashboard.forms import MAX_BODY
from search.dashboard.pages.people import LINES
from search.dashboard.server import make_app
from search.database.audit import add_deed, deeds
from search.database.people import add_user
from search.database.sessions import new_token
from search.database.store import Store
from search.database.tables import AFTER, NOW
from search.files.artifacts import Artifacts
from search.studies.limits import stopped
from search.studies.owners import LAUNCHED_BY
from search.studies.slots import Result
from search.studies.study import Study, create_or_resume
from spaces.spec import StudySpec
from tests.browsing import PASSWORD, Answer, Client
from tests.service.test_pages import page

ROLES = {"olga": "owner", "otto": "owner", "max": "member", "ray": "reader"}
NAME = "roads"


@dataclass
class Desk:
    """A study, and a dashboard with people that may write."""

    study: Study
    app: Any

    def client(self, name: str | None = None) -> Client:
        client = Client(self.app)
        if name is not None:
            assert client.sign_in(name=name).status == 303
        return client

    @property
    def stopped(self) -> str | None:
        return stopped(self.study)


@pytest.fixture
def study(store: Store, make_spec: Callable[..., StudySpec]) -> Study:
    spec = make_spec(name=NAME, trials=3, epochs=4)
    return create_or_resume(store, spec, "f" * 64, None)


@pytest.fixture
def desk(study: Study, tmp_path: Path) -> Desk:
    for name, role in ROLES.items():
        add_user(study.store, name, role, PASSWORD, "test")
    return Desk(study, make_app(study.store, Artifacts(tmp_path), allow_writes=True))


def form_token(client: Client, path: str) -> str:
    """The token of the form that a page asks with."""
    answer = client("GET", path)
    assert answer.status == 200, answer.body
    found = re.search('name="token" value="([0-9a-f]{64})"', answer.body.decode())
    assert found
    return found[1]


def post(client: Client, path: str, token: str, how: str = AFTER, **headers: str) -> Answer:
    body = urlencode({"token": token, "how": how}).encode()
    return client("POST", path, body, **headers)


def test_an_owner_stops_and_resumes_a_study_in_the_browser(desk: Desk) -> None:
    olga = desk.client("olga")
    assert b'href="/studies/roads/stop"' in olga("GET", "/studies/roads").body
    assert page(olga)[0][1] == "waiting for workers"
    for how in (AFTER, NOW):
        answer = post(olga, "/studies/roads/stop", form_token(olga, "/studies/roads/stop"), how)
        assert (answer.status, answer.header("Location")) == (303, "/studies/roads")
        assert desk.stopped == how
        assert page(olga)[0][1].startswith("stopped by a user")  # at once, and not a second later
        assert b'href="/studies/roads/resume"' in olga("GET", "/studies/roads").body
        form = form_token(olga, "/studies/roads/resume")
        assert post(olga, "/studies/roads/resume", form).status == 303
        assert desk.stopped is None
    said = [(deed.who, deed.what, deed.study) for deed in deeds(desk.study.store)][:4]
    done = ("resume", "stop now", "resume", "stop after")
    assert said == [("olga", what, NAME) for what in done]


def test_a_member_stops_and_resumes_what_they_have_launched_and_nothing_else(
    desk: Desk, make_spec: Callable[..., StudySpec]
) -> None:
    max_, store = desk.client("max"), desk.study.store
    store.storage.set_study_user_attr(desk.study.study_id, LAUNCHED_BY, "max")
    create_or_resume(store, make_spec(name="sky", trials=3, epochs=4), "f" * 64, None)
    for action, now in (("stop", AFTER), ("resume", None)):
        path = f"/studies/roads/{action}"
        assert f'href="{path}"'.encode() in max_("GET", "/studies/roads").body
        assert f'href="/studies/sky/{action}"'.encode() not in max_("GET", "/studies/sky").body
        token = form_token(max_, path)
        assert post(max_, f"/studies/sky/{action}", token).status == 403  # another's
        assert post(max_, path, token).status == 303 and desk.stopped == now
    said = [(deed.who, deed.what, deed.study) for deed in deeds(store)][:2]
    assert said == [("max", "resume", NAME), ("max", "stop after", NAME)]


def test_a_study_that_has_ended_offers_nothing(desk: Desk) -> None:
    for _ in range(3):
        claim = desk.study.slots.claim(desk.study.ask)
        assert claim and desk.study.slots.end(claim, Result("FAILED", None, "crashed", {}))
    body = desk.client("olga")("GET", "/studies/roads").body
    assert b"/studies/roads/stop" not in body and b"/studies/roads/resume" not in body


@pytest.mark.parametrize("action", ["stop", "resume"])
@pytest.mark.parametrize("who", [None, "ray", "max", "program"])
def test_nobody_but_an_owner_in_a_browser_changes_a_study(
    desk: Desk, who: str | None, action: str
) -> None:
    path = f"/studies/roads/{action}"
    if who == "program":  # of an owner's: it has no form
        header = f"Bearer {new_token(desk.study.store, 'olga', 'ci', 'test')}"
        assert post(desk.client(), path, "", Authorization=header).status == 403
    else:
        client = desk.client(who)
        asked, done = client("GET", path), post(client, path, "")
        assert (asked.status, done.status) == ((401, 401) if who is None else (403, 403))
        if who is not None:
            assert f'href="{path}"'.encode() not in client("GET", "/studies/roads").body
    assert desk.stopped is None
    assert all(deed.study is None for deed in deeds(desk.study.store))


def test_a_form_of_another_session_or_site_changes_nothing(desk: Desk) -> None:
    olga, otto = desk.client("olga"), desk.client("otto")
    path = "/studies/roads/stop"
    token = form_token(olga, path)
    for given in ("", "0" * 64, form_token(otto, path), "\udcff", token[:-1]):
        body = urlencode({"token": given, "how": AFTER}, errors="surrogateescape").encode()
        assert olga("POST", path, body).status in (400, 403), given
    assert post(olga, path, token, Origin="https://elsewhere.example").status == 403
    assert post(olga, path, token, Referer="https://elsewhere.example/studies").status == 403
    assert desk.stopped is None
    olga.sign_in(name="olga")  # another session: the page that she still has open is old
    assert post(olga, path, token).status == 403
    assert desk.stopped is None


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/studies/roads/stop", "how=later", 400),
        ("POST", "/studies/roads/stop", "how=hours", 400),  # a reason that is no user's
        ("POST", "/studies/roads/stop", "how=after&x=" + MAX_BODY * "x", 400),
        ("POST", "/studies/roads/stop", 9 * "how=after&", 400),
        ("PUT", "/studies/roads/stop", "how=after", 405),
        ("DELETE", "/studies/roads/resume", "", 405),
        ("POST", "/studies/roads", "how=after", 405),
        ("POST", "/studies/road/stop", "how=after", 404),
        ("POST", "/studies/roads:confirm/stop", "how=after", 404),
        ("GET", "/studies/road/stop", "", 404),
        ("GET", "/studies/roads/rename", "", 404),
        ("POST", "/people", "", 405),
        ("POST", "/audit", "", 405),
        ("GET", "/audit?before=-1", "", 400),
        ("GET", "/audit?before=" + 12 * "9", "", 400),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused(
    desk: Desk, method: str, path: str, body: str, status: int
) -> None:
    olga = desk.client("olga")
    token = form_token(olga, "/studies/roads/stop")
    sent = f"token={token}&{body}" if method == "POST" else body
    assert olga(method, path, sent.encode()).status == status
    assert desk.stopped is None


def test_a_dashboard_that_is_for_reading_offers_no_writes(study: Study, tmp_path: Path) -> None:
    client = Client(make_app(study.store, Artifacts(tmp_path)))
    assert b"/studies/roads/stop" not in client("GET", "/studies/roads").body
    asked = client("GET", "/studies/roads/stop")
    assert asked.status == 403 and b"--allow-writes" in asked.body
    assert post(client, "/studies/roads/stop", "").status == 403
    assert stopped(study) is None


def test_without_names_whoever_is_in_may_stop_and_nobody_is_written_down(
    study: Study, tmp_path: Path
) -> None:
    client = Client(make_app(study.store, Artifacts(tmp_path), allow_writes=True))
    token = form_token(client, "/studies/roads/stop")
    assert post(client, "/studies/roads/stop", token).status == 303
    assert stopped(study) == AFTER and deeds(study.store) == []
    for path in ("/people", "/audit"):  # nobody has a name, so there is no such page
        assert client("GET", path).status == 404
        assert path.encode() not in client("GET", "/studies").body


def test_owners_see_who_may_sign_in_and_who_did_what(desk: Desk) -> None:
    olga, store = desk.client("olga"), desk.study.store
    new_token(store, "ray", "ci", "test")
    rows = {row[0]: row[1:5] for row in page(olga, "/people")}
    assert rows["olga"] == ["owner", "with a password", "1", "-"]
    assert rows["ray"] == ["reader", "with a password", "0", "ci"]
    assert list(rows) == sorted(ROLES)
    for number in range(LINES):
        add_deed(store, "olga", f"<b>deed</b> {number}", study=NAME, address="192.0.2.1")
    latest = page(olga, "/audit")
    assert len(latest) == LINES
    assert latest[0][1:] == ["olga", f"<b>deed</b> {LINES - 1}", NAME, "192.0.2.1"]
    older = re.search(r'"(/audit\?before=\d+)"', olga("GET", "/audit").body.decode())
    assert older
    first = page(olga, older[1])
    assert [row[2] for row in first][:2] == ["users token ray --label ci", "signed in"]
    assert b"Older lines" not in olga("GET", older[1]).body
    body = olga("GET", "/audit").body + olga("GET", "/people").body
    assert b"<b>deed" not in body
    for secret in (b"scrypt", olga.cookie.partition("=")[2].encode()):
        assert secret not in body


@pytest.mark.parametrize("path", ["/people", "/audit"])
@pytest.mark.parametrize("who", ["max", "ray"])
def test_others_do_not_see_them(desk: Desk, path: str, who: str) -> None:
    client = desk.client(who)
    answer = client("GET", path)
    assert answer.status == 403 and b"otto" not in answer.body
    assert path.encode() not in client("GET", "/studies").body
    tag = desk.client("olga")("GET", path).header("ETag")
    assert client("GET", path, If_None_Match=tag).status == 403


def test_what_an_owner_may_see_is_not_kept_for_another(desk: Desk) -> None:
    olga, ray = desk.client("olga"), desk.client("ray")
    for path in ("/studies", "/studies/roads", "/workers"):
        shown = olga("GET", path)
        assert b"/audit" in shown.body
        seen = ray("GET", path, If_None_Match=shown.header("ETag"))
        assert seen.status == 200 and b"/audit" not in seen.body and b"/stop" not in seen.body
