"""optuna-dashboard over a study store, made fit to be left running: guarded, served by waitress."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import re
import signal
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from wsgiref.types import WSGIApplication

import optuna_dashboard
from rich.console import Console

from search.dashboard import guards
from search.dashboard.api import Api
from search.dashboard.audited import audited
from search.dashboard.connections import Server
from search.dashboard.doors import ByName, Clock, Proxy, SharedPassword
from search.dashboard.downloads import with_artifacts
from search.dashboard.importance_card import ImportanceCard
from search.dashboard.login import Login
from search.dashboard.pages import Pages
from search.dashboard.pages.frame import HOME, Frame
from search.dashboard.study_list import StudyList
from search.dashboard.study_page import StudyData
from search.dashboard.way_back import WayBack
from search.database.passwords import check_password
from search.database.people import has_users
from search.database.sessions import drop_ended
from search.database.store import Store
from search.database.url import spellings
from search.files.artifacts import Artifacts
from search.files.data_roots import DataRoots
from search.files.shown import ShownFiles
from spaces.errors import InputError
from spaces.signals import ending_signals
from spaces.textfile import only_line

PASSWORD = "SEGTUNE_DASHBOARD_PASSWORD"
PASSWORD_FILE = "SEGTUNE_DASHBOARD_PASSWORD_FILE"
THREADS = 8
_log = logging.getLogger("segtune.dashboard")
BODY_BYTES = {False: 64 * 1024, True: 128 * 1024 * 1024}  # by allow_writes: files are uploads


@dataclass(frozen=True)
class Access:
    """Who may reach the dashboard, by what name, and do what.

    Attributes:
        host: address or name that it listens on.
        names: further names under which it answers.
        password: of all who come; None asks for none.
        proxy: who signs people in, where they have names.
        roots: folders whose data members may look at, with allow_writes.
    """

    host: str
    names: tuple[str, ...] = ()
    password: str | None = field(default=None, repr=False)
    allow_writes: bool = False
    proxy: Proxy | None = None
    roots: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        for name in self.names:
            if not re.fullmatch(r"\[[0-9a-fA-F:.]+\]|[^\[\]:/@\\*\s]+", name):
                raise InputError(
                    f"--allow-host must be a name alone, without scheme, port or path, as in "
                    f"dash.example.org, but got {name}"
                )

    def check(self, people: bool) -> None:
        """Refuse what would let everybody in.

        Args:
            people: whether users sign in by name.

        Raises:
            InputError: neither a password nor a name is asked for, beyond the loopback; or a
                proxy names people where there are none.
        """
        if people:
            return
        if self.password is None and not _is_loopback(self.host):
            raise InputError(
                f"--host {self.host} lets other machines in, so a password must be set: put it in "
                f"a file for --password-file, or in ${PASSWORD}; or give people names: segtune "
                "users add"
            )
        if self.proxy is not None:
            raise InputError(
                "--proxy-user-header names users, and the store has none; add them: segtune "
                "users add"
            )


def read_password(file: Path | None) -> str | None:
    """Return the password in `file`, in the file of $..._PASSWORD_FILE, or in $..._PASSWORD.

    Returns:
        None where none of them is set.

    Raises:
        InputError: it cannot be read, is empty, too short or too long, or is set twice.
    """
    if file is not None:
        return _checked(only_line(file, "--password-file"), f"--password-file {file}")
    named, given = os.environ.get(PASSWORD_FILE), os.environ.get(PASSWORD)
    if named is not None and given is not None:
        raise InputError(f"${PASSWORD} and ${PASSWORD_FILE} are both set; unset one of them")
    if named is not None:
        return _checked(only_line(Path(named), f"${PASSWORD_FILE}"), f"${PASSWORD_FILE} {named}")
    return None if given is None else _checked(given, f"${PASSWORD}")


def make_app(
    store: Store,
    artifacts: Artifacts,
    *,
    password: str | None = None,
    allow_writes: bool = False,
    hosts: Iterable[str] = (),
    inner: WSGIApplication | None = None,
    proxy: Proxy | None = None,
    roots: Sequence[Path] = (),
    clock: Clock = time.monotonic,
) -> WSGIApplication:
    """The dashboard as a WSGI app with its guards.

    Where the store has users they sign in by name, and `password` opens nothing.

    Args:
        artifacts: where trial files are.
        hosts: names under which it answers, beside those of the loopback.
        inner: what shows the studies, in place of `dashboard_app`.
        proxy: who signs users in.
        roots: as of `Access`.
        clock: seconds; measures failed sign-ins, sessions of a password, and the age of what pages
            share.
    """
    people = has_users(store)
    files = artifacts.shown
    shown = inner or StudyList(
        StudyData(ImportanceCard(dashboard_app(store, files), store), store), store
    )
    app: WSGIApplication = WayBack(guards.adapted(shown))
    app = with_artifacts(app, store.storage, files)
    if people:
        app = audited(app, store)
    frame = Frame(people or password is not None, by_name=people, writes=allow_writes)
    app = Api(Pages(app, store, artifacts, frame, clock, DataRoots(roots)), store, frame)
    app = guards.studies_stay(app)
    app = guards.members_write(app) if allow_writes else guards.read_only(app)
    if people:
        drop_ended(store)  # also for its rights: here they are told before anybody waits
        app = Login(app, ByName(store), proxy, clock)
    elif password is not None:
        app = Login(app, SharedPassword(password, clock), None, clock)
    else:
        app = guards.as_owner(app)
    app = guards.same_origin(app)
    app = guards.with_health(app)
    app = guards.for_hosts(app, hosts)
    app = guards.one_spelling(app)
    app = guards.hide_errors(app)
    return guards.security_headers(app)


def dashboard_app(store: Store, files: ShownFiles) -> WSGIApplication:
    """optuna-dashboard's own app over a store, unguarded."""
    app = optuna_dashboard.wsgi(store.storage, artifact_store=files)
    app.catchall = False  # else it writes tracebacks itself, where nothing takes passwords out
    return app  # type: ignore[no-any-return]


