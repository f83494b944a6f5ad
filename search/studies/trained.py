"""How many epochs the trials of some studies have trained, and how long that took: two statements.

Those of ended trials stay as they are, so that a list reads them again only where one has ended.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Any, NamedTuple

import sqlalchemy as sa

from search.database.optuna_private import TRIAL_USER_ATTRS, TRIALS
from search.database.store import Store
from search.database.tables import ENDED, OPEN, PAUSED, RUNNING, epoch_table, slot_table
from search.studies.slots import held_seconds


class Trained(NamedTuple):
    """What a trial has trained.

    Attributes:
        reason: why it ended, or waits; None where it runs.
        seconds: of its epochs; None where that is not known, as of trials that have not ended.
        held: seconds that it has held a device, up to now.
    """

    trial: int
    state: str
    reason: str | None
    epochs: int
    seconds: float | None
    held: float

    @property
    def paused(self) -> bool:
        return self.state == OPEN and self.reason == PAUSED

    @property
    def ended(self) -> bool:
        return self.state in ENDED


def ended_trials(store: Store, ids: Collection[int]) -> dict[int, list[Trained]]:
    """{study id: its trials that have ended}; asks nothing where there are no studies."""
    epochs, seconds = TRIAL_USER_ATTRS.alias(), TRIAL_USER_ATTRS.alias()
    query = (
        sa.select(
            slot_table.c.study_id,
            slot_table.c.trial_number,
            slot_table.c.state,
            slot_table.c.reason,
            sa.func.coalesce(_number(epochs, sa.Integer), 0),
            _number(seconds, sa.Double),
            held_seconds(store),
        )
        .join(
            TRIALS,
            sa.and_(
                TRIALS.c.study_id == slot_table.c.study_id,
                TRIALS.c.number == slot_table.c.trial_number,
            ),
        )
        .outerjoin(
            epochs, sa.and_(epochs.c.trial_id == TRIALS.c.trial_id, epochs.c.key == "epochs")
        )
        .outerjoin(
            seconds, sa.and_(seconds.c.trial_id == TRIALS.c.trial_id, seconds.c.key == "seconds")
        )
        .where(
            slot_table.c.study_id.in_(list(ids)),
            TRIALS.c.study_id.in_(list(ids)),  # the same, so that no other trial is looked at
            slot_table.c.state.in_(ENDED),
        )
    )
    return _by_study(store, query, ids)


def begun_trials(store: Store, ids: Collection[int]) -> dict[int, list[Trained]]:
    """{study id: its trials that have begun and not ended}; asks nothing where there are none."""
    query = (
        sa.select(
            slot_table.c.study_id,
            slot_table.c.trial_number,
            slot_table.c.state,
            slot_table.c.reason,
            sa.func.count(epoch_table.c.epoch),
            sa.null(),
            sa.func.max(held_seconds(store)),
        )
        .outerjoin(epoch_table, reported())
        .where(slot_table.c.study_id.in_(list(ids)), begun())
        .group_by(
            slot_table.c.study_id,
            slot_table.c.trial_number,
            slot_table.c.state,
            slot_table.c.reason,
        )
    )
    return _by_study(store, query, ids)


def begun() -> sa.ColumnElement[bool]:
    """Whether a slot has a trial that has not ended."""
    return sa.and_(slot_table.c.state.in_((OPEN, RUNNING)), slot_table.c.trial_number.is_not(None))


def reported() -> sa.ColumnElement[bool]:
    """Whether an epoch's report is of a slot's trial."""
    return sa.and_(
        epoch_table.c.study_id == slot_table.c.study_id,
        epoch_table.c.trial_number == slot_table.c.trial_number,
    )


def _by_study(
    store: Store, query: sa.Select[Any], ids: Collection[int]
) -> dict[int, list[Trained]]:
    found: dict[int, list[Trained]] = defaultdict(list)
    if ids:
        with store.engine.connect() as connection:
            for study_id, *row in connection.execute(query):
                found[study_id].append(Trained(*row))
    return found


def _number(attribute: Any, kind: type[sa.types.TypeEngine[Any]]) -> sa.ColumnElement[Any]:
    """A user attribute's number; NULL where it is not there, or JSON's null."""
    return sa.cast(sa.func.nullif(attribute.c.value_json, "null"), kind)
