"""Optuna's storage with trials read in bulk.

Optuna maps every parameter, attribute and intermediate value to an object before it builds the
trial: at 3,000 trials of 100 epochs that is most of what a dashboard waits for. Six plain queries
give the same trials (tests/service/test_trial_reader.py holds them equal).
"""

from __future__ import annotations

import datetime
import json
import math
from collections import defaultdict
from collections.abc import Container, Iterable
from functools import lru_cache
from typing import Any, cast

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState

MOST_IDS = 500  # named one by one in a query; beyond, all later ones are read
_SPECIAL = {"NAN": math.nan, "INF_POS": math.inf, "INF_NEG": -math.inf}


class BulkStorage(RDBStorage):
    """Reads many trials with one query a table."""

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        trials = table_of(models.TrialModel)
        older = {i for i in included_trial_ids if i <= trial_id_greater_than}
        floor = trial_id_greater_than
        if len(older) > MOST_IDS:
            floor = min(older) - 1
        wanted = sa.or_(trials.c.trial_id > floor, trials.c.trial_id.in_(older))
        where = sa.and_(trials.c.study_id == study_id, wanted)
        with self.engine.connect() as connection:
            # one moment's view, as one query of Optuna's would give
            if connection.dialect.name == "postgresql":
                connection.execution_options(isolation_level="REPEATABLE READ")
            rows = connection.execute(
                sa.select(
                    trials.c.trial_id,
                    trials.c.number,
                    sa.type_coerce(trials.c.state, sa.String).label("state"),
                    trials.c.datetime_start,
                    trials.c.datetime_complete,
                )
                .where(where)
                .order_by(trials.c.trial_id)
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


class _Parts:
    """Everything that belongs to the chosen trials, by trial id."""

    def __init__(self, connection: sa.Connection, where: sa.ColumnElement[bool]) -> None:
        def read(model: Any, *columns: str, order: str | None = None) -> Iterable[Any]:
            table, trials = table_of(model), table_of(models.TrialModel)
            chosen = [
                sa.type_coerce(table.c[name], sa.String)
                if name.endswith("_type")
                else table.c[name]
                for name in columns
            ]
            query = sa.select(table.c.trial_id, *chosen).join(
                trials, trials.c.trial_id == table.c.trial_id
            )
            query = query.where(where)
            return connection.execute(query.order_by(table.c[order]) if order else query)

        self.values: dict[int, dict[int, float]] = defaultdict(dict)
        for i, objective, value, kind in read(
            models.TrialValueModel, "objective", "value", "value_type"
        ):
            self.values[i][objective] = value if kind == "FINITE" else _SPECIAL[kind]
        self.params: dict[int, dict[str, Any]] = defaultdict(dict)
        self.distributions: dict[int, dict[str, BaseDistribution]] = defaultdict(dict)
        for i, name, value, text in read(
            models.TrialParamModel,
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
            models.TrialIntermediateValueModel,
            "step",
            "intermediate_value",
            "intermediate_value_type",
        ):
            self.steps[i][step] = value if kind == "FINITE" else _SPECIAL[kind]
        self.user: dict[int, dict[str, Any]] = defaultdict(dict)
        for i, key, text in read(models.TrialUserAttributeModel, "key", "value_json"):
            self.user[i][key] = json.loads(text)
        self.system: dict[int, dict[str, Any]] = defaultdict(dict)
        for i, key, text in read(models.TrialSystemAttributeModel, "key", "value_json"):
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


def table_of(model: Any) -> sa.Table:
    """The table of one of Optuna's models."""
    return cast(sa.Table, model.__table__)
