"""`segtune confirm`: the best trials of a study that has ended, on fresh seeds."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from search.database.tables import OPEN, RUNNING
from search.files.artifacts import Artifacts
from search.launch import run
from search.studies.confirmations import create_confirmation, lift_hours
from search.studies.study import Study
from search.work.confirming import advance, search_is_over
from search.work.preflight import preflight_again
from spaces.errors import DONE, InputError
from spaces.spec import StudySpec


def confirm_study(
    study: Study,
    spec: StudySpec,
    artifacts: Artifacts,
    console: Console,
    *,
    here: bool = True,
    **worker: Any,
) -> int:
    """Run a study's confirmation; return the exit code.

    Args:
        spec: the study's, with the settings of its confirmation.
        here: run it from this process; else leave it to the workers of the store.
        worker: settings of the worker that does, as of `Worker`.

    Raises:
        InputError: the search has not ended, no trial has a value, or the data have changed.
    """
    name = study.spec.name
    if not search_is_over(study, asked=True):
        counts = study.slots.counts()
        raise InputError(
            f"study {name} has not ended: {counts[RUNNING]} of its trials run and {counts[OPEN]} "
            f"are open; wait, or end it: segtune stop {name}"
        )
    if not any(trial.value is not None for trial in study.trials()):
        raise InputError(f"study {name} has no trial with a value; there is nothing to confirm")
    data = preflight_again(study)
    study.store.work_alone()
    study.take_settings(spec)
    with study.store.study_lock(study.study_id):
        lift_hours(create_confirmation(study))  # it is asked for now, whatever the search has spent
    if here:
        return run(study, data, artifacts, console, **worker)
    confirmation = advance(study)
    runs = 0 if confirmation is None else confirmation.slots.counts()[OPEN]
    left = (
        f"{runs} runs are left to the workers of this store" if runs else "nothing is left to run"
    )
    console.print(f"confirmation of {name}: {left}", highlight=False, soft_wrap=True)
    return DONE
