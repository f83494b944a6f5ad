"""Take away: a form that asks for a study's export, which a job makes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from search.dashboard.forms import Forms, Refused, first
from search.dashboard.guards import READ_METHODS
from search.dashboard.pages.actions import check_study, check_writes
from search.dashboard.pages.frame import HOME, Frame, Request
from search.database.store import Store
from search.studies.jobs import ask, is_served
from search.studies.study import open_study
from spaces.errors import InputError


class TakeAway:
    """Answers GET and POST /studies/NAME/export."""

    def __init__(self, frame: Frame, store: Store, forms: Forms) -> None:
        self.frame, self.store, self.forms = frame, store, forms

    def __call__(self, request: Request, name: str) -> Iterable[bytes]:
        check_asker(self.frame, request)
        check_study(self.store, name)
        if request.environ["REQUEST_METHOD"] in READ_METHODS:
            return self._ask(request, name)
        form = self.forms.posted(request.environ, f"{HOME}/{name}/export")
        address = request.address if self.frame.by_name else None
        number = ask(self.store, "export", _arguments(form), name, request.user, address)
        return request.redirect(f"/jobs/{number}", HTTPStatus.SEE_OTHER)

    def _ask(self, request: Request, name: str) -> Iterable[bytes]:
        study = f"{HOME}/{quote(name)}"
        return self.frame.show(
            request,
            "export.html",
            f"Take away {name}",
            HOME,
            post=f"{study}/export",
            back=study,
            has_test=open_study(self.store, name).spec.data.test is not None,
            served=is_served(self.store),
            token=self.forms.token(request.environ),
        )


def check_asker(frame: Frame, request: Request) -> None:
    """Raise Refused for who may not have jobs run."""
    check_writes(frame)
    if not request.may_ask:
        said = "A reader asks for no job; an owner makes members: segtune users role NAME member"
        raise Refused(HTTPStatus.FORBIDDEN, said)


def _arguments(form: Mapping[str, list[str]]) -> str:
    """A form's fields as JSON of `job_kinds.Export`."""
    trial = first(form, "trial").strip()
    if trial and not re.fullmatch("[0-9]{1,9}", trial):
        raise InputError(
            f"Trial must be a number, as in 3, or empty for the best one, but got {trial[:40]!r}"
        )
    given: dict[str, Any] = {
        "trial": int(trial) if trial else None,
        "test": not first(form, "no_test"),
        "onnx": bool(first(form, "onnx")),
        "config_only": bool(first(form, "config_only")),
    }
    return json.dumps(given)
