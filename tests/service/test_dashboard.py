"""The dashboard's guards, one table each: what is refused, what is served, and with which headers.

Most tests call the WSGI app; the last ones run `segtune dashboard` as a user does.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode
from wsgiref.types import StartResponse, WSGIEnvironment

import optuna
import pytest
from optuna.artifacts import upload_artifact
from optuna_dashboard import save_note
from typer.testing import CliRunner

from search.cli import app as command_line
from search.dashboard.doors import MAX_SESSIONS, SESSION_SECONDS, Sessions
from search.dashboard.guards import DEFAULT_HEADERS
from search.dashboard.login import MAX_ALL_FAILURES, MAX_FAILURES, safe_target
from search.dashboard.server import (
    Access,
    _Redacted,
    _secrets,
    make_app,
    read_password,
)
from search.database.store import Store, open_store
from search.files.artifacts import Artifacts
from search.files.shown import FOLDER
from spaces.errors import InputError
from tests.browsing import HOST, PASSWORD, Answer, Client, Reached, all_routes

SCRIPT = "<script>alert(1)</script>"
PAGE = b"<!DOCTYPE html><script>alert(1)</script>"
PNG = b"\x89PNG\r\n\x1a\n"
FILES = {  # name -> (content, declared type)
    "plot.png": (PNG, "image/png"),
    "photo.jpg": (b"\xff\xd8\xff", "image/jpeg"),
    "curve.json": (b"{}", "application/json"),
    "page.html": (PAGE, "text/html"),
    "page.xhtml": (PAGE, "application/xhtml+xml"),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
    "script.js": (b"alert(1)", "text/javascript"),
    "weights.bin": (b"\0", "application/octet-stream"),
    "../.bashrc": (b"", "text/plain"),
    "odd": (PAGE, "image/png, text/html"),
    f'"{SCRIPT}\r\nX-Evil: 1;é.html': (PAGE, "text/html"),
}


class Clock:
    """Seconds that pass on command."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Site:
    """A store with one study that a hostile author has named and annotated."""

    store: Store
    folder: Path
    study: optuna.Study
    artifacts: dict[str, str]  # file name -> id, of the study

    def client(self, **options: Any) -> Client:
        return Client(make_app(self.store, Artifacts(self.folder), **options))

    def snapshot(self) -> Any:
        """All that a write could change."""
        storage = self.store.storage
        studies = [
            (
                study.study_name,
                study.user_attrs,
                storage.get_study_system_attrs(study._study_id),
                [
                    (trial.number, trial.state, trial.params, trial.user_attrs, trial.values)
                    for trial in storage.get_all_trials(study._study_id)
                ],
            )
            for study in storage.get_all_studies()
        ]
        files = {path.name: path.read_bytes() for path in (self.folder / FOLDER).iterdir()}
        return studies, files


def make_site(store: Store, folder: Path, work: Path) -> Site:
    study = optuna.create_study(storage=store.storage, study_name=SCRIPT, direction="maximize")
    study.set_user_attr(SCRIPT, SCRIPT)
    for value in (0.25, 0.5):
        trial = study.ask()
        trial.suggest_float("optim.lr", 1e-4, 1e-2, log=True)
        trial.suggest_float("loss.region_share", 0, 1)
        trial.set_user_attr("note", SCRIPT)
        trial.report(value, 1)
        study.tell(trial, value)
    study.ask()
    save_note(study, SCRIPT)
    files, ids = Artifacts(folder).shown, {}
    source = work / "upload"
    for name, (content, mimetype) in FILES.items():
        source.write_bytes(content)
        ids[name] = upload_artifact(
            artifact_store=files, study_or_trial=study, file_path=str(source), mimetype=mimetype
        )
        key = f"artifacts:{ids[name]}"
        meta = json.loads(store.storage.get_study_system_attrs(study._study_id)[key])
        meta["filename"] = name  # which no file system would take
        store.storage.set_study_system_attr(study._study_id, key, json.dumps(meta))
    return Site(store, folder, study, ids)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site that no test changes."""
    work = tmp_path_factory.mktemp("dashboard")
    store = open_store(f"sqlite:///{work / 'store.db'}")
    yield make_site(store, work / "artifacts", work)
    store.close()


@pytest.fixture
def own_site(store: Store, tmp_path: Path) -> Site:
    """A site of one test on each kind of store."""
    return make_site(store, tmp_path / "artifacts", tmp_path)


@pytest.fixture
def reader(site: Site) -> Client:
    """A reader of a dashboard without password."""
    return site.client()


@pytest.fixture
def guarded(site: Site) -> Client:
    """A client of a dashboard with a password, not signed in."""
    return site.client(password=PASSWORD)


def routes(site: Site, reads: bool) -> list[tuple[str, str]]:
    """(method, path) of all of optuna-dashboard's routes, with parameters filled in."""
    return all_routes(site.store, site.folder, site.artifacts["page.html"], reads)


