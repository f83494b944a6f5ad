"""`segtune --server`: a laptop with a token alone, and servers that are not what they should be."""

from __future__ import annotations

import contextlib
import datetime
import http.server
import json
import os
import ssl
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from rich.console import Console
from typer.testing import CliRunner
from waitress import wasyncore

from search.cli import app as command_line
from search.cli.api_client import Server, Unreachable, checked_address, read_token, unpack
from search.cli.remote import OVERLAP, news
from search.dashboard.connections import Server as WebServer
from search.dashboard.server import THREADS, listen, make_app
from search.database.audit import deeds
from search.database.people import add_user
from search.database.sessions import new_token
from search.database.store import Store
from search.database.tables import NOW
from search.files.artifacts import Artifacts
from search.studies.heartbeats import Registration
from search.studies.jobs import DEVICE, latest
from search.studies.limits import stopped
from search.studies.owners import new_owner
from search.studies.study import Study, create_or_resume
from search.work.job_runner import JobRunner, Pace
from search.work.watchers import Interrupt
from spaces.errors import InputError
from spaces.spec import StudySpec
from tests.browsing import PASSWORD

NAME = "roads"
TOKEN = "segtune_of-nobody"
COMMAND = """\
import os, sys
kind, what = sys.argv[1:3]
if "--to" in sys.argv:
    to = sys.argv[sys.argv.index("--to") + 1]
    os.makedirs(to + "/model")
    open(to + "/config.yaml", "w").write("a: 1")
    open(to + "/model/weights", "wb").write(bytes(100_000))
print(kind, *sys.argv[3:] if what.endswith(".yaml") else sys.argv[2:])
sys.exit(3 if what.endswith(".yaml") and "bad" in open(what).read() else 0)
"""
LAPTOP = """\
import sys
sys.modules.update(dict.fromkeys(["torch", "sqlalchemy", "optuna", "yaml", "numpy"]))
from search.cli import app
app(sys.argv[1:])
"""


def segtune(url: str, *words: str | Path, token: str | None = TOKEN) -> Result:
    env = {"SEGTUNE_TOKEN": token, "COLUMNS": "200"}
    return CliRunner().invoke(command_line, ["--server", url, *map(str, words)], env=env)


@pytest.fixture
def study(store: Store, make_spec: Callable[..., StudySpec]) -> Study:
    return create_or_resume(store, make_spec(name=NAME, trials=3, epochs=4), "f" * 64, None)


@pytest.fixture
def runner(store: Store, tmp_path: Path) -> Iterator[None]:
    """Jobs are run, by a script in place of segtune."""
    interrupt = Interrupt()
    with open(os.devnull, "w") as nowhere:
        serves = JobRunner(
            store,
            Artifacts(tmp_path / "artifacts"),
            Console(file=nowhere),
            interrupt,
            Registration(store, new_owner(), DEVICE),
            dict(os.environ),
            [tmp_path],
            pace=Pace(write=0.05, look=0.05, idle=0.05),
            program=(sys.executable, "-c", COMMAND),
        )
        thread = threading.Thread(target=serves.run)
        thread.start()
        yield
        interrupt.count += 1
        thread.join()


@contextlib.contextmanager
def serving(app: Any) -> Iterator[str]:
    """The address of an app on a free port, by the dashboard's own server."""
    listener = listen("127.0.0.1", 0)
    server, stop = WebServer(app, listener, threads=THREADS), threading.Event()

    def loop() -> None:
        while not stop.is_set():
            wasyncore.loop(timeout=0.05, map=server._map, count=1, use_poll=True)
        server.task_dispatcher.shutdown()
        wasyncore.close_all(server._map)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stop.set()
        thread.join()


