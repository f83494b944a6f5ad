"""Stop and Resume: a page that asks, and the form that does it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote

from search.dashboard.forms import MAX_BODY, Forms, first, read_form
from search.dashboard.guards import READ_METHODS, USER
from search.dashboard.pages.frame import HOME, Frame, Request
from search.database.audit import add_deed
from search.database.store import Store
from search.database.tables import AFTER, NOW
from search.studies.finishing import close_all, reopen_all
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
        writes: whether the dashboard may change anything.
        changed: called when something was done.
    """

    def __init__(
        self, frame: Frame, store: Store, *, writes: bool, changed: Callable[[], None]
    ) -> None:
        self.frame, self.store, self.writes, self._changed = frame, store, writes, changed
        self._forms = Forms()

    def __call__(self, request: Request, name: str, action: str) -> Iterable[bytes]:
        if refused := self._refused(request):
            return self.frame.problem(request, HTTPStatus.FORBIDDEN, refused)
        names = study_names(self.store)
        if name not in names or name.endswith(BESIDE):
            said = f"There is no study {name!r} in this store{did_you_mean(name, names)}"
            return self.frame.problem(request, HTTPStatus.NOT_FOUND, said)
        if request.environ["REQUEST_METHOD"] in READ_METHODS:
            return self._ask(request, name, action)
        form = read_form(request.environ)
        if form is None:
            said = f"The form must be UTF-8 of at most {MAX_BODY} bytes"
            return self.frame.problem(request, HTTPStatus.BAD_REQUEST, said)
        if not self._forms.is_ours(request.environ, form):
            said = f"This form is of another session; open {HOME}/{name} and try again"
            return self.frame.problem(request, HTTPStatus.FORBIDDEN, said)
        known = [value for value, _ in ACTIONS[action].choices]
        how = first(form, "how") if known else ""
        if known and how not in known:
            said = f"how must be one of {', '.join(known)}, but got {how[:40]!r}"
            return self.frame.problem(request, HTTPStatus.BAD_REQUEST, said)
        study = open_study(self.store, name)
        if self.frame.by_name:  # what cannot be written down is not done
            who, address = request.environ[USER], str(request.environ.get("REMOTE_ADDR", ""))
            add_deed(self.store, who, f"{action} {how}".strip(), study=name, address=address)
        ACTIONS[action].do(study, how)
        self._changed()
        return request.redirect(f"{HOME}/{quote(name)}", HTTPStatus.SEE_OTHER)

    def _refused(self, request: Request) -> str | None:
        """Why nothing can be done here."""
        if not self.writes:
            return "This dashboard is read-only; start it with --allow-writes to change studies"
        if not request.is_owner:
            return "Only an owner may do this; an owner makes others: segtune users role NAME owner"
        return None

    def _ask(self, request: Request, name: str, action: str) -> Iterable[bytes]:
        asked = ACTIONS[action]
        body = self.frame.render(
            request,
            "action.html",
            f"{asked.title} {name}",
            HOME,
            name=name,
            action=action,
            asked=asked,
            token=self._forms.token(request.environ),
        )
        return self.frame.page(request, self.frame.tag(body), lambda: body)
