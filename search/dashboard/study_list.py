"""The list of studies, which says behind each name how far the study is and what is best.

optuna-dashboard's page shows a study's name and direction, and nothing else of what it is told. So
the name that the page is told has more in it. In the store, and in what programs are told, it stays
as it is: a name is what commands open a study by.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from search.dashboard.study_page import WSGIApp, send_json
from search.database.store import Store
from search.studies.overview import Overview, overviews

_PATH = re.compile(r"/api/studies/*")


class StudyList:
    """Answers GET /api/studies for the page itself; all else goes to `inner`."""

    def __init__(self, inner: WSGIApp, store: Store) -> None:
        self.inner, self.store = inner, store

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        listed = _PATH.fullmatch(environ.get("PATH_INFO", ""))
        if not listed or environ["REQUEST_METHOD"] != "GET" or not _from_page(environ):
            return self.inner(environ, start_response)
        answered: list[Any] = []
        body = b"".join(self.inner(environ, lambda *given: answered.extend(given)))
        if not answered[0].startswith("200"):
            start_response(*answered)
            return [body]
        answer = json.loads(body)
        known = overviews(self.store)
        for study in answer["study_summaries"]:
            if (found := known.get(study["study_id"])) is not None:
                study["study_name"] += f" ({how_far(found)})"
        return send_json(environ, start_response, json.dumps(answer).encode())


def how_far(found: Overview) -> str:
    """`7/12, best 0.5123`."""
    best = "" if found.best is None else f", best {found.best:.4f}"
    return f"{found.ended}/{found.slots}{best}"


def _from_page(environ: dict[str, Any]) -> bool:
    """Whether a page of the dashboard asks: browsers name it, as our Referrer-Policy lets them."""
    referer: str = environ.get("HTTP_REFERER", "")
    return urlsplit(referer).path.startswith("/dashboard")
