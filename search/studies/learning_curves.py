"""Learning curves of a study's trials as its stopping rule sees them."""

from __future__ import annotations

from search.stopping.curves import Curve
from search.stopping.rules import warmup_end
from search.studies import reports
from search.studies.configs import configs_ended_after
from search.studies.study import Study


def curves_begun(study: Study) -> tuple[int, dict[int, Curve], dict[int, Curve]]:
    """Curves of the trials that have not ended, but have reported an epoch.

    Returns:
        How far `ended` has grown (0 where there are none), {trial: curve} of those that are
        paused, and of the others.
    """
    with study.store.engine.connect() as connection:
        until, found, paused = reports.begun(connection, study.study_id)
    waits: dict[int, Curve] = {}
    runs: dict[int, Curve] = {}
    for number, metrics in found.items():
        curve = Curve(reports.values(metrics, study.space.base.train.epochs))
        (waits if number in paused else runs)[number] = curve
    return until, waits, runs


def curves_ended_after(study: Study, ended: int, *, warmups: bool) -> tuple[int, dict[int, Curve]]:
    """Curves of the trials that have ended COMPLETE or PRUNED since an earlier call.

    Args:
        ended: what that call returned first; 0 for all.
        warmups: also read where each trial's warm-up ended; else that is 0.

    Returns:
        How far `ended` has grown, and {trial: its curve} of those that have reported an epoch.
    """
    with study.store.engine.connect() as connection:
        until, found = reports.ended_after(connection, study.study_id, ended)
        drawn = configs_ended_after(connection, study.study_id, ended) if warmups and found else {}
    ends: dict[int, int] = {}
    for number in found if warmups else ():
        if number in drawn:
            config = type(study.space.base)().replace(drawn[number])
        else:  # of a store of 0.1
            config = study.config(study.trial(number))
        ends[number] = warmup_end(config)
    epochs = study.space.base.train.epochs
    return until, {
        number: Curve(reports.values(metrics, epochs), ends.get(number, 0))
        for number, metrics in found.items()
    }


def earlier_curves(study: Study, *, warmups: bool) -> list[Curve]:
    """Curves of the trials of earlier studies that have reported an epoch.

    Args:
        warmups: as of `curves_ended_after`.
    """
    epochs = study.space.base.train.epochs
    return [
        Curve(
            reports.values(trial.intermediate_values, epochs),
            warmup_end(study.config(trial)) if warmups else 0,
        )
        for trial in study.earlier
        if trial.intermediate_values
    ]
