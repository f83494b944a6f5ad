"""Who may sign in, and what they did: two pages for owners."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from http import HTTPStatus

from search.dashboard.pages.frame import Frame, Request, second
from search.database.audit import deeds
from search.database.people import users
from search.database.store import Store
from spaces.errors import InputError

LINES = 200  # of the audit, a page


class PeoplePage:
    """Answers GET /people."""

    def __init__(self, frame: Frame, store: Store) -> None:
        self.frame, self.store = frame, store

    def __call__(self, request: Request) -> Iterable[bytes]:
        if not request.is_owner:
            return _refuse(self.frame, request)
        rows = [
            {
                "name": user.name,
                "role": user.role,
                "since": _day(user.created),
                "changed": _day(user.changed),
                "signs_in": "with a password" if user.password else "by a proxy or a token",
                "sessions": user.sessions,
                "tokens": ", ".join(user.tokens),
            }
            for user in users(self.store)
        ]
        body = self.frame.render(request, "people.html", "People", "/people", rows=rows)
        return self.frame.page(request, self.frame.tag(body), lambda: body)


class AuditPage:
    """Answers GET /audit, and /audit?before=NUMBER with older lines."""

    def __init__(self, frame: Frame, store: Store) -> None:
        self.frame, self.store = frame, store

    def __call__(self, request: Request) -> Iterable[bytes]:
        if not request.is_owner:
            return _refuse(self.frame, request)
        before = request.query.get("before")
        if before is not None and not re.fullmatch("[1-9][0-9]{0,8}", before):
            raise InputError(f"before must be the number of a line, but got {before[:40]!r}")
        found = deeds(self.store, LINES + 1, None if before is None else int(before))
        shown = found[:LINES]
        body = self.frame.render(
            request,
            "audit.html",
            "Audit",
            "/audit",
            rows=[{**vars(one), "at": second(one.at)} for one in shown],
            before=before,
            older=shown[-1].number if len(found) > LINES else None,
        )
        return self.frame.page(request, self.frame.tag(body), lambda: body)


def _refuse(frame: Frame, request: Request) -> Iterable[bytes]:
    said = "Only an owner may see this; an owner makes others: segtune users role NAME owner"
    return frame.problem(request, HTTPStatus.FORBIDDEN, said)


def _day(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d")
