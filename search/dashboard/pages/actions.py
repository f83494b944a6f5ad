"""Stop and Resume: a page that asks, and the form that does it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote

from search.dashboard.forms import Forms, Refused, first
from search.dashboard.guards import READ_METHODS
from search.dashboard.pages.frame import HOME, Frame, Request
from search.database.audit import add_deed
from search.database.store import Store
from search.database.tables import AFTER, NOW
from search.studies.finishing import close_all, reopen_all
from search.studies.owners import launcher
from search.studies.study import Study, open_study, study_names
from spaces.errors import did_you_mean
from spaces.spec import BESIDE


@dataclass(frozen=True)
class Action:
    """What can be done to a study.

    Attributes:
        said: what it does, for the page that asks.
        choices: (value, what it does) of the field `how`; the first is the default.
        do: takes the study and the value.
    """

    title: str
    said: str
    choices: tuple[tuple[str, str], ...]
    do: Callable[[Study, str], None]


ACTIONS = {
    "stop": Action(
        "Stop",
        "No new trial begins. Resume goes on where it was.",
        (
            (AFTER, "Trials that run end as they would"),
            (NOW, "Trials that run save their state and return, to go on after Resume"),
        ),
        close_all,
    ),
    "resume": Action(
        "Resume",
        "Workers that serve this store go on with it. The hours of its budget count anew.",
        (),
        lambda study, _: reopen_all(study),
    ),
}


class Actions:
    """Answers GET and POST /studies/NAME/ACTION.

    Args:
        changed: called when something was done.
    """

    def __init__(
        self,
        frame: Frame,
        store: Store,
        forms: Forms,
        changed: Callable[[], None],
    ) -> None:
        self.frame, self.store, self.forms, self._changed = frame, store, forms, changed

    def __call__(self, request: Request, name: str, action: str) -> Iterable[bytes]:
        check_own(self.frame, self.store, request, name)
        if request.environ["REQUEST_METHOD"] in READ_METHODS:
            return self._ask(request, name, action)
        form = self.forms.posted(request.environ, f"{HOME}/{name}")
        known = [value for value, _ in ACTIONS[action].choices]
        how = first(form, "how") if known else ""
        if known and how not in known:
            said = f"how must be one of {', '.join(known)}, but got {how[:40]!r}"
            raise Refused(HTTPStatus.BAD_REQUEST, said)
        act(self.frame, self.store, request, name, action, how)
        self._changed()
        return request.redirect(f"{HOME}/{quote(name)}", HTTPStatus.SEE_OTHER)

    def _ask(self, request: Request, name: str, action: str) -> Iterable[bytes]:
        asked, study = ACTIONS[action], f"{HOME}/{quote(name)}"
        return self.frame.show(
            request,
            "action.html",
            f"{asked.title} {name}",
            HOME,
            post=f"{study}/{action}",
            back=study,
            asked=asked,
            token=self.forms.token(request.environ),
        )


def act(
    frame: Frame, store: Store, request: Request, name: str, action: str, how: str = ""
) -> None:
    """Do one of ACTIONS to a study, for somebody who may."""
    study = open_study(store, name)
    if frame.by_name:  # what cannot be written down is not done
        deed = f"{action} {how}".strip()
        add_deed(store, request.user, deed, study=name, address=request.address)
    ACTIONS[action].do(study, how)


def check_own(frame: Frame, store: Store, request: Request, name: str) -> None:
    """Raise Refused for who may not change a study, as of `owns`."""
    check_writes(frame)
    if not request.may_ask:
        check_owner(request, "do")
    check_study(store, name)
    if not owns(request, open_study(store, name)):
        said = f"{name} is another's; an owner, and who has launched it here, may do this"
        raise Refused(HTTPStatus.FORBIDDEN, said)


def owns(request: Request, study: Study) -> bool:
    """Whether somebody may change a study: an owner, and a member who has launched it."""
    if not request.may_ask:
        return False
    return request.is_owner or request.user == launcher(study.store, study.study_id)


def check_owner(request: Request, what: str) -> None:
    """Raise Refused for who is no owner; `what` they want is to do, or to see."""
    if not request.is_owner:
        more = "an owner makes others: segtune users role NAME owner"
        raise Refused(HTTPStatus.FORBIDDEN, f"Only an owner may {what} this; {more}")


def check_writes(frame: Frame) -> None:
    """Raise Refused where the dashboard may change nothing."""
    if not frame.writes:
        said = "This dashboard is read-only; start it with --allow-writes to change studies"
        raise Refused(HTTPStatus.FORBIDDEN, said)


def check_study(store: Store, name: str) -> None:
    """Raise Refused where there is no such study, or it runs beside another one."""
    names = study_names(store)
    if name not in names or name.endswith(BESIDE):
        said = f"There is no study {name!r} in this store{did_you_mean(name, names)}"
        raise Refused(HTTPStatus.NOT_FOUND, said)
