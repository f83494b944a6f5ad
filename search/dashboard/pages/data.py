"""Look for data: the folders of `--data-root`, and the job that writes a study file for one."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from http import HTTPStatus
from io import BytesIO
from pathlib import Path

from search.dashboard.downloads import send_file
from search.dashboard.forms import Forms, Refused, first
from search.dashboard.guards import READ_METHODS
from search.dashboard.pages.asking import ask_for, check_asker
from search.dashboard.pages.frame import DATA, NEW, Frame, Request
from search.database.store import Store
from search.files.data_roots import MOST_ENTRIES, DataRoots, small_picture
from search.studies.jobs import is_served
from spaces.errors import InputError

PICTURES = 12  # of a folder's images
MOST_WAITING = 6  # requests for a picture, which a browser sends at once; one is made at a time
KEPT = ("Cache-Control", "private, no-cache")  # and asked for again by its tag


class DataPage:
    """Answers GET and POST /data, and GET /data/picture."""

    def __init__(self, frame: Frame, store: Store, forms: Forms, roots: DataRoots) -> None:
        self.frame, self.store, self.forms, self.roots = frame, store, forms, roots
        self._waiting = threading.BoundedSemaphore(MOST_WAITING)
        self._one = threading.Lock()

    def __call__(self, request: Request) -> Iterable[bytes]:
        self._check(request)
        if request.environ["REQUEST_METHOD"] not in READ_METHODS:
            return self._use(request)
        only = str(self.roots.roots[0]) if len(self.roots.roots) == 1 else None
        given = request.query.get("folder", only)
        return self._show(request, given)

    def picture(self, request: Request) -> Iterable[bytes]:
        """Answer with a small picture of an image."""
        self._check(request)
        try:
            path, facts = self.roots.picture_of(request.query.get("file", ""))
        except InputError as error:
            raise Refused(HTTPStatus.NOT_FOUND, str(error)) from None
        tag = self.frame.tag(str(path), facts.st_mtime_ns, facts.st_size)
        headers = [("ETag", tag), KEPT]
        if request.has(tag):
            return request.unchanged(headers)
        content = self._made(path)
        body, name = BytesIO(content), f"{path.stem}.jpg"
        return send_file(
            request.environ,
            request.start_response,
            body,
            len(content),
            name,
            "image/jpeg",
            headers,
        )

    def _made(self, path: Path) -> bytes:
        if not self._waiting.acquire(blocking=False):
            said = f"{MOST_WAITING} pictures are waited for; try again when one of them is there"
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, said)
        try:
            with self._one:
                return small_picture(path)
        except InputError as error:
            raise Refused(HTTPStatus.NOT_FOUND, str(error)) from None
        finally:
            self._waiting.release()

    def _use(self, request: Request) -> Iterable[bytes]:
        form = self.forms.posted(request.environ, DATA)
        try:
            folder = self.roots.look(first(form, "folder")).path
        except InputError as error:
            raise Refused(HTTPStatus.NOT_FOUND, str(error)) from None
        settings = {"folder": str(folder)}
        number = ask_for(self.frame, self.store, request, "init", settings, None)
        return request.redirect(f"/jobs/{number}", HTTPStatus.SEE_OTHER)

    def _show(self, request: Request, given: str | None) -> Iterable[bytes]:
        try:
            folder = None if given is None else self.roots.look(given)
        except InputError as error:
            raise Refused(HTTPStatus.NOT_FOUND, str(error)) from None
        return self.frame.show(
            request,
            "data.html",
            "Look for data",
            NEW,
            data=DATA,
            roots=self.roots.roots,
            folder=folder,
            most=MOST_ENTRIES,
            pictures=PICTURES,
            served=is_served(self.store),
            token=self.forms.token(request.environ),
        )

    def _check(self, request: Request) -> None:
        check_asker(self.frame, request)
        if not self.roots.roots:
            said = "This dashboard was given no data to look at; start it with --data-root DIR"
            raise Refused(HTTPStatus.NOT_FOUND, said)
