"""A study's report as one HTML file, which opens offline: what `segtune report` writes."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from http import HTTPStatus
from io import BytesIO

from search.dashboard.downloads import send_file
from search.dashboard.forms import Refused
from search.dashboard.pages.actions import check_study
from search.dashboard.pages.frame import Request
from search.database.store import Store
from search.files.artifacts import Artifacts
from search.findings.report import report_text
from search.studies.study import open_study


class ReportFile:
    """Answers GET /studies/NAME/report, one at a time: of thousands of trials it takes seconds."""

    def __init__(self, store: Store, artifacts: Artifacts) -> None:
        self.store, self.artifacts = store, artifacts
        self._turn = threading.Lock()

    def __call__(self, request: Request, name: str) -> Iterable[bytes]:
        check_study(self.store, name)
        if not self._turn.acquire(blocking=False):
            said = "A report is being written; try again when it is through"
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, said)
        try:
            text = report_text(open_study(self.store, name), "html", self.artifacts)
        finally:
            self._turn.release()
        body = text.encode("utf-8", "backslashreplace")
        saved = f"{name}-report.html"
        return send_file(request.environ, request.start_response, BytesIO(body), len(body), saved)
