"""segtune's own pages beside optuna-dashboard's: studies, one study, workers.

They are made on the server and work without scripts. One small script asks again every few
seconds, with the tag of what is shown, and puts in place what has changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from search.dashboard.doors import Clock
from search.dashboard.guards import READ_METHODS, answer
from search.dashboard.pages.frame import ASSETS, HOME, Frame, Request, send_asset
from search.dashboard.pages.studies import StudiesPage
from search.dashboard.pages.study import StudyPage
from search.dashboard.pages.workers import WorkersPage
from search.database.store import Store
from spaces.errors import InputError

_STUDY = re.compile(r"/studies/([^/]+)")


class Pages:
    """Answers for its own paths; all else goes to `inner`.

    Args:
        signs_in: whether people sign in, so that they can sign out.
        clock: seconds; only differences count.
    """

    def __init__(
        self, inner: WSGIApplication, store: Store, *, signs_in: bool, clock: Clock
    ) -> None:
        self.inner = inner
        self.frame = Frame(signs_in)
        self.studies = StudiesPage(self.frame, store, clock)
        self.study = StudyPage(self.frame, store)
        self.workers = WorkersPage(self.frame, store)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = str(environ["PATH_INFO"])
        page = self._page(path if path == "/" else path.rstrip("/"))
        if page is None:
            return self.inner(environ, start_response)
        if environ["REQUEST_METHOD"] not in READ_METHODS:
            allow = [("Allow", ", ".join(READ_METHODS))]
            status = HTTPStatus.METHOD_NOT_ALLOWED
            text = "this page is for reading: GET and HEAD\n"
            return answer(environ, start_response, status, text, headers=allow)
        request = Request(environ, start_response)
        try:
            return page(request)
        except InputError as error:
            return self.frame.problem(request, HTTPStatus.BAD_REQUEST, str(error))

    def _page(self, path: str) -> Callable[[Request], Iterable[bytes]] | None:
        if path == "/":
            return lambda request: request.redirect(HOME)
        if path == HOME:
            return self.studies
        if path == "/workers":
            return self.workers
        if path in ASSETS:
            return lambda request: send_asset(request, path)
        found = _STUDY.fullmatch(path)
        if found is None:
            return None
        name = found[1].encode("latin-1").decode()
        return lambda request: self.study(request, name)
