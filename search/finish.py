"""`segtune replay STUDY --finish N`: stopped trials of a study trained to their ends, here."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from search.files.artifacts import Artifacts
from search.findings.stopped import stopped_by_rule, telling
from search.launch import run_slots
from search.studies.finishing import plan_finishing
from search.studies.limits import reopen
from search.studies.limits import stopped as stopped_why
from search.studies.study import Study
from search.work.confirming import search_is_over
from search.work.preflight import preflight_again
from spaces.errors import InputError


def finish(study: Study, count: int, artifacts: Artifacts, console: Console, **worker: Any) -> int:
    """Train the most telling trials that a study's rule has stopped to their ends.

    They begin anew, with the seeds that they had: a trial that has ended has no checkpoint. They
    are no trials of the study: its best, its sampler and its report never hear of them.

    Args:
        count: how many there are to be in the end; those of an earlier call count.
        worker: settings of the worker, as of `Worker`.

    Returns:
        The exit code. An interrupted run goes on with the same call.

    Raises:
        InputError: the study has not ended, its rule has stopped no trial, it has folds, or its
            data have changed.
    """
    name, trials = study.spec.name, study.trials()
    if study.spec.data.folds is not None:
        raise InputError(f"--finish: study {name} has folds, of which a replay sees only the first")
    if not search_is_over(study, asked=True):
        raise InputError(f"study {name} has not ended; wait, or end it: segtune stop {name}")
    stopped = stopped_by_rule(trials)
    if not stopped:
        raise InputError(f"--finish: the rule of study {name} has stopped no trial")
    data = preflight_again(study)
    study.store.work_alone()
    near, drawn = telling(stopped, count, study.spec.seed)
    chosen = [trial for trial in stopped if trial.number in (*near, *drawn)]
    with study.store.study_lock(study.study_id):
        finishing = plan_finishing(study, chosen)
    if stopped_why(finishing):  # with its study; it is asked for now
        reopen(study.store, finishing.study_id)
    return run_slots(finishing, data, artifacts, console, **worker)
