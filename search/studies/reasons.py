"""Why trials end."""

from __future__ import annotations

from collections.abc import Mapping

from optuna.trial import FrozenTrial

from search.studies.trial_facts import TrialFacts


def reason(trial: FrozenTrial) -> str:
    """Why a trial ended: its reason code."""
    return TrialFacts.of(trial).reason or "crashed"


REASONS: Mapping[str, str] = {
    "completed": "all epochs trained",
    "patience": "no better for train.patience epochs",
    "quantile": "below the best of the trials beside and before it",
    "median": "below the median of the trials before it",
    "stock_median": "below the median of the completed trials",
    "percentile": "below the percentile of the completed trials",
    "hyperband": "not among the best of its rung",
    "nonfinite": "a loss or gradient became NaN or infinite",
    "oom": "out of GPU memory with one image at a time",
    "crashed": "its process died; attempts are used up",
    "timeout": "budget.trial_hours spent",
    "preempted": "interrupted; it goes on",
    "stopped": "the study's hours were spent",
    "unfit": "the config cannot run",
    "health:diverging": "the loss diverged",
    "health:falling": "the metric fell epoch by epoch",
    "health:dead_class": "a class was never found",
    "health:exploding": "the gradient norm exploded",
}


def explained(name: str) -> str:
    """A reason code in words."""
    return REASONS.get(name, "see docs/training.md" if name.startswith("health:") else "")


OWN_ENDS = ("completed", "patience", "nonfinite", "oom", "unfit")  # and health:<alarm>
