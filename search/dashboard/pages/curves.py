"""A study's curves as a drawing: metric by epoch, where trials ended, and what stopped them.

It is made on the server, as the pages run no script that draws, and holds no style: how each kind
of line looks stands in page.css. What it shows, its text says too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from search.findings.facts import Facts
from search.findings.trial_graphs import MOST_TRIALS
from search.studies.reasons import known, reason
from search.studies.trial_facts import TrialFacts

WIDTH, HEIGHT = 440, 260  # of the drawing, in units of its own
LEFT, RIGHT, TOP, BOTTOM = 46, 430, 10, 228  # where curves are
MOST_LINES = 40
BEST_LINES = 12  # of these
MOST_POINTS = 60  # of a line
TICKS = 5
KINDS = {  # later ones are drawn over earlier ones
    "rule": "stopped by the rule",
    "other": "ended by an alarm, a limit or a failure",
    "end": "trained to its end",
    "waits": "waits",
    "runs": "runs",
    "best": "the best",
}


@dataclass(frozen=True)
class Line:
    """A trial's curve.

    Attributes:
        kind: one of KINDS.
        said: what it is, for who points at it.
        points: as a polyline takes them.
        end: (x, y) of its last point.
        held: (x, y) of the value that it was held against when it was stopped; None without one.
    """

    kind: str
    said: str
    points: str
    end: tuple[float, float]
    held: tuple[float, float] | None


@dataclass(frozen=True)
class Curves:
    """The drawing.

    Attributes:
        said: what it shows, for who does not see it.
        across, up: (place, number) of the ticks of each axis.
        legend: (kind, what it means and how many there are).
        caption: what is left out; may be empty.
        size: of the drawing.
        frame: (left, right, bottom) of where the curves are.
        most: trials in optuna-dashboard's graph of the same.
    """

    said: str
    lines: Sequence[Line]
    across: Sequence[tuple[float, str]]
    up: Sequence[tuple[float, str]]
    legend: Sequence[tuple[str, str]]
    caption: str
    size: tuple[int, int] = (WIDTH, HEIGHT)
    frame: tuple[int, int, int] = (LEFT, RIGHT, BOTTOM)
    most: int = MOST_TRIALS


def curves(facts: Facts, waiting: Mapping[int, str]) -> Curves | None:
    """Draw a study's curves; None where no trial has reported an epoch.

    Args:
        waiting: as of `Slots.waiting`.
    """
    values = {trial.number: _finite(trial) for trial in facts.trials}
    reported = [trial for trial in facts.trials if values[trial.number]]
    if not reported:
        return None
    kinds = {trial.number: _kind(trial, facts, waiting) for trial in reported}
    shown = _chosen(reported, facts, kinds)
    shown.sort(key=lambda trial: [*KINDS].index(kinds[trial.number]))
    bars = {trial.number: TrialFacts.of(trial).bar for trial in shown}
    heights = [value for trial in shown for value in values[trial.number].values()]
    heights += [bar for bar in bars.values() if bar is not None]
    epochs = max(facts.study.full_epochs, *(max(values[trial.number]) for trial in shown))
    x, y = _Axis(0, epochs, LEFT, RIGHT), _Axis(min(heights), max(heights), BOTTOM, TOP)
    lines = []
    for trial in shown:
        number, curve = trial.number, _thinned(values[trial.number])
        last, bar = max(curve), bars[trial.number]
        lines.append(
            Line(
                kinds[number],
                _said(trial, kinds[number], curve),
                " ".join(f"{x.place(epoch):.1f},{y.place(v):.1f}" for epoch, v in curve.items()),
                (x.place(last), y.place(curve[last])),
                None if bar is None else (x.place(last), y.place(bar)),
            )
        )
    counts = Counter(kinds[trial.number] for trial in shown)
    left_out = len(reported) - len(shown)
    return Curves(
        _in_words(facts, shown, kinds, values),
        lines,
        [(x.place(tick), f"{tick:g}") for tick in x.ticks(whole=True)],
        [(y.place(tick), f"{tick:g}") for tick in y.ticks()],
        [(kind, _counted(said, counts[kind])) for kind, said in KINDS.items() if counts[kind]][
            ::-1
        ],
        f"{len(shown)} of {len(reported)} trials: those that run, the best and the latest"
        if left_out
        else "",
    )


@dataclass(frozen=True)
class _Axis:
    """Numbers from `low` to `high`, drawn between two places; equal ones get some room."""

    low: float
    high: float
    begin: float
    end: float

    @property
    def _range(self) -> tuple[float, float]:
        if self.high > self.low:
            return self.low, self.high
        room = abs(self.low) / 10 or 1.0
        return self.low - room, self.high + room

    def place(self, value: float) -> float:
        low, high = self._range
        return round(self.begin + (value - low) / (high - low) * (self.end - self.begin), 1)

    def ticks(self, *, whole: bool = False) -> list[float]:
        """1, 2 or 5 times a power of ten apart, TICKS steps or fewer."""
        low, high = self._range
        power = 10 ** math.floor(math.log10((high - low) / TICKS))
        steps = (factor * power for factor in (1, 2, 5, 10))
        step = next(step for step in steps if (high - low) / step <= TICKS + 1e-9)
        if whole:
            step = max(1, round(step))
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        return [round(count * step, 10) for count in range(first, last + 1)]


def _finite(trial: FrozenTrial) -> dict[int, float]:
    """{epoch: metric} of the epochs that have one, first epoch first."""
    reported = sorted(trial.intermediate_values.items())
    return {epoch: value for epoch, value in reported if math.isfinite(value)}


def _thinned(curve: Mapping[int, float]) -> dict[int, float]:
    """All epochs, or where there are too many every so-manieth; the last one stays."""
    step = -(-len(curve) // MOST_POINTS)
    epochs = [*curve][::-step][::-1]
    return {epoch: curve[epoch] for epoch in epochs}


def _kind(trial: FrozenTrial, facts: Facts, waiting: Mapping[int, str]) -> str:
    if facts.best is not None and trial.number == facts.best.number:
        return "best"
    if not trial.state.is_finished():
        return "waits" if trial.number in waiting else "runs"
    kind = known(reason(trial)).kind
    return kind if kind in KINDS else "other"


def _chosen(
    trials: Sequence[FrozenTrial], facts: Facts, kinds: Mapping[int, str]
) -> list[FrozenTrial]:
    """MOST_LINES at most: the best trial, those that run, further good ones, the latest."""
    place = {trial.number: rank for rank, trial in enumerate(facts.ranking)}

    def order(trial: FrozenTrial) -> tuple[int, int]:
        kind, rank = kinds[trial.number], place.get(trial.number, len(place))
        if kind in ("best", "runs"):
            return (0 if kind == "best" else 1), -trial.number
        return (2, rank) if rank < BEST_LINES else (3, -trial.number)

    return sorted(trials, key=order)[:MOST_LINES]


def _said(trial: FrozenTrial, kind: str, curve: Mapping[int, float]) -> str:
    last = max(curve)
    why = reason(trial) if trial.state.is_finished() else KINDS[kind]
    return f"trial {trial.number}, {why}: {curve[last]:.4f} in epoch {last}"


def _in_words(
    facts: Facts,
    shown: Sequence[FrozenTrial],
    kinds: Mapping[int, str],
    values: Mapping[int, Mapping[int, float]],
) -> str:
    """The drawing in words: how many trials, which are the best and which run."""
    parts = [f"{facts.study.metric} by epoch of {_of(len(shown), 'trial')}."]
    for trial in shown[::-1]:
        if (kind := kinds[trial.number]) in ("best", "runs"):
            curve = values[trial.number]
            top = max(curve, key=lambda epoch: (curve[epoch], -epoch))
            what = "The best is" if kind == "best" else "There runs"
            parts.append(f"{what} trial {trial.number}: {curve[top]:.4f} in epoch {top}.")
    return " ".join(parts)


def _counted(said: str, count: int) -> str:
    return said if said == KINDS["best"] else f"{said}: {count}"


def _of(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
