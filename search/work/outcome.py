"""What a trial came to, as it is stored with its slot."""

from __future__ import annotations

from search.studies.reasons import REASONS
from search.studies.slots import Result
from search.studies.trial_facts import TrialFacts
from spaces.limits import Cost, LimitsSpec
from trainers.train import TrialResult


def as_stored(
    result: TrialResult,
    cost: Cost,
    limits: LimitsSpec,
    *,
    bar: float | None,
    weights: str | None,
) -> Result:
    """Return what is stored of a trial's result.

    One that is outside of the limits has no value: it shall not be the best, whatever it scores.

    Args:
        cost: as far as it is known.
        bar: that its rule held it against.
        weights: SHA-256 of its best ones.
    """
    outside = result.reason == "limit"
    facts = TrialFacts(
        epochs=len(result.history),
        best_epoch=result.best_epoch,
        seconds=round(sum(report.seconds for report in result.history), 3),
        decode=result.decode,
        per_class=result.per_class,
        bar=bar,
        hardware=result.hardware,
        parameters=cost.parameters,
        latency_ms=cost.latency_ms,
        memory_mb=cost.memory_mb,
        outside=limits.outside(cost) if outside else None,
        model_sha256=weights,
        trivial_score=result.trivial_score,
        folds=[f.value for f in result.folds if f.value is not None] or None,
        fold_epochs=[f.best_epoch for f in result.folds if f.best_epoch] or None,
        fold_decode=[f.decode for f in result.folds] or None,
    )
    return Result(
        REASONS[result.reason].stored,
        None if outside else result.value,
        result.reason,
        facts.at_end(),
        limits.constraints(cost) if limits.given else None,
    )
