"""Try it: an image is sent along with a job, which predicts what a trial's model sees in it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from urllib.parse import quote

from search.dashboard.forms import Forms, Refused
from search.dashboard.guards import READ_METHODS
from search.dashboard.pages.actions import check_study
from search.dashboard.pages.asking import ask_for, check_asker, number_in
from search.dashboard.pages.frame import HOME, Frame, Request
from search.dashboard.uploads import read_upload
from search.database.store import Store
from search.studies.job_kinds import image_name
from search.studies.jobs import IMAGE_BYTES, MOST_OF_USER, is_served
from search.studies.study import open_study
from spaces.errors import InputError
from trainers.pairs import SUFFIXES

MOST_UPLOADS = 2  # at once: each takes up to 130 MB of memory on its way into the store


class TryIt:
    """Answers GET and POST /studies/NAME/try."""

    def __init__(self, frame: Frame, store: Store, forms: Forms) -> None:
        self.frame, self.store, self.forms = frame, store, forms
        self._uploads = threading.BoundedSemaphore(MOST_UPLOADS)

    def __call__(self, request: Request, name: str) -> Iterable[bytes]:
        check_asker(self.frame, request)
        check_study(self.store, name)
        if request.environ["REQUEST_METHOD"] in READ_METHODS:
            return self._form(request, name)
        with self._one_more():
            number = self._ask(request, name)
        return request.redirect(f"/jobs/{number}", HTTPStatus.SEE_OTHER)

    def _ask(self, request: Request, name: str) -> int:
        form, files = read_upload(request.environ, IMAGE_BYTES)
        self.forms.check(request.environ, form, f"{HOME}/{name}/try")
        image = files.get("image")
        if image is None or not image.name:  # browsers send an empty one where none is chosen
            raise InputError(f"choose an image: a file that ends in {', '.join(SUFFIXES)}")
        trial = number_in(form, "trial", "Trial", "the best one")
        settings = {"image": image_name(image.name), "trial": trial}
        kind, content = "predict", image.content
        return ask_for(self.frame, self.store, request, kind, settings, name, content)

    @contextmanager
    def _one_more(self) -> Iterator[None]:
        """Take one of few places, as images are held in memory; raises Refused where none is."""
        if not self._uploads.acquire(blocking=False):
            said = f"{MOST_UPLOADS} images are being sent; try again when one of them is through"
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, said)
        try:
            yield
        finally:
            self._uploads.release()

    def _form(self, request: Request, name: str) -> Iterable[bytes]:
        study = f"{HOME}/{quote(name)}"
        return self.frame.show(
            request,
            "try.html",
            f"Try {name}",
            HOME,
            post=f"{study}/try",
            back=study,
            served=is_served(self.store),
            token=self.forms.token(request.environ),
            suffixes=SUFFIXES,
            mib=IMAGE_BYTES >> 20,
            most=MOST_OF_USER,
            kept=open_study(self.store, name).spec.keep_models,
        )
