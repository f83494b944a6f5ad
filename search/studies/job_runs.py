"""What a runner does with a job: takes it, shows that it lives, and ends it.

Each step is one statement or one transaction. When a runner has been silent for a lease, its job is
lost; nobody but a user begins it again.
"""

from __future__ import annotations

from typing import Literal

import sqlalchemy as sa

from search.database.store import Store
from search.database.tables import job_table
from search.studies.jobs import (
    CANCELLED,
    ENDED,
    IMAGE_BYTES,
    LOST,
    RUNNING,
    WAITING,
    Job,
    find,
    is_silent,
)
from search.studies.owners import is_dead

RESULTS, RESULT_DAYS = 20, 7  # results that are kept, and for how long
FORGET_DAYS = 30  # a job that ended so long ago is no longer shown
DAY = 24 * 3600.0


def claim(store: Store, owner: str) -> Job | None:
    """Take the job that has waited longest, or return None where none waits.

    Jobs of runners that are gone, and those that nobody wants any more, end before. Called again
    after a lost answer it returns the job that the lost call has taken.
    """
    ours = job_table.c.runner == owner
    oldest = (
        sa.select(job_table.c.number)
        .where(job_table.c.state == WAITING, job_table.c.cancelled_by.is_(None))
        .order_by(job_table.c.number)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    taken = sa.update(job_table).where(job_table.c.number == oldest.scalar_subquery())
    now = {"begun_at": store.now(), "seen_at": store.now()}
    with store.engine.begin() as connection:
        _end_abandoned(store, connection)
        held = connection.execute(
            sa.select(job_table.c.number).where(ours, job_table.c.state == RUNNING)
        ).scalar()
        if held is None:
            held = connection.execute(
                taken.values(state=RUNNING, runner=owner, **now).returning(job_table.c.number)
            ).scalar()
    return None if held is None else find(store, held)


def image_of(store: Store, job: Job) -> bytes | None:
    """The image that was sent along with a job; None where there is none, or too large a one."""
    size = sa.func.length(job_table.c.sent)
    query = sa.select(job_table.c.sent).where(job_table.c.number == job.number, size <= IMAGE_BYTES)
    with store.engine.connect() as connection:
        return connection.execute(query).scalar()


def beat(
    store: Store, job: Job, *, lines: str | None = None, result: str | None = None
) -> Literal["ours", "cancelled", "gone"]:
    """Show that a job's runner lives; whether the job is still ours, and wanted. One statement.

    Args:
        lines: all of them, where there are new ones.
        result: the key of the file that is about to be written.
    """
    changes = {"lines": lines, "result": result}
    given = {name: value for name, value in changes.items() if value is not None}
    shown = _ours(job).values(seen_at=store.now(), **given)
    with store.engine.begin() as connection:
        row = connection.execute(shown.returning(job_table.c.cancelled_by)).first()
    if row is None:
        return "gone"
    return "ours" if row.cancelled_by is None else "cancelled"


def end(store: Store, job: Job, state: str, code: int | None, lines: str) -> bool:
    """Store how a job ended; False where it is no longer ours. Twice the same is True twice."""
    over = {"state": state, "code": code, "lines": lines, "sent": None}
    ended = _ours(job).values(**over, ended_at=store.now())
    with store.engine.begin() as connection:
        if connection.execute(ended).rowcount:
            return True
    now = find(store, job.number)
    return now is not None and (now.runner, now.stored_state) == (job.runner, state)


def give_back(store: Store, job: Job) -> None:
    """Let a job wait again, which its runner cannot go on with; it begins anew."""
    freed = dict.fromkeys(("runner", "begun_at", "seen_at", "result"))
    with store.engine.begin() as connection:
        connection.execute(_ours(job).values(state=WAITING, lines="", **freed))


def stale_results(store: Store) -> list[tuple[int, str]]:
    """(job, key) of the results that are to go: old ones, all but the latest, and half ones."""
    table = job_table.c
    kept = (
        sa.select(table.number)
        .where(table.state == ENDED, table.result.is_not(None))
        .where(table.ended_at > store.now() - RESULT_DAYS * DAY)
        .order_by(table.ended_at.desc(), table.number.desc())
        .limit(RESULTS)
    )
    query = sa.select(table.number, table.result).where(
        table.result.is_not(None), table.state != RUNNING, table.number.not_in(kept)
    )
    with store.engine.connect() as connection:
        return [(row.number, row.result) for row in connection.execute(query)]


def forget_results(store: Store, numbers: list[int]) -> None:
    """Say that the results of these jobs are gone; and forget jobs that ended long ago."""
    table = job_table.c
    old = table.ended_at < store.now() - FORGET_DAYS * DAY
    with store.engine.begin() as connection:
        gone = sa.update(job_table).where(table.number.in_(numbers)).values(result=None)
        connection.execute(gone)
        connection.execute(sa.delete(job_table).where(old, table.result.is_(None)))


def results_of(store: Store, studies: list[str]) -> list[str]:
    """Keys of the results of some studies' jobs."""
    query = sa.select(job_table.c.result).where(
        job_table.c.study.in_(studies), job_table.c.result.is_not(None)
    )
    with store.engine.connect() as connection:
        return list(connection.execute(query).scalars())


def _end_abandoned(store: Store, connection: sa.Connection) -> None:
    """End jobs whose runner is gone, and those that nobody wants any more."""
    table = job_table.c
    rows = connection.execute(
        sa.select(table.number, table.state, table.runner, is_silent(store).label("silent")).where(
            sa.or_(
                table.state == RUNNING,
                sa.and_(table.state == WAITING, table.cancelled_by.is_not(None)),
            )
        )
    ).all()
    lost = [r.number for r in rows if r.state == RUNNING and (r.silent or is_dead(r.runner))]
    unwanted = [row.number for row in rows if row.state == WAITING]
    for numbers, before, after in ((lost, RUNNING, LOST), (unwanted, WAITING, CANCELLED)):
        if numbers:
            these = sa.update(job_table).where(table.number.in_(numbers), table.state == before)
            connection.execute(these.values(state=after, ended_at=store.now(), sent=None))


def _ours(job: Job) -> sa.Update:
    """An update of a job while its runner has it."""
    return sa.update(job_table).where(
        job_table.c.number == job.number,
        job_table.c.runner == job.runner,
        job_table.c.state == RUNNING,
    )
