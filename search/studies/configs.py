"""The settings that a trial was begun with, as they are kept with it."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from optuna.trial import FrozenTrial

from search.database.optuna_reader import system_attribute
from search.database.tables import slot_table
from search.studies.trial_facts import TrialFacts

CONFIG = "segtune:config"  # the system attribute


def drawn_config(trial: FrozenTrial) -> dict[str, Any] | None:
    """The settings that a trial was begun with, by dotted name; None where it was not drawn.

    They are no user attribute: optuna-dashboard would show them in one line of a thousand letters.
    """
    return trial.system_attrs.get(CONFIG) or TrialFacts.of(trial).config  # the latter: 0.1


def configs_ended_after(
    connection: sa.Connection, study_id: int, ended: int
) -> dict[int, dict[str, Any]]:
    """{trial: the settings that it was begun with} of those that ended after `ended`."""
    config = system_attribute(study_id, CONFIG).subquery()
    rows = connection.execute(
        sa.select(config.c.number, config.c.value_json)
        .join(slot_table, slot_table.c.trial_number == config.c.number)
        .where(slot_table.c.study_id == study_id, slot_table.c.ended_as > ended)
    )
    return {row.number: json.loads(row.value_json) for row in rows}
