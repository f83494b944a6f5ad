"""The HTTP API: what the pages show and do, for programs; `segtune --server` is one of them.

Who may do what is decided where the pages decide it. A change needs a program's token: a cookie
alone is not enough, as browsers send it for pages of other sites too.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from functools import cached_property
from http import HTTPStatus
from wsgiref.types import StartResponse, WSGIEnvironment

from pydantic import BaseModel

from search.dashboard.api.document import document
from search.dashboard.api.routes import BASE, JSON, Route
from search.dashboard.api.shapes import (
    Asked,
    Failure,
    JobFacts,
    Resume,
    Shape,
    Stop,
    Stopped,
    StudyFacts,
    StudyRow,
    StudyRows,
)
from search.dashboard.forms import Refused
from search.dashboard.guards import PROGRAM, READ_METHODS
from search.dashboard.pages import Pages
from search.dashboard.pages.actions import act, check_own, check_study, owns
from search.dashboard.pages.asking import ask_for, check_asker
from search.dashboard.pages.frame import Frame, Request
from search.dashboard.pages.jobs import own_job
from search.dashboard.pages.studies import Row
from search.database.store import Store, UnknownStudy
from search.database.tables import AFTER, NOW
from search.findings.facts import summary
from search.studies.catalogue import moments
from search.studies.job_kinds import Confirm, Export, named_in
from search.studies.jobs import TooMany, cancel, find, lines_of
from search.studies.limits import stopped
from search.studies.study import open_study
from spaces.errors import InputError
from spaces.spec import BESIDE

DOCUMENT = "/openapi.json"


class Document(Shape):
    """The document that you read."""

    openapi: str


class Api:
    """Answers for all paths below BASE; all else goes to the pages.

    Args:
        pages: whose caches it shares, so that a poll here costs what it costs there.
    """

    def __init__(self, pages: Pages, store: Store, frame: Frame) -> None:
        self.pages, self.store, self.frame = pages, store, frame
        self._lock = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = str(environ["PATH_INFO"])
        if path != BASE and not path.startswith(f"{BASE}/"):
            return self.pages(environ, start_response)
        request = Request(environ, start_response)
        try:
            return self._answer(request, path.removeprefix(BASE).rstrip("/"))
        except Refused as refused:
            return self._refuse(request, refused.status, str(refused))
        except UnknownStudy as error:  # it was deleted just now
            return self._refuse(request, HTTPStatus.NOT_FOUND, str(error))
        except TooMany as error:
            return self._refuse(request, HTTPStatus.TOO_MANY_REQUESTS, str(error))
        except InputError as error:
            return self._refuse(request, HTTPStatus.BAD_REQUEST, str(error))

    def _answer(self, request: Request, path: str) -> Iterable[bytes]:
        found = [(route, keys) for route in ROUTES if (keys := route.keys(path)) is not None]
        if not found:
            said = f"there is no such route; all of them stand in {BASE}{DOCUMENT}"
            raise Refused(HTTPStatus.NOT_FOUND, said)
        method = request.environ["REQUEST_METHOD"]
        asked = "GET" if method in READ_METHODS else method
        for route, keys in found:
            if route.method == asked:
                if asked == "GET":
                    return route.do(self, request, *keys)
                check_program(self.frame, request)
                body = route.body(request)
                return route.do(self, request, *keys, *([] if route.takes is None else [body]))
        known = [m for r, _ in found for m in (READ_METHODS if r.method == "GET" else (r.method,))]
        said, allow = f"this path takes {' and '.join(known)}", ("Allow", ", ".join(known))
        return self._refuse(request, HTTPStatus.METHOD_NOT_ALLOWED, said, [allow])

    def openapi(self, request: Request) -> Iterable[bytes]:
        return request.send(HTTPStatus.OK, self._document, JSON, ())

    @cached_property
    def _document(self) -> bytes:
        return json.dumps(document(ROUTES)).encode()

    def studies(self, request: Request) -> Iterable[bytes]:
        found, tag = self.pages.studies.now()

        def made() -> Shape:
            rows = self.pages.studies.rows(found)
            return StudyRows(studies=[StudyRow.of(row) for row in rows])

        return self._tagged(request, tag, made)

    def study(self, request: Request, name: str) -> Iterable[bytes]:
        found = moments(self.store, [name, *(name + suffix for suffix in BESIDE)])
        if name not in [one.name for one in found] or name.endswith(BESIDE):
            check_study(self.store, name)  # names the nearest
        row = self._row(name)

        def made() -> Shape:
            with self._lock:  # one look at a time, as it reads all trials
                opened = open_study(self.store, name)
                facts = summary(opened)
            yours = self.frame.writes and owns(request, opened)
            return StudyFacts.of(row, yours=yours, summary=facts)

        return self._tagged(request, self.frame.tag(found, row, request.role, request.user), made)

    def _row(self, name: str) -> Row:
        for _ in range(2):
            for row in self.pages.studies.rows(self.pages.studies.now()[0]):
                if row.entry.name == name:
                    return row
            self.pages.studies.forget()  # it was made less than a second ago
        raise UnknownStudy(f"study {name} was deleted")

    def check(self, request: Request, file: str) -> Iterable[bytes]:
        check_asker(self.frame, request)
        return self._ask(request, "check", named_in(file), {"file": file})

    def launch(self, request: Request, file: str) -> Iterable[bytes]:
        check_asker(self.frame, request)
        return self._ask(request, "launch", named_in(file), {"file": file})

    def stop(self, request: Request, name: str, given: Stop) -> Iterable[bytes]:
        return self._act(request, name, "stop", NOW if given.now else AFTER)

    def resume(self, request: Request, name: str, given: Resume) -> Iterable[bytes]:
        if given.trials is None:
            return self._act(request, name, "resume")
        check_own(self.frame, self.store, request, name)
        return self._ask(request, "resume", name, given.model_dump())

    def export(self, request: Request, name: str, given: Export) -> Iterable[bytes]:
        check_asker(self.frame, request)
        check_study(self.store, name)
        return self._ask(request, "export", name, given.model_dump())

    def confirm(self, request: Request, name: str, given: Confirm) -> Iterable[bytes]:
        check_own(self.frame, self.store, request, name)
        return self._ask(request, "confirm", name, given.model_dump())

    def job(self, request: Request, number: int) -> Iterable[bytes]:
        found = own_job(self.store, request, number)

        def made() -> Shape:
            return JobFacts.of(found, lines_of(self.store, number))

        return self._tagged(request, self.frame.tag(found, request.role, request.user), made)

    def result(self, request: Request, number: int) -> Iterable[bytes]:
        return self.pages.job.send(request, own_job(self.store, request, number))

    def cancel(self, request: Request, number: int) -> Iterable[bytes]:
        own_job(self.store, request, number)
        check_asker(self.frame, request)
        cancel(self.store, number, request.user, self.frame.address(request))
        left = find(self.store, number)
        assert left is not None  # jobs are forgotten after 30 days
        return self._send(request, JobFacts.of(left, lines_of(self.store, number)))

    def _act(self, request: Request, name: str, action: str, how: str = "") -> Iterable[bytes]:
        check_own(self.frame, self.store, request, name)
        act(self.frame, self.store, request, name, action, how)
        self.pages.studies.forget()
        left = stopped(open_study(self.store, name))
        return self._send(request, Stopped(name=name, stop=left))

    def _ask(
        self, request: Request, kind: str, study: str, arguments: dict[str, object]
    ) -> Iterable[bytes]:
        number = ask_for(self.frame, self.store, request, kind, arguments, study)
        url = f"{BASE}/jobs/{number}"
        asked = Asked(job=number, url=url)
        return self._send(request, asked, HTTPStatus.ACCEPTED, [("Location", url)])

    def _tagged(self, request: Request, tag: str, make: Callable[[], Shape]) -> Iterable[bytes]:
        """Answer, or with 304 where who asks has it."""
        headers = [("ETag", tag)]
        if request.has(tag):
            return request.unchanged(headers)
        return self._send(request, make(), HTTPStatus.OK, headers)

    def _send(
        self,
        request: Request,
        shape: BaseModel,
        status: HTTPStatus = HTTPStatus.OK,
        headers: Iterable[tuple[str, str]] = (),
    ) -> Iterable[bytes]:
        return request.send(status, shape.model_dump_json().encode(), JSON, headers)

    def _refuse(
        self,
        request: Request,
        status: HTTPStatus,
        said: str,
        headers: Iterable[tuple[str, str]] = (),
    ) -> Iterable[bytes]:
        return self._send(request, Failure(reason=said), status, headers)


def check_program(frame: Frame, request: Request) -> None:
    """Raise Refused for a change that a browser may have been led to send."""
    if frame.by_name:
        if not request.environ.get(PROGRAM):
            said = (
                "a change over the API needs a user's token, as in `Authorization: Bearer TOKEN`; "
                "make one with: segtune users token NAME --label LABEL"
            )
            raise Refused(HTTPStatus.FORBIDDEN, said)
    elif frame.signs_in:
        said = (
            "where all share one password nothing is changed over the API; give people names and "
            "tokens: segtune users add"
        )
        raise Refused(HTTPStatus.FORBIDDEN, said)


ACCEPTED = HTTPStatus.ACCEPTED
ROUTES = (
    Route("GET", DOCUMENT, "This document", Api.openapi, gives=Document),
    Route("GET", "/studies", "All studies", Api.studies, gives=StudyRows),
    Route("POST", "/studies", "Launch a study", Api.launch, str, Asked, ACCEPTED),
    Route("POST", "/check", "Check a study file", Api.check, str, Asked, ACCEPTED),
    Route("GET", "/studies/{name}", "One study", Api.study, gives=StudyFacts),
    Route("POST", "/studies/{name}/stop", "Let no new trial begin", Api.stop, Stop, Stopped),
    Route(
        "POST",
        "/studies/{name}/resume",
        "Open it again, or have more trials",
        Api.resume,
        Resume,
        Stopped,
        or_asks=True,
    ),
    Route("POST", "/studies/{name}/export", "Export it", Api.export, Export, Asked, ACCEPTED),
    Route("POST", "/studies/{name}/confirm", "Confirm it", Api.confirm, Confirm, Asked, ACCEPTED),
    Route("GET", "/jobs/{number}", "One job", Api.job, gives=JobFacts),
    Route("GET", "/jobs/{number}/result", "The ZIP that it has made", Api.result),
    Route("POST", "/jobs/{number}/cancel", "Ask for its end", Api.cancel, gives=JobFacts),
)
