"""Optuna's storage with trials read in bulk.

Optuna maps every parameter, attribute and intermediate value to an object before it builds the
trial: at 3,000 trials of 100 epochs that is most of what a dashboard waits for. Six plain queries
give the same trials (tests/service/test_optuna_reader.py holds them equal).
"""

from __future__ import annotations

import datetime
import json
from collections import defaultdict
from collections.abc import Container, Iterable
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from search.database.optuna_private import (
    TRIAL_PARAMS,
    TRIAL_STEPS,
    TRIAL_SYSTEM_ATTRS,
    TRIAL_USER_ATTRS,
    TRIAL_VALUES,
    TRIALS,
    OwnReads,
    number,
)

MOST_IDS = 500  # named one by one in a query; beyond, all later ones are read


class BulkStorage(OwnReads):
    """Reads many trials with one query a table."""

    def read_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        chosen_ids: set[int],
        above_id: int,
    ) -> list[FrozenTrial]:
        older = {i for i in chosen_ids if i <= above_id}
        floor = above_id
        if len(older) > MOST_IDS:
            floor = min(older) - 1
        wanted = sa.or_(TRIALS.c.trial_id > floor, TRIALS.c.trial_id.in_(older))
        where = sa.and_(TRIALS.c.study_id == study_id, wanted)
        with self.engine.connect() as connection:
            # one moment's view, as one query of Optuna's would give
            if connection.dialect.name == "postgresql":
                connection.execution_options(isolation_level="REPEATABLE READ")
            rows = connection.execute(
                sa.select(
                    TRIALS.c.trial_id,
                    TRIALS.c.number,
                    sa.type_coerce(TRIALS.c.state, sa.String).label("state"),
                    TRIALS.c.datetime_start,
                    TRIALS.c.datetime_complete,
                )
                .where(where)
                .order_by(TRIALS.c.trial_id)
            ).all()
            if not rows:
                self.get_study_name_from_id(study_id)  # a KeyError where there is no such study
                return []
            parts = _Parts(connection, where)
        found = []
        for row in rows:
            state = TrialState[row.state]
            if states is None or state in states:
                found.append(parts.trial(row, state))
        return found


def system_attribute(study_id: int, key: str) -> sa.Select[Any]:
    """The query of one system attribute, as JSON, of a study's trials, with their numbers."""
    return (
        sa.select(TRIALS.c.number, TRIAL_SYSTEM_ATTRS.c.value_json)
        .join(TRIAL_SYSTEM_ATTRS, TRIAL_SYSTEM_ATTRS.c.trial_id == TRIALS.c.trial_id)
        .where(TRIALS.c.study_id == study_id, TRIAL_SYSTEM_ATTRS.c.key == key)
    )


class _Parts:
    """Everything that belongs to the chosen trials, by trial id."""

    def __init__(self, connection: sa.Connection, where: sa.ColumnElement[bool]) -> None:
        def read(table: sa.Table, *columns: str, order: str | None = None) -> Iterable[Any]:
            chosen = [
                sa.type_coerce(table.c[name], sa.String)
                if name.endswith("_type")
                else table.c[name]
                for name in columns
            ]
            query = sa.select(table.c.trial_id, *chosen).join(
                TRIALS, TRIALS.c.trial_id == table.c.trial_id
            )
            query = query.where(where)
            return connection.execute(query.order_by(table.c[order]) if order else query)

        self.values: dict[int, dict[int, float]] = defaultdict(dict)
        for i, objective, value, kind in read(TRIAL_VALUES, "objective", "value", "value_type"):
            self.values[i][objective] = number(value, kind)
        self.params: dict[int, dict[str, Any]] = defaultdict(dict)
        self.distributions: dict[int, dict[str, BaseDistribution]] = defaultdict(dict)
        for i, name, value, text in read(
            TRIAL_PARAMS,
            "param_name",
            "param_value",
            "distribution_json",
            order="param_id",
        ):
            distribution = _distribution(text)
            self.distributions[i][name] = distribution
            self.params[i][name] = distribution.to_external_repr(value)
        self.steps: dict[int, dict[int, float]] = defaultdict(dict)
        for i, step, value, kind in read(
            TRIAL_STEPS,
            "step",
            "intermediate_value",
            "intermediate_value_type",
        ):
            self.steps[i][step] = number(value, kind)
        self.user: dict[int, dict[str, Any]] = defaultdict(dict)
        for i, key, text in read(TRIAL_USER_ATTRS, "key", "value_json"):
            self.user[i][key] = json.loads(text)
        self.system: dict[int, dict[str, Any]] = defaultdict(dict)
        for i, key, text in read(TRIAL_SYSTEM_ATTRS, "key", "value_json"):
            self.system[i][key] = json.loads(text)

    def trial(self, row: Any, state: TrialState) -> FrozenTrial:
        values = self.values.get(row.trial_id)
        return FrozenTrial(
            number=row.number,
            state=state,
            value=None,
            values=None if values is None else [values[i] for i in sorted(values)],
            datetime_start=_local(row.datetime_start),
            datetime_complete=_local(row.datetime_complete),
            params=self.params.get(row.trial_id, {}),
            distributions=self.distributions.get(row.trial_id, {}),
            user_attrs=self.user.get(row.trial_id, {}),
            system_attrs=self.system.get(row.trial_id, {}),
            intermediate_values=self.steps.get(row.trial_id, {}),
            trial_id=row.trial_id,
        )


def _local(moment: datetime.datetime | None) -> datetime.datetime | None:
    """Stored in UTC, shown in local time, both without saying so."""
    if moment is None:
        return None
    return moment.replace(tzinfo=datetime.UTC).astimezone().replace(tzinfo=None)


@lru_cache(maxsize=4096)
def _distribution(text: str) -> BaseDistribution:
    """Distributions are never changed once made: equal ones are one object."""
    return json_to_distribution(text)
