"""A route of the HTTP API: what it is called by, what it takes and what it answers with."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from search.dashboard.forms import Refused
from search.dashboard.pages.frame import Request
from search.studies.job_kinds import FILE, FILE_LENGTH, checked
from spaces.errors import InputError

BASE = "/api/v1"
JSON, YAML = "application/json", "application/yaml"
KEYS = {"name": "[^/]+", "number": "[1-9][0-9]{0,8}"}  # in braces in a path
TOO_LARGE = HTTPStatus(413)  # its name in Python depends on the version


@dataclass(frozen=True)
class Route:
    """What answers one method on one path.

    Attributes:
        path: behind BASE.
        says: what it does, for the document.
        do: takes the API, the request, the keys of the path, and the body where it has one.
        takes: the body's settings; `str` stands for a study file; None for none.
        gives: what the answer holds; None for a file.
        status: of that answer.
        or_asks: it may answer as those do that ask for a job.
    """

    method: str
    path: str
    says: str
    do: Callable[..., Iterable[bytes]]
    takes: type[BaseModel] | type[str] | None = None
    gives: type[BaseModel] | None = None
    status: HTTPStatus = HTTPStatus.OK
    or_asks: bool = False

    @property
    def kind(self) -> str:
        """The Content-Type of its body."""
        return YAML if self.takes is str else JSON

    def keys(self, path: str) -> list[Any] | None:
        """The keys in a path behind BASE; None where it is another route's."""
        pattern = re.sub(r"\{(\w+)\}", lambda key: f"({KEYS[key[1]]})", self.path)
        found = re.fullmatch(pattern, path)
        if found is None:
            return None
        if "{number}" in self.path:
            return [int(text) for text in found.groups()]
        return [text.encode("latin-1").decode() for text in found.groups()]

    def body(self, request: Request) -> BaseModel | str | None:
        """What was sent.

        Raises:
            Refused: it is too large, or of another type: a page of another site may send forms.
            InputError: it holds something else.
        """
        sent = str(request.environ.get("CONTENT_TYPE") or "")
        if sent.partition(";")[0].strip().lower() != self.kind:
            said = f"Content-Type must be {self.kind}, but got {sent[:60]!r}"
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, said)
        length = request.environ.get("CONTENT_LENGTH") or "0"
        if not re.fullmatch("[0-9]{1,9}", length) or int(length) > FILE_LENGTH:
            raise Refused(TOO_LARGE, f"a body may have {FILE_LENGTH} bytes at most")
        body: bytes = request.environ["wsgi.input"].read(int(length))
        if self.takes is None:
            return None
        if issubclass(self.takes, BaseModel):
            return checked(self.takes, body or b"{}", "the body")
        try:
            return body.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise InputError(f"{FILE}: not UTF-8 text; save the file as UTF-8") from None
