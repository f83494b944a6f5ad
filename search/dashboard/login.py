"""Sign-in to the dashboard with one password: a page, sessions in memory, a limit on failures."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import math
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from http import HTTPStatus
from urllib.parse import parse_qs, quote
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from search.dashboard.guards import READ_METHODS, answer, refuse
from search.templates import asset, render

COOKIE = "segtune_session"
SESSION_SECONDS = 12 * 3600
MAX_SESSIONS = 1000  # the oldest ends when there are more
FAILURE_SECONDS = 60  # how long a failure counts
MAX_FAILURES = 5  # of one client address in that time
MAX_ALL_FAILURES = 50  # of all addresses together
MAX_BODY = 16 * 1024  # bytes
HOME = "/dashboard"

Clock = Callable[[], float]
_log = logging.getLogger("segtune.dashboard")

_STYLE = asset("login.css")
_POLICY = (
    "default-src 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    + "'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class Sessions:
    """Tokens of those who have signed in; kept by their hashes, in memory only."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ends: dict[bytes, float] = {}  # oldest first
        self._lock = threading.Lock()

    def begin(self) -> str:
        """Return the token of a new session of SESSION_SECONDS."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            now = self._clock()
            live = [(key, end) for key, end in self._ends.items() if end > now]
            self._ends = dict(live[-(MAX_SESSIONS - 1) :])
            self._ends[_sha256(token)] = now + SESSION_SECONDS
        return token

    def holds(self, token: str) -> bool:
        """Whether a token is that of a session which has not ended."""
        with self._lock:
            end = self._ends.get(_sha256(token))
            return end is not None and self._clock() < end

    def end(self, token: str) -> None:
        with self._lock:
            self._ends.pop(_sha256(token), None)


class Failures:
    """Wrong passwords of the last FAILURE_SECONDS; never more than MAX_ALL_FAILURES of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._recent: deque[tuple[float, str]] = deque(maxlen=MAX_ALL_FAILURES)

    def add(self, address: str) -> None:
        self._recent.append((self._clock(), address))

    def wait(self, address: str) -> float:
        """Seconds until this address may try again; 0 where it may now."""
        now = self._clock()
        while self._recent and self._recent[0][0] <= now - FAILURE_SECONDS:
            self._recent.popleft()
        times = [when for when, client in self._recent if client == address]
        if len(self._recent) >= MAX_ALL_FAILURES:
            return self._recent[0][0] + FAILURE_SECONDS - now
        return times[-MAX_FAILURES] + FAILURE_SECONDS - now if len(times) >= MAX_FAILURES else 0.0


class Login:
    """Lets through to an app who has signed in; /login and /logout are its own.

    Args:
        clock: seconds; only differences count.
    """

    def __init__(self, app: WSGIApplication, password: str, clock: Clock = time.monotonic) -> None:
        self._app = app
        self._key = secrets.token_bytes(32)
        self._digest = self._hash(password)
        self._sessions = Sessions(clock)
        self._failures = Failures(clock)
        self._lock = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        signed_in = self._sessions.holds(_token(environ))
        if path in ("/login", "/logout") and method not in (*READ_METHODS, "POST"):
            reason = f"{path} takes GET and POST"
            return refuse(environ, start_response, HTTPStatus.METHOD_NOT_ALLOWED, reason)
        if path == "/login" and method == "POST":
            return self._sign_in(environ, start_response)
        if path == "/login":
            target = safe_target(_first(_query(environ), "next"))
            if signed_in:
                return _redirect(environ, start_response, target)
            return _page(environ, start_response, HTTPStatus.OK, target)
        if path == "/logout" and method == "POST":
            self._sessions.end(_token(environ))
            gone = ("Set-Cookie", _cookie(environ, "", 0))
            return _redirect(environ, start_response, "/login", gone)
        if signed_in and path == "/logout":
            return _page(environ, start_response, HTTPStatus.OK, signed_in=True)
        if signed_in:
            return self._app(environ, start_response)
        if method in READ_METHODS and _is_page(environ):
            wanted = safe_target(_requested(environ))
            login = f"/login?next={quote(wanted, safe='/')}"
            return _redirect(environ, start_response, login)
        return refuse(environ, start_response, HTTPStatus.UNAUTHORIZED, "sign in at /login first")

    def _sign_in(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        form = _form(environ)
        if form is None:
            text = f"the form must be UTF-8 of at most {MAX_BODY} bytes\n"
            return answer(environ, start_response, HTTPStatus.BAD_REQUEST, text)
        address = str(environ.get("REMOTE_ADDR", ""))
        given = self._hash(_first(form, "password"))
        target = safe_target(_first(form, "next"))
        with self._lock:  # else many guesses at once would all pass before the first is counted
            wait = math.ceil(self._failures.wait(address))
            right = wait == 0 and hmac.compare_digest(given, self._digest)
            if wait == 0 and not right:
                self._failures.add(address)
        if right:
            session = ("Set-Cookie", _cookie(environ, self._sessions.begin(), SESSION_SECONDS))
            return _redirect(environ, start_response, target, session)
        if wait:
            error = f"Too many wrong passwords; try again in {wait} seconds."
            status, retry = HTTPStatus.TOO_MANY_REQUESTS, [("Retry-After", str(wait))]
            return _page(environ, start_response, status, target, error, retry)
        _log.warning("wrong password from %s", address)
        status = HTTPStatus.UNAUTHORIZED
        return _page(environ, start_response, status, target, "This password is wrong.")

    def _hash(self, password: str) -> bytes:
        return hmac.digest(self._key, password.encode(), "sha256")


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
    if path == "/" or path == HOME or path.startswith(f"{HOME}/"):
        return True
    return "text/html" in environ.get("HTTP_ACCEPT", "") and not path.startswith("/api/")


def _requested(environ: WSGIEnvironment) -> str:
    """Path and query of a request, as in its URL."""
    path = quote(environ["PATH_INFO"].encode("latin-1"))
    query = environ.get("QUERY_STRING", "")
    return f"{path}?{query}" if query else path


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


def _form(environ: WSGIEnvironment) -> dict[str, list[str]] | None:
    """The fields of a posted form; None where it is too large or no text."""
    length = environ.get("CONTENT_LENGTH") or "0"
    if not re.fullmatch("[0-9]{1,9}", length) or int(length) > MAX_BODY:
        return None
    try:
        body = environ["wsgi.input"].read(int(length)).decode()
        return parse_qs(body, keep_blank_values=True, max_num_fields=8, errors="strict")
    except ValueError:
        return None


def _first(fields: dict[str, list[str]], name: str) -> str:
    return fields.get(name, [""])[0]


def _page(
    environ: WSGIEnvironment,
    start_response: StartResponse,
    status: HTTPStatus,
    target: str = HOME,
    error: str = "",
    headers: Iterable[tuple[str, str]] = (),
    signed_in: bool = False,
) -> Iterable[bytes]:
    """The page to sign in, or to sign out for who is signed in."""
    page = render("login.html", style=_STYLE, target=target, error=error, signed_in=signed_in)
    policy = ("Content-Security-Policy", _POLICY)
    kind = "text/html; charset=utf-8"
    return answer(environ, start_response, status, page, kind, [policy, *headers])


def _redirect(
    environ: WSGIEnvironment,
    start_response: StartResponse,
    location: str,
    *headers: tuple[str, str],
) -> Iterable[bytes]:
    found = [("Location", location), *headers]
    return answer(environ, start_response, HTTPStatus.SEE_OTHER, headers=found)


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
