"""How far each study of a store is: what a list of them shows, in two statements for all."""

from __future__ import annotations

import json
from dataclasses import dataclass

import sqlalchemy as sa

from search.database.optuna_private import TRIAL_VALUES, TRIALS
from search.database.store import Store
from search.database.tables import ENDED, slot_table, study_table


@dataclass(frozen=True)
class Overview:
    """How far a study is.

    Attributes:
        ended: slots that have.
        slots: that it has in all.
        best: highest value of a trial, with folds of one that trained on all; None: no value yet.
    """

    ended: int
    slots: int
    best: float | None


def overviews(store: Store) -> dict[int, Overview]:
    """{study id: how far it is} of all studies of segtune's."""
    counted = (
        sa.select(
            study_table.c.study_id,
            study_table.c.spec,
            sa.func.count(slot_table.c.slot).label("slots"),
            sa.func.sum(sa.case((slot_table.c.state.in_(ENDED), 1), else_=0)).label("ended"),
        )
        .join(slot_table, slot_table.c.study_id == study_table.c.study_id)
        .group_by(study_table.c.study_id, study_table.c.spec)
    )
    state = sa.type_coerce(TRIALS.c.state, sa.String)
    valued = (
        sa.select(TRIALS.c.study_id, state.label("state"), sa.func.max(TRIAL_VALUES.c.value))
        .join(TRIAL_VALUES, TRIAL_VALUES.c.trial_id == TRIALS.c.trial_id)
        .where(state.in_(("COMPLETE", "PRUNED")))
        .group_by(TRIALS.c.study_id, state)
    )
    with store.engine.connect() as connection:
        rows = connection.execute(counted).all()
        best = {(study_id, state): value for study_id, state, value in connection.execute(valued)}
    found = {}
    for row in rows:
        states = ("COMPLETE",) if json.loads(row.spec)["data"].get("folds") else ENDED
        values = [best[key] for state in states if (key := (row.study_id, state)) in best]
        found[row.study_id] = Overview(int(row.ended), row.slots, max(values, default=None))
    return found
