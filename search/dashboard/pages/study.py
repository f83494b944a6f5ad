"""One study: what its note says, and its trials with the reasons why they ended."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from optuna.trial import FrozenTrial

from search.dashboard.pages.actions import owns
from search.dashboard.pages.curves import curves
from search.dashboard.pages.disk_use import DiskUse
from search.dashboard.pages.frame import HOME, Frame, Request
from search.dashboard.pages.gallery import galleries
from search.dashboard.pages.importance_bars import importance_bars
from search.dashboard.pages.states import state
from search.database.store import Store, UnknownStudy
from search.database.tables import GAIN
from search.files.sizes import shown_bytes
from search.findings.confirmation import Confirmation
from search.findings.facts import Facts, gather, trial_row
from search.findings.markup import Heading, to_html
from search.findings.notes import study_note
from search.findings.ranking import by_folds
from search.findings.tables import how_far
from search.findings.wording import clock, describe
from search.studies.catalogue import Entry, Moment, entries, moments
from search.studies.confirmations import SEED
from search.studies.reasons import REASONS
from search.studies.study import open_study, study_names
from search.studies.trial_facts import TrialFacts
from search.templates import render
from spaces.errors import InputError, did_you_mean
from spaces.spec import BESIDE, CONFIRM

TRIALS = 200  # a page
RUNS = 50  # on fresh seeds
KEPT = 32  # pages, and what was found, that are kept
LATEST, BEST = ORDERS = ("latest", "best")


class StudyPage:
    """Answers GET /studies/NAME."""

    def __init__(self, frame: Frame, store: Store, disk_use: DiskUse) -> None:
        self.frame, self.store, self.disk_use = frame, store, disk_use
        self._pages, self._findings = Kept(), Kept()
        self._lock = threading.Lock()

    def __call__(self, request: Request, name: str) -> Iterable[bytes]:
        order = request.chosen("order", ORDERS)
        page = _page_number(request.query.get("page", "1"))
        found = moments(self.store, [name, *(name + suffix for suffix in BESIDE)])
        if name not in [one.name for one in found] or name.endswith(BESIDE):
            names = study_names(self.store)
            said = f"There is no study {name!r} in this store{did_you_mean(name, names)}"
            return self.frame.problem(request, HTTPStatus.NOT_FOUND, said)
        member = request.may_ask and not request.is_owner  # sees more of what is their own
        size = self.disk_use.of([(one.name, one.uid) for one in found])
        tag = self.frame.tag(found, size)

        def make() -> bytes:
            with self._lock:  # one look at a time: the second finds the first one's work done
                key = (name, order, page, request.role, request.user if member else "")
                return self._pages.get(key, tag, lambda: made())

        def made() -> bytes:
            return self._made(request, name, order, page, found, size)

        try:
            return self.frame.page(request, tag, make)
        except UnknownStudy:  # it was deleted just now
            said = f"Study {name} was deleted"
            return self.frame.problem(request, HTTPStatus.NOT_FOUND, said)

    def _made(
        self,
        request: Request,
        name: str,
        order: str,
        page: int,
        found: Sequence[Moment],
        size: int | None,
    ) -> bytes:
        study = open_study(self.store, name)
        facts, listed = gather(study), {entry.name: entry for entry in entries(self.store)}
        if name not in listed:
            raise UnknownStudy(name)
        known = self.frame.tag([(one.uid, one.known) for one in found])
        findings = self._findings.get(name, known, lambda: _found(facts))
        trials = _ordered(facts, order)
        pages = max(1, -(-len(trials) // TRIALS))
        if page > pages:
            raise InputError(f"page must be 1 to {pages} for study {name}, but got {page}")
        shown = trials[(page - 1) * TRIALS : page * TRIALS]
        waiting = study.slots.waiting()
        beside = [listed[name + suffix] for suffix in BESIDE if name + suffix in listed]
        own = self.frame.writes and owns(request, study)
        confirmation = None if facts.answer is None else facts.answer.confirmation
        return self.frame.render(
            request,
            "study.html",
            name,
            HOME,
            name=name,
            state=state(listed[name], listed.get(name + CONFIRM)),
            task=study.spec.task.replace("_", " "),
            metric=study.metric,
            study_id=study.study_id,
            actions=_actions(listed[name], beside, facts.best is not None) if own else [],
            takes_away=self.frame.writes and request.may_ask and facts.best is not None,
            beside=beside,
            reports=bool(facts.ended),
            size=None if size is None else shown_bytes(size),
            curves=curves(facts, waiting),
            findings=findings,
            runs=[] if confirmation is None else _runs(confirmation),
            run_count=0 if confirmation is None else len(confirmation.runs),
            rows=[_trial_row(facts, trial, waiting) for trial in shown],
            count=len(trials),
            order=order,
            page=page,
            pages=pages,
        )


def _actions(entry: Entry, beside: Sequence[Entry], valued: bool) -> list[str]:
    """What whose study it is may do to it, as it stands.

    Args:
        valued: whether a trial has a value.
    """
    confirmation = next((one for one in beside if one.name.endswith(CONFIRM)), None)
    word = state(entry, confirmation).word
    over = not entry.running and (entry.ended == entry.slots or entry.stop is not None)
    makes_sense = {
        "stop": entry.stop is None and word in ("running", "waiting"),
        "resume": entry.stop is not None and (word != "ended" or entry.stop == GAIN),
        "extend": True,
        "confirm": over and valued,
        "delete": not any(one.running for one in (entry, *beside)),
    }
    return [action for action, makes in makes_sense.items() if makes]


class Kept:
    """Texts by key, each as long as its tag stays; the oldest goes when there are KEPT."""

    def __init__(self) -> None:
        self._texts: OrderedDict[object, tuple[str, bytes]] = OrderedDict()

    def get(self, key: object, tag: str, make: Callable[[], bytes]) -> bytes:
        """The text of this key, made anew where its tag is another one."""
        if self._texts.get(key, ("", b""))[0] != tag:
            self._texts[key] = tag, make()
        self._texts.move_to_end(key)
        if len(self._texts) > KEPT:
            self._texts.popitem(last=False)
        return self._texts[key][1]


def _found(facts: Facts) -> bytes:
    """The note without its heading, which the page has itself; the bars of settings; pictures."""
    blocks = study_note(facts)
    assert isinstance(blocks[0], Heading)
    text = render(
        "found.html",
        note=to_html(blocks[1:]),
        bars=importance_bars(facts),
        valued=facts.best is not None,
        galleries=galleries(facts),
        keeps=facts.study.spec.keep_models,
        metric=facts.study.metric,
        study_id=facts.study.study_id,
    )
    return text.encode("utf-8", "backslashreplace")


def _ordered(facts: Facts, order: str) -> list[FrozenTrial]:
    if order == LATEST:
        return facts.trials[::-1]
    valued = by_folds(facts.trials)
    there = {trial.number for trial in valued}
    return [*valued, *(trial for trial in facts.trials[::-1] if trial.number not in there)]


def _trial_row(facts: Facts, trial: FrozenTrial, waiting: Mapping[int, str]) -> dict[str, Any]:
    row = trial_row(facts.study, trial, waiting)
    why = row["reason"]
    return _row(row) | {
        "sentence": REASONS[why].sentence if why in REASONS else "",
        "error": row["error"],
        "origin": row["origin"],
        "best": facts.best is not None and trial.number == facts.best.number,
        "time": None if row["seconds"] is None else clock(row["seconds"]),
        "settings": describe(row["params"]),
    }


def _runs(confirmation: Confirmation) -> list[dict[str, Any]]:
    """The latest runs on fresh seeds, those that wait for a worker included."""
    if confirmation.study is None:
        return []
    waiting, shown = confirmation.study.slots.waiting(), confirmation.runs[::-1][:RUNS]
    return [
        _row(trial_row(confirmation.study, run, waiting))
        | {"of": confirmation.study.spec.name, "seed": run.params[SEED]}
        | {"confirms": TrialFacts.of(run).confirms}
        for run in shown
    ]


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of a trial of the study, and of a run on a fresh seed."""
    value, best_epoch, epochs = how_far(dict(row))
    return {
        "number": row["number"],
        "state": row["state"].lower(),
        "reason": row["reason"],
        "value": value,
        "ended": row["so_far"] is None,
        "best_epoch": best_epoch,
        "epochs": epochs,
    }


def _page_number(given: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,5}", given):
        raise InputError(f"page must be a whole number from 1 on, but got {given[:40]!r}")
    return int(given)
