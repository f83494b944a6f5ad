"""Who works: each worker's host, device and trial, since when, and when it was last heard of."""

from __future__ import annotations

from collections.abc import Iterable

from search.dashboard.pages.frame import Frame, Request
from search.database.store import Store
from search.findings.wording import clock
from search.studies.heartbeats import FORGET_SECONDS, workers
from spaces.spec import BESIDE


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
                "page": _searched(worker["study"]),
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


def _searched(study: str | None) -> str | None:
    """The study whose page tells of a worker's trial: a confirmation has none of its own."""
    for suffix in BESIDE:
        study = None if study is None else study.removesuffix(suffix)
    return study
