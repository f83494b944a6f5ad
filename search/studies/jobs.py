"""Jobs: commands that somebody asks for in a browser, and that a runner runs elsewhere.

What the dashboard does with them; `job_runs` has what a runner does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from search.database.audit import add_deed
from search.database.store import Store
from search.database.tables import begin_immediate, job_table, worker_table
from search.studies.job_kinds import described, parsed
from search.studies.owners import is_dead
from search.studies.slots import LEASE_SECONDS
from spaces.errors import InputError

WAITING, RUNNING = "waiting", "running"
ENDED, FAILED, LOST, CANCELLED = "ended", "failed", "lost", "cancelled"
MOST_WAITING, MOST_OF_USER = 20, 3
SHOWN = 50  # of a list, the latest
IMAGE_BYTES = 16 * 2**20  # of an image that is sent along
DEVICE = "jobs"  # a runner among the workers: what stands for its device
TRIES = 20  # of a transaction that met others; each time one of them succeeds
SERIALIZATION_FAILURE = "40001"  # SQLSTATE


class TooMany(InputError):
    """As many jobs wait as may."""


@dataclass(frozen=True)
class Job:
    """A job as it stands.

    Attributes:
        arguments: JSON of `job_kinds.KINDS`.
        asked_by: "" where nobody has a name.
        cancelled_by: who has asked for its end.
        asked_at, begun_at, ended_at: seconds since 1970, the database's clock.
        code: its command's exit code; None where it was ended.
        result: key of its file, once it has ended.
        length: characters of its lines.
        silent: its runner has shown no sign of life for too long.
        served: a runner lives that could take it.
    """

    number: int
    kind: str
    arguments: str
    study: str | None
    asked_by: str
    asked_at: float
    cancelled_by: str | None
    stored_state: str
    runner: str | None
    begun_at: float | None
    ended_at: float | None
    code: int | None
    result: str | None
    length: int
    silent: bool
    served: bool

    @property
    def state(self) -> str:
        """One of the above; a runner stores later that it is lost, or cancelled before it began."""
        if self.stored_state == RUNNING and self.silent:
            return LOST
        if self.stored_state == WAITING and self.cancelled_by is not None:
            return CANCELLED
        return self.stored_state

    @property
    def open(self) -> bool:
        """Whether it will or may still run."""
        return self.state in (WAITING, RUNNING)

    @property
    def words(self) -> str:
        """What it runs, as on a command line."""
        return described(self.kind, self.arguments)


def ask(
    store: Store,
    kind: str,
    arguments: str,
    study: str | None,
    by: str = "",
    address: str | None = None,
    image: bytes | None = None,
) -> int:
    """Ask for a job; returns its number.

    Args:
        arguments: JSON.
        by: a user's name.
        address: where the request came from, for the audit; None writes no line of it.
        image: an image's file, for a job that takes one.

    Raises:
        InputError: it is no job, has no image or too large a one; as TooMany, too many wait.
    """
    _check_image(kind, parsed(kind, arguments).takes_image, image)
    row = {"kind": kind, "arguments": arguments, "study": study, "asked_by": by, "state": WAITING}

    for left in reversed(range(TRIES)):
        try:
            with _alone(store) as connection:
                _check_room(connection, by)
                if address is not None:  # what cannot be written down is not done
                    deed = described(kind, arguments)
                    add_deed(store, by, deed, study=study, address=address, connection=connection)
                added = sa.insert(job_table).values(**row, sent=image, asked_at=store.now())
                number = connection.execute(added.returning(job_table.c.number)).scalar_one()
            return int(number)
        except sa.exc.OperationalError as error:
            if not left or getattr(error.orig, "pgcode", None) != SERIALIZATION_FAILURE:
                raise
    raise AssertionError


def find(store: Store, number: int) -> Job | None:
    """Return a job; one statement."""
    found = _read(store, _jobs(store).where(job_table.c.number == number))
    return found[0] if found else None


def latest(store: Store, by: str | None = None) -> list[Job]:
    """Return the latest jobs, latest first; of one user, or of all."""
    query = _jobs(store).order_by(job_table.c.number.desc()).limit(SHOWN)
    return _read(store, query if by is None else query.where(job_table.c.asked_by == by))


def lines_of(store: Store, number: int) -> str:
    """What a job's command has printed so far, bounded by its runner."""
    query = sa.select(job_table.c.lines).where(job_table.c.number == number)
    with store.engine.connect() as connection:
        return str(connection.execute(query).scalar() or "")


