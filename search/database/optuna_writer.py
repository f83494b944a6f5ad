"""Optuna's trials written in bulk: a trial is begun, and ended, with a few statements in all.

Optuna's own storage looks a trial up again before each parameter, attribute and value that it
stores: some seventy statements for a trial of ten parameters. These write the same rows, through
Optuna's own table definitions (tests/service/test_trial_writer.py holds them equal); Optuna refuses
tables of another version when the store is opened.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from optuna.distributions import distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState

from search.database.optuna_reader import table_of

_TRIALS = table_of(models.TrialModel)
_STEPS = table_of(models.TrialIntermediateValueModel)


@dataclass(frozen=True)
class Begun:
    """A trial that Optuna's tables have."""

    trial_id: int
    number: int


def begin(
    connection: sa.Connection, study_id: int, trial: FrozenTrial, system_attrs: Mapping[str, Any]
) -> Begun | None:
    """Store a running trial with its parameters.

    Args:
        trial: a new one has the id -1; one that was waiting in the queue has its own.
        system_attrs: those to be stored.

    Returns:
        None where the waiting trial is not waiting any more.
    """
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    if trial._trial_id == -1:
        begun = _insert_trial(connection, study_id, now)
    else:
        begun = Begun(trial._trial_id, trial.number)
        taken = connection.execute(
            sa.update(_TRIALS)
            .where(_TRIALS.c.trial_id == begun.trial_id, _TRIALS.c.state == TrialState.WAITING)
            .values(state=TrialState.RUNNING, datetime_start=now)
        )
        if taken.rowcount != 1:
            return None
    params = [
        {
            "trial_id": begun.trial_id,
            "param_name": name,
            "param_value": trial.distributions[name].to_internal_repr(value),
            "distribution_json": distribution_to_json(trial.distributions[name]),
        }
        for name, value in trial.params.items()
    ]
    if params:
        connection.execute(sa.insert(table_of(models.TrialParamModel)).values(params))
    _put_attrs(
        connection, models.TrialSystemAttributeModel, "trial_id", begun.trial_id, system_attrs
    )
    return begun


def put_study_attrs(connection: sa.Connection, study_id: int, attrs: Mapping[str, Any]) -> None:
    """Store system attributes of a study."""
    _put_attrs(connection, models.StudySystemAttributeModel, "study_id", study_id, attrs)


def end(
    connection: sa.Connection,
    study_id: int,
    number: int,
    state: TrialState,
    value: float | None,
    user_attrs: Mapping[str, Any],
) -> bool:
    """End a trial; False, and nothing is stored, where it has ended already."""
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    trial_id = connection.execute(
        sa.update(_TRIALS)
        .where(
            _TRIALS.c.study_id == study_id,
            _TRIALS.c.number == number,
            _TRIALS.c.state.in_((TrialState.RUNNING, TrialState.WAITING)),
        )
        .values(state=state, datetime_complete=now)
        .returning(_TRIALS.c.trial_id)
    ).scalar()
    if trial_id is None:
        return False
    if value is not None:
        stored, kind = models.TrialValueModel.value_to_stored_repr(value)
        row = {"trial_id": trial_id, "objective": 0, "value": stored, "value_type": kind}
        connection.execute(sa.insert(table_of(models.TrialValueModel)).values(row))
    _put_attrs(connection, models.TrialUserAttributeModel, "trial_id", trial_id, user_attrs)
    return True


def step(trial_id: int, epoch: int, value: float) -> tuple[sa.Table, dict[str, Any]]:
    """The table and the row of an intermediate value."""
    stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
    return _STEPS, {
        "trial_id": trial_id,
        "step": epoch,
        "intermediate_value": stored,
        "intermediate_value_type": kind,
    }


def insert_for(dialect: str) -> Any:
    """The dialect's INSERT that knows ON CONFLICT."""
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as postgres_insert

        return postgres_insert
    from sqlalchemy.dialects.sqlite import insert as sqlite_insert

    return sqlite_insert


def _insert_trial(connection: sa.Connection, study_id: int, now: datetime.datetime) -> Begun:
    if connection.dialect.name == "postgresql":  # as Optuna does: numbers are counted
        studies = table_of(models.StudyModel)
        connection.execute(
            sa.select(studies.c.study_id).where(studies.c.study_id == study_id).with_for_update()
        )
    earlier = _TRIALS.alias()
    number = sa.select(sa.func.count()).where(earlier.c.study_id == study_id).scalar_subquery()
    row = connection.execute(
        sa.insert(_TRIALS)
        .values(study_id=study_id, number=number, state=TrialState.RUNNING, datetime_start=now)
        .returning(_TRIALS.c.trial_id, _TRIALS.c.number)
    ).one()
    return Begun(row.trial_id, row.number)


def running(connection: sa.Connection) -> list[tuple[int, int, int]]:
    """(study id, number, trial id) of every trial that Optuna takes for running."""
    query = sa.select(_TRIALS.c.study_id, _TRIALS.c.number, _TRIALS.c.trial_id)
    rows = connection.execute(query.where(_TRIALS.c.state == TrialState.RUNNING))
    return [(row.study_id, row.number, row.trial_id) for row in rows]


def back_into_queue(connection: sa.Connection, trial_id: int) -> bool:
    """Let a trial wait again whose parameters were enqueued; False where they were drawn."""
    attrs = table_of(models.TrialSystemAttributeModel)
    of_trial = attrs.c.trial_id == trial_id
    enqueued = sa.select(attrs.c.key).where(of_trial, attrs.c.key == "fixed_params")
    if connection.execute(enqueued).first() is None:
        return False
    params = table_of(models.TrialParamModel)
    connection.execute(sa.delete(params).where(params.c.trial_id == trial_id))
    connection.execute(sa.delete(attrs).where(of_trial, attrs.c.key != "fixed_params"))
    connection.execute(
        sa.update(_TRIALS)
        .where(_TRIALS.c.trial_id == trial_id)
        .values(state=TrialState.WAITING, datetime_start=None)
    )
    return True


def drop_user_attr(connection: sa.Connection, key: str, value: Any) -> None:
    """Remove an attribute wherever it has this value."""
    attrs = table_of(models.TrialUserAttributeModel)
    same = sa.and_(attrs.c.key == key, attrs.c.value_json == json.dumps(value))
    connection.execute(sa.delete(attrs).where(same))


def _put_attrs(
    connection: sa.Connection, model: Any, owner: str, owner_id: int, attrs: Mapping[str, Any]
) -> None:
    """Store attributes of a trial or a study.

    Args:
        owner: the column that names it.
    """
    if not attrs:
        return
    table = table_of(model)
    rows = [
        {owner: owner_id, "key": key, "value_json": json.dumps(value)}
        for key, value in attrs.items()
    ]
    insert = insert_for(connection.dialect.name)(table).values(rows)
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=[table.c[owner], table.c.key],
            set_={"value_json": insert.excluded.value_json},
        )
    )
