"""A study's confirmation: its best trials on fresh seeds, as a study of its own beside it.

Slots, leases, resuming, reports, files and the dashboard are those of any study. What is its own:
its trials are planned, not drawn, so that no sampler ever hears of them, and no rule stops one.
"""

from __future__ import annotations

import hashlib

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.database.store import UnknownStudy
from search.database.tables import control_table, study_table
from search.studies.configs import CONFIG
from search.studies.study import Study, create, open_study_by_id
from search.studies.trial_facts import TrialFacts
from spaces.config import TrialConfig
from spaces.limits import LimitsSpec
from spaces.sections import PrunerSpec
from spaces.spec import CONFIRM

MOST_MODELS = 10_000  # the weights of all its trials are kept
SEED = "train.seed"
SEEDS = optuna.distributions.IntDistribution(0, 2**32 - 1)


def open_confirmation(study: Study) -> Study | None:
    """The confirmation of a study; None where none was begun."""
    return open_beside(study, CONFIRM)


def open_beside(study: Study, suffix: str) -> Study | None:
    """The study beside a study whose name has this behind it; None where there is none."""
    try:
        study_id = study.store.storage.get_study_id_from_name(study.spec.name + suffix)
        return open_study_by_id(study.store, study_id, study.owner)
    except (KeyError, UnknownStudy):  # the latter: its creation was cut short
        return None


def with_confirmation(study: Study) -> list[Study]:
    """A study, and its confirmation where there is one."""
    found = open_confirmation(study)
    return [study] if found is None else [study, found]


def create_confirmation(study: Study) -> Study:
    """Create the confirmation of a study, or open it; the caller holds the study's lock.

    Its hours count from when the study was opened.
    """
    if (found := open_confirmation(study)) is not None:
        return found
    spec = study.spec.model_copy(
        update={
            "name": study.spec.name + CONFIRM,
            "pruner": PrunerSpec(name="none"),
            "confirm": None,
            "limits": LimitsSpec(),  # the search has judged
            "from_studies": [],
            "keep_models": MOST_MODELS,
        }
    )
    created = create(study.store, spec, study.fingerprint)
    created.owner = study.owner
    opened = control_table.alias()
    with study.store.engine.begin() as connection:
        connection.execute(
            control_table.update()
            .where(control_table.c.study_id == created.study_id)
            .values(
                opened_at=opened.select()
                .with_only_columns(opened.c.opened_at)
                .where(opened.c.study_id == study.study_id)
                .scalar_subquery()
            )
        )
    return created


def lift_hours(confirmation: Study) -> None:
    """Open a confirmation, and let it run as long as it takes."""
    budget = confirmation.spec.budget.model_copy(update={"hours": None, "gpu_hours": None})
    confirmation.spec = confirmation.spec.model_copy(update={"budget": budget})
    mine = study_table.c.study_id == confirmation.study_id
    with confirmation.store.engine.begin() as connection:
        connection.execute(
            study_table.update().where(mine).values(spec=confirmation.spec.to_json())
        )
        connection.execute(
            control_table.update()
            .where(control_table.c.study_id == confirmation.study_id)
            .values(stop=None)
        )


def plan(confirmation: Study, trial: FrozenTrial, config: TrialConfig, seed: int) -> None:
    """Put a trial of the search into the queue, once more, with another seed."""
    facts = TrialFacts(origin=TrialFacts.of(trial).origin, confirms=trial.number)
    confirmation.optuna().add_trial(
        optuna.trial.create_trial(
            state=TrialState.WAITING,
            params={**trial.params, SEED: seed},
            distributions={**trial.distributions, SEED: SEEDS},
            system_attrs={CONFIG: config.replace({SEED: seed}).flat()},
            user_attrs=facts.in_queue(),
        )
    )


def fresh_seed(study: Study, round_: int) -> int:
    """The seed of a round, counted from 0; the same for all that run in it."""
    digest = hashlib.sha256(f"{study.spec.seed}/confirm/{round_}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
