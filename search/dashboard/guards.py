"""What stands before the dashboard's app: WSGI apps, each around the next, that refuse or adapt.

optuna-dashboard has no authentication, lets anyone delete a study, serves uploaded pages as pages,
and answers every site's requests. Nothing reaches it that has not passed through these.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import re
import sys
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from search.database.people import MEMBER, OWNER

Headers = list[tuple[str, str]]

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
READ_METHODS = ("GET", "HEAD")
HEALTH = "/healthz"
# of who has signed in, in environ; never a header's
USER, ROLE, SESSION = "segtune.user", "segtune.role", "segtune.session"
PROGRAM = "segtune.program"  # it was a token, which no browser sends by itself

# optuna-dashboard's page draws with WebGL, which compiles, and styles its elements in place
PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
DEFAULT_HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # under no-referrer forms are sent with `Origin: null`
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/@\\\s]+)(?::[0-9]*)?")
_log = logging.getLogger("segtune.dashboard")


def answer(
    environ: WSGIEnvironment,
    start_response: StartResponse,
    status: HTTPStatus,
    body: str = "",
    content_type: str = "text/plain; charset=utf-8",
    headers: Iterable[tuple[str, str]] = (),
) -> list[bytes]:
    """Answer with a short text; a HEAD request gets its headers only."""
    content = body.encode()
    start_response(
        f"{status.value} {status.phrase}",
        [("Content-Type", content_type), ("Content-Length", str(len(content))), *headers],
    )
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [content]


def refuse(
    environ: WSGIEnvironment, start_response: StartResponse, status: HTTPStatus, reason: str
) -> list[bytes]:
    """Answer with `{"reason": ...}`, the form in which optuna-dashboard reports errors."""
    text = json.dumps({"reason": reason})
    return answer(environ, start_response, status, text, "application/json")


def security_headers(app: WSGIApplication) -> WSGIApplication:
    """Add DEFAULT_HEADERS to every response, where it has none of that name."""

    def wrapped(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: Headers, exc_info: Any = None) -> Any:
            present = {name.lower() for name, _ in headers}
            added = [(n, v) for n, v in DEFAULT_HEADERS.items() if n.lower() not in present]
            return start_response(status, headers + added, exc_info)

        return app(environ, start)

    return wrapped


def hide_errors(app: WSGIApplication) -> WSGIApplication:
    """Log what was not foreseen; the browser gets no more than a 500."""

    def wrapped(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            return app(environ, start_response)
        except Exception:
            _log.exception("%s %r failed", environ["REQUEST_METHOD"], environ["PATH_INFO"])
            error = sys.exc_info()
            text = b"internal server error; its reason stands in the dashboard's log\n"
            length = ("Content-Length", str(len(text)))
            start_response(
                "500 Internal Server Error", [("Content-Type", "text/plain"), length], error
            )
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [text]

    return wrapped


def one_spelling(app: WSGIApplication) -> WSGIApplication:
    """Give the path the form that optuna-dashboard would read it in.

    It takes `//artifacts/...` for `/artifacts/...` and drops bytes that are no UTF-8, which would
    let a path slip by a guard that compares it as it was sent.
    """

    def wrapped(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        raw = str(environ.get("PATH_INFO", ""))
        try:
            raw.encode("latin-1").decode()
        except UnicodeError:
            text = "the path must be UTF-8\n"
            return answer(environ, start_response, HTTPStatus.BAD_REQUEST, text)
        if re.search("[0-9]{19}", raw):
            text = "no study and no trial has so long a number\n"
            return answer(environ, start_response, HTTPStatus.NOT_FOUND, text)
        environ["PATH_INFO"] = "/" + raw.lstrip("/")
        return app(environ, start_response)

    return wrapped


def for_hosts(app: WSGIApplication, hosts: Iterable[str]) -> WSGIApplication:
    """Answer under the names of this machine's loopback and `hosts` only, with any port.

    A page of another site can point its own name at 127.0.0.1 and then read what it likes (DNS
    rebinding); its name in the Host header gives it away.
    """
    allowed = {canonical_host(name) for name in (*LOOPBACK_NAMES, *hosts)}

    def wrapped(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        found = _HOST.fullmatch(environ.get("HTTP_HOST", "").lower())
        if found is None or canonical_host(found[1]) not in allowed:
            text = "unknown Host header; name it with: segtune dashboard --allow-host NAME\n"
            return answer(environ, start_response, HTTPStatus.MISDIRECTED_REQUEST, text)
        return app(environ, start_response)

    return wrapped


def canonical_host(name: str) -> str:
    """One spelling of a host's name or address, without brackets and port."""
    bare = name.strip("[]").lower()
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return bare