# --- reading ---


def test_every_read_route_answers_get_and_head(own_site: Site) -> None:
    client = own_site.client()
    for _, path in routes(own_site, reads=True):
        got, head = client("GET", path), client("HEAD", path)
        expected = {"/": 302, "/incompatible-rdb-schema": 302}.get(path, 200)
        if path.startswith("/artifacts/1/1/"):  # this file stands with the study
            expected = 404
        assert (got.status, head.status) == (expected, expected), path
        assert head.body == b"" and head.header("Content-Type") == got.header("Content-Type")
    detail = client("GET", "/api/studies/1").json
    assert detail["name"] == SCRIPT and len(detail["trials"]) == 3


def test_unknown_things_are_404_and_no_500(reader: Client) -> None:
    for path in ("/api/studies/77", "/api/nothing", "/csv/77", "/artifacts/77/x", "/login"):
        assert reader("GET", path).status == 404, path
    assert reader("GET", "/api/studies/77").json == {"reason": "study_id=77 is not found"}


@pytest.mark.parametrize(
    "after", ["%C2%B2", "%D9%A3", "-1", "1.5", "x", "%E2%91%A0", "9" * 5000, "+1", "1_0"]
)
def test_a_strange_after_is_400(reader: Client, after: str) -> None:
    answer = reader("GET", f"/api/studies/1?after={after}")
    assert answer.status == 400 and "after must be a whole number" in answer.json["reason"]


@pytest.mark.parametrize(
    "path", ["/api/studies/{}", "/csv/{}", "/api/studies/{}/param_importances"]
)
@pytest.mark.parametrize("number", ["9" * 19, "9" * 5000])
def test_a_number_beyond_all_ids_is_404(reader: Client, path: str, number: str) -> None:
    assert reader("GET", path.format(number)).status == 404


@pytest.mark.parametrize("encoding", [None, "gzip", "identity"])
@pytest.mark.parametrize("path", ["/static/bundle.js", "/favicon.ico"])
def test_static_files_come_with_and_without_accept_encoding(
    reader: Client, path: str, encoding: str | None
) -> None:
    answer = reader("GET", path, Accept_Encoding=encoding)
    assert answer.status == 200 and answer.body
    assert path != "/favicon.ico" or answer.body.startswith(b"\0\0\1\0")
    packed = encoding == "gzip" and path != "/favicon.ico"
    assert answer.header("Content-Encoding") == ("gzip" if packed else None)
    assert answer.header("Cache-Control") == "private, no-cache"
    assert answer.header("Vary") == "Accept-Encoding"
    again = reader("GET", path, Accept_Encoding=encoding, If_None_Match=answer.header("ETag"))
    assert (again.status, again.body) == (304, b"")


def test_scripts_in_names_and_notes_stay_data(reader: Client) -> None:
    for path in ("/api/studies", "/api/studies/1"):
        answer = reader("GET", path)
        assert SCRIPT in json.dumps(answer.json)
        assert answer.header("Content-Type") == "application/json"
        assert answer.header("X-Content-Type-Options") == "nosniff"
    table = reader("GET", "/csv/1")
    assert table.header("Content-Type").startswith("text/csv")  # type: ignore[union-attr]
    assert table.header("Content-Disposition").startswith("attachment")  # type: ignore[union-attr]


