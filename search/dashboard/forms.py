"""Forms that are posted: their fields, and the token that shows that a page of ours sent them."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs
from wsgiref.types import WSGIEnvironment

from search.dashboard.guards import SESSION, USER

MAX_BODY = 16 * 1024  # bytes
MAX_FIELDS = 8
FIELD = "token"


class Refused(Exception):
    """What is asked for cannot be had; the message is shown on a page."""

    def __init__(self, status: HTTPStatus, said: str) -> None:
        super().__init__(said)
        self.status = status


class Forms:
    """Tokens of forms: each session has its own, until the dashboard ends."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def token(self, environ: Mapping[str, Any]) -> str:
        """What a form must send back; pages of other sites cannot read it."""
        whose = f"{environ.get(USER, '')} {environ.get(SESSION, '')}"
        return hmac.digest(self._key, whose.encode("utf-8", "surrogateescape"), "sha256").hex()

    def is_ours(self, environ: Mapping[str, Any], form: Mapping[str, list[str]]) -> bool:
        """Whether this session was given the form."""
        given = first(form, FIELD).encode("utf-8", "surrogateescape")
        return hmac.compare_digest(given, self.token(environ).encode())

    def posted(
        self, environ: WSGIEnvironment, page: str, limit: int = MAX_BODY, fields: int = MAX_FIELDS
    ) -> dict[str, list[str]]:
        """The fields of a form that this session was given.

        Args:
            page: where it is given.
            limit: bytes, as it is sent.
            fields: how many it may have.

        Raises:
            Refused: it is another session's, or no form.
        """
        form = read_form(environ, limit, fields)
        if form is None:
            said = f"The form must be UTF-8 of at most {limit} bytes"
            raise Refused(HTTPStatus.BAD_REQUEST, said)
        self.check(environ, form, page)
        return form

    def check(self, environ: Mapping[str, Any], form: Mapping[str, list[str]], page: str) -> None:
        """Raise Refused where this session was not given the form."""
        if not self.is_ours(environ, form):
            said = f"This form is of another session; open {page} and try again"
            raise Refused(HTTPStatus.FORBIDDEN, said)


def read_form(
    environ: WSGIEnvironment, limit: int = MAX_BODY, fields: int = MAX_FIELDS
) -> dict[str, list[str]] | None:
    """The fields of a posted form; None where it is too large or no text."""
    length = environ.get("CONTENT_LENGTH") or "0"
    if not re.fullmatch("[0-9]{1,9}", length) or int(length) > limit:
        return None
    try:
        body = environ["wsgi.input"].read(int(length)).decode()
        return parse_qs(body, keep_blank_values=True, max_num_fields=fields, errors="strict")
    except ValueError:
        return None


def first(fields: Mapping[str, list[str]], name: str) -> str:
    """The first value of a field; "" where there is none."""
    return fields.get(name, [""])[0]
