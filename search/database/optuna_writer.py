"""Optuna's trials written in bulk: a trial is begun, and ended, with a few statements in all.

Optuna's own storage looks a trial up again before each parameter, attribute and value that it
stores: some seventy statements for a trial of ten parameters. These write the same rows, through
Optuna's own table definitions (tests/service/test_optuna_draft.py holds them equal); Optuna refuses
tables of another version when the store is opened.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

from search.database.optuna_private import (
    STUDIES,
    STUDY_SYSTEM_ATTRS,
    TRIAL_PARAMS,
    TRIAL_STEPS,
    TRIAL_SYSTEM_ATTRS,
    TRIAL_USER_ATTRS,
    TRIAL_VALUES,
    TRIALS,
    attr_row,
    id_of_trial,
    optuna_tables,
    param_row,
    step_row,
    study_attr_row,
    value_row,
)

CONSTRAINT = "constraints:"  # before a constraint's name, in the system attributes


@dataclass(frozen=True)
class Begun:
    """A trial that Optuna's tables have."""

    trial_id: int
    number: int


def begin(
    connection: sa.Connection,
    study_id: int,
    trial: FrozenTrial,
    system_attrs: Mapping[str, Any],
    *,
    whole: bool = False,
) -> Begun | None:
    """Store a running trial with its parameters.

    Args:
        trial: a new one has the id -1; one that was waiting in the queue has its own.
        system_attrs: those to be stored.
        whole: one from the queue whose parameters are stored already.

    Returns:
        None where the waiting trial is not waiting any more.
    """
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    if id_of_trial(trial) == -1:
        begun = _insert_trial(connection, study_id, now)
    else:
        begun = Begun(id_of_trial(trial), trial.number)
        taken = connection.execute(
            sa.update(TRIALS)
            .where(TRIALS.c.trial_id == begun.trial_id, TRIALS.c.state == TrialState.WAITING)
            .values(state=TrialState.RUNNING, datetime_start=now)
        )
        if taken.rowcount != 1:
            return None
    params = [
        param_row(begun.trial_id, name, value, trial.distributions[name])
        for name, value in trial.params.items()
    ]
    if params and not whole:
        connection.execute(sa.insert(TRIAL_PARAMS).values(params))
    rows = [attr_row(begun.trial_id, key, value) for key, value in system_attrs.items()]
    _put_attrs(connection, TRIAL_SYSTEM_ATTRS, rows)
    return begun


def add_ended(connection: sa.Connection, study_id: int, trials: Sequence[FrozenTrial]) -> None:
    """Store ended trials as those of a study that has none yet, numbered in their order."""
    if not trials:
        return
    rows = [
        {
            "study_id": study_id,
            "number": number,
            "state": trial.state,
            "datetime_start": _utc(trial.datetime_start),
            "datetime_complete": _utc(trial.datetime_complete),
        }
        for number, trial in enumerate(trials)
    ]
    ids = sa.insert(TRIALS).returning(TRIALS.c.trial_id, sort_by_parameter_order=True)
    stored = list(zip(connection.execute(ids, rows).scalars(), trials, strict=True))
    parts = {
        TRIAL_PARAMS: [
            param_row(i, name, value, trial.distributions[name])
            for i, trial in stored
            for name, value in trial.params.items()
        ],
        TRIAL_VALUES: [value_row(i, t.value) for i, t in stored if t.value is not None],
        TRIAL_STEPS: [
            step_row(i, step, value)
            for i, trial in stored
            for step, value in trial.intermediate_values.items()
        ],
        TRIAL_USER_ATTRS: [
            attr_row(i, key, value) for i, t in stored for key, value in t.user_attrs.items()
        ],
        TRIAL_SYSTEM_ATTRS: [
            attr_row(i, key, value) for i, t in stored for key, value in t.system_attrs.items()
        ],
    }
    for table, values in parts.items():
        if values:
            connection.execute(sa.insert(table), values)


def _utc(moment: datetime.datetime | None) -> datetime.datetime | None:
    """Local time, as a trial has it, as the tables have it."""
    return None if moment is None else moment.astimezone(datetime.UTC).replace(tzinfo=None)


def put_study_attrs(connection: sa.Connection, study_id: int, attrs: Mapping[str, Any]) -> None:
    """Store system attributes of a study."""
    rows = [study_attr_row(study_id, key, value) for key, value in attrs.items()]
    _put_attrs(connection, STUDY_SYSTEM_ATTRS, rows)


def study_attrs(connection: sa.Connection, study_id: int, keys: Sequence[str]) -> dict[str, Any]:
    """Those of these system attributes that a study has."""
    attrs = STUDY_SYSTEM_ATTRS
    rows = connection.execute(
        sa.select(attrs.c.key, attrs.c.value_json).where(
            attrs.c.study_id == study_id, attrs.c.key.in_(keys)
        )
    )
    return {row.key: json.loads(row.value_json) for row in rows}