def listen(host: str, port: int) -> socket.socket:
    """Take the port before anything slow begins; connections wait until the app is served.

    Args:
        port: 0 takes a free one.

    Raises:
        InputError: the port is in use or may not be had, or the address is not this machine's.
    """
    family, _, _, _, address = min(_addresses(host, port), key=lambda found: found[0])  # IPv4 first
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"port {port} of {host} is in use; stop what listens there, or name another one "
                "with --port (0 picks a free one)"
            ) from None
        if error.errno == errno.EACCES:
            raise InputError(
                f"port {port} of {host} needs root; name one above 1023 with --port"
            ) from None
        raise InputError(f"--host {host} --port {port}: {error.strerror}") from None
    return listener


def serve(
    store: Store, artifacts: Artifacts, console: Console, listener: socket.socket, access: Access
) -> int:
    """Serve the dashboard until SIGINT or SIGTERM. Returns 0: to be stopped is its normal end."""
    people = has_users(store)
    access.check(people)
    _log_without(_secrets(store, access))
    if people and access.password is not None:
        _log.warning("people sign in by name; the dashboard's one password opens nothing")
    app = make_app(
        store,
        artifacts,
        password=access.password,
        allow_writes=access.allow_writes,
        hosts=(access.host, *access.names),
        proxy=access.proxy,
        roots=access.roots,
    )
    server = Server(
        app,
        listener,
        threads=THREADS,
        ident="segtune",
        max_request_body_size=BODY_BYTES[access.allow_writes],
        clear_untrusted_proxy_headers=False,  # the login reads X-Forwarded-Proto, and says why
    )
    before = {number: signal.signal(number, _stop) for number in ending_signals()}
    try:
        host = f"[{access.host}]" if ":" in access.host else access.host
        url = f"http://{host}:{listener.getsockname()[1]}{HOME}"
        console.print(f"dashboard: {url}", highlight=False, markup=False, soft_wrap=True)
        server.run()  # ends at SystemExit, when the requests under way have been answered
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        server.close()
    return 0


class _Redacted(logging.Formatter):
    """Log lines without passwords, tracebacks included."""

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")
        self._secrets = sorted(secrets, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _log_without(secrets: set[str]) -> None:
    """Send all warnings and errors of this process to stderr, with these taken out."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Redacted(secrets))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # else a line for each wait


def _secrets(store: Store, access: Access) -> set[str]:
    """The passwords of store and dashboard, plain and as they stand in URLs and forms."""
    return spellings(store.engine.url.password, access.password)


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def _checked(password: str, source: str) -> str:
    return check_password(password, f"{source}: the dashboard's password")


def _is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address or all addresses of a name."""
    return all(
        ipaddress.ip_address(address[0].partition("%")[0]).is_loopback
        for _, _, _, _, address in _addresses(host, 0)
    )


def _addresses(host: str, port: int) -> list[tuple[int, int, int, str, tuple[str, int]]]:
    try:
        if not host:
            raise OSError
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)  # type: ignore[return-value]
    except (OSError, UnicodeError):
        raise InputError(
            f"--host must be an address or a name of this machine, as in 127.0.0.1 or 0.0.0.0, "
            f"but got {host!r}"
        ) from None