def test_a_laptop_with_a_token_launches_follows_and_takes_away(
    study: Study, runner: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, artifacts = study.store, Artifacts(tmp_path / "artifacts")
    add_user(store, "olga", "owner", PASSWORD, "test")
    token = new_token(store, "olga", "laptop", "test")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # which would see the token
    good, bad, to = tmp_path / "good.yaml", tmp_path / "bad.yaml", tmp_path / "taken"
    good.write_text("name: lanes")
    bad.write_text("name: lanes  # bad")
    with serving(make_app(store, artifacts, allow_writes=True)) as url:

        def done(*words: str | Path, code: int = 0) -> str:
            result = segtune(url, *words, token=token)
            assert result.exit_code == code, result.output
            return str(result.output)

        launched = done("launch", good)
        assert f"job 1: {url}/jobs/1\n" in launched
        assert "launch --new --on local --workers 0\n" in launched
        assert "job 2: failed" in done("check", bad, code=3)
        assert "wrote" in done("export", NAME, "--to", to, "--trial", "0", "--no-test")
        files = sorted(str(p.relative_to(to)) for p in to.rglob("*") if p.is_file())
        assert files == ["config.yaml", "model/weights"]
        assert (to / "model" / "weights").stat().st_size == 100_000
        assert not list(tmp_path.glob(".segtune-*"))
        assert "is not empty" in done("export", NAME, "--to", to, code=2)
        assert "confirm roads --leave --top 1" in done("confirm", NAME, "--top", "1")
        assert "stopped; reopen it" in done("stop", NAME, "--now") and stopped(study) == NOW
        assert "stopped by a user, at once" in done("status", NAME)
        assert "is open" in done("resume", NAME) and stopped(study) is None
        assert "resume roads --trials 9" in done("resume", NAME, "--trials", "9")
        assert "0/3" in done("studies") and "waiting for workers" in done("status")
        assert sum(json.loads(done("status", NAME, "--json"))["slots"].values()) == 3
        near = done("stop", "road", code=2)
        assert (
            near == f"segtune: {url}: There is no study 'road' in this store; did you mean roads?\n"
        )
        alone = subprocess.run(
            [sys.executable, "-c", LAPTOP, "--server", url, "studies"],
            env={**os.environ, "SEGTUNE_TOKEN": token},
            capture_output=True,
            text=True,
            check=False,
        )
        assert alone.returncode == 0 and "roads" in alone.stdout, alone.stderr
        for given, said in ((None, "SEGTUNE_TOKEN"), (TOKEN, "this token opens nothing")):
            refused = segtune(url, "studies", token=given)
            assert refused.exit_code == 2 and said in refused.output
    said = [deed.what for deed in deeds(store) if deed.study is not None]
    assert said[::-1] == ["launch", "check", "export --trial 0 --no-test", "confirm --top 1",
                          "stop now", "resume", "resume --trials 9"]  # fmt: skip
    assert {job.asked_by for job in latest(store)} == {"olga"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("http://dash.example.org", "ssh -L 8080:127.0.0.1:8080 dash.example.org"),
        ("http://localhost.example.org", "without TLS others could read the token"),
        ("http://10.0.0.5:8080", "without TLS others could read the token"),
        ("https://olga:secret@dash.example.org", "no password"),
        ("https://dash.example.org/studies", "without a path"),
        ("https://dash.example.org?x=1", "must be the address of a dashboard"),
        ("https://dash.example.org:port", "must be the address of a dashboard"),
        ("https://dash.example.org\nx: y", "must be the address of a dashboard"),
        ("dash.example.org", "must be the address of a dashboard"),
        ("file:///etc/passwd", "must be the address of a dashboard"),
        ("https://", "must be the address of a dashboard"),
        ("", "must be the address of a dashboard"),
    ],
)
def test_an_address_that_gives_the_token_away_is_refused(given: str, said: str) -> None:
    with pytest.raises(InputError) as raised:
        checked_address(given)
    assert said in str(raised.value) and "secret" not in str(raised.value)


def test_addresses_of_dashboards() -> None:
    for given in (
        "http://127.0.0.1:8080",
        "http://[::1]:80",
        "http://localhost:1",
        "https://d.org",
    ):
        assert checked_address(given) == checked_address(f"{given}/") == given