def end(
    connection: sa.Connection,
    study_id: int,
    number: int,
    state: TrialState,
    value: float | None,
    user_attrs: Mapping[str, Any],
    constraints: Mapping[str, float] | None = None,
) -> bool:
    """End a trial; False, and nothing is stored, where it has ended already.

    Args:
        value: NaN is none, as it is to Optuna.
        constraints: as of `optuna.Trial.set_constraint`; above 0 is infeasible.
    """
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    trial_id = connection.execute(
        sa.update(TRIALS)
        .where(
            TRIALS.c.study_id == study_id,
            TRIALS.c.number == number,
            TRIALS.c.state.in_((TrialState.RUNNING, TrialState.WAITING)),
        )
        .values(state=state, datetime_complete=now)
        .returning(TRIALS.c.trial_id)
    ).scalar()
    if trial_id is None:
        return False
    if value is not None and not math.isnan(value):
        connection.execute(sa.insert(TRIAL_VALUES).values(value_row(trial_id, value)))
    rows = [attr_row(trial_id, key, value) for key, value in user_attrs.items()]
    _put_attrs(connection, TRIAL_USER_ATTRS, rows)
    shares = [attr_row(trial_id, CONSTRAINT + k, v) for k, v in (constraints or {}).items()]
    _put_attrs(connection, TRIAL_SYSTEM_ATTRS, shares)
    return True


def delete(connection: sa.Connection, study_id: int) -> None:
    """Delete a study with its trials and everything that belongs to them."""
    trials = sa.select(TRIALS.c.trial_id).where(TRIALS.c.study_id == study_id)
    for table in reversed(optuna_tables()):
        if "study_id" in table.c:
            mine = table.c.study_id == study_id
        else:
            mine = table.c.trial_id.in_(trials)
        connection.execute(sa.delete(table).where(mine))


def step(trial_id: int, epoch: int, value: float) -> tuple[sa.Table, dict[str, Any]]:
    """The table and the row of an intermediate value."""
    return TRIAL_STEPS, step_row(trial_id, epoch, value)


def forget_steps(connection: sa.Connection, trial_id: int, after: int) -> None:
    """Drop a trial's intermediate values of later epochs."""
    later = sa.and_(TRIAL_STEPS.c.trial_id == trial_id, TRIAL_STEPS.c.step > after)
    connection.execute(sa.delete(TRIAL_STEPS).where(later))


def insert_for(dialect: str) -> Any:
    """The dialect's INSERT that knows ON CONFLICT."""
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as postgres_insert

        return postgres_insert
    from sqlalchemy.dialects.sqlite import insert as sqlite_insert

    return sqlite_insert


def _insert_trial(connection: sa.Connection, study_id: int, now: datetime.datetime) -> Begun:
    if connection.dialect.name == "postgresql":  # as Optuna does: numbers are counted
        connection.execute(
            sa.select(STUDIES.c.study_id).where(STUDIES.c.study_id == study_id).with_for_update()
        )
    earlier = TRIALS.alias()
    number = sa.select(sa.func.count()).where(earlier.c.study_id == study_id).scalar_subquery()
    row = connection.execute(
        sa.insert(TRIALS)
        .values(study_id=study_id, number=number, state=TrialState.RUNNING, datetime_start=now)
        .returning(TRIALS.c.trial_id, TRIALS.c.number)
    ).one()
    return Begun(row.trial_id, row.number)


def running(connection: sa.Connection) -> list[tuple[int, int, int]]:
    """(study id, number, trial id) of every trial that Optuna takes for running."""
    query = sa.select(TRIALS.c.study_id, TRIALS.c.number, TRIALS.c.trial_id)
    rows = connection.execute(query.where(TRIALS.c.state == TrialState.RUNNING))
    return [(row.study_id, row.number, row.trial_id) for row in rows]


def back_into_queue(connection: sa.Connection, trial_id: int) -> bool:
    """Let a trial wait again whose parameters were enqueued; False where they were drawn."""
    attrs = TRIAL_SYSTEM_ATTRS
    of_trial = attrs.c.trial_id == trial_id
    enqueued = sa.select(attrs.c.key).where(of_trial, attrs.c.key == "fixed_params")
    if connection.execute(enqueued).first() is None:
        return False
    connection.execute(sa.delete(TRIAL_PARAMS).where(TRIAL_PARAMS.c.trial_id == trial_id))
    connection.execute(sa.delete(attrs).where(of_trial, attrs.c.key != "fixed_params"))
    connection.execute(
        sa.update(TRIALS)
        .where(TRIALS.c.trial_id == trial_id)
        .values(state=TrialState.WAITING, datetime_start=None)
    )
    return True


def drop_user_attr(connection: sa.Connection, key: str, value: Any) -> None:
    """Remove an attribute wherever it has this value."""
    attrs = TRIAL_USER_ATTRS
    same = sa.and_(attrs.c.key == key, attrs.c.value_json == json.dumps(value))
    connection.execute(sa.delete(attrs).where(same))


def _put_attrs(
    connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Store attributes of a trial, or of a study."""
    if not rows:
        return
    keys = [table.c[name] for name in rows[0] if name != "value_json"]
    insert = insert_for(connection.dialect.name)(table).values(rows)
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=keys,
            set_={"value_json": insert.excluded.value_json},
        )
    )
