"""Who works for a store: each worker's host, process, device and trial, as it last said."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from search.database.store import Store
from search.database.tables import worker_table
from search.studies.owners import is_dead
from search.studies.slots import LEASE_SECONDS

JOB = "SEGTUNE_JOB"  # where an engine runs this worker, as in `slurm 4711_2`
FORGET_SECONDS = 24 * 3600.0  # a worker that was lost so long ago is no longer shown


@dataclass
class Registration:
    """One worker's entry; it has a meaning while the worker lives."""

    store: Store
    owner: str
    device: str

    def enter(self) -> None:
        """Make the entry; entries of workers lost long ago go."""
        with self.store.engine.begin() as connection:
            connection.execute(
                sa.delete(worker_table).where(
                    (worker_table.c.owner == self.owner)
                    | (sa.func.abs(self.store.now() - worker_table.c.seen_at) > FORGET_SECONDS)
                )
            )
            connection.execute(
                sa.insert(worker_table).values(
                    owner=self.owner,
                    host=socket.gethostname(),
                    pid=os.getpid(),
                    device=self.device,
                    job=os.environ.get(JOB),
                    started_at=self.store.now(),
                    seen_at=self.store.now(),
                )
            )

    def works_on(self, study: str | None, trial_number: int | None) -> None:
        """Say what runs here from now on; None for nothing."""
        self._update(study=study, trial_number=trial_number, since=self.store.now())

    def seen(self) -> None:
        """Say that the worker is alive."""
        self._update()

    def leave(self) -> None:
        """Take the entry out, if the store is there; else it will look lost, and be forgotten."""
        with contextlib.suppress(sa.exc.SQLAlchemyError), self.store.engine.begin() as connection:
            connection.execute(sa.delete(worker_table).where(worker_table.c.owner == self.owner))

    def _update(self, **values: Any) -> None:
        with self.store.engine.begin() as connection:
            connection.execute(
                sa.update(worker_table)
                .where(worker_table.c.owner == self.owner)
                .values(seen_at=self.store.now(), **values)
            )


def workers(store: Store) -> list[dict[str, Any]]:
    """Return every worker as plain data, oldest first; `state` is idle, running or lost."""
    now = store.now()
    with store.engine.connect() as connection:
        rows = connection.execute(
            sa.select(
                worker_table.c.owner,
                worker_table.c.host,
                worker_table.c.pid,
                worker_table.c.device,
                worker_table.c.job,
                worker_table.c.study,
                worker_table.c.trial_number,
                (now - worker_table.c.since).label("for_seconds"),
                (now - worker_table.c.seen_at).label("silent_seconds"),
            ).order_by(worker_table.c.started_at)
        ).all()
    found = []
    for row in rows:
        facts = dict(row._mapping)
        owner = facts.pop("owner")
        # in the future where the database's clock was put back since
        lost = abs(facts["silent_seconds"]) > LEASE_SECONDS or is_dead(owner)
        for name in ("for_seconds", "silent_seconds"):
            facts[name] = None if facts[name] is None else max(0.0, facts[name])
        facts["state"] = "lost" if lost else "running" if facts["study"] else "idle"
        found.append(facts)
    return found
