"""Who may sign in, and what they did: two pages for owners."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable

from search.dashboard.pages.actions import check_owner
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
        check_owner(request, "see")
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
        return self.frame.show(request, "people.html", "People", "/people", rows=rows)


class AuditPage:
    """Answers GET /audit, and /audit?before=NUMBER with older lines."""

    def __init__(self, frame: Frame, store: Store) -> None:
        self.frame, self.store = frame, store

    def __call__(self, request: Request) -> Iterable[bytes]:
        check_owner(request, "see")
        before = request.query.get("before")
        if before is not None and not re.fullmatch("[1-9][0-9]{0,8}", before):
            raise InputError(f"before must be the number of a line, but got {before[:40]!r}")
        found = deeds(self.store, LINES + 1, None if before is None else int(before))
        shown = found[:LINES]
        return self.frame.show(
            request,
            "audit.html",
            "Audit",
            "/audit",
            rows=[{**vars(one), "at": second(one.at)} for one in shown],
            before=before,
            older=shown[-1].number if len(found) > LINES else None,
        )


def _day(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d")