def cancel(store: Store, number: int, by: str, address: str | None = None) -> None:
    """Ask for the end of a job that waits or runs; else nothing happens."""
    waits = job_table.c.state == WAITING  # and will never run: the image is gone at once
    asked = (
        sa.update(job_table)
        .where(
            job_table.c.number == number,
            job_table.c.state.in_((WAITING, RUNNING)),
            job_table.c.cancelled_by.is_(None),
        )
        .values(cancelled_by=by, sent=sa.case((waits, None), else_=job_table.c.sent))
        .returning(job_table.c.study)
    )
    with store.engine.begin() as connection:
        row = connection.execute(asked).first()
        if row is not None and address is not None:
            deed = f"cancel job {number}"
            add_deed(store, by, deed, study=row.study, address=address, connection=connection)


def is_served(store: Store) -> bool:
    """Whether a runner lives."""
    with store.engine.connect() as connection:
        return bool(connection.execute(sa.select(_served(store))).scalar())


@contextmanager
def _alone(store: Store) -> Iterator[sa.Connection]:
    """One transaction, as if no other of its kind ran at the same time; else it must be repeated.

    Postgres finds that out without a lock: the dashboard's role may take none.
    """
    with store.engine.connect() as connection:
        if store.postgres:
            connection.execution_options(isolation_level="SERIALIZABLE")
        else:
            begin_immediate(connection)
        try:
            yield connection
        except BaseException:
            connection.rollback()
            raise
        connection.commit()


def _check_image(kind: str, takes_one: bool, image: bytes | None) -> None:
    if takes_one != (image is not None):
        raise InputError(f"{kind} takes {'an' if takes_one else 'no'} image that is sent along")
    if image is not None and not 0 < len(image) <= IMAGE_BYTES:
        raise InputError(
            f"an image must have 1 to {IMAGE_BYTES} bytes ({IMAGE_BYTES >> 20} MiB), but got "
            f"{len(image)}; send a smaller one"
        )


def _check_room(connection: sa.Connection, by: str) -> None:
    waits = sa.and_(job_table.c.state == WAITING, job_table.c.cancelled_by.is_(None))
    asked = connection.execute(sa.select(job_table.c.asked_by).where(waits)).scalars().all()
    if len(asked) >= MOST_WAITING:
        raise TooMany(
            f"{len(asked)} jobs wait already, and {MOST_WAITING} may; wait until some have ended, "
            "or start another runner: segtune jobs"
        )
    if by and asked.count(by) >= MOST_OF_USER:
        raise TooMany(
            f"{asked.count(by)} of your jobs wait already, and {MOST_OF_USER} may; wait until one "
            "has begun, or cancel one"
        )


def _jobs(store: Store) -> sa.Select[Any]:
    """The columns of `Job`."""
    table = job_table.c
    return sa.select(
        table.number,
        table.kind,
        table.arguments,
        table.study,
        table.asked_by,
        table.asked_at,
        table.cancelled_by,
        table.state,
        table.runner,
        table.begun_at,
        table.ended_at,
        table.code,
        sa.case((table.state == ENDED, table.result)),
        sa.func.length(table.lines),
        is_silent(store).label("silent"),
        _served(store).label("served"),
    )


def _read(store: Store, query: sa.Select[Any]) -> list[Job]:
    with store.engine.connect() as connection:
        rows = connection.execute(query).all()
    found = []
    for row in rows:
        gone = row.state == RUNNING and (row.silent or is_dead(row.runner))
        found.append(replace(Job(*tuple(row)), silent=bool(gone), served=bool(row.served)))
    return found


def is_silent(store: Store) -> sa.ColumnElement[bool]:
    """Whether its runner was not heard of for a lease; in the future: a clock was put back."""
    return sa.func.abs(store.now() - job_table.c.seen_at) > LEASE_SECONDS


def _served(store: Store) -> sa.ColumnElement[bool]:
    """Whether a runner was heard of lately."""
    return sa.exists().where(
        worker_table.c.device == DEVICE,
        sa.func.abs(store.now() - worker_table.c.seen_at) <= LEASE_SECONDS,
    )
