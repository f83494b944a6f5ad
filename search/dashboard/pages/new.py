"""New study: an editor of a study file, and the jobs that check and launch what it says.

Here the text alone is looked at; the data are where `segtune jobs` runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

from search.dashboard.forms import Forms, Refused, first
from search.dashboard.guards import READ_METHODS
from search.dashboard.pages.asking import ask_for, check_asker
from search.dashboard.pages.frame import DATA, NEW, POLICY, Frame, Request
from search.dashboard.pages.jobs import PLACE as JOBS
from search.dashboard.pages.jobs import own_job
from search.dashboard.study_fields import MOST, shown, written
from search.database.store import Store
from search.studies.job_kinds import FILE_LENGTH
from search.studies.jobs import FAILED, Job, is_served, lines_of
from search.studies.study import study_names
from search.templates import recipes, study_file
from spaces.completion import NOTHING, Offer, complete
from spaces.errors import InputError
from spaces.spec import TASKS, TEXT, StudySpec
from spaces.yamlfile import parse_yaml

MAX_BODY = 128 * 1024  # bytes of the form: signs that are no letters take three each
AROUND = 3  # lines that are shown before and behind a wrong one
WIDTH = 200  # characters of each
OFFERED = 8  # words that may go on at the caret
CHECK, LAUNCH, LOOK = "check", "launch", "text"
FORM, WRITE, BACK = "form", "write", "back"  # from the text to the form of some settings, and back
DEEDS = (LOOK, CHECK, LAUNCH, FORM, WRITE, BACK)


class NewStudy:
    """Answers GET and POST /new.

    Args:
        file_of: the study file that a job is about, or has made.
        has_data: whether there are data to look at.
    """

    def __init__(
        self,
        frame: Frame,
        store: Store,
        forms: Forms,
        file_of: Callable[[Job], str | None],
        has_data: bool,
    ) -> None:
        self.frame, self.store, self.forms = frame, store, forms
        self._file_of, self._data = file_of, DATA if has_data else None

    def __call__(self, request: Request) -> Iterable[bytes]:
        check_asker(self.frame, request)
        if request.environ["REQUEST_METHOD"] in READ_METHODS:
            if (number := request.query.get("job")) is not None:
                return self._again(request, number)
            chosen = request.chosen("from", beginnings())
            return self._editor(request, beginning(chosen), chosen=chosen)
        form = self.forms.posted(request.environ, NEW, MAX_BODY, MOST + 4)
        do, job = first(form, "do"), first(form, "job")
        if do not in DEEDS:
            said = f"do must be one of {', '.join(DEEDS)}, but got {do[:40]!r}"
            raise Refused(HTTPStatus.BAD_REQUEST, said)
        text = first(form, "text").replace("\r\n", "\n")
        if job:
            _, text = self._job(request, job)
        if do == BACK:
            return self._editor(request, text)
        if do == WRITE:
            try:
                text = written(text, {name: values[0] for name, values in form.items()})
            except InputError as error:
                return self._as_form(request, text, form, str(error))
        offer = _offer(text, form["at"][0]) if do == LOOK and "at" in form else NOTHING
        try:
            if do == FORM:
                return self._as_form(request, text)
            spec = _checked(text)
            if do == LAUNCH and spec.name in study_names(self.store):
                where = parse_yaml(text, TEXT).where(("name",))
                raise InputError(
                    f"name: a study {spec.name} is in this store already; give this one another "
                    f"name ({where})"
                )
            if do in (CHECK, LAUNCH):
                return self._ask(request, do, text, spec.name)
        except InputError as error:
            wrong = _wrong(text, str(error))
            return self._editor(request, text, HTTPStatus.BAD_REQUEST, wrong=wrong, offer=offer)
        return self._editor(request, text, fine=_described(spec), offer=offer)

    def _ask(self, request: Request, kind: str, text: str, name: str) -> Iterable[bytes]:
        number = ask_for(self.frame, self.store, request, kind, {"file": text}, name)
        return request.redirect(f"{JOBS}/{number}", HTTPStatus.SEE_OTHER)

    def _again(self, request: Request, number: str) -> Iterable[bytes]:
        """The study file of one of their jobs, with what that has said of a line of it."""
        job, text = self._job(request, number)
        lines = lines_of(self.store, job.number).splitlines() if job.state == FAILED else []
        said = next((line for line in reversed(lines) if f"{TEXT} line " in line), None)
        return self._editor(request, text, wrong=None if said is None else _wrong(text, said))

    def _job(self, request: Request, number: str) -> tuple[Job, str]:
        """One of their jobs, and its study file."""
        if not re.fullmatch("[1-9][0-9]{0,8}", number):
            raise InputError(f"job must be the number of a job, but got {number[:40]!r}")
        job = own_job(self.store, request, int(number))
        text = self._file_of(job)
        if text is None:
            raise Refused(HTTPStatus.NOT_FOUND, f"Job {number} has no study file")
        return job, text

    def _as_form(
        self,
        request: Request,
        text: str,
        form: Mapping[str, list[str]] | None = None,
        said: str | None = None,
    ) -> list[bytes]:
        """The settings that have fields; with `said`, as they were given."""
        task, fields = shown(text)
        body = self.frame.render(
            request,
            "new_form.html",
            "New study as a form",
            NEW,
            task=task,
            fields=fields,
            given={name: values[0] for name, values in (form or {}).items()},
            said=said,
            text=text,
            token=self.forms.token(request.environ),
        )
        return self._send(request, HTTPStatus.OK if said is None else HTTPStatus.BAD_REQUEST, body)

    def _editor(
        self,
        request: Request,
        text: str,
        status: HTTPStatus = HTTPStatus.OK,
        *,
        chosen: str | None = None,
        wrong: dict[str, Any] | None = None,
        fine: str | None = None,
        offer: Offer = NOTHING,
    ) -> list[bytes]:
        body = self.frame.render(
            request,
            "new.html",
            "New study",
            NEW,
            text=text,
            length=FILE_LENGTH,
            beginnings=beginnings(),
            chosen=chosen,
            wrong=wrong,
            fine=fine,
            offer=offer,
            most=OFFERED,
            served=is_served(self.store),
            data=self._data,
            token=self.forms.token(request.environ),
        )
        return self._send(request, status, body)

    @staticmethod
    def _send(request: Request, status: HTTPStatus, body: bytes) -> list[bytes]:
        return request.send(status, body, "text/html", [("Content-Security-Policy", POLICY)])


def beginnings() -> list[str]:
    """What the editor can begin with: a task, or one of its recipes, TASK/RECIPE."""
    return [one for task in TASKS for one in (task, *(f"{task}/{r}" for r in recipes(task)))]


def beginning(chosen: str) -> str:
    """The text of one of `beginnings`."""
    task, _, recipe = chosen.partition("/")
    return study_file(task, recipe or None)


def _checked(text: str) -> StudySpec:
    if len(text) > FILE_LENGTH:
        raise InputError(f"a study file has at most {FILE_LENGTH} characters, but got {len(text)}")
    return StudySpec.of_text(text)


def _offer(text: str, at: str) -> Offer:
    """What may go on at the caret; raises Refused where it is no place in the text."""
    if not re.fullmatch("[0-9]{1,9}", at) or int(at) > len(text):
        said = f"at must be a place in the text, 0 to {len(text)}, but got {at[:40]!r}"
        raise Refused(HTTPStatus.BAD_REQUEST, said)
    return complete(text, int(at))


def _wrong(text: str, said: str) -> dict[str, Any]:
    """A message, and the lines around the one that it names, if any: (number, line, whether)."""
    found = re.findall(rf"{re.escape(TEXT)} line ([0-9]{{1,9}})", said)
    lines = text.split("\n")
    line = min(int(found[-1]), len(lines)) if found else None
    around: list[tuple[int, str, bool]] = []
    if line is not None:
        shown = range(max(1, line - AROUND), min(len(lines), line + AROUND) + 1)
        around = [(number, lines[number - 1][:WIDTH], number == line) for number in shown]
    return {"said": said, "line": line, "around": around}


def _described(spec: StudySpec) -> str:
    """What a text that is a study file says, in a line."""
    count = len(spec.search_space().dims)
    return (
        f"{spec.name}: {spec.task.replace('_', ' ')}, {count} settings searched, "
        f"{spec.budget.trials} trials"
    )
