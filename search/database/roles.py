"""The five roles of a shared store, and the SQL that gives each what its commands need.

A role has no password until somebody gives it one. What each command needs stands in
docs/operations.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from psycopg2.extensions import encrypt_password

from search.database.locks import LockHeld
from search.database.migrations import WAIT_SECONDS, alone
from search.database.optuna_private import (
    STUDY_SYSTEM_ATTRS,
    TRIAL_PARAMS,
    TRIAL_STEPS,
    TRIAL_VALUES,
    VERSIONS,
    optuna_tables,
)
from search.database.store import Store
from search.database.tables import (
    audit_table,
    control_table,
    epoch_table,
    job_table,
    metadata,
    schema_table,
    session_table,
    slot_table,
    study_table,
    token_table,
    user_table,
    worker_table,
)
from search.database.url import drivers_words
from spaces.errors import InputError

ROLES = READER, WORKER, JOBS, DASHBOARD, OWNER = (
    "segtune_reader",
    "segtune_worker",
    "segtune_jobs",
    "segtune_dashboard",
    "segtune_owner",
)

_ADDED = "INSERT"  # reports are added, and never changed
_CHANGED = "INSERT, UPDATE"
_REMOVED = "INSERT, UPDATE, DELETE"
_WRITES = {
    schema_table: "",
    study_table: _CHANGED,
    control_table: _CHANGED,
    slot_table: _CHANGED,
    epoch_table: _ADDED,
    worker_table: _REMOVED,  # they leave
    job_table: "",  # a worker that could ask for a job could have a study deleted
}
# a runner of jobs may what a worker may, deletes studies, and begins and ends jobs; old ones go
_RUNS = "UPDATE, DELETE"
# what the dashboard's role may do with the tables of people, and the three others, who could else
# guess at passwords, or write themselves a session or a clean record
_PEOPLE = {
    user_table: ("SELECT", "SELECT (name)"),
    session_table: ("SELECT, INSERT, UPDATE (seen_at), DELETE", ""),
    token_table: ("SELECT, UPDATE (used_at)", ""),
    audit_table: ("SELECT, INSERT", ""),
}
# what it may do with jobs: ask for one, and for its end, with which the image that was sent along
# is gone
_ASKS = "INSERT, UPDATE (cancelled_by, sent)"
# how it stops and resumes a study, and keeps optuna-dashboard's notes
_STOPS, _NOTES = "UPDATE (stop, opened_at)", "INSERT, UPDATE"
# of the others some rows are removed: what is shown, and a study whose creation was cut short
_OPTUNA_WRITES = {TRIAL_VALUES: _ADDED, TRIAL_STEPS: _ADDED, TRIAL_PARAMS: _CHANGED}


def roles_sql() -> str:
    """The SQL that makes the roles and gives them their rights, to be run again and again.

    By a superuser, in the store's database, once its tables are there.
    """
    lines = [
        "-- The roles of a segtune store: docs/operations.md. As a superuser, after `segtune",
        "-- migrate`, and again after each upgrade: segtune migrate --roles | psql -d DATABASE",
        "BEGIN;",
        *_statements(),
        "COMMIT;",
        f"-- then give each a password, as in: \\password {WORKER}",
    ]
    return "\n".join(lines) + "\n"


def set_up_roles(store: Store, passwords: Mapping[str, str]) -> None:
    """Run that SQL, and give roles their passwords: all of it, or nothing.

    The server is sent what it stores of a password (SCRAM), never the password, which its log
    might show.

    Args:
        passwords: {role: password}; the other roles keep theirs, or have none.

    Raises:
        InputError: no Postgres, a role that may not do this, or tables that others keep locked.
    """
    if not store.postgres:
        raise InputError(f"only Postgres has roles, but the store is {store.shown}")
    try:
        with store.engine.connect() as connection, alone(connection, WAIT_SECONDS):
            plain = connection.execution_options(no_parameters=True)  # % is no placeholder
            plain.exec_driver_sql("\n".join(_statements()))
            for role, password in passwords.items():
                verifier = encrypt_password(
                    password, role, connection.connection.dbapi_connection, "scram-sha-256"
                )
                connection.execute(
                    sa.text(f"ALTER ROLE {role} PASSWORD :stored"), {"stored": verifier}
                )
            connection.commit()
    except (sa.exc.DBAPIError, LockHeld) as error:
        raise InputError(
            f"the roles of {store.shown} cannot be set up: {drivers_words(error)}"
        ) from None


def _statements() -> list[str]:
    """The SQL of one transaction."""
    writes = {table.name: right for table, right in _WRITES.items()}
    assert len(writes) + len(_PEOPLE) == len(metadata.tables)
    writes |= {table.name: _OPTUNA_WRITES.get(table, _REMOVED) for table in optuna_tables()}
    writes |= dict.fromkeys(VERSIONS, "")
    people = [table.name for table in _PEOPLE]
    shown, every = ", ".join(writes), ", ".join([*writes, *people])
    classes = ", ".join(f"'{name}'::regclass" for name in [*writes, *people])
    others, at_work = f"{READER}, {WORKER}, {JOBS}, {DASHBOARD}", f"{WORKER}, {JOBS}"
    return [
        "DO $$ DECLARE name regclass; BEGIN",
        *(
            f"  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN "
            f"CREATE ROLE {role} LOGIN; END IF;"
            for role in ROLES
        ),
        "  EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', current_schema());",
        *(
            f"  EXECUTE format('GRANT {right} ON SCHEMA %I TO {roles}', current_schema());"
            for right, roles in (
                ("USAGE", others),
                ("USAGE, CREATE", OWNER),
            )
        ),
        # where it is so already, nobody who uses the tables is waited for
        f"  FOR name IN SELECT oid FROM pg_class WHERE relowner <> '{OWNER}'::regrole",
        f"    AND oid IN ({classes})",
        f"  LOOP EXECUTE format('ALTER TABLE %s OWNER TO {OWNER}', name); END LOOP;",
        "END $$;",
        *(f"ALTER TYPE {name} OWNER TO {OWNER};" for name in _enums()),
        f"REVOKE ALL ON {every} FROM {others};",
        f"GRANT SELECT ON {shown} TO {others};",
        *(f"GRANT {right} ON {name} TO {at_work};" for name, right in writes.items() if right),
        *(f"GRANT DELETE ON {name} TO {JOBS};" for name, right in writes.items() if right),
        f"GRANT USAGE ON SEQUENCE {', '.join(_sequences())} TO {at_work};",
        f"GRANT {_RUNS} ON {job_table.name} TO {JOBS};",
        f"GRANT {_ASKS} ON {job_table.name} TO {DASHBOARD};",
        f"GRANT {_STOPS} ON {control_table.name} TO {DASHBOARD};",
        f"GRANT {_NOTES} ON {STUDY_SYSTEM_ATTRS.name} TO {DASHBOARD};",
        f"GRANT USAGE ON SEQUENCE {_sequence(STUDY_SYSTEM_ATTRS)} TO {DASHBOARD};",
        f"GRANT USAGE ON SEQUENCE {job_table.name}_number_seq TO {DASHBOARD};",
        *(
            f"GRANT {right} ON {table.name} TO {DASHBOARD};"
            for table, (right, _) in _PEOPLE.items()
        ),
        *(
            f"GRANT {right} ON {table.name} TO {READER}, {at_work};"
            for table, (_, right) in _PEOPLE.items()
            if right
        ),
        f"GRANT USAGE ON SEQUENCE {audit_table.name}_number_seq TO {DASHBOARD};",
    ]


def _enums() -> list[str]:
    """Names of Postgres' types of Optuna's columns."""
    columns = (column for table in optuna_tables() for column in table.columns)
    types = (column.type for column in columns)
    return sorted({str(kind.name) for kind in types if isinstance(kind, sa.Enum)})


def _sequences() -> list[str]:
    """Names of the sequences that number Optuna's rows."""
    return [_sequence(t) for t in optuna_tables() if t.autoincrement_column is not None]


def _sequence(table: sa.Table) -> str:
    column = table.autoincrement_column
    assert column is not None
    return f"{table.name}_{column.name}_seq"
