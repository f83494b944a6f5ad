"""A study taken out of the store, with all that ours and Optuna's tables have of it."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from search.database import optuna_writer
from search.database.tables import (
    RUNNING,
    control_table,
    epoch_table,
    job_table,
    slot_table,
    study_table,
    worker_table,
)
from search.studies.earlier import delete_earlier
from search.studies.jobs import RUNNING as JOB_RUNS
from search.studies.owners import is_dead
from search.studies.slots import LEASE_SECONDS
from search.studies.study import Study
from spaces.errors import InputError


def delete_rows(studies: Sequence[Study]) -> None:
    """Delete a study, and those beside it, in one transaction.

    Claims of slots take the same lock: whoever comes later finds no study.

    Raises:
        InputError: workers run trials of it.
        UnknownStudy: somebody else has deleted it.
    """
    store, name = studies[0].store, studies[0].spec.name
    ids = [study.study_id for study in studies]
    with store.locked(ids[0]) as connection:
        for study_id in ids[1:]:
            store.lock_in(connection, study_id)
        if store.postgres:
            connection.execute(sa.text("SET LOCAL statement_timeout = 0"))  # many trials take long
        if busy := _at_work(connection, studies):
            raise InputError(
                f"study {name} cannot be deleted while workers run its trials: {'; '.join(busy)}. "
                f"First stop it: segtune stop {name} --now (a worker that is gone is forgotten "
                f"within {LEASE_SECONDS:.0f} s)"
            )
        names = [study.spec.name for study in studies]
        # a worker that was lost may still be shown
        connection.execute(
            sa.update(worker_table)
            .where(worker_table.c.study.in_(names))
            .values(study=None, trial_number=None)
        )
        theirs = job_table.c.study.in_(names)
        # the job that does this stays, without a study: begun again it must not take a namesake
        own = sa.and_(theirs, job_table.c.kind == "delete", job_table.c.state == JOB_RUNS)
        connection.execute(sa.update(job_table).where(own).values(study=None))
        connection.execute(sa.delete(job_table).where(theirs))
        for table in (epoch_table, slot_table, control_table, study_table):
            connection.execute(sa.delete(table).where(table.c.study_id.in_(ids)))
        delete_earlier(connection, name)
        for study_id in ids:
            optuna_writer.delete(connection, study_id)


def _at_work(connection: sa.Connection, studies: Sequence[Study]) -> list[str]:
    """Who holds a slot of these studies now, in words."""
    store = studies[0].store
    rows = connection.execute(
        sa.select(slot_table.c.owner, slot_table.c.trial_number)
        .where(
            slot_table.c.study_id.in_([study.study_id for study in studies]),
            slot_table.c.state == RUNNING,
            slot_table.c.lease_until >= store.now(),
        )
        .order_by(slot_table.c.study_id, slot_table.c.slot)
    ).all()
    found = []
    for row in rows:
        if not is_dead(row.owner):
            host, pid, _ = row.owner.rsplit(":", 2)
            found.append(f"process {pid} on {host} (trial {row.trial_number})")
    return found