def test_a_token_is_read_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text("segtune_of-file\n")
    assert read_token(None) is None
    monkeypatch.setenv("SEGTUNE_TOKEN", "segtune_of-variable")
    assert read_token(None) == "segtune_of-variable"
    assert read_token(file) == "segtune_of-file"
    for wrong in ("", "secret words", "secret\r\nX-Header: 1", "secrét"):
        file.write_text(wrong)
        with pytest.raises(InputError) as raised:
            read_token(file)
        assert "secr" not in str(raised.value)
    assert "of-variable" not in repr(Server("https://d.org", read_token(None)))


def test_what_a_dashboard_does_not_do_is_said() -> None:
    for words, said in (
        (["--server", "http://127.0.0.1:9", "predict", "x"], "predict does not go over --server"),
        (["--server", "http://127.0.0.1:9", "launch", "x", "--workers", "2"], "No such option"),
        (["--token-file", "x", "studies"], "--token-file goes with --server"),
    ):
        result = CliRunner().invoke(command_line, words)
        assert result.exit_code == 2 and said in result.output


# --- servers that are none, or answer wrongly ---


@dataclass
class Canned:
    """A server that always answers the same.

    Attributes:
        heard: (path, Authorization) of each request.
    """

    url: str
    heard: list[tuple[str, str | None]]


@contextlib.contextmanager
def canned(
    status: int, body: bytes, tls: ssl.SSLContext | None = None, **headers: str
) -> Iterator[Canned]:
    heard: list[tuple[str, str | None]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append((self.path, self.headers["Authorization"]))
            self.send_response(status)
            for name, value in {"Content_Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None: ...

    class Quiet(http.server.ThreadingHTTPServer):
        def handle_error(self, *arguments: Any) -> None: ...  # the client hangs up on TLS

    server = Quiet(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    scheme = "http" if tls is None else "https"
    try:
        yield Canned(f"{scheme}://127.0.0.1:{server.server_port}", heard)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def refused(url: str) -> str:
    """The one line that `studies` says."""
    result = segtune(url, "studies")
    assert result.exit_code == 2, result.output
    assert result.output.startswith("segtune: ") and result.output.count("\n") == 1
    assert TOKEN not in result.output and "\x1b" not in result.output
    return str(result.output)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b"<html>", "answers with text/html where JSON is due; is it a dashboard of segtune?"),
        (200, b"[]", "where JSON is due"),
        (200, b"[" * 60_000, "where JSON is due"),
        (200, b"{}", "its answer has no 'studies'; is it a dashboard of segtune"),
        (404, b"<html>no", "answers 404; is it a dashboard of segtune?"),
        (421, b"unknown Host header\nx", "answers 421: unknown Host header; is it"),
        (403, b'{"reason": "not \\u001b[31mfor you"}', "not \ufffd[31mfor you"),
        (502, b"", "502 Bad Gateway"),
        (500, b"its reason stands in the log", "answers 500: its reason stands in the log\n"),
    ],
)
def test_one_line_says_what_is_wrong_with_an_answer(status: int, body: bytes, said: str) -> None:
    with canned(status, body, Content_Type="text/html") as server:
        assert said in refused(server.url)
    assert [path for path, _ in server.heard] == ["/api/v1/studies"]


def test_a_redirect_takes_no_token_elsewhere() -> None:
    with canned(200, b"{}") as elsewhere, canned(302, b"", Location=elsewhere.url) as server:
        assert f"leads on to {elsewhere.url}; name its right address" in refused(server.url)
    assert server.heard == [("/api/v1/studies", f"Bearer {TOKEN}")] and elsewhere.heard == []


def test_a_certificate_that_nobody_trusts_gets_no_token(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_certificate(tmp_path / "pem"))
    with canned(200, b'{"studies": []}', context) as server:
        assert "its certificate is not trusted: self-signed certificate" in refused(server.url)
    assert server.heard == []
    with canned(200, b"{}") as plain:
        said = refused(plain.url.replace("http:", "https:"))
    assert "does not speak TLS as it should" in said and plain.heard == []


