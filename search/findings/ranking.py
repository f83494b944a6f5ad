"""What a study has found: its ranking, its best trial, and a summary for people and programs."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from search.studies.reasons import known, reason
from search.studies.study import Study
from search.studies.trial_facts import TrialFacts
from spaces.errors import InputError


def ranked(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials with a value, best first; of equal value COMPLETE ones first, trivial ones last."""
    valued = [
        trial
        for trial in trials
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and trial.value is not None
    ]
    return sorted(
        valued,
        key=lambda t: (
            -(t.value or 0.0),
            TrialFacts.of(t).reason == "health:trivial",
            t.state != TrialState.COMPLETE,
            t.number,
        ),
    )


def judged(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Ended trials that could have trained all their epochs, so that stopping them saved some."""
    return [
        trial
        for trial in trials
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and known(reason(trial)).trains
    ]


def best_trial(study: Study, number: int | None = None) -> FrozenTrial:
    """Return the trial of that number, or the best one.

    The best is the one with the highest value that has ended with a value, COMPLETE or PRUNED: a
    trial's value is its best epoch's metric, and its weights are that epoch's.

    Raises:
        InputError: no trial has ended with a value, or the number is not of such a trial.
    """
    ranking = ranked(study.trials())
    if not ranking:
        raise InputError(
            f"study {study.spec.name} has no finished trial yet; wait for one, see "
            f"`segtune status {study.spec.name}`"
        )
    if number is None:
        return ranking[0]
    for trial in ranking:
        if trial.number == number:
            return trial
    raise InputError(
        f"trial {number} of study {study.spec.name} has not ended with a value; those that have: "
        f"{', '.join(str(t.number) for t in sorted(ranking, key=lambda t: t.number))}"
    )
