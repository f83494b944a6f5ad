"""Tables made, and brought up to date one version at a time, by one process under a lock."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from search.database import locks, optuna_writer
from search.database.optuna_private import OPTUNAS
from search.database.tables import (
    audit_table,
    begin_immediate,
    control_table,
    job_table,
    metadata,
    schema_table,
    seconds_now,
    session_table,
    slot_table,
    study_table,
    token_table,
    user_table,
    worker_table,
)
from search.database.url import engine_options
from spaces.errors import InputError

SCHEMA_VERSION = 9
WAIT_SECONDS = 60.0  # for whoever creates or upgrades the tables, or has locked one


def migrate(engine: sa.Engine, url: str, *, wait: float = WAIT_SECONDS) -> None:
    """Create the tables, or bring them up to date, where they are not so already.

    Tables of this version are taken as they are, whoever holds a lock. Others are changed by
    their owner alone, under an advisory lock.

    Args:
        wait: seconds, for each lock.

    Raises:
        InputError: the tables are a newer segtune's, or another role's who must change them.
        LockHeld: the lock, or one of the tables, was kept by others for too long.
    """
    with engine.connect() as connection:
        version = _version(connection)
        if version == SCHEMA_VERSION:
            return
        if version is None or version < SCHEMA_VERSION:
            _check_rights(connection, version)
            with alone(connection, wait):
                version = _upgraded(connection, url)
    if version > SCHEMA_VERSION:
        raise InputError(
            f"the store has schema {version}, but this segtune knows {SCHEMA_VERSION}; "
            "upgrade segtune"
        )


@contextmanager
def alone(connection: sa.Connection, wait: float) -> Iterator[None]:
    """Keep others from changing the tables meanwhile; a wait for a table has a limit as well."""
    if connection.dialect.name != "postgresql":
        yield
        return
    connection.detach()  # so its settings and its lock end with it
    limit = f"{1000 * wait:.0f}"
    connection.execute(sa.text(f"SET statement_timeout = {limit}"))
    connection.commit()
    locks.take(connection, locks.MIGRATION, 0)
    connection.execute(sa.text(f"SET statement_timeout = 0; SET lock_timeout = {limit}"))
    connection.commit()
    try:
        yield
    except sa.exc.OperationalError as error:
        if not locks.is_given_up(error):
            raise
        connection.rollback()
        held = locks.of_tables(connection, [*metadata.tables, *OPTUNAS.tables])
    else:
        return
    raise held


def _version(connection: sa.Connection) -> int | None:
    """The version of a store's tables; None where it has none, or not all that belong to it."""
    try:
        if not sa.inspect(connection).has_table(schema_table.name):
            return None
        return connection.execute(sa.select(schema_table.c.version)).scalar()
    finally:
        connection.rollback()


def _check_rights(connection: sa.Connection, version: int | None) -> None:
    """Refuse a role that may not change the tables, before it takes the lock of those who may."""
    if connection.dialect.name != "postgresql":
        return
    if version is None:
        may = "has_schema_privilege(current_schema(), 'CREATE')"
        state = "has no tables yet, and"
    else:
        owner = "(SELECT relowner FROM pg_class WHERE oid = to_regclass(:table))"
        may = f"pg_has_role({owner}, 'USAGE')"
        state = f"has schema {version}, this segtune needs {SCHEMA_VERSION}, and"
    query = sa.text(f"SELECT current_user, {may}").bindparams(
        **({} if version is None else {"table": schema_table.name})
    )
    role, allowed = connection.execute(query).one()
    connection.rollback()
    if not allowed:
        raise InputError(
            f"the store {state} the role {role} may not change that; let the owner of the tables "
            "(segtune_owner, where there are roles) run: segtune migrate"
        )


def _upgraded(connection: sa.Connection, url: str) -> int:
    """Create the tables or bring them up to date; returns their version.

    Each step is one transaction: a process that is killed in one leaves what was there before.
    """
    if _version(connection) is None:  # else whoever had the lock has done it
        with _whole(connection):
            _create(connection, OPTUNAS)
        # what Optuna says of their version; it takes up what a kill has left of that
        RDBStorage(url, engine_options(url), skip_table_creation=True).engine.dispose()
        with _whole(connection):
            _create(connection, metadata)
            connection.execute(schema_table.insert().values(version=SCHEMA_VERSION))
    version = _version(connection)
    assert version is not None
    for older, upgrade in UPGRADES:
        if version == older:
            version = older + 1
            with _whole(connection):
                upgrade(connection)
                connection.execute(sa.update(schema_table).values(version=version))
    return version


