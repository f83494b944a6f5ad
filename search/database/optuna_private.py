"""All that search/ uses of Optuna's private parts: tables, stored forms, ids, the storage's hooks.

Nothing else in search/ imports a private module of Optuna, or says a private name of it. What is
taken for granted here is written down in tests/unit/search/test_private_formats.py, which fails,
and says what to do, when another minor version of Optuna is installed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.study._frozen import FrozenStudy as FrozenStudy
from optuna.trial import FrozenTrial, TrialState

# ---------------------------------------------------------------- tables

OPTUNAS: sa.MetaData = models.BaseModel.metadata
STUDIES: sa.Table = models.StudyModel.__table__
STUDY_SYSTEM_ATTRS: sa.Table = models.StudySystemAttributeModel.__table__
STUDY_USER_ATTRS: sa.Table = models.StudyUserAttributeModel.__table__
TRIALS: sa.Table = models.TrialModel.__table__
TRIAL_PARAMS: sa.Table = models.TrialParamModel.__table__
TRIAL_VALUES: sa.Table = models.TrialValueModel.__table__
TRIAL_STEPS: sa.Table = models.TrialIntermediateValueModel.__table__
TRIAL_USER_ATTRS: sa.Table = models.TrialUserAttributeModel.__table__
TRIAL_SYSTEM_ATTRS: sa.Table = models.TrialSystemAttributeModel.__table__

VERSIONS = (models.VersionInfoModel.__table__.name, "alembic_version")  # of Optuna's tables


def optuna_tables() -> list[sa.Table]:
    """Optuna's tables but for VERSIONS, each before those that refer to it."""
    return [table for table in OPTUNAS.sorted_tables if table.name not in VERSIONS]


# ---------------------------------------------------------------- stored forms

_SPECIAL = {"NAN": math.nan, "INF_POS": math.inf, "INF_NEG": -math.inf}


def number(stored: Any, kind: str) -> float:
    """A trial's value or intermediate value from the two columns that hold it."""
    return stored if kind == "FINITE" else _SPECIAL[kind]


def param_row(
    trial_id: int, name: str, value: Any, distribution: BaseDistribution
) -> dict[str, Any]:
    """The row of TRIAL_PARAMS that holds a parameter."""
    return {
        "trial_id": trial_id,
        "param_name": name,
        "param_value": distribution.to_internal_repr(value),
        "distribution_json": distribution_to_json(distribution),
    }


def value_row(trial_id: int, value: float) -> dict[str, Any]:
    """The row of TRIAL_VALUES that holds the value of a trial with one objective."""
    stored, kind = models.TrialValueModel.value_to_stored_repr(value)
    return {"trial_id": trial_id, "objective": 0, "value": stored, "value_type": kind}


def step_row(trial_id: int, step: int, value: float) -> dict[str, Any]:
    """The row of TRIAL_STEPS that holds an intermediate value."""
    stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
    return {
        "trial_id": trial_id,
        "step": step,
        "intermediate_value": stored,
        "intermediate_value_type": kind,
    }


def attr_row(trial_id: int, key: str, value: Any) -> dict[str, Any]:
    """The row of TRIAL_USER_ATTRS or TRIAL_SYSTEM_ATTRS that holds an attribute."""
    return {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}


def study_attr_row(study_id: int, key: str, value: Any) -> dict[str, Any]:
    """The row of STUDY_SYSTEM_ATTRS that holds an attribute."""
    return {"study_id": study_id, "key": key, "value_json": json.dumps(value)}


# ---------------------------------------------------------------- ids


def id_of_trial(trial: FrozenTrial) -> int:
    """A trial's id in the store; numbers count within a study, ids within a store."""
    return trial._trial_id


def give_id(trial: FrozenTrial, trial_id: int) -> None:
    """Tell a trial the id under which it has been stored."""
    trial._trial_id = trial_id


def id_of_study(study: optuna.Study | FrozenStudy) -> int:
    """A study's id in the store."""
    return study._study_id


# ---------------------------------------------------------------- storage


class OwnReads(RDBStorage):
    """Optuna's storage of which one read, that of many trials, is a subclass's own."""

    def read_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        chosen_ids: set[int],
        above_id: int,
    ) -> list[FrozenTrial]:
        """A study's trials that have one of `chosen_ids` or an id above `above_id`, by id.

        Args:
            states: None means any.

        Raises:
            KeyError: there is no such study.
        """
        raise NotImplementedError

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        return self.read_trials(study_id, states, included_trial_ids, trial_id_greater_than)


def cached(storage: RDBStorage) -> BaseStorage:
    """A storage that keeps ended trials in memory, as Optuna's own studies do."""
    return optuna.storages.get_storage(storage)
