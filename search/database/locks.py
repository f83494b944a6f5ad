"""Locks of Postgres that are waited for with a limit; who holds one for longer is named."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

MIGRATION, STUDY = 0x5E67, 0x5E68  # first halves of our advisory locks' keys; a study's id follows
GIVEN_UP = ("57014", "55P03")  # SQLSTATE of a statement's and of a lock's time limit

_SESSIONS = """
    SELECT DISTINCT a.pid, a.usename, a.application_name, host(a.client_addr) AS address,
           a.client_port
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.granted AND l.pid <> pg_backend_pid()
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND {which} ORDER BY a.pid
"""
_ADVISORY = "l.locktype = 'advisory' AND l.classid = :a AND l.objid = :b AND l.objsubid = 2"
_TABLES = (
    "l.locktype = 'relation' AND l.relation IN (SELECT oid FROM pg_class WHERE relname IN :tables)"
)


class LockHeld(sa.exc.TimeoutError):
    """Somebody else has held a lock for too long; the message says who. Waiting may help."""


def take(connection: sa.Connection, first: int, second: int) -> None:
    """Take an advisory lock for this session, within the session's time limit of a statement.

    Raises:
        LockHeld: others have kept it for so long.
    """
    key = {"a": first, "b": second}
    try:
        connection.execute(sa.text("SELECT pg_advisory_lock(:a, :b)"), key)
        connection.commit()
        return
    except sa.exc.OperationalError as error:
        if not is_given_up(error):
            raise
        connection.rollback()
    raise LockHeld(_named(connection, sa.text(_SESSIONS.format(which=_ADVISORY)), key))


def release(connection: sa.Connection, first: int, second: int) -> None:
    """Give an advisory lock of this session back."""
    key = {"a": first, "b": second}
    connection.execute(sa.text("SELECT pg_advisory_unlock(:a, :b)"), key)
    connection.commit()


def is_given_up(error: sa.exc.DBAPIError) -> bool:
    """Whether a statement has waited longer than it may."""
    return getattr(error.orig, "pgcode", None) in GIVEN_UP


def of_tables(connection: sa.Connection, tables: list[str]) -> LockHeld:
    """The error of a statement that has waited too long for tables that others have locked."""
    query = sa.text(_SESSIONS.format(which=_TABLES))
    query = query.bindparams(sa.bindparam("tables", expanding=True))
    return LockHeld(_named(connection, query, {"tables": tables}))


def _named(connection: sa.Connection, query: sa.TextClause, given: Mapping[str, object]) -> str:
    """Who holds a lock, and what to do, in words."""
    rows = connection.execute(query, given).all()
    connection.rollback()
    if not rows:
        return "somebody else held a lock for too long, and has let it go by now; try again"
    return (
        f"it is locked by {', '.join(map(_session, rows))}; let that end, or end it with: SELECT "
        f"pg_terminate_backend({rows[0].pid})"
    )


def _session(row: sa.Row[tuple[object, ...]]) -> str:
    where = row.address or (
        "the server's own machine" if row.client_port == -1 else "an address that is not shown"
    )
    program = row.application_name or "a program without a name"
    return f"{program} as {row.usename} from {where} (process {row.pid} of the server)"
