"""Which open slots may be claimed, as SQL: what a claim and a look for open studies share."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from search.database.tables import GAIN, PAUSED, SPENT, slot_table


def claimable(stop: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """Whether an open slot may be claimed: of an open study; where its hours are spent, if paused;
    where it has ended by itself, if its trial was interrupted.

    Args:
        stop: why the study was stopped.
    """
    paused = sa.func.coalesce(slot_table.c.reason, "") == PAUSED
    return sa.or_(
        stop.is_(None),
        sa.and_(stop.in_(SPENT), paused),
        sa.and_(stop == GAIN, slot_table.c.trial_number.is_not(None), ~paused),
    )
