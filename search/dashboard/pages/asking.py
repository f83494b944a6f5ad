"""Forms that ask for a job on a study: to take it away, extend, confirm or delete it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from search.dashboard.forms import Forms, Refused, first
from search.dashboard.guards import READ_METHODS
from search.dashboard.pages.actions import check_own, check_study, check_writes
from search.dashboard.pages.frame import HOME, Frame, Request
from search.database.store import Store
from search.studies.finishing import with_all_beside
from search.studies.job_kinds import MOST_TRIALS
from search.studies.jobs import ask, is_served
from search.studies.study import Study, open_study
from spaces.errors import InputError
from spaces.sections import ConfirmSpec

Fields = Mapping[str, list[str]]


@dataclass(frozen=True)
class Asking:
    """A form, and the job that it asks for.

    Attributes:
        title: stands before the study's name.
        kind: of the job, as of `job_kinds.KINDS`.
        shown: what the form says of a study.
        settings: the job's, of the form's fields and the study's name; raises InputError.
        own: only for who may change the study; else for all who may have jobs run.
    """

    title: str
    kind: str
    shown: Callable[[Study], dict[str, Any]]
    settings: Callable[[Fields, str], dict[str, Any]]
    own: bool = True


class Asks:
    """Answers GET and POST /studies/NAME/WHAT, where WHAT is one of ASKINGS."""

    def __init__(self, frame: Frame, store: Store, forms: Forms) -> None:
        self.frame, self.store, self.forms = frame, store, forms

    def __call__(self, request: Request, name: str, what: str) -> Iterable[bytes]:
        asking = ASKINGS[what]
        if asking.own:
            check_own(self.frame, self.store, request, name)
        else:
            check_asker(self.frame, request)
            check_study(self.store, name)
        if request.environ["REQUEST_METHOD"] in READ_METHODS:
            return self._form(request, name, what)
        form = self.forms.posted(request.environ, f"{HOME}/{name}/{what}")
        settings = asking.settings(form, name)
        number = ask_for(self.frame, self.store, request, asking.kind, settings, name)
        return request.redirect(f"/jobs/{number}", HTTPStatus.SEE_OTHER)

    def _form(self, request: Request, name: str, what: str) -> Iterable[bytes]:
        asking, study = ASKINGS[what], f"{HOME}/{quote(name)}"
        return self.frame.show(
            request,
            f"{what}.html",
            f"{asking.title} {name}",
            HOME,
            name=name,
            post=f"{study}/{what}",
            back=study,
            served=is_served(self.store),
            token=self.forms.token(request.environ),
            **asking.shown(open_study(self.store, name)),
        )


def ask_for(
    frame: Frame,
    store: Store,
    request: Request,
    kind: str,
    settings: Mapping[str, Any],
    study: str | None,
    image: bytes | None = None,
) -> int:
    """Ask for a job in the name of who asks; returns its number. Arguments as of `jobs.ask`."""
    address = frame.address(request)
    return ask(store, kind, json.dumps(settings), study, request.user, address, image)


def check_asker(frame: Frame, request: Request) -> None:
    """Raise Refused for who may not have jobs run."""
    check_writes(frame)
    if not request.may_ask:
        said = "A reader asks for no job; an owner makes members: segtune users role NAME member"
        raise Refused(HTTPStatus.FORBIDDEN, said)


def _export(form: Fields, name: str) -> dict[str, Any]:
    return {
        "trial": number_in(form, "trial", "Trial", "the best one"),
        "test": not first(form, "no_test"),
        "onnx": bool(first(form, "onnx")),
        "config_only": bool(first(form, "config_only")),
    }


def _extend(form: Fields, name: str) -> dict[str, Any]:
    return {"trials": number_in(form, "trials", "Trials in all")}


def _confirm(form: Fields, name: str) -> dict[str, Any]:
    own = "what the study has"
    return {
        "top": number_in(form, "top", "Best trials", own),
        "seeds": number_in(form, "seeds", "Fresh seeds", own),
    }


def _delete(form: Fields, name: str) -> dict[str, Any]:
    if (typed := first(form, "name")) != name:
        raise InputError(
            f"Nothing is deleted: the name must be typed as it is, {name}, but got {typed[:40]!r}"
        )
    return {}


def number_in(form: Fields, field: str, label: str, empty: str | None = None) -> int | None:
    """A field that is a whole number; None where it is empty, and `empty` says what that means."""
    given = first(form, field).strip()
    if not given and empty is not None:
        return None
    if not re.fullmatch("[0-9]{1,9}", given):
        or_empty = "" if empty is None else f", or empty for {empty}"
        raise InputError(f"{label} must be a number, as in 3{or_empty}, but got {given[:40]!r}")
    return int(given)


def _trials(study: Study) -> int:
    return sum(study.slots.counts().values())


ASKINGS = {
    "export": Asking(
        "Take away",
        "export",
        lambda study: {"has_test": study.spec.data.test is not None},
        _export,
        own=False,
    ),
    "extend": Asking(
        "Extend",
        "resume",
        lambda study: {"trials": _trials(study), "most": MOST_TRIALS},
        _extend,
    ),
    "confirm": Asking(
        "Confirm",
        "confirm",
        lambda study: {"confirm": study.spec.confirm or ConfirmSpec()},
        _confirm,
    ),
    "delete": Asking(
        "Delete",
        "delete",
        lambda study: {"trials": _trials(study), "beside": len(with_all_beside(study)) - 1},
        _delete,
    ),
}
