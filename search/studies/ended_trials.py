"""Which trials have ended, of all studies of a store: their files are done with."""

from __future__ import annotations

import sqlalchemy as sa

from search.database.store import Store
from search.database.tables import ENDED, slot_table, study_table


def ended_trials(store: Store) -> dict[str, set[int]]:
    """{uid: numbers of the trials that have ended}, of every study that the store knows."""
    with store.engine.connect() as connection:
        known = sa.select(study_table.c.study_id, study_table.c.uid)
        uids = dict(connection.execute(known).tuples().all())
        ended = connection.execute(
            sa.select(slot_table.c.study_id, slot_table.c.trial_number).where(
                slot_table.c.state.in_(ENDED), slot_table.c.trial_number.is_not(None)
            )
        ).all()
    found: dict[str, set[int]] = {uid: set() for uid in uids.values()}
    for study_id, number in ended:
        if study_id in uids:
            found[uids[study_id]].add(number)
    return found
