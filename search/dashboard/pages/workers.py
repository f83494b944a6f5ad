"""Who works: each worker's host, device and trial, since when, and when it was last heard of."""

from __future__ import annotations

from collections.abc import Iterable

from search.dashboard.pages.frame import Frame, Request
from search.dashboard.pages.logs import searched
from search.database.store import Store
from search.findings.wording import clock
from search.studies.heartbeats import FORGET_SECONDS, workers


class WorkersPage:
    """Answers GET /workers."""

    def __init__(self, frame: Frame, store: Store) -> None:
        self.frame, self.store = frame, store

    def __call__(self, request: Request) -> Iterable[bytes]:
        rows = [
            {
                **worker,
                "for": None if worker["for_seconds"] is None else clock(worker["for_seconds"]),
                "silent": clock(worker["silent_seconds"]),
                "page": None if worker["study"] is None else searched(worker["study"]),
            }
            for worker in workers(self.store)
        ]
        return self.frame.show(
            request,
            "workers.html",
            "Workers",
            "/workers",
            rows=rows,
            hours=round(FORGET_SECONDS / 3600),
        )
