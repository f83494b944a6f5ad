"""What a study answers, in numbers and in words that say no more than is known.

Every place that states a result has its words from here: the end of a launch, status, the note, the
report, provenance, the notebook.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial
from scipy import stats

from search.findings.confirmation import Confirmation, read_confirmation
from search.findings.evidence import CONFIDENCE, Candidate, Evidence
from search.findings.looks import latest, look_lines
from search.findings.ranking import ranked
from search.findings.trivial import trivial_warning
from search.findings.wording import listed
from search.studies.looks import Look, looks_of
from search.studies.study import Study
from search.studies.trial_facts import TrialFacts
from spaces.edges import edges, edges_said
from spaces.errors import InputError


@dataclass(frozen=True)
class Answer:
    """The best trial of a study, and how much is known of it.

    Attributes:
        trial: of the search: the confirmed winner, else the one with the highest value.
        confirmed: its fresh runs; None before there are any.
    """

    study: Study
    trial: FrozenTrial
    ranking: Sequence[FrozenTrial]
    confirmation: Confirmation

    @property
    def evidence(self) -> Evidence:
        return self.confirmation.evidence

    @property
    def confirmed(self) -> Candidate | None:
        return self.evidence.winner

    @property
    def value(self) -> float:
        """What it may be expected to be worth on a fresh seed, else the value of the one seed."""
        if self.confirmed is not None:
            return self.evidence.worth
        assert self.trial.value is not None
        return self.trial.value

    @cached_property
    def baseline(self) -> FrozenTrial | None:
        """The best of the starting points."""
        return self.confirmation.baseline

    @property
    def warning(self) -> str | None:
        """That nothing was learned, where that is so."""
        return trivial_warning(self.study, self.trial, self.value)

    @property
    def headline(self) -> str:
        """`trial 3: mIoU 0.2868 +- 0.0041 over 2 fresh seeds (0.2788 in the search, one seed)`."""
        number, winner = self.trial.number, self.confirmed
        if winner is None:
            facts = TrialFacts.of(self.trial)
            where = f"at epoch {facts.best_epoch or '-'}"
            if facts.folds:
                where = f"mean of {len(facts.folds)} folds ({listed(facts.folds)})"
            return f"trial {number}: {self.metric} {self.value:.4f}, one seed, {where}"
        sd = "" if winner.sd is None else f" +- {winner.sd:.4f}"
        seeds = "1 fresh seed" if len(winner.runs) == 1 else f"{len(winner.runs)} fresh seeds"
        said = (
            f"trial {number}: {self.metric} {winner.mean:.4f}{sd} over {seeds} "
            f"({_first(winner)} in the search, one seed)"
        )
        if f"{self.value:.4f}" == f"{winner.mean:.4f}":
            return said
        return f"{said}; corrected for having been chosen {self.value:.4f}"

    @property
    def metric(self) -> str:
        return self.study.metric

    @property
    def claim(self) -> str | None:
        """What may be said of the winner beside the baseline; None without a baseline."""
        if self.baseline is None or self.baseline.value is None:
            return None
        number, origin = self.baseline.number, TrialFacts.of(self.baseline).origin
        named = f"the best starting point (trial {number}, {origin})"
        if self.baseline.number == self.trial.number:
            return f"it is {named}: the search has found nothing better"
        if self.confirmed is None and self.baseline not in self.ranking:
            return f"{named} was stopped before its last fold: no claim"
        if self.confirmed is None:
            return (
                f"{named} reached {self.baseline.value:.4f}, one seed: nobody knows yet whether "
                f"the difference of {self.value - self.baseline.value:+.4f} is more than noise"
            )
        gain = self.evidence.gain
        if gain is None:
            return f"{named} could not be confirmed beside it: no claim"
        words = f"{gain.mean:+.4f} +- {gain.half:.4f}"
        over = f"{CONFIDENCE:.0%} interval over seeds and images"
        if gain.above:
            return f"{words} by the search, beside {named}; {over}"
        return f"no better than the baseline within noise: {words} beside {named}; {over}"

    @property
    def cheaper(self) -> str | None:
        """Why the winner is not the leader, where it is not."""
        if not self.evidence.by_cost or self.confirmed is None:
            return None
        leader = self.evidence.ranking[0]
        return (
            f"trial {leader.number} is ahead by {leader.score - self.confirmed.score:.4f}, within "
            f"one standard error; trial {self.confirmed.number} is cheaper "
            f"({_cost(self.confirmed)} against {_cost(leader)})"
        )

    @property
    def edge(self) -> str | None:
        """Which of its settings ended at an end of what was offered; None where none has, or
        nothing was learned."""
        if self.warning is not None:
            return None
        return edges_said(edges(self.study.space, self.study.config(self.trial).flat()))

    @property
    def progress(self) -> str | None:
        """How far the confirmation is; None where there is none, or it has ended."""
        if self.study.spec.confirm is None or not self.evidence.waiting:
            return None
        return f"confirmation: {self.confirmation.ended} of {len(self.confirmation.runs)} runs"

    @property
    def advice(self) -> str | None:
        """What would make more known."""
        if self.confirmed is not None or self.evidence.waiting:
            return None
        return f"run the best ones on fresh seeds: segtune confirm {self.study.spec.name}"

    @cached_property
    def looks(self) -> list[Look]:
        """At the test split, the first one first; none where the study has no such split."""
        return [] if self.study.spec.data.test is None else looks_of(self.study)

    @property
    def tested(self) -> list[str]:
        """What the test split has said; empty where nobody has looked at it."""
        look = latest(self.looks)
        if look is None:
            return []
        lines = look_lines(look, len(self.looks), self.metric)
        if look.score.trial != self.trial.number:
            lines.append(f"trial {self.trial.number}, the answer by now, was not scored there")
        return lines

    @property
    def lines(self) -> list[str]:
        """All of it, a sentence each, the most important first."""
        said = (
            self.warning,
            self.headline,
            self.claim,
            self.cheaper,
            *self.tested,
            self.edge,
            self.progress,
            self.advice,
        )
        return [line for line in said if line is not None]

    def pick(self, number: int | None) -> FrozenTrial:
        """Return the trial of that number; of None the one that the study answers with.

        Raises:
            InputError: the number is not of a trial that has ended with a value.
        """
        if number is None:
            return self.trial
        for trial in self.ranking:
            if trial.number == number:
                return trial
        raise InputError(
            f"trial {number} of study {self.study.spec.name} has not ended with a value"
            f"{'' if self.study.spec.data.folds is None else ' of all folds'}; those "
            f"that have: {', '.join(map(str, sorted(t.number for t in self.ranking)))}"
        )

    def to_json(self) -> dict[str, Any]:
        """For programs: `segtune status --json`, provenance."""
        winner, gain = self.confirmed, self.evidence.gain
        return {
            "trial": self.trial.number,
            "value": self.value,
            "trivial": self.warning is not None,
            "sd": None if winner is None else winner.sd,
            "fresh_seeds": {}
            if winner is None
            else {str(seed): run.value for seed, run in winner.runs.items()},
            "first_value": self.trial.value,
            "baseline": None if self.baseline is None else self.baseline.number,
            "baseline_value": None if self.baseline is None else self.baseline.value,
            "gain": None
            if gain is None
            else {"mean": gain.mean, "half_width": gain.half, "confidence": CONFIDENCE},
            "by_the_search": bool(gain is not None and gain.above),
            "claim": self.claim,
            "confirmation_runs": len(self.confirmation.runs),
            "confirmation_runs_ended": self.confirmation.ended,
        }


def read_answer(study: Study, trials: Sequence[FrozenTrial]) -> Answer | None:
    """Read what a study answers; None where no trial has ended with a value."""
    ranking = ranked(trials)
    if not ranking:
        return None
    found = read_confirmation(study, trials)
    winner = found.evidence.winner
    chosen = ranking[0]
    if winner is not None:
        chosen = next(trial for trial in trials if trial.number == winner.number)
    return Answer(study, chosen, ranking, found)


def answer_of(study: Study) -> Answer:
    """`read_answer`; raises InputError where no trial has ended with a value."""
    answer = read_answer(study, study.trials())
    if answer is None:
        raise InputError(
            f"study {study.spec.name} has no finished trial yet; wait for one, see "
            f"`segtune status {study.spec.name}`"
        )
    return answer


def best_trial(study: Study, number: int | None = None) -> FrozenTrial:
    """`Answer.pick` of a study that nobody has read yet."""
    return answer_of(study).pick(number)


def rank_bands(values: Sequence[float], evidence: Evidence) -> list[str]:
    """The ranks that each of some one-seed values may have, as in `1-4`.

    A trial is above another where their difference is outside of the interval that two seeds of
    one config have. Empty texts where the noise of a seed is not known.

    Args:
        values: best first.
    """
    variance, freedom = evidence.noise
    if not freedom:
        return [""] * len(values)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * np.sqrt(2 * variance))
    rising = np.array(values)[::-1]
    above = len(values) - np.searchsorted(rising, rising + reach, side="right")
    below = np.searchsorted(rising, rising - reach, side="left")
    ranks = zip(1 + above[::-1], len(values) - below[::-1], strict=True)
    return [str(first) if first == last else f"{first}-{last}" for first, last in ranks]


def confirmation_rows(answer: Answer) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """(Columns, rows) of the table of the candidates, best first."""
    columns = (
        "trial",
        "mean over fresh seeds",
        "sd",
        "fresh seeds",
        "in the search",
        "beside the baseline",
        "is",
    )
    rows: list[tuple[Any, ...]] = []
    evidence = answer.evidence
    baseline = evidence.candidate(evidence.baseline)
    for candidate in evidence.ranking:
        beside = None
        if baseline is not None and candidate is not baseline:
            beside = evidence.difference(candidate, baseline)
        roles = [
            *(["the winner"] if candidate is evidence.winner else []),
            *(["the baseline"] if candidate is baseline else []),
        ]
        rows.append(
            (
                candidate.number,
                f"{candidate.mean:.4f}",
                "-" if candidate.sd is None else f"{candidate.sd:.4f}",
                ", ".join(f"{value:.4f}" for value in candidate.fresh),
                _first(candidate),
                "-" if beside is None else f"{beside.mean:+.4f} +- {beside.half:.4f}",
                ", ".join(roles),
            )
        )
    return columns, rows


def _cost(candidate: Candidate) -> str:
    if candidate.seconds:
        return f"{candidate.seconds:.3g} s an epoch"
    return f"{(candidate.parameters or 0) / 1e6:.1f} M parameters"


def _first(candidate: Candidate) -> str:
    return "stopped" if candidate.first is None else f"{candidate.first:.4f}"
