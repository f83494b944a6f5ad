"""Trials that a study's rule has stopped, trained to their ends as a study of its own beside it.

As of a confirmation slots, leases, resuming, reports, files and deletion are those of any study,
and no sampler hears of them. They have the seeds that they had, and no rule stops them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.studies.configs import CONFIG
from search.studies.confirmations import open_beside, with_confirmation
from search.studies.limits import close, reopen
from search.studies.reasons import known, reason
from search.studies.study import Study, create
from search.studies.trial_facts import TrialFacts
from spaces.limits import LimitsSpec
from spaces.sections import PrunerSpec
from spaces.spec import FINISH


def open_finishing(study: Study) -> Study | None:
    """The stopped trials of a study that were to be trained to their ends; None: there are none."""
    return open_beside(study, FINISH)


def with_all_beside(study: Study) -> list[Study]:
    """A study, its confirmation and its finished trials, those that there are."""
    found = open_finishing(study)
    return [*with_confirmation(study), *([] if found is None else [found])]


def close_all(study: Study, reason: str) -> None:
    """Let no new trial of a study, or beside it, begin; `limits.close` says what reasons do."""
    for one in with_all_beside(study):
        close(one.store, one.study_id, reason)


def reopen_all(study: Study) -> None:
    """Let trials of a study, and beside it, begin again; its hours count anew."""
    for one in with_all_beside(study):
        reopen(one.store, one.study_id)


def plan_finishing(study: Study, trials: Sequence[FrozenTrial]) -> Study:
    """Let stopped trials of a study be trained to their ends; the caller holds the study's lock.

    Those that are planned already are left as they are.
    """
    finishing = open_finishing(study) or _create(study)
    there = {TrialFacts.of(trial).finishes for trial in finishing.all_trials()}
    for trial in trials:
        if trial.number not in there:
            finishing.optuna().add_trial(
                optuna.trial.create_trial(
                    state=TrialState.WAITING,
                    params=trial.params,
                    distributions=trial.distributions,
                    system_attrs={CONFIG: study.config(trial).flat()},
                    user_attrs=TrialFacts(finishes=trial.number).in_queue(),
                )
            )
    finishing.slots.extend(len(finishing.all_trials()))
    return finishing


@dataclass(frozen=True)
class Finished:
    """The stopped trials of a study that were to be trained to their ends.

    Attributes:
        study: that they are; None where there are none.
        planned: how many they are.
        runs: {trial of the study: it, in full} of those that have come to their ends.
    """

    study: Study | None
    planned: int
    runs: Mapping[int, FrozenTrial]


def read_finished(study: Study) -> Finished:
    """Read what has become of the stopped trials of a study."""
    finishing = open_finishing(study)
    if finishing is None:
        return Finished(None, 0, {})
    trials = finishing.all_trials()
    ended = [t for t in trials if t.state.is_finished() and t.value is not None]
    whole = {TrialFacts.of(t).finishes: t for t in ended if not known(reason(t)).cut}
    return Finished(finishing, len(trials), {n: t for n, t in whole.items() if n is not None})


def _create(study: Study) -> Study:
    no_limits = {"hours": None, "gpu_hours": None, "until": None}
    spec = study.spec.model_copy(
        update={
            "name": study.spec.name + FINISH,
            "pruner": PrunerSpec(name="none"),
            "confirm": None,
            "ensemble": None,
            "limits": LimitsSpec(),  # the search has judged
            "from_studies": [],
            "keep_models": 1,
            "budget": study.spec.budget.model_copy(update=no_limits),
        }
    )
    created = create(study.store, spec, study.fingerprint)
    created.owner = study.owner
    return created