@contextmanager
def _whole(connection: sa.Connection) -> Iterator[None]:
    """One transaction, tables included: all of it is stored, or nothing."""
    if connection.dialect.name == "sqlite":
        begin_immediate(connection)
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


def _create(connection: sa.Connection, tables: sa.MetaData) -> None:
    """Create the tables and indexes that are missing."""
    tables.create_all(connection)
    for table in tables.tables.values():
        for index in table.indexes:  # of a table that an older version was killed behind
            index.create(connection, checkfirst=True)


def _from_version_1(connection: sa.Connection) -> None:
    """Add what version 2 has: results with their slots, control of studies, workers."""
    _add_columns(connection, slot_table.c.result, slot_table.c.claimed_at, slot_table.c.seconds)
    metadata.create_all(connection, [control_table, worker_table])
    opened = sa.select(study_table.c.study_id, seconds_now(connection.dialect.name))
    connection.execute(control_table.insert().from_select(["study_id", "opened_at"], opened))


def _from_version_2(connection: sa.Connection) -> None:
    """Add what version 3 has: in which order slots have ended, so that new ones are found fast."""
    _add_columns(connection, slot_table.c.ended_as, control_table.c.ended)
    ended = slot_table.c.state.not_in(("OPEN", "RUNNING"))
    connection.execute(sa.update(slot_table).where(ended).values(ended_as=1))
    connection.execute(sa.update(control_table).values(ended=1))
    for index in slot_table.indexes:
        index.create(connection, checkfirst=True)


def _from_version_3(connection: sa.Connection) -> None:
    """Add what version 4 has: which engine runs a worker."""
    _add_columns(connection, worker_table.c.job)


def _from_version_4(connection: sa.Connection) -> None:
    """Mend, for the last time, what a worker that died could leave half done until then.

    Since version 5 a trial begins with its claim and ends with its result, in one transaction.
    """
    optuna_writer.drop_user_attr(connection, "reason", "unclaimed")
    columns = (slot_table.c.study_id, slot_table.c.trial_number, slot_table.c.result)
    slots = {(row[0], row[1]): row[2] for row in connection.execute(sa.select(*columns))}
    ours = set(connection.execute(sa.select(study_table.c.study_id)).scalars())
    for study_id, number, trial_id in optuna_writer.running(connection):
        if study_id not in ours:
            continue
        if (study_id, number) in slots:  # it runs or waits, or its end was never told to Optuna
            if (text := slots[study_id, number]) is not None:
                result = json.loads(text)
                state = TrialState["FAIL" if result["state"] == "FAILED" else result["state"]]
                attrs = {"reason": result["reason"], **result["attrs"]}
                optuna_writer.end(connection, study_id, number, state, result["value"], attrs)
        elif not optuna_writer.back_into_queue(connection, trial_id):
            optuna_writer.end(connection, study_id, number, TrialState.FAIL, None, {})


def _from_version_5(connection: sa.Connection) -> None:
    """Add what version 6 has: what each image adds to a confirmation's score, and longer names."""
    _add_columns(connection, slot_table.c.images)
    if connection.dialect.name == "postgresql":  # sqlite heeds no lengths
        connection.execute(
            sa.text(f"ALTER TABLE {worker_table.name} ALTER COLUMN study TYPE VARCHAR(120)")
        )


def _from_version_6(connection: sa.Connection) -> None:
    """Add what version 7 has: who may sign in to the dashboard, and what they did there."""
    metadata.create_all(connection, [user_table, session_table, token_table, audit_table])


def _from_version_7(connection: sa.Connection) -> None:
    """Add what version 8 has: commands that are asked for in a browser."""
    metadata.create_all(connection, [job_table])


def _from_version_8(connection: sa.Connection) -> None:
    """Add what version 9 has: images that are sent along with jobs."""
    _add_columns(connection, job_table.c.sent)


UPGRADES = (
    (1, _from_version_1),
    (2, _from_version_2),
    (3, _from_version_3),
    (4, _from_version_4),
    (5, _from_version_5),
    (6, _from_version_6),
    (7, _from_version_7),
    (8, _from_version_8),
)


def _add_columns(connection: sa.Connection, *columns: sa.Column[Any]) -> None:
    """Add columns; one that an earlier step has made with its table is there already."""
    for column in columns:
        there = sa.inspect(connection).get_columns(column.table.name)
        if any(known["name"] == column.name for known in there):
            continue
        definition = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
        connection.execute(sa.text(f"ALTER TABLE {column.table.name} ADD COLUMN {definition}"))
