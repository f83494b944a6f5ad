"""Jobs: the list, one of them with what it prints, its end on demand, and the file that it made."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from http import HTTPStatus
from io import BytesIO
from typing import Any, BinaryIO

from optuna.artifacts.exceptions import ArtifactNotFound

from search.dashboard.downloads import BLOCK, send_file
from search.dashboard.forms import Forms, Refused
from search.dashboard.guards import READ_METHODS
from search.dashboard.pages.actions import Action
from search.dashboard.pages.asking import check_asker
from search.dashboard.pages.frame import Frame, Request, second
from search.database.store import Store
from search.files.results import Results, picture_in, text_in
from search.findings.wording import clock
from search.studies.job_kinds import FILE, FILE_LENGTH, KINDS, Init, OnFile, parsed
from search.studies.jobs import ENDED, SHOWN, Job, cancel, find, is_served, latest, lines_of
from search.studies.slots import LEASE_SECONDS
from spaces.errors import InputError

PLACE = "/jobs"
MOST_STREAMS = 3  # files out of a bucket at once: each holds one of the server's threads
CANCEL = Action("Cancel", "What it has made so far is lost.", (), lambda study, _: None)


class JobsPage:
    """Answers GET /jobs: an owner sees all, others their own."""

    def __init__(self, frame: Frame, store: Store) -> None:
        self.frame, self.store = frame, store

    def __call__(self, request: Request) -> Iterable[bytes]:
        found = latest(self.store, None if request.is_owner else request.user)
        return self.frame.show(
            request,
            "jobs.html",
            "Jobs",
            PLACE,
            rows=[_shown(job) for job in found],
            most=SHOWN,
            served=found[0].served if found else is_served(self.store),
        )


class JobPage:
    """Answers GET /jobs/NUMBER, .../result and .../picture, GET and POST .../cancel.

    What is another's is not there, but for an owner.
    """

    def __init__(self, frame: Frame, store: Store, results: Results, forms: Forms) -> None:
        self.frame, self.store, self.results, self.forms = frame, store, results, forms
        self._streams = threading.BoundedSemaphore(MOST_STREAMS)

    def __call__(self, request: Request, number: int, what: str) -> Iterable[bytes]:
        job = own_job(self.store, request, number)
        if what == "result":
            return self.send(request, job)
        if what == "picture":
            return self._picture(request, job)
        if what == "cancel":
            check_asker(self.frame, request)
            return self._cancel(request, job)
        token = self.forms.token(request.environ)
        tag = self.frame.tag(job, token)
        return self.frame.page(request, tag, lambda: self._made(request, job, token))

    def _made(self, request: Request, job: Job, token: str) -> bytes:
        return self.frame.render(
            request,
            "job.html",
            f"Job {job.number}",
            PLACE,
            job=job,
            row=_shown(job),
            host=None if job.runner is None else job.runner.rsplit(":", 2)[0],
            lines=lines_of(self.store, job.number),
            file=file_text(job),
            may_ask=self.frame.writes and request.may_ask,
            token=token,
            lease=round(LEASE_SECONDS),
        )

    def _cancel(self, request: Request, job: Job) -> Iterable[bytes]:
        page = f"{PLACE}/{job.number}"
        if request.environ["REQUEST_METHOD"] not in READ_METHODS:
            self.forms.posted(request.environ, page)
            cancel(self.store, job.number, request.user, self.frame.address(request))
            return request.redirect(page, HTTPStatus.SEE_OTHER)
        return self.frame.show(
            request,
            "action.html",
            f"Cancel job {job.number}",
            PLACE,
            post=f"{page}/cancel",
            back=page,
            asked=CANCEL,
            token=self.forms.token(request.environ),
        )

    def send(self, request: Request, job: Job) -> Iterable[bytes]:
        """Answer with the file that a job has made."""
        file, size = self._opened(job)
        name = f"{job.study or f'job-{job.number}'}.zip"
        return send_file(request.environ, request.start_response, file, size, name)

    def _picture(self, request: Request, job: Job) -> Iterable[bytes]:
        if not _is_pictured(job):
            raise Refused(HTTPStatus.NOT_FOUND, f"Job {job.number} has no picture")
        file, size = self._opened(job)
        with closing(file):
            found = picture_in(file, size)
        if found is None:
            said = f"The file of job {job.number} holds no picture that can be shown; download it"
            raise Refused(HTTPStatus.NOT_FOUND, said)
        name, kind, content = found
        body = BytesIO(content)
        return send_file(request.environ, request.start_response, body, len(content), name, kind)

    def study_file(self, job: Job) -> str | None:
        """The study file that a job is about, or has made; None where there is none.

        Raises:
            Refused: what it has made is not kept any more, or holds none that can be read.
        """
        if job.kind not in KINDS or KINDS[job.kind] is not Init:
            return file_text(job)
        file, size = self._opened(job)
        with closing(file):
            text = text_in(file, size, FILE, FILE_LENGTH)
        if text is None:
            said = f"The file of job {job.number} holds no study file; ask for the job anew"
            raise Refused(HTTPStatus.NOT_FOUND, said)
        return text

    def _opened(self, job: Job) -> tuple[BinaryIO, int]:
        """The file that a job has made, with its size; it takes one of few places until closed."""
        if job.result is None:
            said = f"Job {job.number} has no file, or none any more"
            raise Refused(HTTPStatus.NOT_FOUND, said)
        if not self._streams.acquire(blocking=False):
            said = f"{MOST_STREAMS} files are being sent; try again when one of them is through"
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, said)
        try:
            file, size = self.results.open(job.result)
        except ArtifactNotFound:
            self._streams.release()
            said = (
                f"The file of job {job.number} is not where this dashboard looks; it and the "
                "runner, segtune jobs, must have the same --artifacts"
            )
            raise Refused(HTTPStatus.NOT_FOUND, said) from None
        except BaseException:
            self._streams.release()
            raise
        if file.seekable():  # the server sends it by itself, and no thread waits
            self._streams.release()
        else:
            file = _Stream(file, self._streams)  # type: ignore[assignment]
        return file, size


def own_job(store: Store, request: Request, number: int) -> Job:
    """Return a job of who asks, or of anybody for an owner; raises Refused where there is none."""
    job = find(store, number)
    if job is None or not (request.is_owner or job.asked_by == request.user):
        said = f"There is no job {number} of yours; old ones are forgotten"
        raise Refused(HTTPStatus.NOT_FOUND, said)
    return job


def file_text(job: Job) -> str | None:
    """The study file that a job is about; None where it is about none."""
    try:
        settings = parsed(job.kind, job.arguments)
    except InputError:
        return None
    return settings.file if isinstance(settings, OnFile) else None


class _Stream:
    """A file that gives its place back when it is closed."""

    def __init__(self, file: BinaryIO, places: threading.BoundedSemaphore) -> None:
        self._file, self._places = file, places
        self._open = True

    def seekable(self) -> bool:
        return False

    def read(self, size: int = BLOCK) -> bytes:
        return self._file.read(size)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.read, b"")

    def close(self) -> None:
        self._file.close()
        if self._open:
            self._open = False
            self._places.release()


def _shown(job: Job) -> dict[str, Any]:
    """What a page says of a job."""
    took = None
    if job.begun_at is not None and job.ended_at is not None:
        took = clock(max(0.0, job.ended_at - job.begun_at))
    return {
        "number": job.number,
        "words": job.words,
        "study": job.study,
        "page": _page(job),
        "state": job.state,
        "by": job.asked_by or "-",
        "asked": second(job.asked_at),
        "begun": None if job.begun_at is None else second(job.begun_at),
        "ended": None if job.ended_at is None else second(job.ended_at),
        "took": took,
        "file": job.result is not None,
        "makes": job.kind in KINDS and KINDS[job.kind].makes,
        "pictured": _is_pictured(job) and job.result is not None,
    }


def _page(job: Job) -> str | None:
    """The study whose page is there: what is checked, or not yet launched, has none."""
    begins = job.kind in KINDS and issubclass(KINDS[job.kind], OnFile)
    launched = job.kind == "launch" and job.state == ENDED
    return job.study if launched or not begins else None


def _is_pictured(job: Job) -> bool:
    """Whether what it makes holds a picture of the image that was sent along."""
    return job.kind in KINDS and KINDS[job.kind].takes_image
