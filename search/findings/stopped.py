"""What a study's rule has lost among the trials that it stopped: which to finish, what they tell.

Nobody knows how a stopped trial would have gone on. Half of those that are trained to their ends
are the ones nearest to their bars, where most may be lost. The other half is drawn at random from
the rest, as late starters look hopeless when they are stopped: what is said of all of them comes
from that half.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial
from scipy.stats import hypergeom

from search.findings.evidence import CONFIDENCE
from search.findings.ranking import ranked
from search.studies.finishing import Finished
from search.studies.reasons import known, reason
from search.studies.study import Study
from search.studies.trial_facts import TrialFacts


@dataclass(frozen=True)
class Stopped:
    """The trials that a study's rule has stopped, and those of them that were trained on.

    Attributes:
        of: trials of the study that have ended.
        best: the study's highest value.
        near: {trial: its value in full} of the finished ones that were nearest to their bars.
        drawn: {trial: its value in full} of the finished ones drawn from the others.
        rest: how many the others are, those drawn included.
    """

    count: int
    of: int
    best: float
    near: Mapping[int, float]
    drawn: Mapping[int, float]
    rest: int

    @property
    def finished(self) -> dict[int, float]:
        return {**self.near, **self.drawn}

    @property
    def better(self) -> dict[int, float]:
        """{trial: its value in full} of those above the study's best, highest first."""
        above = {number: value for number, value in self.finished.items() if value > self.best}
        return dict(sorted(above.items(), key=lambda item: -item[1]))

    @property
    def interval(self) -> tuple[int, int] | None:
        """Fewest and most of all stopped trials that would have ended above the best; None where
        none was drawn.

        Exact, of CONFIDENCE: the trials drawn are some of a finite number (hypergeometric).
        """
        if not self.drawn:
            return None
        hits = sum(number in self.better for number in self.drawn)
        sure = sum(number in self.better for number in self.near)
        tail = (1 - CONFIDENCE) / 2
        size = len(self.drawn)
        likely = [
            total
            for total in range(hits, self.rest - (size - hits) + 1)
            if hypergeom.cdf(hits, self.rest, total, size) >= tail
            and hypergeom.sf(hits - 1, self.rest, total, size) >= tail
        ]
        return sure + likely[0], sure + likely[-1]

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "trials": self.count,
            "near": dict(self.near),
            "drawn": dict(self.drawn),
            "others": self.rest,
            "better": self.better,
            "best": self.best,
            "would_have_been_better": self.interval,
            "confidence": CONFIDENCE,
        }

    def lines(self, metric: str, study: str) -> list[str]:
        """What is known, a sentence each."""
        said = f"{self.count} of the {self.of} trials were stopped by the study's own rule"
        if not self.finished:
            return [
                f"{said}: their curves are cut, so nobody knows what it has lost among them. "
                f"To train the {min(6, self.count)} most telling ones to their ends: "
                f"segtune replay {study} --finish {min(6, self.count)}"
            ]
        parts = [f"the {len(self.near)} nearest to their bars"] if self.near else []
        if self.drawn:
            parts.append(f"{len(self.drawn)} drawn from the other {self.rest}")
        lines = [f"{said}; trained to their ends: {', '.join(parts)}"]
        if self.better:
            number, value = next(iter(self.better.items()))
            lines.append(
                f"the rule has lost {value - self.best:.4f}: trial {number} would have come to "
                f"{metric} {value:.4f}, the study's best is {self.best:.4f} (one seed each). Train "
                f"it: segtune export {study} --trial {number} --config-only --to FOLDER"
            )
        else:
            most = max(self.finished.values())
            lines.append(
                f"the rule has lost nothing among them: they came to at most {metric} {most:.4f}, "
                f"the study's best is {self.best:.4f}"
            )
        if self.interval is not None:
            low, high = self.interval
            lines.append(
                f"of all {self.count}, {low} to {high} would have ended above the study's best "
                f"({CONFIDENCE:.0%} interval, by those drawn); more of them make it narrower"
            )
        return lines


def stopped_by_rule(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that the study's rule has stopped within their (first) fold."""
    return [
        trial
        for trial in trials
        if trial.state.is_finished()
        and known(why := reason(trial)).kind == "rule"
        and why != "folds"
    ]


def telling(stopped: Sequence[FrozenTrial], count: int, seed: int) -> tuple[list[int], list[int]]:
    """Choose stopped trials that are to be trained to their ends.

    A larger count adds to those of a smaller one.

    Returns:
        Numbers of those nearest to their bars, and of those drawn from the others.
    """
    by_gap = sorted(stopped, key=lambda trial: (_gap(trial), trial.number))
    near = [trial.number for trial in by_gap[: (count + 1) // 2]]
    order = sorted(trial.number for trial in stopped)
    random.Random(f"{seed}/finish").shuffle(order)
    drawn = [number for number in order if number not in near]
    return near, drawn[: max(0, count - len(near))]


def read_stopped(study: Study, trials: Sequence[FrozenTrial], finished: Finished) -> Stopped | None:
    """Read what is known of the trials that the study's rule has stopped; None: it stopped none.

    Args:
        trials: of the study.
        finished: those that were to be trained to their ends.
    """
    stopped, best = stopped_by_rule(trials), ranked(trials)
    if not stopped or not best:
        return None
    there = finished.runs
    near, drawn = telling(stopped, finished.planned, study.spec.seed)
    value = best[0].value
    assert value is not None

    def values(numbers: Sequence[int]) -> dict[int, float]:
        return {n: v for n in numbers if n in there and (v := there[n].value) is not None}

    ended = sum(trial.state.is_finished() for trial in trials)
    return Stopped(
        len(stopped), ended, value, values(near), values(drawn), len(stopped) - len(near)
    )


def _gap(trial: FrozenTrial) -> float:
    """How far below its bar it was; where no bar is known the highest come first."""
    bar = TrialFacts.of(trial).bar
    return (0.0 if bar is None else bar) - (trial.value or 0.0)