def test_where_nothing_listens_one_line_says_so() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    assert "nothing listens there" in refused(f"http://127.0.0.1:{port}")


def test_a_job_is_followed_past_a_restart_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"open": True, "state": "running"}
    answers: list[Any] = [(job, "1"), Unreachable("gone"), None, ({**job, "open": False}, "2")]
    tags: list[str | None] = []

    class Restarted(Server):
        def get(self, path: str, tag: str | None = None) -> Any:
            tags.append(tag)
            found = answers.pop(0)
            if isinstance(found, Exception):
                raise found
            return found

    server = Restarted("http://127.0.0.1:9", sleep=lambda seconds: None)
    heard: list[dict[str, Any]] = []
    assert server.follow(7, heard.append) == {**job, "open": False} == heard[-1]
    assert len(heard) == 2 and tags == [None, "1", "1", "1"]
    monkeypatch.setattr("search.cli.api_client.PATIENCE", -1.0)
    answers.append(Unreachable("gone"))
    with pytest.raises(InputError, match="gone; job 7 goes on without us"):
        server.follow(7, heard.append)


def test_lines_are_said_once_also_where_the_middle_is_left_out() -> None:
    lines = [str(number) for number in range(100)]
    assert news([], lines) == lines and news(lines[:60], lines) == lines[60:]
    assert news(lines, lines) == []
    cut = [*lines[:5], "... 45 lines are left out ...", *lines[50:]]
    assert news(lines[:80], cut) == lines[80:]
    far = [*lines[:5], "... 85 lines are left out ...", *lines[90:]]
    assert news(lines[:60], far) == ["...", *far[-OVERLAP:]]


# --- what is downloaded ---


@pytest.mark.parametrize(
    "name",
    ["roads/../x", "roads/../../x", "/etc/x", "roads//x", "roads/./x", "roads/a\\..\\x", "roads/",
     "alone", "roads/a/../../../x"],
)  # fmt: skip
def test_a_file_that_leads_elsewhere_is_not_written(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr(zipfile.ZipInfo(name), "content")
    with pytest.raises(InputError, match="no result of a job"):
        unpack(archive, tmp_path / "to")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [archive]


def test_a_link_becomes_a_file_and_leads_nowhere(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        link = zipfile.ZipInfo("roads/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        opened.writestr(link, "/etc")
    assert unpack(archive, tmp_path / "to") == 1
    assert not (tmp_path / "to/link").is_symlink() and (tmp_path / "to/link").read_text() == "/etc"
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("roads/link/passwd", "x")
    with pytest.raises(InputError, match="no result of a job"):
        unpack(archive, tmp_path / "again")


def test_a_zip_that_grows_or_is_damaged_is_refused(tmp_path: Path) -> None:
    bomb, twice, cut = (tmp_path / f"{name}.zip" for name in ("bomb", "twice", "cut"))
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("roads/zeros", bytes(10_000_000))
    with pytest.warns(UserWarning), zipfile.ZipFile(twice, "w") as opened:
        for _ in range(2):
            opened.writestr("roads/a", "content")
    with zipfile.ZipFile(cut, "w") as opened:
        opened.writestr("roads/a", "content")
    damaged = bytearray(cut.read_bytes())
    damaged[damaged.index(b"content")] ^= 1
    cut.write_bytes(damaged)
    for archive, said in ((bomb, "larger than itself"), (twice, "exists"), (cut, "damaged")):
        with pytest.raises(InputError, match=said):
            unpack(archive, tmp_path / archive.stem)
    cut.write_bytes(damaged[:40])
    with pytest.raises(InputError, match="damaged"):
        unpack(cut, tmp_path / "short")


def test_a_download_that_breaks_off_is_said(tmp_path: Path) -> None:
    short = pytest.raises(InputError, match="a part of the file only")
    with canned(200, b"half", Content_Length="8") as server, short:
        Server(server.url).download("/jobs/1/result", tmp_path / "a.zip")


def _certificate(path: Path) -> Path:
    """A key and a certificate that it has signed itself, for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    kind = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, *kind)
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path
