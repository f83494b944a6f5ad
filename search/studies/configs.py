"""The settings that a trial was begun with, as they are kept with it."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial

from search.database.optuna_reader import table_of
from search.database.tables import slot_table

CONFIG = "segtune:config"  # the system attribute


def drawn_config(trial: FrozenTrial) -> dict[str, Any] | None:
    """The settings that a trial was begun with, by dotted name; None where it was not drawn.

    They are no user attribute: optuna-dashboard would show them in one line of a thousand letters.
    """
    return trial.system_attrs.get(CONFIG) or trial.user_attrs.get("config")  # the latter: 0.1


def configs_ended_after(
    connection: sa.Connection, study_id: int, ended: int
) -> dict[int, dict[str, Any]]:
    """{trial: the settings that it was begun with} of those that ended after `ended`."""
    trials, attrs = table_of(models.TrialModel), table_of(models.TrialSystemAttributeModel)
    same = sa.and_(
        slot_table.c.study_id == trials.c.study_id, slot_table.c.trial_number == trials.c.number
    )
    rows = connection.execute(
        sa.select(trials.c.number, attrs.c.value_json)
        .join(attrs, attrs.c.trial_id == trials.c.trial_id)
        .join(slot_table, same)
        .where(
            slot_table.c.study_id == study_id,
            slot_table.c.ended_as > ended,
            attrs.c.key == CONFIG,
        )
    )
    return {row.number: json.loads(row.value_json) for row in rows}