def with_health(app: WSGIApplication) -> WSGIApplication:
    """Answer /healthz to anyone, for health checks of containers and proxies."""

    def wrapped(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == HEALTH and environ["REQUEST_METHOD"] in READ_METHODS:
            return answer(environ, start_response, HTTPStatus.OK, "ok\n")
        return app(environ, start_response)

    return wrapped


def same_origin(app: WSGIApplication) -> WSGIApplication:
    """Refuse writes that a page of another site sends (CSRF).

    Browsers say where a write comes from, in Origin or Referer; programs need not.
    """

    def wrapped(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        source = environ.get("HTTP_ORIGIN") or environ.get("HTTP_REFERER")
        if environ["REQUEST_METHOD"] not in READ_METHODS and source:
            try:
                netloc = urlsplit(source).netloc.lower()
            except ValueError:
                netloc = ""
            if netloc != environ["HTTP_HOST"].lower():
                reason = "the request comes from a page of another site"
                return refuse(environ, start_response, HTTPStatus.FORBIDDEN, reason)
        return app(environ, start_response)

    return wrapped


def read_only(app: WSGIApplication) -> WSGIApplication:
    """Refuse every method but GET and HEAD; none of the dashboard's GET routes changes anything."""

    def wrapped(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in READ_METHODS:
            reason = "this dashboard is read-only; start it with --allow-writes to change studies"
            return refuse(environ, start_response, HTTPStatus.FORBIDDEN, reason)
        return app(environ, start_response)

    return wrapped


def as_owner(app: WSGIApplication) -> WSGIApplication:
    """Let everybody be an owner without a name, where nobody has to sign in."""

    def wrapped(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ[USER], environ[ROLE] = "", OWNER
        return app(environ, start_response)

    return wrapped


def members_write(app: WSGIApplication) -> WSGIApplication:
    """Refuse every method but GET and HEAD to readers, and to whoever has no role at all."""

    def wrapped(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        role = environ.get(ROLE)
        if environ["REQUEST_METHOD"] not in READ_METHODS and role not in (MEMBER, OWNER):
            reason = "a reader changes nothing; an owner makes members: segtune users role NAME"
            return refuse(environ, start_response, HTTPStatus.FORBIDDEN, f"{reason} {MEMBER}")
        return app(environ, start_response)

    return wrapped


def studies_stay(app: WSGIApplication) -> WSGIApplication:
    """Refuse to delete or rename a study: optuna-dashboard knows nothing of its slots and reports.

    Workers would lose the study, and what segtune keeps of it would stay behind.
    """

    def wrapped(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"].upper(), environ["PATH_INFO"]
        if method == "DELETE" and re.fullmatch(r"/api/studies/[^/]*/*", path):
            reason = "the dashboard deletes no study; use: segtune delete STUDY"
            return refuse(environ, start_response, HTTPStatus.FORBIDDEN, reason)
        if re.fullmatch(r"/api/studies/[^/]*/+rename/*", path):
            reason = (
                "a study keeps its name; launch it under another one, and delete this one with: "
                "segtune delete STUDY"
            )
            return refuse(environ, start_response, HTTPStatus.FORBIDDEN, reason)
        return app(environ, start_response)

    return wrapped


def adapted(app: WSGIApplication) -> WSGIApplication:
    """optuna-dashboard's app: its own answers on security dropped, its static files cached."""
    ours = {name.lower() for name in DEFAULT_HEADERS} | {"server"}

    def wrapped(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        static = path.startswith("/static/") or path == "/favicon.ico"
        environ.setdefault("HTTP_ACCEPT_ENCODING", "")  # its static files fail without one
        if path == "/favicon.ico":  # which it would send packed, and not say so
            environ["HTTP_ACCEPT_ENCODING"] = ""

        def start(status: str, headers: Headers, exc_info: Any = None) -> Any:
            kept = [
                (name, value)
                for name, value in headers
                if name.lower() not in ours and not name.lower().startswith("access-control-")
            ]
            if static:  # kept by the browser, and asked for again by ETag: names have no version
                kept += [("Cache-Control", "private, no-cache"), ("Vary", "Accept-Encoding")]
            return start_response(status, kept, exc_info)

        return app(environ, start)

    return wrapped
