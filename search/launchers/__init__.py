"""Who places workers: this machine's processes, Slurm's jobs, or Ray's actors.

All run the same command, `segtune worker`, and meet in the store alone. An engine starts workers,
says whether they run, and ends them; trials, leases and results are none of its business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from search.launchers.engine import Launcher, Member
from search.studies.study import Study
from spaces.errors import InputError
from spaces.sections import WorkersSpec

JOBS = "segtune:jobs"  # a study's attribute: the jobs that were submitted for it


def launcher(options: WorkersSpec) -> Launcher:
    """Return the engine of some options.

    Raises:
        InputError: its package is not installed, or the engine is not here.
    """
    if options.on == "slurm":
        from search.launchers.slurm import Slurm

        return Slurm(options)
    if options.on == "ray":
        from search.launchers.ray import Ray

        return Ray(options)
    from search.launchers.local import Local

    return Local(options)


# ---------------------------------------------------------------- a worker's process in a job


# ---------------------------------------------------------------- the jobs of a study


def remember(study: Study, options: WorkersSpec, members: Sequence[Member]) -> None:
    """Store the jobs of a study, so that `segtune stop` finds those that wait."""
    entry = {"workers": options.model_dump(mode="json"), "jobs": [m.job for m in members]}
    _keep(study, [*submitted(study), entry][-100:])


def forget(study: Study, members: Sequence[Member]) -> None:
    """Forget jobs that have ended; their engine may be gone when the study is stopped."""
    ended = {member.job for member in members}
    _keep(study, [e for e in submitted(study) if not ended.issuperset(e["jobs"])])


def cancel_waiting(study: Study) -> list[str]:
    """Take back jobs of a study that have not begun; returns what could not be done, in words."""
    problems = take_back(submitted(study))
    if not problems:
        _keep(study, [])
    return problems


def submitted(study: Study) -> list[dict[str, Any]]:
    """The jobs that were submitted for a study, as it remembers them."""
    found = study.store.study_attrs(study.study_id, JOBS).get(JOBS, "[]")
    entries: list[dict[str, Any]] = json.loads(found)
    return entries


def take_back(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Take back those of these jobs that have not begun; returns what could not be, in words."""
    problems = []
    for entry in entries:
        try:
            launcher(WorkersSpec.model_validate(entry["workers"])).cancel_waiting(entry["jobs"])
        except InputError as error:
            problems.append(str(error))
    return problems


def _keep(study: Study, entries: Sequence[Mapping[str, Any]]) -> None:
    study.store.storage.set_study_system_attr(study.study_id, JOBS, json.dumps(entries))
