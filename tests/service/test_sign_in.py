"""The dashboard where people have names: who gets in, by which proof, and may do what.

What holds under one password for all stands in test_dashboard.py.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from search.cli import app as command_line
from search.dashboard import doors
from search.dashboard.doors import MAX_AT_ONCE, MAX_HASHED, Proxy
from search.dashboard.login import MAX_FAILURES, MAX_OF_NAME
from search.dashboard.server import Access, make_app
from search.database import passwords
from search.database.audit import deeds
from search.database.people import add_user, remove_user, set_password, set_role
from search.database.roles import DASHBOARD, READER, set_up_roles
from search.database.sessions import new_token
from search.database.store import Store, open_store
from search.files.artifacts import Artifacts
from spaces.errors import InputError
from tests.browsing import HOST, PASSWORD, Client, Reached, all_routes

ROLES = {"olga": "owner", "max": "member", "ray": "reader"}
PROXY = Proxy("X-Forwarded-User", ("10.0.0.5", "fd00::5"))


@dataclass
class Team:
    """A store with a study and a user of each role, whose names are those of ROLES."""

    store: Store
    folder: Path
    tokens: dict[str, str]

    def client(self, name: str | None = None, **options: Any) -> Client:
        """A browser, of somebody who has signed in where a name is given."""
        client = Client(make_app(self.store, Artifacts(self.folder), **options))
        if name is not None:
            assert client.sign_in(name=name).status == 303
        return client


def make_team(store: Store, folder: Path) -> Team:
    study = optuna.create_study(storage=store.storage, study_name="roads", direction="maximize")
    study.tell(study.ask(), 0.5)
    for name, role in ROLES.items():
        add_user(store, name, role, PASSWORD, "test")
    return Team(store, folder, {name: new_token(store, name, "ci", "test") for name in ROLES})


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """A team that no test changes, but for sessions."""
    work = tmp_path_factory.mktemp("team")
    store = open_store(f"sqlite:///{work / 'store.db'}")
    yield make_team(store, work / "artifacts")
    store.close()


@pytest.fixture
def own_team(store: Store, tmp_path: Path) -> Team:
    return make_team(store, tmp_path / "artifacts")


class Asked(Reached):
    """Notes also who has come."""

    def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
        found = super().__call__(environ, start_response)
        self.requests[-1] += f" by {environ['segtune.user']} as {environ['segtune.role']}"
        return found


# --- by name and password ---


def test_people_sign_in_by_name_and_the_app_knows_who_asks(team: Team) -> None:
    inner = Asked()
    client = team.client(inner=inner)
    page = client("GET", "/login")
    assert b'<label for="username">Name</label>' in page.body and b"autofocus" in page.body
    for name in ("olga", " Max "):
        assert client.sign_in(name=name, next_="/csv/1").header("Location") == "/csv/1"
        assert client("GET", "/api/studies", Segtune_Role="owner").status == 200
    assert inner.requests == [
        "GET /api/studies by olga as owner",
        "GET /api/studies by max as member",
    ]
    page = client("GET", "/logout")
    assert b"You are max (member)." in page.body and b'name="everywhere"' in page.body


@pytest.mark.parametrize(
    ("name", "password"),
    [("max", "wrong password"), ("max", ""), ("", PASSWORD), ("nobody", PASSWORD), ("m%", PASSWORD),
     ("segtune", PASSWORD), ("x" * 5000, PASSWORD), ("\0", PASSWORD), ("' OR 1=1 --", PASSWORD)],
)  # fmt: skip
def test_a_wrong_name_and_a_wrong_password_look_alike(team: Team, name: str, password: str) -> None:
    client = team.client(password="the shared password")
    answer = client.sign_in(password, name=name)
    assert answer.status == 401 and b"The name or the password is wrong." in answer.body
    assert answer.header("Set-Cookie") is None
    assert client("GET", "/api/studies").status == 401


def test_the_shared_password_opens_nothing_where_people_have_names(team: Team) -> None:
    client = team.client(password="the shared password")
    for name in ("segtune", "", "olga"):
        assert client.sign_in("the shared password", name=name).status == 401
    assert team.client()("GET", "/api/studies").status == 401  # also without one, on the loopback


def test_an_unknown_name_takes_as_long_as_a_known_one(team: Team) -> None:
    """Also one without a password would; the medians of five differ by less than a third."""
    client = team.client()
    seconds: dict[str, list[float]] = {"max": [], "nobody": []}
    for number in range(5):
        for name, found in seconds.items():
            client.address = f"192.0.2.{number}"
            began = time.process_time()
            assert client.sign_in("wrong password", name=name).status == 401
            found.append(time.process_time() - began)
    known, unknown = (statistics.median(found) for found in seconds.values())
    assert 2 / 3 < known / unknown < 3 / 2, seconds


def test_a_session_survives_a_restart_and_ends_everywhere(own_team: Team) -> None:
    one, two, other = (own_team.client(name) for name in ("max", "max", "olga"))
    again = Client(make_app(own_team.store, Artifacts(own_team.folder)), one.cookie)
    assert again("GET", "/api/studies").status == 200
    kept = two.cookie
    assert two("POST", "/logout").status == 303 and two.cookie == "segtune_session="
    assert two("GET", "/api/studies", Cookie=kept).status == 401
    assert again("GET", "/api/studies").status == 200  # another session of the same person
    two.sign_in(name="max")
    assert two("POST", "/logout", b"everywhere=1").status == 303
    assert one("GET", "/api/studies").status == 401
    assert other("GET", "/api/studies").status == 200


def test_what_is_changed_of_a_user_counts_from_the_next_request_on(own_team: Team) -> None:
    inner = Asked()
    client = own_team.client("max", allow_writes=True, inner=inner)
    assert client("PUT", "/api/studies/1/note").status == 200
    set_role(own_team.store, "max", "reader", "test")
    assert client("PUT", "/api/studies/1/note").status == 403
    assert client("GET", "/api/studies").status == 200
    set_password(own_team.store, "max", PASSWORD, "test")
    assert client("GET", "/api/studies").status == 401
    client.sign_in(name="max")
    remove_user(own_team.store, "max", "test")
    assert client("GET", "/api/studies").status == 401
    assert client.sign_in(name="max").status == 401


# --- floods ---


def test_guesses_at_one_name_are_limited_from_all_addresses(team: Team) -> None:
    seconds = 0.0
    for name in ("max", "nobody"):  # alike, or the limit would tell who is there
        client = team.client(clock=lambda: seconds)
        statuses = []
        for number in range(MAX_OF_NAME + 2):
            client.address = f"192.0.2.{number}"
            answer = client.sign_in("wrong password", name=name)
            statuses.append(answer.status)
        assert statuses == [401] * MAX_OF_NAME + [429] * 2 and answer.header("Retry-After") == "60"
        assert client.sign_in(name=name).status == 429  # the right one tells nothing either
        assert client.sign_in(name="olga").status == 303
        client.address = "192.0.2.1"
        for _ in range(MAX_FAILURES - 1):  # an address has one guess behind it
            assert client.sign_in("wrong password", name="ray").status == 401
        assert client.sign_in(name="olga").status == 429


def test_a_flood_of_sign_ins_takes_neither_memory_nor_threads(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    """30 at once: two reckon, two wait for them, the others are told at once to come again."""
    at_work, most, lock = 0, 0, threading.Lock()
    release, full = threading.Event(), threading.Event()

    def slow(password: str, stored: str | None) -> bool:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
            if at_work == MAX_HASHED:
                full.set()
        release.wait(20)
        with lock:
            at_work -= 1
        return passwords.hmac.compare_digest(password, PASSWORD)

    monkeypatch.setattr("search.database.sessions.matches", slow)
    app = make_app(team.store, Artifacts(team.folder))
    answered: list[int] = []

    def sign_in(number: int) -> int:
        status = Client(app, address=f"192.0.2.{number}").sign_in(name="max").status
        answered.append(status)
        return status

    with ThreadPoolExecutor(30) as pool:
        jobs = [pool.submit(sign_in, number) for number in range(30)]
        assert full.wait(20)
        deadline = time.monotonic() + 20
        while len(answered) < 30 - MAX_AT_ONCE and time.monotonic() < deadline:
            time.sleep(0.01)
        assert answered == [503] * (30 - MAX_AT_ONCE)
        release.set()
        statuses = sorted(job.result() for job in jobs)
    assert statuses == [303] * MAX_AT_ONCE + [503] * (30 - MAX_AT_ONCE)
    assert most == MAX_HASHED < doors.MAX_AT_ONCE
    assert Client(app).sign_in(name="max").status == 303  # those who came in vain had not failed


def test_an_error_of_the_store_is_no_wrong_password(
    team: Team, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: Any) -> str:
        raise OSError("away")

    client = team.client()
    with monkeypatch.context() as patch:
        patch.setattr("search.database.sessions.key_of", away)
        for _ in range(MAX_FAILURES + 1):
            assert client.sign_in(name="max").status == 500
    assert client.sign_in(name="max").status == 303


# --- roles ---


def test_only_members_and_owners_write(team: Team) -> None:
    found = all_routes(team.store, team.folder, "a" * 36, reads=False)
    assert len(found) > 15
    kept = {("DELETE", "/api/studies/1"), ("POST", "/api/studies/1/rename")}
    for name, role in ROLES.items():
        inner = Asked()
        by_session = team.client(name, allow_writes=True, inner=inner)
        by_token = team.client(allow_writes=True, inner=inner)
        bearer = {"Authorization": f"Bearer {team.tokens[name]}"}
        for method, path in found:
            expected = 403 if role == "reader" or (method, path) in kept else 200
            for spelling in (method, method.lower(), "PATCH", "BREW"):
                wanted = 200 if role != "reader" and spelling in ("PATCH", "BREW") else expected
                if path == "/api/studies/1/rename":
                    wanted = 403
                assert by_session(spelling, path).status == wanted, (name, spelling, path)
                assert by_token(spelling, path, **bearer).status == wanted, (name, spelling, path)
        assert bool(inner.requests) == (role != "reader")
        assert by_session("GET", "/api/studies").status == 200


def test_nobody_writes_where_writes_are_not_allowed(team: Team) -> None:
    inner = Asked()
    client = team.client("olga", inner=inner)
    for method, path in all_routes(team.store, team.folder, "a" * 36, reads=False):
        answer = client(method, path)
        assert answer.status == 403 and "--allow-writes" in answer.json["reason"]
    assert inner.requests == []


def test_every_write_is_written_down_and_no_other(own_team: Team) -> None:
    before = len(deeds(own_team.store))
    member = own_team.client("max", allow_writes=True)
    reader = own_team.client("ray", allow_writes=True)
    note = b'{"version": 1, "body": "good"}'
    assert member("PUT", "/api/studies/1/note", note).status == 204
    assert reader("PUT", "/api/studies/1/note", note).status == 403
    assert member("DELETE", "/api/studies/1").status == 403
    assert member("PUT", "/api/studies/77/note", note).status == 500  # optuna-dashboard's
    assert member("POST", "/x%00%0a%C3%A9 y").status == 404
    assert member("GET", "/api/studies/1").json["note"]["body"] == "good"
    member("POST", "/logout", b"everywhere=1")
    found = list(reversed(deeds(own_team.store)))[before:]
    assert [(deed.who, deed.what, deed.study) for deed in found] == [
        ("max", "signed in", None),
        ("ray", "signed in", None),
        ("max", "PUT /api/studies/1/note", "roads"),
        ("max", "PUT /api/studies/77/note", None),
        ("max", "POST /x%00%0A%C3%A9 y", None),
        ("max", "signed out everywhere", None),
    ]
    assert {deed.address for deed in found} == {"192.0.2.1"}


def test_what_cannot_be_written_down_is_not_done(
    team: Team, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space")

    inner = Asked()
    client = team.client("max", allow_writes=True, inner=inner)
    monkeypatch.setattr("search.dashboard.audited.add_deed", full)
    assert client("PUT", "/api/studies/1/note").status == 500 and inner.requests == []


# --- tokens of programs ---


def test_a_token_opens_what_its_user_may(team: Team) -> None:
    inner = Asked()
    client = team.client(inner=inner)
    for word in ("Bearer", "bearer", "BEARER "):
        answer = client("GET", "/api/studies", Authorization=f"{word} {team.tokens['ray']}")
        assert answer.status == 200 and answer.header("Set-Cookie") is None
    assert inner.requests == ["GET /api/studies by ray as reader"] * 3


@pytest.mark.parametrize("token", ["x", "segtune_", "segtune_" + "A" * 43, "é", "a b", "%"])
def test_a_token_of_nobody_is_401_even_beside_a_session(team: Team, token: str) -> None:
    client = team.client("max")
    for url in ("/api/studies", "/dashboard"):
        answer = client("GET", url, Authorization=f"Bearer {token}")
        assert answer.status == (401 if " " not in token else 200), url
    cookie = f"segtune_session={team.tokens['max']}"  # a token is no session
    assert client("GET", "/api/studies", Cookie=cookie).status == 401
    session = client.cookie.partition("=")[2]
    assert client("GET", "/api/studies", Authorization=f"Bearer {session}").status == 401


def test_other_kinds_of_authorization_are_a_proxys_business(team: Team) -> None:
    client = team.client("max")
    assert client("GET", "/api/studies", Authorization="Basic bWF4OnB3").status == 200
    assert team.client()("GET", "/api/studies", Authorization="Basic bWF4OnB3").status == 401


# --- a proxy that signs people in ---


@pytest.mark.parametrize("address", ["10.0.0.5", "fd00::5", "fd00:0::0:5"])
def test_a_named_proxy_says_who_asks(team: Team, address: str) -> None:
    inner = Asked()
    client = team.client(proxy=PROXY, inner=inner)
    client.address = address
    assert client("GET", "/api/studies", X_Forwarded_User="Max").status == 200
    client.cookie = team.client("olga").cookie  # of who sat here before
    assert client("GET", "/api/studies", X_Forwarded_User="ray").status == 200
    assert client("GET", "/api/studies", X_Forwarded_User="").status == 200
    assert [request.partition(" by ")[2] for request in inner.requests] == [
        "max as member",
        "ray as reader",
        "olga as owner",
    ]


@pytest.mark.parametrize("name", ["nobody", "max, olga", "max olga", "*", "é", "x" * 5000])
def test_a_proxys_stranger_is_refused(team: Team, name: str) -> None:
    client = team.client("max", proxy=PROXY)
    client.address = "10.0.0.5"
    answer = client("GET", "/api/studies", X_Forwarded_User=name)
    assert answer.status == 403 and "segtune users" in answer.json["reason"]


@pytest.mark.parametrize(
    "address", ["10.0.0.6", "192.0.2.1", "127.0.0.1", "", "10.0.0.50", "::1", "unix"]
)
def test_from_elsewhere_the_proxys_header_says_nothing(team: Team, address: str) -> None:
    client = team.client(proxy=PROXY)
    client.address = address
    headers = {"X_Forwarded_User": "olga", "X_Forwarded_For": "10.0.0.5", "Forwarded": "10.0.0.5"}
    assert client("GET", "/api/studies", **headers).status == 401
    reader = team.client("ray", proxy=PROXY, allow_writes=True)
    reader.address = address
    assert reader("PUT", "/api/studies/1/note", **headers).status == 403
    plain = team.client()
    plain.address = "10.0.0.5"  # where no proxy is named
    assert plain("GET", "/api/studies", **headers).status == 401


def test_a_proxys_user_writes_from_this_site_only(team: Team) -> None:
    client = team.client(proxy=PROXY, allow_writes=True, inner=Asked())
    client.address = "10.0.0.5"
    for origin, status in ((f"http://{HOST}", 200), ("http://evil.example", 403)):
        headers = {"X_Forwarded_User": "max", "Origin": origin}
        assert client("PUT", "/api/studies/1/note", **headers).status == status


# --- the command ---


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--proxy 10.0.0.5", "--proxy-user-header and --proxy belong together"),
        ("--proxy-user-header X-User", "--proxy-user-header and --proxy belong together"),
        ("--proxy-user-header X-User --proxy proxy.example", "--proxy must be the address of"),
        ("--proxy-user-header X-User --proxy 10.0.0.0/8", "--proxy must be the address of"),
        ("--proxy-user-header X_User --proxy 10.0.0.5", "--proxy-user-header must be the name"),
        ("--proxy-user-header X-User --proxy 10.0.0.5", "--proxy-user-header names users, and"),
    ],
)
def test_a_proxy_is_named_whole(words: str, said: str) -> None:
    answer = CliRunner().invoke(command_line, ["dashboard", "--port", "0", *words.split()])
    assert answer.exit_code == 2 and answer.stderr.startswith(f"segtune: {said}"), answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_other_machines_may_come_where_people_have_names() -> None:
    access = Access("0.0.0.0")
    access.check(people=True)
    with pytest.raises(InputError, match=r"so a password must be set.*or give people names"):
        access.check(people=False)


def test_a_role_that_may_not_keep_sessions_is_told_at_the_start(
    tcp_url: str, tmp_path: Path
) -> None:
    with contextlib.closing(open_store(tcp_url)) as store:
        set_up_roles(store, {READER: PASSWORD, DASHBOARD: PASSWORD})

    def opened(role: str) -> contextlib.closing[Store]:
        url = sa.make_url(tcp_url).set(username=role, password=PASSWORD)
        return contextlib.closing(open_store(url.render_as_string(hide_password=False)))

    make: Callable[[Store], Any] = lambda store: make_app(store, Artifacts(tmp_path))  # noqa: E731
    with opened(READER) as reader, opened(DASHBOARD) as dashboard:
        make(reader), make(dashboard)  # nobody has a name yet
        with contextlib.closing(open_store(tcp_url)) as store:
            add_user(store, "olga", "owner", PASSWORD, "test")
        with pytest.raises(InputError, match=f"the role {READER} may not do this"):
            make(reader)
        client = Client(make(dashboard))
        assert client.sign_in(name="olga").status == 303
        assert client("GET", "/api/studies").status == 200
        assert client("POST", "/logout", b"everywhere=1").status == 303


def test_the_command_takes_the_header_of_its_proxy_and_no_likeness_of_it(
    own_team: Team, tmp_path: Path
) -> None:
    """As the server reads it: twice it is two names, and with _ for - it is another header."""
    url = own_team.store.engine.url.render_as_string(hide_password=False)
    words = ["--port", "0", "--proxy-user-header", "X-Forwarded-User", "--proxy", "127.0.0.2"]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "search.cli", "dashboard", *words],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "SEGTUNE_STORE": url, "SEGTUNE_DASHBOARD_PASSWORD": PASSWORD},
        )
    try:
        assert process.stdout
        port = int(process.stdout.readline().rpartition(":")[2].partition("/")[0])

        def status(source: str, *headers: tuple[str, str]) -> int:
            connection = HTTPConnection("127.0.0.1", port, 30, source_address=(source, 0))
            connection.putrequest("GET", "/api/studies")
            for header in headers:
                connection.putheader(*header)
            connection.endheaders()
            answer = connection.getresponse()
            answer.read()
            connection.close()
            return answer.status

        ray, olga = ("X-Forwarded-User", "ray"), ("x-forwarded-user", "olga")
        assert status("127.0.0.2", ray) == 200
        assert status("127.0.0.1", ray) == 401
        assert status("127.0.0.2", ("X_Forwarded_User", "ray")) == 401
        assert status("127.0.0.2", ray, olga) == 403
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0
    said = (tmp_path / "log").read_text()
    assert said.count("people sign in by name; the dashboard's one password opens nothing") == 1
    assert PASSWORD not in said