def test_every_kind_of_response_has_the_security_headers(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        raise RuntimeError(PASSWORD)

    reader, guarded = site.client(), site.client(password=PASSWORD)
    for path in (
        "/", "/studies", "/studies/x", "/workers", "/pages/page.js",
        "/dashboard", "/api/studies", "/api/studies/77", "/static/bundle.js", "/static/no",
        "/favicon.ico", "/healthz", "/nothing", "/csv/1", "/incompatible-rdb-schema", "/%ff",
        *(f"/artifacts/1/{artifact}" for artifact in site.artifacts.values()),
    ):  # fmt: skip
        for method in ("GET", "HEAD", "POST", "OPTIONS"):
            reader(method, path, Origin=f"http://{HOST}")
            guarded(method, path, Origin="http://evil.example")
    reader("GET", "/", Host="evil.example")
    guarded("GET", "/login")
    guarded.sign_in("wrong password")
    guarded.sign_in()
    assert guarded("GET", "/dashboard").status == 200
    assert guarded("GET", "/logout").status == 200
    guarded("POST", "/logout")
    guarded("PUT", "/login")
    failed = site.client(inner=broken)
    assert failed("GET", "/dashboard").status == 500
    statuses = set()
    for answer in reader.answers + guarded.answers + failed.answers:
        statuses.add(answer.status)
        for name in DEFAULT_HEADERS:
            assert answer.header(name), (name, answer)
        assert answer.header("X-Frame-Options") == "DENY"
        assert answer.header("Server") is None  # waitress's to send
        policy = answer.header("Content-Security-Policy") or ""
        assert "frame-ancestors 'none'" in policy and "script-src 'unsafe-inline'" not in policy
        assert not [n for n, _ in answer.headers if n.lower().startswith("access-control")]
    assert statuses >= {200, 302, 303, 400, 401, 403, 404, 405, 421, 500}


def test_an_internal_error_shows_no_traceback(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    def broken(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        raise RuntimeError("the inside of the machine")

    answer = site.client(inner=broken)("GET", "/api/studies?token=canary")
    assert answer.status == 500
    assert answer.body == b"internal server error; its reason stands in the dashboard's log\n"
    assert "the inside of the machine" in caplog.text and "canary" not in caplog.text


# --- hosts ---


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:1", 200), ("127.0.0.1:8080", 200), ("[::1]:8080", 200),
        ("[0:0:0:0:0:0:0:1]", 200), ("dash.example.org", 200), ("Dash.Example.Org:443", 200),
        ("10.0.0.7:8080", 200),
        (None, 421), ("evil.example", 421), ("localhost.evil.example", 421),
        ("evil.example:8080", 421), ("localhost@evil.example", 421), ("localhost:8080:1", 421),
        ("localhost/", 421), ("localhost, evil.example", 421), ("127.0.0.2", 421), ("::1", 421),
        ("[::1", 421), ("xdash.example.org", 421), ("0x7f.1", 421), ("localhost:80a", 421),
    ],
)  # fmt: skip
def test_only_known_hosts_are_answered(site: Site, host: str | None, status: int) -> None:
    client = site.client(hosts=("dash.example.org", "10.0.0.7"))
    for path in ("/api/studies", "/healthz"):
        answer = client("GET", path, Host=host)
        assert answer.status == status
        if status == 421:
            assert b"--allow-host" in answer.body and b"evil" not in answer.body


# --- sign-in ---


@pytest.mark.parametrize("path", ["/", "/dashboard", "/dashboard/studies/1/trials"])
def test_a_stranger_is_sent_to_sign_in(guarded: Client, path: str) -> None:
    for method in ("GET", "HEAD"):
        answer = guarded(method, f"{path}?numbers=1,2")
        assert answer.status == 303
        assert answer.header("Location") == f"/login?next={quote(path)}%3Fnumbers%3D1%2C2"


def test_a_stranger_gets_no_data(site: Site, guarded: Client) -> None:
    before = site.snapshot()
    for method, path in routes(site, reads=True) + routes(site, reads=False):
        if path in ("/", "/dashboard"):
            continue
        answer = guarded(method, path)
        assert answer.status == 401, path
        assert answer.json == {"reason": "sign in at /login first"}
        assert answer.header("Content-Type") == "application/json"
    assert guarded("GET", "/api/studies", Accept="text/html").status == 401
    assert guarded("GET", "/csv/1", Accept="text/html,*/*").status == 303
    for path in ("/login/", "//login/x", "/login/../api/studies", "/healthz/", "/loginx"):
        assert guarded("GET", path).status == 401, path
    for cookie in ("segtune_session=", "segtune_session", "segtune_session=x; a=b", "x" * 5000):
        assert guarded("GET", "/api/studies", Cookie=cookie).status == 401
    assert site.snapshot() == before


def test_health_is_answered_to_strangers_and_says_nothing(guarded: Client) -> None:
    answer = guarded("GET", "/healthz")
    assert (answer.status, answer.body) == (200, b"ok\n")
    assert (guarded("HEAD", "/healthz").status, guarded("HEAD", "/healthz").body) == (200, b"")
    assert guarded("POST", "/healthz").status == 401


def test_the_right_password_opens_a_session(guarded: Client) -> None:
    page = guarded("GET", "/login?next=/dashboard/studies/1")
    assert page.status == 200 and b'value="/dashboard/studies/1"' in page.body
    for needed in (b"<label for=", b"autofocus", b"width=device-width", b'type="password"'):
        assert needed in page.body
    assert b"<script" not in page.body and b'role="alert"' not in page.body
    answer = guarded.sign_in(next_="/dashboard/studies/1")
    assert (answer.status, answer.header("Location")) == (303, "/dashboard/studies/1")
    assert guarded("GET", "/api/studies").status == 200
    assert guarded("GET", "/login?next=/csv/1").header("Location") == "/csv/1"
    other = f'other={{"broken": 1}}; {guarded.cookie}; last'
    assert guarded("GET", "/api/studies", Cookie=other).status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"password=wrong+password", b"password=", b"", b"PASSWORD=correct", b"password",
        urlencode({"password": PASSWORD + " "}).encode(),
        urlencode({"password": PASSWORD.upper()}).encode(),
        urlencode([("password", "x"), ("password", PASSWORD)]).encode(),
    ],
)  # fmt: skip
def test_a_wrong_password_opens_nothing(guarded: Client, body: bytes) -> None:
    answer = guarded("POST", "/login", body)
    assert answer.status == 401 and b"This password is wrong." in answer.body
    assert answer.header("Set-Cookie") is None
    assert guarded("GET", "/api/studies").status == 401


