"""Which studies of a store have work: what a worker of many studies asks between trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence

import sqlalchemy as sa

from search.database.optuna_private import STUDIES
from search.database.store import Store
from search.database.tables import OPEN, RUNNING, control_table, slot_table, study_table
from search.studies.claimable import claimable
from search.studies.owners import is_dead
from search.studies.slots import is_ahead
from spaces.spec import BESIDE


def studies_with_open_slots(store: Store, only: str | None) -> list[int]:
    """Ids of studies with a slot to claim: fewest running trials first, then oldest.

    Args:
        only: name of the one study that is served, with those beside it; None for all.
    """
    late = sa.func.max(sa.case((slot_table.c.lease_until < store.now(), 1), (is_ahead(store), 1)))
    query = (
        sa.select(slot_table.c.study_id, slot_table.c.state, slot_table.c.owner, late.label("late"))
        .join(control_table, control_table.c.study_id == slot_table.c.study_id)
        .where(
            claimable(control_table.c.stop),
            slot_table.c.state.in_((OPEN, RUNNING)),
            _served(store, only),
        )
        .group_by(slot_table.c.study_id, slot_table.c.state, slot_table.c.owner)
    )
    with store.engine.connect() as connection:
        rows = connection.execute(query).all()
    running: Counter[int] = Counter()
    found = set()
    for row in rows:
        if row.state == OPEN or row.late or is_dead(row.owner):
            found.add(row.study_id)
        else:
            running[row.study_id] += 1
    return sorted(found, key=lambda study_id: (running[study_id], study_id))


def is_unfinished(store: Store, only: str | None, but: Container[int]) -> bool:
    """Whether a slot runs anywhere, or is open in a study that may be served here.

    Args:
        only: as of `studies_with_open_slots`.
        but: ids of studies that are not served here.
    """
    query = (
        sa.select(slot_table.c.study_id, slot_table.c.state, claimable(control_table.c.stop))
        .join(control_table, control_table.c.study_id == slot_table.c.study_id)
        .where(slot_table.c.state.in_((OPEN, RUNNING)), _served(store, only))
        .distinct()
    )
    with store.engine.connect() as connection:
        rows = connection.execute(query).all()
    return any(
        state == RUNNING or (is_open and study_id not in but) for study_id, state, is_open in rows
    )


def existing(store: Store, ids: Sequence[int]) -> set[int]:
    """Those of these studies that nobody has deleted; asks nothing where there are none."""
    if not ids:
        return set()
    query = sa.select(study_table.c.study_id).where(study_table.c.study_id.in_(ids))
    with store.engine.connect() as connection:
        return set(connection.execute(query).scalars())


def _served(store: Store, only: str | None) -> sa.ColumnElement[bool]:
    if only is None:
        return slot_table.c.study_id.in_(sa.select(study_table.c.study_id))
    named = STUDIES.c.study_name.in_((only, *(only + suffix for suffix in BESIDE)))
    return slot_table.c.study_id.in_(sa.select(STUDIES.c.study_id).where(named))
