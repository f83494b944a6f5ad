"""The trials of a study, ranked by their value in the search."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from search.studies.reasons import known, reason
from search.studies.trial_facts import TrialFacts


def ranked(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials with a value, best first; of equal value COMPLETE ones first, trivial ones last.

    Means over different folds cannot be compared: where there are folds, only the trials with the
    most folds are ranked.
    """
    found = by_folds(trials)
    return [trial for trial in found if _folds(trial) == _folds(found[0])]


def by_folds(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """All trials with a value, those with the most folds first, and of these the best first."""
    valued = [
        trial
        for trial in trials
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and trial.value is not None
    ]
    return sorted(
        valued,
        key=lambda t: (
            -_folds(t),
            -(t.value or 0.0),
            TrialFacts.of(t).reason == "health:trivial",
            t.state != TrialState.COMPLETE,
            t.number,
        ),
    )


def _folds(trial: FrozenTrial) -> int:
    return len(TrialFacts.of(trial).folds or ())


def judged(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Ended trials that could have trained all their epochs, so that stopping them saved some."""
    return [
        trial
        for trial in trials
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and known(reason(trial)).trains
    ]