@pytest.mark.parametrize(
    "body", [b"password=%ff", b"\xff", b"password=" + b"x" * 20_000, b"&".join([b"a=1"] * 100)]
)
def test_a_form_that_is_none_is_refused(guarded: Client, body: bytes) -> None:
    assert guarded("POST", "/login", body).status == 400


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_sign_in_takes_get_and_post(guarded: Client, method: str) -> None:
    assert guarded(method, "/login").status == 405


def test_the_cookie_is_kept_from_scripts_and_other_sites(guarded: Client) -> None:
    parts = (guarded.sign_in().header("Set-Cookie") or "").split("; ")
    name, _, token = parts[0].partition("=")
    assert name == "segtune_session" and len(token) >= 43
    assert parts[1:] == ["Path=/", f"Max-Age={SESSION_SECONDS}", "HttpOnly", "SameSite=Lax"]
    behind_proxy = guarded.sign_in(X_Forwarded_Proto="https").header("Set-Cookie") or ""
    assert behind_proxy.endswith("; Secure") and token not in behind_proxy
    guarded.scheme = "https"
    assert (guarded.sign_in().header("Set-Cookie") or "").endswith("; Secure")


def test_a_session_ends_after_its_time_and_at_sign_out(site: Site) -> None:
    clock = Clock()
    client = site.client(password=PASSWORD, clock=clock)
    client.sign_in()
    clock.now = SESSION_SECONDS - 1
    assert client("GET", "/api/studies").status == 200
    clock.now = SESSION_SECONDS
    assert client("GET", "/api/studies").status == 401
    client.sign_in()
    kept = client.cookie
    assert client("POST", "/logout").header("Location") == "/login"
    assert client.cookie == "segtune_session="
    assert client("GET", "/api/studies", Cookie=kept).status == 401  # not only forgotten


def test_sessions_are_bounded() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    tokens = [sessions.begin() for _ in range(MAX_SESSIONS + 2)]
    assert [sessions.holds(token) for token in tokens[:3]] == [False, False, True]
    assert sessions.holds(tokens[-1]) and len(sessions._ends) == MAX_SESSIONS
    clock.now = SESSION_SECONDS
    assert sessions.holds(sessions.begin()) and len(sessions._ends) == 1


def test_guesses_are_limited_per_address(site: Site) -> None:
    clock = Clock()
    client = site.client(password=PASSWORD, clock=clock)
    for second in range(MAX_FAILURES):
        clock.now = float(second)
        assert client.sign_in("wrong password").status == 401
    answer = client.sign_in()  # the right one tells nothing either
    assert (answer.status, answer.header("Retry-After")) == (429, "56")
    assert b"try again in 56 seconds" in answer.body and answer.header("Set-Cookie") is None
    client.address = "192.0.2.2"
    assert client.sign_in().status == 303
    client.address = "192.0.2.1"
    clock.now = 60.0
    assert client.sign_in().status == 303


def test_guesses_are_limited_in_all(site: Site) -> None:
    clock = Clock()
    client = site.client(password=PASSWORD, clock=clock)
    for number in range(MAX_ALL_FAILURES):
        client.address = f"192.0.2.{number}"
        assert client.sign_in("wrong password").status == 401
    client.address = "198.51.100.1"
    assert client.sign_in().header("Retry-After") == "60"
    clock.now = 60.0
    assert client.sign_in().status == 303


def test_guesses_at_the_same_time_are_counted(site: Site) -> None:
    def slow_clock() -> float:
        time.sleep(0.002)  # others come in between reading and counting, if they can
        return 0.0

    app = make_app(site.store, Artifacts(site.folder), password=PASSWORD, clock=slow_clock)
    barrier = threading.Barrier(20, timeout=20)

    def guess(_: int) -> int:
        client = Client(app)
        barrier.wait()
        return client.sign_in("wrong password").status

    with ThreadPoolExecutor(20) as pool:
        statuses = list(pool.map(guess, range(20)))
    assert (statuses.count(401), statuses.count(429)) == (MAX_FAILURES, 20 - MAX_FAILURES)


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example", "///evil.example", "https://evil.example", "evil.example", "",
        "\\\\evil.example", "/\\evil.example", "/a\\b", "/\t/evil.example", "/\n/evil.example",
        "/ /evil.example", "\t//evil.example", "javascript:alert(1)", "/é", "/" + "a" * 2000,
        "/a\r\nSet-Cookie: segtune_session=x",
    ],
)  # fmt: skip
def test_sign_in_leads_to_no_other_site(guarded: Client, target: str) -> None:
    assert safe_target(target) == "/studies"
    page = guarded("GET", f"/login?{urlencode({'next': target})}")
    assert b'name="next" value="/studies"' in page.body
    assert guarded.sign_in(next_=target).header("Location") == "/studies"


