"""What all pages share: the frame with its navigation, tags, and how an answer is sent."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlencode
from wsgiref.types import StartResponse, WSGIEnvironment

from search.dashboard.guards import ROLE, USER, answer
from search.dashboard.study_page import GZIP_BYTES
from search.database.people import MEMBER, OWNER
from search.templates import asset, render
from spaces.errors import InputError, did_you_mean

HOME, NEW, DATA = "/studies", "/new", "/data"
ASSETS = {"/pages/page.css": "text/css", "/pages/page.js": "text/javascript"}
MOST_FIELDS = 8  # of a query
PLACES = ((HOME, "Studies"), ("/workers", "Workers"), ("/dashboard", "optuna-dashboard"))
NEW_PLACE, JOBS_PLACE = (NEW, "New study"), ("/jobs", "Jobs")
OWNERS_PLACES = (("/people", "People"), ("/audit", "Audit"))
TITLES = {HTTPStatus.NOT_FOUND: "Not found", HTTPStatus.FORBIDDEN: "Not allowed"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Request:
    """What is asked for, and where the answer goes."""

    environ: WSGIEnvironment
    start_response: StartResponse

    @cached_property
    def query(self) -> dict[str, str]:
        """The last value of each field.

        Raises:
            InputError: there are too many.
        """
        try:
            fields = parse_qs(self.environ.get("QUERY_STRING", ""), max_num_fields=MOST_FIELDS)
        except ValueError:
            raise InputError(f"an address may have {MOST_FIELDS} fields behind its ?") from None
        return {name: values[-1] for name, values in fields.items()}

    @property
    def is_owner(self) -> bool:
        """Whether an owner asks, or anybody where nobody signs in by name."""
        return self.role == OWNER

    @property
    def may_ask(self) -> bool:
        """Whether one of those asks who may have jobs run."""
        return self.role in (MEMBER, OWNER)

    @property
    def role(self) -> str:
        return str(self.environ.get(ROLE, ""))

    @property
    def user(self) -> str:
        """The name of who asks; "" where nobody signs in by name."""
        return str(self.environ.get(USER, ""))

    @property
    def address(self) -> str:
        return str(self.environ.get("REMOTE_ADDR", ""))

    def chosen(self, field: str, known: Sequence[str]) -> str:
        """A field that is one of `known`; the first one where it is not given.

        Raises:
            InputError: it is none of them.
        """
        given = self.query.get(field, known[0])
        if given not in known:
            hint = did_you_mean(given, known)
            raise InputError(f"{field} must be one of {', '.join(known)}, but got {given!r}{hint}")
        return given

    def has(self, tag: str) -> bool:
        """Whether the browser has what the tag stands for."""
        return tag in self.environ.get("HTTP_IF_NONE_MATCH", "")

    def redirect(self, location: str, status: HTTPStatus = HTTPStatus.FOUND) -> list[bytes]:
        headers = [("Location", location)]
        return answer(self.environ, self.start_response, status, headers=headers)

    def unchanged(self, headers: Iterable[tuple[str, str]]) -> list[bytes]:
        self.start_response("304 Not Modified", list(headers))
        return []

    def send(
        self, status: HTTPStatus, body: bytes, kind: str, headers: Iterable[tuple[str, str]]
    ) -> list[bytes]:
        """Answer, compressed where that pays and the browser takes it."""
        sent = [("Content-Type", f"{kind}; charset=utf-8"), ("Vary", "Accept-Encoding"), *headers]
        if len(body) > GZIP_BYTES and "gzip" in self.environ.get("HTTP_ACCEPT_ENCODING", ""):
            body = gzip.compress(body, compresslevel=1)
            sent.append(("Content-Encoding", "gzip"))
        sent.append(("Content-Length", str(len(body))))
        self.start_response(f"{status.value} {status.phrase}", sent)
        return [] if self.environ["REQUEST_METHOD"] == "HEAD" else [body]


class Frame:
    """The frame around each page.

    Args:
        signs_in: whether people sign in, so that they can sign out.
        by_name: whether they have names, so that owners see who they are and what they did.
        writes: whether anything may be changed, so that there are jobs.
    """

    def __init__(self, signs_in: bool, by_name: bool, writes: bool) -> None:
        self.signs_in, self.by_name, self.writes = signs_in, by_name, writes
        self._run = secrets.token_hex(8)  # a later version shows the same store in another way

    def address(self, request: Request) -> str | None:
        """Where a request came from, for the audit; None where nobody has a name to put there."""
        return request.address if self.by_name else None

    def tag(self, *shown: object) -> str:
        """The tag of what is shown; of another run of the dashboard it is another one."""
        text = repr((self._run, shown)).encode("utf-8", "surrogateescape")
        return f'"{hashlib.sha256(text).hexdigest()[:32]}"'

    def page(self, request: Request, tag: str, make: Callable[[], bytes]) -> list[bytes]:
        """Answer with a page, or with 304 where the browser has it; people see it differently."""
        tag = self.tag(tag, request.role, request.user)
        headers = [("ETag", tag)]
        if request.has(tag):
            return request.unchanged(headers)
        policy = ("Content-Security-Policy", POLICY)
        return request.send(HTTPStatus.OK, make(), "text/html", [*headers, policy])

    def show(
        self, request: Request, template: str, title: str, current: str, **values: Any
    ) -> list[bytes]:
        """Answer with a page that is made for this request, and tagged by all that it says."""
        body = self.render(request, template, title, current, **values)
        return self.page(request, self.tag(body), lambda: body)

    def render(
        self, request: Request, template: str, title: str, current: str, **values: Any
    ) -> bytes:
        """A page's HTML in its frame; `current` is its place in the navigation."""
        text = render(
            template,
            title=title,
            current=current,
            places=self._places(request),
            signs_in=self.signs_in,
            link=link,
            **values,
        )
        return text.encode("utf-8", "backslashreplace")

    def _places(self, request: Request) -> list[tuple[str, str]]:
        studies, *rest = PLACES
        asks = [NEW_PLACE, JOBS_PLACE] if self.writes and request.may_ask else []
        owners = OWNERS_PLACES if self.by_name and request.is_owner else ()
        return [studies, *asks, *rest, *owners]

    def problem(self, request: Request, status: HTTPStatus, said: str) -> list[bytes]:
        """A page that says what is wrong."""
        title = TITLES.get(status, "Cannot be shown")
        body = self.render(request, "problem.html", title, "", said=said)
        return request.send(status, body, "text/html", [("Content-Security-Policy", POLICY)])


def second(at: float) -> str:
    """A moment in UTC, as pages show it."""
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")


def link(path: str, **query: object) -> str:
    """An address with a query; fields that are None or empty are left out."""
    given = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path


def send_asset(request: Request, path: str) -> list[bytes]:
    """Answer with the style or the script, kept by the browser and asked for again by its tag."""
    body = asset(path.rpartition("/")[2]).encode()
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = [("ETag", tag), ("Cache-Control", "private, no-cache")]
    if request.has(tag):
        return request.unchanged(headers)
    return request.send(HTTPStatus.OK, body, ASSETS[path], headers)
