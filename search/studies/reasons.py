"""Why a trial ends: the one table of reason codes, which all others read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from optuna.trial import FrozenTrial

from search.studies.trial_facts import TrialFacts

Kind = Literal["end", "rule", "alarm", "limit", "failure", "return"]


@dataclass(frozen=True)
class Reason:
    """One reason.

    Attributes:
        stored: the state of the slot and of Optuna's trial; OPEN: the slot returns with its trial.
        kind: how the trial came to its end: as it had to, by the study's rule, by an alarm of
            health, by a limit of the budget or of what a config may cost, by a failure; or it does
            not end.
        sentence: what it means, as people read it.
        trains: False where the config could not be trained to its end at all.
    """

    stored: Literal["COMPLETE", "PRUNED", "FAILED", "OPEN"]
    kind: Kind
    sentence: str
    trains: bool = True

    @property
    def cut(self) -> bool:
        """Whether nobody knows how the trial would have gone on."""
        return self.kind in ("rule", "limit") or self.stored == "FAILED"

    @property
    def teaches(self) -> bool:
        """Whether a sampler learns from the trial: a failure of the machine says nothing of it."""
        return self.stored in ("COMPLETE", "PRUNED")


REASONS: Mapping[str, Reason] = {
    "completed": Reason("COMPLETE", "end", "all epochs trained"),
    "patience": Reason("COMPLETE", "end", "no better for train.patience epochs"),
    "quantile": Reason("PRUNED", "rule", "below the best of the trials beside and before it"),
    "thrifty": Reason("PRUNED", "rule", "below the best of the trials beside and before it"),
    "median": Reason("PRUNED", "rule", "below the median of the others"),
    "ended_median": Reason("PRUNED", "rule", "below the median of the ended trials"),
    "stock_median": Reason("PRUNED", "rule", "below the median of the completed trials"),
    "percentile": Reason("PRUNED", "rule", "below the percentile of the completed trials"),
    "hyperband": Reason("PRUNED", "rule", "not among the best of its rung"),
    "folds": Reason("PRUNED", "rule", "hopeless beside the best trial on the same folds"),
    "nonfinite": Reason("PRUNED", "alarm", "a loss, gradient or metric became NaN or infinite"),
    "oom": Reason("PRUNED", "alarm", "out of GPU memory, however little at once", trains=False),
    "health:diverging": Reason("PRUNED", "alarm", "the loss diverged"),
    "health:falling": Reason("PRUNED", "alarm", "the metric fell epoch by epoch"),
    "health:dead_class": Reason("PRUNED", "alarm", "a class was never found"),
    "health:exploding": Reason("PRUNED", "alarm", "the gradient norm exploded"),
    "health:trivial": Reason("COMPLETE", "alarm", "ended no better than a constant answer"),
    "timeout": Reason("PRUNED", "limit", "budget.trial_hours spent"),
    "stopped": Reason("PRUNED", "limit", "the study's hours were spent"),
    "limit": Reason("PRUNED", "limit", "outside of the study's limits", trains=False),
    "unfit": Reason("PRUNED", "failure", "the config cannot run", trains=False),
    "crashed": Reason("FAILED", "failure", "its process died; attempts are used up"),
    "preempted": Reason("OPEN", "return", "interrupted; it goes on"),
    "orphaned": Reason("OPEN", "return", "its supervisor died; it goes on"),
    "paused": Reason(
        "OPEN", "return", "goes on when it is among the best, or nothing new is left to begin"
    ),
}


def reason(trial: FrozenTrial) -> str:
    """Why a trial ended: its reason code."""
    return TrialFacts.of(trial).reason or "crashed"


def known(code: str) -> Reason:
    """What is known of a reason code; one of another version is taken for a rule's."""
    return REASONS.get(code, Reason("PRUNED", "rule", ""))