def test_a_target_is_escaped_in_the_page(guarded: Client) -> None:
    page = guarded("GET", "/login?next=/%22%3E%3Cscript%3E")
    assert b"&#34;&gt;&lt;script&gt;" in page.body and b"<script" not in page.body


def test_the_policy_allows_the_style_that_is_sent_and_no_other(guarded: Client) -> None:
    page = guarded("GET", "/login")
    [style] = re.findall(rb"<style>(.*?)</style>", page.body, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style).digest()).decode()
    policy = page.header("Content-Security-Policy") or ""
    assert f"style-src 'sha256-{digest}';" in policy and "unsafe" not in policy


# --- writing ---


def test_no_write_route_is_reached_when_read_only(site: Site) -> None:
    before, found = site.snapshot(), routes(site, reads=False)
    assert len(found) > 15
    guarded = site.client(password=PASSWORD)
    guarded.sign_in()
    for client in (site.client(), guarded):
        for method, path in found:
            for spelling in (method, method.lower(), "PATCH", "OPTIONS", "BREW"):
                for url in (path, f"/{path}", f"{path}/", f"{path}?_method=GET"):
                    answer = client(spelling, url, b'{"version": 99, "body": "x"}')
                    assert answer.status == 403, (spelling, url)
                    assert answer.header("Content-Type") == "application/json"
                    assert "--allow-writes" in answer.json["reason"]
    assert site.snapshot() == before


@pytest.mark.parametrize(
    "name", ["X_HTTP_Method_Override", "X_HTTP_Method", "X_Method_Override", "X_Original_Method"]
)
def test_no_header_makes_a_read_a_write(site: Site, name: str) -> None:
    before, client = site.snapshot(), site.client()
    for url in ("/api/studies/1", "/api/studies/1?_method=DELETE"):
        assert client("GET", url, **{name: "DELETE"}).status == 200
        assert client("POST", url, **{name: "GET"}).status == 403
    assert site.snapshot() == before


def test_writes_pass_when_they_are_allowed(site: Site) -> None:
    inner = Reached()
    client = site.client(allow_writes=True, inner=inner)
    found = routes(site, reads=False)
    kept = {("DELETE", "/api/studies/1"), ("POST", "/api/studies/1/rename")}
    assert kept < set(found)
    for method, path in found:
        answer = client(method, path, Origin=f"http://{HOST}")
        assert answer.status == (403 if (method, path) in kept else 200), path
    assert inner.requests == [f"{m} {path}" for m, path in found if (m, path) not in kept]
    assert client("POST", "/artifacts/1/x").status == 405


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/api/studies/1"),
        ("DELETE", "//api/studies/1/"),
        ("delete", "/api/studies/1"),
        ("DELETE", "/api/studies/%d9%a1"),  # an Arabic 1, which optuna-dashboard reads as one
        ("DELETE", "/api/studies/01"),
        ("POST", "/api/studies/1/rename"),
        ("POST", "/api/studies/1%2frename"),
    ],
)
def test_a_study_is_not_deleted_or_renamed_here(site: Site, method: str, path: str) -> None:
    before, client = site.snapshot(), site.client(allow_writes=True)
    answer = client(method, path, b'{"study_name": "other"}')
    assert answer.status == 403 and "segtune delete STUDY" in answer.json["reason"]
    assert site.snapshot() == before


def test_a_note_is_written(own_site: Site) -> None:
    client = own_site.client(allow_writes=True, password=PASSWORD)
    note = json.dumps({"version": 2, "body": "looks good"}).encode()
    assert client("PUT", "/api/studies/1/note", note).status == 401
    client.sign_in()
    assert client("PUT", "/api/studies/1/note", note).status == 204
    assert client("GET", "/api/studies/1").json["note"]["body"] == "looks good"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": f"http://{HOST}"}, 200),
        ({"Origin": f"https://{HOST.upper()}"}, 200),  # TLS ends at a proxy
        ({"Referer": f"http://{HOST}/dashboard"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://localhost:9999"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[broken"}, 403),
        ({"Origin": f"http://{HOST}@evil.example"}, 403),
        ({"Origin": "http://evil.example", "Referer": f"http://{HOST}/"}, 403),
        ({"Referer": "http://evil.example/" + HOST}, 403),
        ({"Referer": "about:blank"}, 403),
    ],
)
def test_writes_come_from_this_site(site: Site, headers: dict[str, str], status: int) -> None:
    client = site.client(allow_writes=True, inner=Reached(), password=PASSWORD)
    expected = 303 if status == 200 else 403
    assert client.sign_in(**headers).status == expected
    client.sign_in()
    assert client("PUT", "/api/studies/1/note", **headers).status == status
    assert client("POST", "/logout", **headers).status == expected
    assert client("GET", "/dashboard", **headers).status == (200 if status == 403 else 303)


