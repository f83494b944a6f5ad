"""segtune's own pages beside optuna-dashboard's: studies, one study, a new one, jobs, workers.

They are made on the server and work without scripts. One small script asks again every few
seconds, with the tag of what is shown, and puts in place what has changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from search.dashboard.doors import Clock
from search.dashboard.forms import Forms, Refused
from search.dashboard.guards import READ_METHODS, answer
from search.dashboard.pages.actions import ACTIONS, Actions
from search.dashboard.pages.asking import ASKINGS, Asks
from search.dashboard.pages.data import DataPage
from search.dashboard.pages.disk_use import DiskUse
from search.dashboard.pages.frame import ASSETS, DATA, HOME, NEW, Frame, Request, send_asset
from search.dashboard.pages.jobs import JobPage, JobsPage
from search.dashboard.pages.logs import LogPage
from search.dashboard.pages.new import NewStudy
from search.dashboard.pages.people import AuditPage, PeoplePage
from search.dashboard.pages.report import ReportFile
from search.dashboard.pages.studies import StudiesPage
from search.dashboard.pages.study import StudyPage
from search.dashboard.pages.trying import TryIt
from search.dashboard.pages.workers import WorkersPage
from search.database.store import Store
from search.files.artifacts import Artifacts
from search.files.data_roots import DataRoots
from search.files.results import Results
from spaces.errors import InputError

_STUDY = re.compile(r"/studies/([^/]+)(?:/([a-z]+))?")
_LOG = re.compile(r"/studies/([^/]+)/trials/(0|[1-9][0-9]{0,8})/log")
_JOB = re.compile(r"/jobs/([1-9][0-9]{0,8})(?:/(cancel|result|picture))?")

Page = Callable[[Request], Iterable[bytes]]


class Pages:
    """Answers for its own paths; all else goes to `inner`.

    Args:
        artifacts: where the files of trials and the results of jobs are.
        clock: seconds; only differences count.
        roots: folders whose data may be looked at.
    """

    def __init__(
        self,
        inner: WSGIApplication,
        store: Store,
        artifacts: Artifacts,
        frame: Frame,
        clock: Clock,
        roots: DataRoots,
    ) -> None:
        self.inner, self.frame = inner, frame
        forms = Forms()
        self.studies = StudiesPage(frame, store, clock)
        self.study = StudyPage(frame, store, DiskUse(artifacts, clock))
        self.actions = Actions(frame, store, forms, self.studies.forget)
        self.asks = Asks(frame, store, forms)
        self.log = LogPage(frame, store, artifacts)
        self.report = ReportFile(store, artifacts)
        self.try_it = TryIt(frame, store, forms)
        self.job = JobPage(frame, store, Results(artifacts), forms)
        self.new = NewStudy(frame, store, forms, self.job.study_file, bool(roots.roots))
        self.data = DataPage(frame, store, forms, roots)
        self.places: dict[str, Page] = {
            "/": lambda request: request.redirect(HOME),
            HOME: self.studies,
            "/jobs": JobsPage(frame, store),
            "/workers": WorkersPage(frame, store),
            f"{DATA}/picture": self.data.picture,
        }
        if frame.by_name:
            self.places |= {"/people": PeoplePage(frame, store), "/audit": AuditPage(frame, store)}

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = str(environ["PATH_INFO"])
        page, methods = self._page(path if path == "/" else path.rstrip("/"))
        if page is None:
            return self.inner(environ, start_response)
        if environ["REQUEST_METHOD"] not in methods:
            allow = [("Allow", ", ".join(methods))]
            status = HTTPStatus.METHOD_NOT_ALLOWED
            text = f"this page takes {' and '.join(methods)}\n"
            return answer(environ, start_response, status, text, headers=allow)
        request = Request(environ, start_response)
        try:
            return page(request)
        except Refused as refused:
            return self.frame.problem(request, refused.status, str(refused))
        except InputError as error:
            return self.frame.problem(request, HTTPStatus.BAD_REQUEST, str(error))

    def _page(self, path: str) -> tuple[Page | None, tuple[str, ...]]:
        """What answers for a path, and which methods it takes."""
        if path in ASSETS:
            return lambda request: send_asset(request, path), READ_METHODS
        if path in (NEW, DATA):
            return self.new if path == NEW else self.data, (*READ_METHODS, "POST")
        if (job := _JOB.fullmatch(path)) is not None:
            number, what = int(job[1]), job[2] or ""
            methods = (*READ_METHODS, "POST") if what == "cancel" else READ_METHODS
            return lambda request: self.job(request, number, what), methods
        if (log := _LOG.fullmatch(path)) is not None:
            of, trial = _text(log[1]), int(log[2])
            return lambda request: self.log(request, of, trial), READ_METHODS
        found = _STUDY.fullmatch(path)
        if found is None:
            return self.places.get(path), READ_METHODS
        name, action = _text(found[1]), found[2]
        if action is None:
            return lambda request: self.study(request, name), READ_METHODS
        if action == "report":
            return lambda request: self.report(request, name), READ_METHODS
        if action == "try":
            return lambda request: self.try_it(request, name), (*READ_METHODS, "POST")
        if action in ASKINGS:
            return lambda request: self.asks(request, name, action), (*READ_METHODS, "POST")
        if action not in ACTIONS:
            return None, READ_METHODS
        return lambda request: self.actions(request, name, action), (*READ_METHODS, "POST")


def _text(part: str) -> str:
    """A part of a path, which WSGI gives as Latin-1; guards let UTF-8 through alone."""
    return part.encode("latin-1").decode()
