"""The list of studies: how far each is, what is best, and how much is known of that."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from search.dashboard.doors import Clock
from search.dashboard.pages.frame import HOME, Frame, Request
from search.dashboard.pages.states import STATES, State, state
from search.database.store import Store
from search.database.tables import RUNNING
from search.findings.time_left import seconds_left
from search.findings.wording import clock
from search.studies.catalogue import Best, Entry, bests, entries, specs
from search.studies.trained import Trained, begun_trials, ended_trials
from spaces.spec import CONFIRM, StudySpec

ANY = "any"
NEWEST = "newest"
LONGEST = 100  # characters of a text that is looked for
SHARED_SECONDS = 1.0  # what one viewer's poll has read answers all others for so long


@dataclass(frozen=True)
class Going:
    """How far the trials are of a study that runs.

    Attributes:
        epochs: that they have trained.
        of: that they train at most; fewer where they are stopped early.
        seconds: that they will still take; None where too little is known.
        confirms: they are runs of its confirmation.
    """

    epochs: int
    of: int
    seconds: float | None
    confirms: bool

    @property
    def left(self) -> str | None:
        return None if self.seconds is None else clock(self.seconds)


@dataclass(frozen=True)
class Row:
    """A study as the list shows it.

    Attributes:
        best: None before a trial has ended with a value.
        fresh: mean on fresh seeds, standard deviation and their number; None before there are any.
        confirming: (ended, all) runs of its confirmation; None where there is none.
        gain: beside the baseline, and half the width of its interval, None for one seed each.
        is_baseline: the best trial is the baseline itself.
        going: how far it is in epochs, or its confirmation; None where no worker trains for it.
        workers: on it, or on its confirmation.
        launched_by: user@host; None where that is not known.
    """

    entry: Entry
    state: State
    task: str
    metric: str
    best: Best | None
    fresh: tuple[float, float | None, int] | None
    confirming: tuple[int, int] | None
    gain: tuple[float, float | None] | None
    is_baseline: bool
    going: Going | None
    workers: int
    launched_by: str | None

    @property
    def share(self) -> float:
        """Of its trials that have ended."""
        return self.entry.ended / self.entry.slots if self.entry.slots else 0.0


SORTS: dict[str, Callable[[Row], Any]] = {
    NEWEST: lambda row: -row.entry.study_id,
    "name": lambda row: row.entry.name.lower(),
    "task": lambda row: (row.task, row.metric),
    "state": lambda row: (STATES.index(row.state.word), row.state.detail),
    "trials": lambda row: row.share,
    "best": lambda row: None if row.best is None else row.best.value,
    "fresh": lambda row: None if row.fresh is None else row.fresh[0],
    "gain": lambda row: None if row.gain is None else row.gain[0],
    "left": lambda row: None if row.going is None else row.going.seconds,
    "workers": lambda row: row.workers,
    "by": lambda row: row.launched_by,
}
COLUMNS = (
    ("name", "Study"),
    ("state", "State"),
    ("trials", "Trials"),
    ("left", "Time left"),
    ("best", "Best value"),
    ("fresh", "On fresh seeds"),
    ("gain", "Beside the baseline"),
    ("workers", "Workers"),
    ("task", "Task"),
    ("by", "Launched by"),
)
DESCENDING = ("trials", "best", "fresh", "gain", "workers")  # when they are first asked for


class StudiesPage:
    """Answers GET /studies.

    Args:
        clock: seconds; only differences count.
    """

    def __init__(self, frame: Frame, store: Store, clock: Clock) -> None:
        self.frame, self.store, self._clock = frame, store, clock
        self._read: tuple[float, list[Entry], str] = -math.inf, [], ""
        self._lock = threading.Lock()
        self._specs: dict[str, StudySpec] = {}  # by uid
        self._bests: dict[tuple[str, int, int], Best | None] = {}  # by uid and what has ended
        self._ended: dict[tuple[str, int, int], list[Trained]] = {}  # of those that run
        self._rows: tuple[list[Entry], list[Row]] = [], []

    def __call__(self, request: Request) -> Iterable[bytes]:
        sort = request.chosen("sort", [s for name in SORTS for s in (name, f"-{name}")])
        shown = request.chosen("state", (ANY, *STATES))
        text = request.query.get("text", "").strip()[:LONGEST]
        found, tag = self.now()

        def make() -> bytes:
            rows = self.rows(found)
            return self.frame.render(
                request,
                "studies.html",
                "Studies",
                HOME,
                rows=ordered([row for row in rows if _is_shown(row, shown, text)], sort),
                count=len(rows),
                sort=sort,
                columns=[(name, said, *_next_sort(name, sort)) for name, said in COLUMNS],
                state=shown,
                states=(ANY, *STATES),
                text=text,
            )

        return self.frame.page(request, tag, make)

    def forget(self) -> None:
        """Read anew at the next look: something was changed here, and who did it will look."""
        with self._lock:
            self._read = -math.inf, [], ""

    def now(self) -> tuple[list[Entry], str]:
        """How far all studies are, at most SHARED_SECONDS ago, and the tag of that."""
        with self._lock:
            if self._clock() - self._read[0] >= SHARED_SECONDS:
                began, found = self._clock(), entries(self.store)
                self._read = began, found, self.frame.tag(found)
            return self._read[1:]

    def rows(self, found: list[Entry]) -> list[Row]:
        """The rows of all studies; what has not changed is not read again."""
        with self._lock:  # one look at a time: the second finds the first one's work done
            if self._rows[0] != found:
                self._rows = found, self._made(found)
            return self._rows[1]

    def _made(self, found: list[Entry]) -> list[Row]:
        beside = {entry.name: entry for entry in found if entry.beside is not None}
        searches = [entry for entry in found if entry.beside is None]
        ids = {entry.uid: entry.study_id for entry in searches}
        new = specs(self.store, [ids[uid] for uid in ids if uid not in self._specs])
        self._specs = {
            uid: self._specs.get(uid) or new[study_id]
            for uid, study_id in ids.items()
            if uid in self._specs or study_id in new
        }
        searches = [entry for entry in searches if entry.uid in self._specs]
        stale = [entry for entry in searches if _key(entry) not in self._bests and entry.ended]
        read = bests(self.store, {entry.study_id: self._specs[entry.uid] for entry in stale})
        known = self._bests | {_key(entry): read.get(entry.study_id) for entry in stale}
        self._bests = {_key(e): known[_key(e)] for e in searches if _key(e) in known}
        trained = self._trained([entry for entry in found if entry.running])
        rows = []
        for entry in searches:
            spec, confirmation = self._specs[entry.uid], beside.get(entry.name + CONFIRM)
            going = _going(entry, confirmation, spec, trained)
            rows.append(_row(entry, confirmation, spec, self._bests.get(_key(entry)), going))
        return rows

    def _trained(self, running: list[Entry]) -> dict[int, list[Trained]]:
        """{study id: its trials that have begun}; those that had ended are not read again."""
        new = [entry for entry in running if _key(entry) not in self._ended]
        ended = ended_trials(self.store, [entry.study_id for entry in new])
        known = self._ended | {_key(entry): ended.get(entry.study_id, []) for entry in new}
        self._ended = {_key(entry): known[_key(entry)] for entry in running}
        begun = begun_trials(self.store, [entry.study_id for entry in running])
        return {
            entry.study_id: [*self._ended[_key(entry)], *begun.get(entry.study_id, [])]
            for entry in running
        }


def ordered(rows: list[Row], sort: str) -> list[Row]:
    """Sort rows by a column, falling with a `-` before it; those without a value come last."""
    key = SORTS[sort.removeprefix("-")]
    rows = sorted(rows, key=SORTS[NEWEST])
    valued = [row for row in rows if key(row) is not None]
    return [
        *sorted(valued, key=key, reverse=sort.startswith("-")),
        *(row for row in rows if key(row) is None),
    ]


def _key(entry: Entry) -> tuple[str, int, int]:
    return entry.uid, entry.ends, entry.ended


def _going(
    entry: Entry,
    confirmation: Entry | None,
    spec: StudySpec,
    trained: Mapping[int, list[Trained]],
) -> Going | None:
    """How far a study is in epochs: its search while that runs, else its confirmation."""
    for one in (entry, confirmation):
        if one is not None and one.study_id in trained:
            trials, unended = trained[one.study_id], one.slots - one.ended
            if one.stop is not None:  # what waits is not taken up
                trials = [trial for trial in trials if trial.ended or trial.state == RUNNING]
                unended = one.running
            return Going(
                sum(trial.epochs for trial in trials),
                (one.ended + unended) * spec.full_epochs,
                seconds_left(trials, spec.full_epochs, unended, one.running),
                one is confirmation,
            )
    return None


def _row(
    entry: Entry,
    confirmation: Entry | None,
    spec: StudySpec,
    best: Best | None,
    going: Going | None,
) -> Row:
    answer = {} if entry.answer is None else json.loads(entry.answer)
    values, gain, fresh = answer.get("fresh_seeds"), answer.get("gain"), None
    baseline, beside = answer.get("baseline_value"), None
    is_baseline = bool(answer) and answer["trial"] == answer["baseline"]
    if values:
        fresh = sum(values.values()) / len(values), answer["sd"], len(values)
    if gain is not None:
        beside = gain["mean"], gain["half_width"]
    elif baseline is not None and not values and not is_baseline:
        beside = answer["value"] - baseline, None
    return Row(
        entry,
        state(entry, confirmation),
        spec.task.replace("_", " "),
        spec.metric_name,
        best,
        fresh,
        None if confirmation is None else (confirmation.ended, confirmation.slots),
        beside,
        is_baseline,
        going,
        entry.workers + (0 if confirmation is None else confirmation.workers),
        None if entry.launched_by is None else json.loads(entry.launched_by),
    )


def _is_shown(row: Row, shown: str, text: str) -> bool:
    said = f"{row.entry.name} {row.task} {row.metric}".lower()
    return shown in (ANY, row.state.word) and all(word in said for word in text.lower().split())


def _next_sort(name: str, sort: str) -> tuple[str, str | None]:
    """(what a column's link sorts by, its `aria-sort`)."""
    if sort not in (name, f"-{name}"):
        return (f"-{name}" if name in DESCENDING else name), None
    falls = sort.startswith("-")
    return (name if falls else f"-{name}"), "descending" if falls else "ascending"