# --- artifacts ---


@pytest.mark.parametrize("name", FILES)
def test_artifacts_never_run_as_pages(site: Site, reader: Client, name: str) -> None:
    url, (content, mimetype) = f"/artifacts/1/{site.artifacts[name]}", FILES[name]
    for method, path in (("GET", url), ("HEAD", url), ("GET", f"//{url}")):
        answer = reader(method, path)
        assert answer.status == 200
        assert answer.body == (b"" if method == "HEAD" else content)
        assert answer.header("Content-Length") == str(len(content))
        inline = name in ("plot.png", "photo.jpg", "curve.json")
        kind = mimetype if inline else "application/octet-stream"
        assert answer.header("Content-Type") == kind
        disposition = answer.header("Content-Disposition") or ""
        assert disposition.startswith("inline; " if inline else "attachment; ")
        assert (answer.header("Content-Security-Policy") or "").startswith("sandbox; ")
        assert answer.header("Cache-Control") == "no-store"
        assert re.fullmatch(
            r"""\w+; filename="\w[\w.+ -]*"; filename\*=UTF-8''\w[\w.%-]*""", disposition
        )


@pytest.mark.parametrize(
    "path",
    [
        "/artifacts", "/artifacts/", "/artifacts/1", "/artifacts/1/", "/artifacts/1/..",
        "/artifacts/1/../../secret", "/artifacts/1/%2e%2e%2f%2e%2e%2fsecret",
        "/artifacts/1/..%252f..%252fsecret", "/artifacts/1//etc/passwd",
        "/artifacts/1/%2fetc%2fpasswd", "/artifacts/1/..\\secret", "/artifacts/1/ID/..",
        "/artifacts/1/ID/", "/artifacts/1/ID%00", "/artifacts/1/ID%0a", "/artifacts/1/ID.tmp",
        "/artifacts/77/ID", "/artifacts/1/77/ID", "/artifacts/99999999999999999999/ID",
        "/artifacts/-1/ID", "/artifacts/%d9%a1/ID",
        "/artifacts/1/00000000-0000-0000-0000-000000000000",
        "/artifacts/1/1/1/ID", "/static/../_app.py", "/static/%2e%2e/_app.py",
        "/static//etc/passwd", "/static/..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd",
    ],
)  # fmt: skip
def test_paths_lead_nowhere_else(site: Site, reader: Client, path: str) -> None:
    (site.folder / "secret").write_text("canary")
    answer = reader("GET", path.replace("ID", site.artifacts["page.html"]))
    assert answer.status in (403, 404), path
    assert b"canary" not in answer.body and b"root:" not in answer.body


@pytest.mark.parametrize("path", ["/arti%fffacts/1/ID", "/artifacts%ff/1/ID", "/%c0%ae/"])
def test_a_path_that_is_no_utf8_is_refused(site: Site, reader: Client, path: str) -> None:
    answer = reader("GET", path.replace("ID", site.artifacts["page.html"]))
    assert answer.status == 400


