"""Sign-in to the dashboard: a page, a limit on failures, and who goes on to the app behind it."""

from __future__ import annotations

import base64
import hashlib
import logging
import math
import re
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qs, quote
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from search.dashboard.doors import SESSION_SECONDS, Busy, Clock, Door, Proxy
from search.dashboard.forms import MAX_BODY, first, read_form
from search.dashboard.guards import PROGRAM, READ_METHODS, ROLE, SESSION, USER, answer, refuse
from search.dashboard.pages.frame import HOME
from search.database.sessions import Visitor
from search.templates import asset, render

COOKIE = "segtune_session"
FAILURE_SECONDS = 60  # how long a failure counts
MAX_FAILURES = 5  # of one client address in that time
MAX_OF_NAME = 10  # of one user's name, from any address
MAX_ALL_FAILURES = 50  # of all addresses together

_log = logging.getLogger("segtune.dashboard")
_BEARER = re.compile(r"Bearer +(\S+)", re.IGNORECASE)

_STYLE = asset("login.css")
_POLICY = (
    "default-src 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    + "'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, eq=False)
class Attempt:
    """A sign-in; name is None where none is asked for."""

    when: float
    address: str
    name: str | None


class Failures:
    """Wrong passwords of the last FAILURE_SECONDS; never more than MAX_ALL_FAILURES of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._recent: deque[Attempt] = deque(maxlen=MAX_ALL_FAILURES)
        self._lock = threading.Lock()

    def begin(self, address: str, name: str | None) -> tuple[float, Attempt]:
        """Seconds until one may try; 0 where it may now, and then it counts until `take_back`.

        Else many guesses at once would all pass before the first is counted.
        """
        with self._lock:
            attempt = Attempt(self._clock(), address, name)
            wait = self._wait(attempt)
            if wait == 0:
                self._recent.append(attempt)
        return wait, attempt

    def take_back(self, attempt: Attempt) -> None:
        """What was begun is no failure."""
        with self._lock, suppress(ValueError):  # it was long ago
            self._recent.remove(attempt)

    def _wait(self, attempt: Attempt) -> float:
        now = attempt.when
        while self._recent and self._recent[0].when <= now - FAILURE_SECONDS:
            self._recent.popleft()
        if len(self._recent) >= MAX_ALL_FAILURES:
            return self._recent[0].when + FAILURE_SECONDS - now
        waits = [0.0]
        of_address = [one.when for one in self._recent if one.address == attempt.address]
        if len(of_address) >= MAX_FAILURES:
            waits.append(of_address[-MAX_FAILURES] + FAILURE_SECONDS - now)
        of_name = [one.when for one in self._recent if one.name == attempt.name]
        if attempt.name is not None and len(of_name) >= MAX_OF_NAME:
            waits.append(of_name[-MAX_OF_NAME] + FAILURE_SECONDS - now)
        return max(waits)


class Login:
    """Lets through to an app who has signed in; /login and /logout are its own.

    The app finds who asks in environ: `segtune.user` ("" under a shared password), `segtune.role`,
    and `segtune.program` where it was a program's token that said so.

    Args:
        proxy: whose word counts for a password, where people sign in by name.
        clock: seconds; only differences count.
    """

    def __init__(
        self,
        app: WSGIApplication,
        door: Door,
        proxy: Proxy | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._app = app
        self._door = door
        self._proxy = proxy
        self._failures = Failures(clock)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path in ("/login", "/logout") and method not in (*READ_METHODS, "POST"):
            reason = f"{path} takes GET and POST"
            return refuse(environ, start_response, HTTPStatus.METHOD_NOT_ALLOWED, reason)
        if path == "/login" and method == "POST":
            return self._sign_in(environ, start_response)
        try:
            visitor = self._visitor(environ)
        except _Stranger as error:
            return refuse(environ, start_response, error.status, str(error))
        if path == "/login":
            target = safe_target(first(_query(environ), "next"))
            if visitor:
                return _redirect(environ, start_response, target)
            return self._page(environ, start_response, HTTPStatus.OK, target)
        if path == "/logout" and method == "POST":
            return self._sign_out(environ, start_response, visitor)
        if visitor and path == "/logout":
            return self._page(environ, start_response, HTTPStatus.OK, visitor=visitor)
        if visitor:
            environ[USER], environ[ROLE] = visitor.name, visitor.role
            environ[SESSION] = _token(environ)
            return self._app(environ, start_response)
        if method in READ_METHODS and _is_page(environ):
            wanted = safe_target(_requested(environ))
            login = f"/login?next={quote(wanted, safe='/')}"
            return _redirect(environ, start_response, login)
        return refuse(environ, start_response, HTTPStatus.UNAUTHORIZED, "sign in at /login first")

    def _visitor(self, environ: WSGIEnvironment) -> Visitor | None:
        """Who asks: by the proxy's word, by a program's token, or by a session.

        Raises:
            _Stranger: the proxy names nobody who is known, or a program's token opens nothing.
        """
        if self._proxy and (name := self._proxy.name(environ)):
            if visitor := self._door.of_proxy(name):
                return visitor
            reason = "the proxy names nobody who is known here; an owner adds them: segtune users"
            raise _Stranger(HTTPStatus.FORBIDDEN, reason)
        if self._door.by_name and (found := _BEARER.fullmatch(_authorization(environ))):
            if visitor := self._door.of_program(found[1]):
                environ[PROGRAM] = True
                return visitor
            reason = "this token opens nothing; a new one: segtune users token NAME --label LABEL"
            raise _Stranger(HTTPStatus.UNAUTHORIZED, reason)
        return self._door.visitor(_token(environ))

    def _sign_in(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        form = read_form(environ)
        if form is None:
            text = f"the form must be UTF-8 of at most {MAX_BODY} bytes\n"
            return answer(environ, start_response, HTTPStatus.BAD_REQUEST, text)
        address = str(environ.get("REMOTE_ADDR", ""))
        name = first(form, "username").strip().lower()[:100] if self._door.by_name else None
        target = safe_target(first(form, "next"))
        wait, attempt = self._failures.begin(address, name)
        if wait:
            seconds = math.ceil(wait)
            error = f"Too many wrong passwords; try again in {seconds} seconds."
            status, retry = HTTPStatus.TOO_MANY_REQUESTS, [("Retry-After", str(seconds))]
            return self._page(environ, start_response, status, target, error, retry)
        try:
            token = self._door.sign_in(name or "", first(form, "password"), address)
        except Busy:
            self._failures.take_back(attempt)
            error = "Many sign in at this moment; try again in a second."
            status, retry = HTTPStatus.SERVICE_UNAVAILABLE, [("Retry-After", "1")]
            return self._page(environ, start_response, status, target, error, retry)
        except BaseException:
            self._failures.take_back(attempt)
            raise
        if token is not None:
            self._failures.take_back(attempt)
            session = ("Set-Cookie", _cookie(environ, token, SESSION_SECONDS))
            return _redirect(environ, start_response, target, session)
        _log.warning("wrong password from %s", address)  # the name may be a password, mistyped
        wrong = "The name or the password" if self._door.by_name else "This password"
        error = f"{wrong} is wrong."
        return self._page(environ, start_response, HTTPStatus.UNAUTHORIZED, target, error)

    def _sign_out(
        self, environ: WSGIEnvironment, start_response: StartResponse, visitor: Visitor | None
    ) -> Iterable[bytes]:
        form = read_form(environ) or {}
        if visitor and first(form, "everywhere"):
            address = str(environ.get("REMOTE_ADDR", ""))
            self._door.sign_out_everywhere(visitor.name, address)
        self._door.sign_out(_token(environ))
        gone = ("Set-Cookie", _cookie(environ, "", 0))
        return _redirect(environ, start_response, "/login", gone)

    def _page(
        self,
        environ: WSGIEnvironment,
        start_response: StartResponse,
        status: HTTPStatus,
        target: str = HOME,
        error: str = "",
        headers: Iterable[tuple[str, str]] = (),
        visitor: Visitor | None = None,
    ) -> Iterable[bytes]:
        """The page to sign in, or to sign out for who is signed in."""
        page = render(
            "login.html",
            style=_STYLE,
            target=target,
            error=error,
            visitor=visitor,
            by_name=self._door.by_name,
        )
        policy = ("Content-Security-Policy", _POLICY)
        kind = "text/html; charset=utf-8"
        return answer(environ, start_response, status, page, kind, [policy, *headers])


class _Stranger(Exception):
    """Somebody shows what is nobody's."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def safe_target(path: str) -> str:
    """Return a path of this site to go to after sign-in, or HOME for anything else.

    Browsers read `//name`, `/\\name` and `/<tab>/name` as other sites.
    """
    if re.fullmatch(r"/(?![/\\])[!-\[\]-~]*", path) and len(path) <= 2000:
        return path
    return HOME


def _is_page(environ: WSGIEnvironment) -> bool:
    """Whether a person in a browser asks, and not a program that wants data."""
    path = environ["PATH_INFO"]
    if path == "/" or (path + "/").startswith("/dashboard/"):
        return True
    return "text/html" in environ.get("HTTP_ACCEPT", "") and not path.startswith("/api/")


def _requested(environ: WSGIEnvironment) -> str:
    """Path and query of a request, as in its URL."""
    path = quote(environ["PATH_INFO"].encode("latin-1"))
    query = environ.get("QUERY_STRING", "")
    return f"{path}?{query}" if query else path


def _authorization(environ: WSGIEnvironment) -> str:
    return str(environ.get("HTTP_AUTHORIZATION", "")).strip()


def _token(environ: WSGIEnvironment) -> str:
    """The session's token, among the cookies that other servers of this host have set.

    http.cookies would drop all of them for one that it cannot read.
    """
    for part in environ.get("HTTP_COOKIE", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return str(value)
    return ""


def _cookie(environ: WSGIEnvironment, token: str, seconds: int) -> str:
    """The session's cookie. Lax: a link from elsewhere to a study must find its reader signed in.

    A client that lies about X-Forwarded-Proto harms nobody but itself.
    """
    https = environ["wsgi.url_scheme"] == "https"
    https = https or environ.get("HTTP_X_FORWARDED_PROTO", "").strip().lower() == "https"
    text = f"{COOKIE}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax"
    return f"{text}; Secure" if https else text


def _query(environ: WSGIEnvironment) -> dict[str, list[str]]:
    try:
        return parse_qs(environ.get("QUERY_STRING", ""), max_num_fields=8)
    except ValueError:
        return {}


def _redirect(
    environ: WSGIEnvironment,
    start_response: StartResponse,
    location: str,
    *headers: tuple[str, str],
) -> Iterable[bytes]:
    found = [("Location", location), *headers]
    return answer(environ, start_response, HTTPStatus.SEE_OTHER, headers=found)