def test_links_and_folders_among_the_artifacts_are_refused(own_site: Site, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("canary")
    shown = own_site.folder / FOLDER
    ids = list(own_site.artifacts.values())
    for artifact in ids[:6]:
        (shown / artifact).unlink()
    (shown / ids[0]).symlink_to(outside / "secret")
    (shown / ids[1]).symlink_to(outside)
    (shown / ids[2]).symlink_to(shown / ids[7])  # within the folder
    (shown / ids[3]).symlink_to(tmp_path / "nowhere")
    (shown / ids[4]).mkdir()
    (shown / ids[5]).symlink_to(shown / ids[5])
    client = own_site.client()
    for artifact in ids[:6]:
        answer = client("GET", f"/artifacts/1/{artifact}")
        assert (answer.status, answer.body) == (404, b"no such file\n")
    assert client("GET", f"/artifacts/1/{ids[7]}").status == 200


# --- the command ---


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (["--host", "0.0.0.0"], {}, "--host 0.0.0.0 lets other machines in, so a password must"),
        (["--host", "::"], {}, "--host :: lets other machines in, so a password must be set"),
        (["--host", "nowhere.invalid"], {}, "--host must be an address or a name of this machine"),
        (["--host", ""], {}, "--host must be an address or a name of this machine"),
        (["--host", "203.0.113.1"], {"": "long enough"}, "Cannot assign requested address"),
        ([], {"": ""}, "$SEGTUNE_DASHBOARD_PASSWORD: the dashboard's password must have 8 to 1000"),
        ([], {"": "seven 7"}, "must have 8 to 1000 characters, but has 7"),
        ([], {"": "x" * 1001}, "must have 8 to 1000 characters, but has 1001"),
        ([], {"": "x" * 8, "_FILE": "f"}, "are both set; unset one of them"),
        ([], {"_FILE": "absent"}, "_PASSWORD_FILE: absent cannot be read: No such file"),
        ([], {"_FILE": ""}, "cannot be read: Is a directory"),
        (["--password-file", "two"], {}, "--password-file: two must hold one line, but has 2"),
        (["--password-file", "empty"], {}, "--password-file empty: the dashboard's password must"),
        (["--password-file", "bytes"], {}, "--password-file: bytes must be UTF-8 text"),
        (["--allow-host", "https://x.example"], {}, "--allow-host must be a name alone, without"),
        (["--allow-host", "x.example:80"], {}, "--allow-host must be a name alone, without"),
        (["--allow-host", "*"], {}, "--allow-host must be a name alone, without scheme, port"),
        (["--store", "sqlite:///absent.db"], {}, "the store sqlite:///absent.db does not exist"),
    ],
)  # fmt: skip
def test_bad_input_is_told_before_anything_starts(
    arguments: list[str],
    variables: dict[str, str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in {"two": b"x" * 9 + b"\ny", "empty": b"", "bytes": b"\xff" * 9}.items():
        Path(name).write_bytes(content)
    for suffix, value in variables.items():
        monkeypatch.setenv(f"SEGTUNE_DASHBOARD_PASSWORD{suffix}", value)
    result = CliRunner().invoke(command_line, ["dashboard", "--port", "0", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr and len(result.stderr.splitlines()) == 1
    assert "Traceback" not in result.stderr


def test_a_port_in_use_is_told_with_the_fix(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(command_line, ["dashboard", "--port", port])
    assert result.exit_code == 2
    assert result.stderr == (
        f"segtune: port {port} of 127.0.0.1 is in use; stop what listens there, or name another "
        "one with --port (0 picks a free one)\n"
    )


def test_the_password_file_may_end_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "password"
    assert read_password(None) is None
    for text in ("with spaces ", "with spaces \n", "with spaces \r\n"):
        file.write_text(text, newline="")
        assert read_password(file) == "with spaces "
    monkeypatch.setenv("SEGTUNE_DASHBOARD_PASSWORD", "from the environment")
    assert read_password(None) == "from the environment"
    assert read_password(file) == "with spaces "  # an option goes before the environment


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1"])
def test_the_loopback_needs_no_password(host: str) -> None:
    with contextlib.suppress(InputError) if host == "::1" else contextlib.nullcontext():
        assert Access(host).password is None
    assert "secret" not in repr(Access(host, password="a secret of mine"))


@dataclass
class Running:
    """A `segtune dashboard` process."""

    process: subprocess.Popen[str]
    log: Path
    url: str

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2].partition("/")[0])

    def stop(self, how: signal.Signals) -> str:
        """End it; returns its output after the first line, and its log."""
        self.process.send_signal(how)
        rest, _ = self.process.communicate(timeout=30)
        assert self.process.returncode == 0
        return rest + self.log.read_text()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start `segtune dashboard` on a free port, and wait until it listens."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, **variables: str) -> Running:
        log = tmp_path / f"dashboard-{len(started)}.log"
        with open(log, "w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "search.cli", "dashboard", "--port", "0", *arguments],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, **variables},
            )
        started.append(process)
        assert process.stdout
        line = process.stdout.readline()  # ends with the process, and pytest's time limit
        found = re.fullmatch(r"dashboard: (http://\S+:\d+)/studies\n", line)
        assert found, line + log.read_text()
        return Running(process, log, found[1])

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait(timeout=30)


def fetch(url: str, data: bytes | None = None, **headers: str) -> Answer:
    """Send a request as `curl` does, following no redirect."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *arguments: Any) -> None:
            return None

    request = urllib.request.Request(url, data, headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), Stay)
    try:
        with opener.open(request, timeout=30) as answer:
            return Answer(answer.status, answer.getheaders(), answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, list(error.headers.items()), error.read())


def test_the_command_serves_this_machine_and_ends_at_ctrl_c(
    site: Site, start: Callable[..., Running]
) -> None:
    running = start("--store", str(site.store.engine.url), "--artifacts", str(site.folder))
    assert running.url.startswith("http://127.0.0.1:")
    page = fetch(f"{running.url}/dashboard")
    assert page.status == 200 and page.header("Server") == "segtune"
    assert page.header("Content-Security-Policy") == DEFAULT_HEADERS["Content-Security-Policy"]
    detail = fetch(f"{running.url}/api/studies/1")
    assert detail.json["name"] == SCRIPT and len(detail.json["trials"]) == 3
    picture = fetch(f"{running.url}/artifacts/1/{site.artifacts['plot.png']}")
    assert (picture.status, picture.body) == (200, PNG)
    assert fetch(f"{running.url}/api/studies", b"{}").status == 403
    assert fetch(f"{running.url}/api/studies", b"x" * 70_000).status == 413
    connection = HTTPConnection("127.0.0.1", running.port, timeout=30)
    for method, path, host, status in (
        ("GET", "/static/bundle.js", "localhost", 200),
        ("HEAD", "/dashboard", "localhost", 200),
        ("GET", "/api/studies", "evil.example", 421),
        ("GET", f"/artifacts/1/{site.artifacts['page.html']}/..%2f..%2fx", "localhost", 404),
    ):
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", host)
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status == status, path
        assert bool(answer.read()) == (method == "GET")
    connection.close()
    assert running.stop(signal.SIGINT) == ""


def test_no_password_is_in_a_page_a_header_or_the_log(
    own_postgres: Any, start: Callable[..., Running], tmp_path: Path
) -> None:
    store = open_store(own_postgres.url)
    site = make_site(store, tmp_path / "artifacts", tmp_path)
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    running = start(
        *("--host", "0.0.0.0", "--allow-host", "dash.example.org", "--password-file", str(file)),
        *("--artifacts", str(site.folder)),
        SEGTUNE_STORE=own_postgres.url,
    )
    url = running.url.replace("0.0.0.0", "127.0.0.1")
    answers = [fetch(f"{url}/dashboard"), fetch(f"{url}/login"), fetch(f"{url}/api/studies")]
    assert [answer.status for answer in answers] == [303, 200, 401]
    form = urlencode({"password": "wrong " + PASSWORD}).encode()
    answers.append(fetch(f"{url}/login", form))
    answers.append(fetch(f"{url}/login", urlencode({"password": PASSWORD}).encode()))
    assert [answer.status for answer in answers[3:]] == [401, 303]
    cookie = (answers.pop().header("Set-Cookie") or "").partition(";")[0]
    for path in ("/dashboard", "/api/studies", "/api/studies/1", "/api/meta", "/csv/1"):
        answers.append(fetch(f"{url}{path}", Cookie=cookie))
        assert answers[-1].status == 200
    assert fetch(f"{url}/api/studies", Cookie=cookie, Host="dash.example.org").status == 200
    stored = repr(site.snapshot())
    store.close()
    own_postgres.stop(signal.SIGQUIT)
    for path, status in (("/api/studies", 500), ("/csv/1", 500), ("/healthz", 200)):
        answers.append(fetch(f"{url}{path}", Cookie=cookie))
        assert answers[-1].status == status, path
    assert answers[-3].json == {"reason": "internal server error"}  # optuna-dashboard's
    assert answers[-2].body.startswith(b"internal server error; its reason stands in the")
    log = running.stop(signal.SIGTERM)
    assert "psycopg2.OperationalError" in log and "wrong password from 127.0.0.1" in log
    canaries = [PASSWORD, own_postgres.password, cookie.partition("=")[2]]
    for canary in [*canaries, *map(quote, canaries), *(quote(c, safe="") for c in canaries)]:
        assert canary not in log and canary not in stored
        assert not [a for a in answers if canary in repr(a.headers) + a.body.decode("latin-1")]


def test_the_log_hides_what_a_driver_tells(tcp_postgres: Any) -> None:
    store = open_store(tcp_postgres.url)
    formatter = _Redacted(_secrets(store, Access("127.0.0.1", password=PASSWORD)))
    store.close()
    try:
        raise OSError(f"no route to {tcp_postgres.url} with {tcp_postgres.password}")
    except OSError:
        record = logging.LogRecord("x", 40, "x", 1, "of %s", (PASSWORD,), sys.exc_info())
    text = formatter.format(record)
    assert "ERROR x: of ***" in text
    assert f"no route to postgresql://segtune:***@127.0.0.1:{tcp_postgres.port}" in text
    assert tcp_postgres.password not in text and quote(tcp_postgres.password, safe="") not in text


def test_the_dashboard_needs_no_torch(site: Site) -> None:
    program = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "cv2", "timm"):
            raise ModuleNotFoundError(f"{name} is not in the dashboard's image")
sys.meta_path.insert(0, NoTorch())
import search.cli
from pathlib import Path
from search.files.artifacts import Artifacts
from search.dashboard.server import make_app
from search.database.store import open_store
app = make_app(open_store(sys.argv[1]), Artifacts(Path(sys.argv[2])))
for path in sys.argv[3:]:
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "HTTP_HOST": "localhost",
               "QUERY_STRING": "", "wsgi.errors": sys.stderr, "wsgi.url_scheme": "http"}
    list(app(environ, lambda status, headers, exc_info=None: print(path, status)))
print([name for name in sys.modules if name.partition(".")[0] in ("torch", "torchvision")])
"""
    paths = ["/studies", "/workers"]
    paths += ["/dashboard", "/api/studies/1", "/api/studies/1/param_importances", "/csv/1"]
    paths.append(f"/artifacts/1/{site.artifacts['plot.png']}")
    result = subprocess.run(
        [sys.executable, "-c", program, str(site.store.engine.url), str(site.folder), *paths],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [f"{path} 200 OK" for path in paths] + ["[]"]
