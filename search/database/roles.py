"""The three roles of a shared store, and the SQL that gives each what its commands need.

A role has no password until somebody gives it one. What each command needs stands in
docs/operations.md.
"""

from __future__ import annotations

import sqlalchemy as sa

from search.database.optuna_private import (
    TRIAL_PARAMS,
    TRIAL_STEPS,
    TRIAL_VALUES,
    VERSIONS,
    optuna_tables,
)
from search.database.tables import (
    control_table,
    epoch_table,
    metadata,
    schema_table,
    slot_table,
    study_table,
    worker_table,
)

READER, WORKER, OWNER = "segtune_reader", "segtune_worker", "segtune_owner"

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
}
# of the others some rows are removed: what is shown, and a study whose creation was cut short
_OPTUNA_WRITES = {TRIAL_VALUES: _ADDED, TRIAL_STEPS: _ADDED, TRIAL_PARAMS: _CHANGED}


def roles_sql() -> str:
    """The SQL that makes the roles and gives them their rights, to be run again and again.

    By a superuser, in the store's database, once its tables are there.
    """
    writes = {table.name: right for table, right in _WRITES.items()}
    assert len(writes) == len(metadata.tables)
    writes |= {table.name: _OPTUNA_WRITES.get(table, _REMOVED) for table in optuna_tables()}
    writes |= dict.fromkeys(VERSIONS, "")
    every = ", ".join(writes)
    lines = [
        "-- The roles of a segtune store: docs/operations.md. As a superuser, after `segtune",
        "-- migrate`, and again after each upgrade: segtune migrate --roles | psql -d DATABASE",
        "BEGIN;",
        "DO $$ BEGIN",
        *(
            f"  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN "
            f"CREATE ROLE {role} LOGIN; END IF;"
            for role in (READER, WORKER, OWNER)
        ),
        "  EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', current_schema());",
        *(
            f"  EXECUTE format('GRANT {right} ON SCHEMA %I TO {roles}', current_schema());"
            for right, roles in (
                ("USAGE", f"{READER}, {WORKER}"),
                ("USAGE, CREATE", OWNER),
            )
        ),
        "END $$;",
        *(f"ALTER TABLE {name} OWNER TO {OWNER};" for name in writes),
        *(f"ALTER TYPE {name} OWNER TO {OWNER};" for name in _enums()),
        f"REVOKE ALL ON {every} FROM {READER}, {WORKER};",
        f"GRANT SELECT ON {every} TO {READER}, {WORKER};",
        *(f"GRANT {right} ON {name} TO {WORKER};" for name, right in writes.items() if right),
        f"GRANT USAGE ON SEQUENCE {', '.join(_sequences())} TO {WORKER};",
        "COMMIT;",
        f"-- then give each a password, as in: \\password {WORKER}",
    ]
    return "\n".join(lines) + "\n"


def _enums() -> list[str]:
    """Names of Postgres' types of Optuna's columns."""
    columns = (column for table in optuna_tables() for column in table.columns)
    types = (column.type for column in columns)
    return sorted({str(kind.name) for kind in types if isinstance(kind, sa.Enum)})


def _sequences() -> list[str]:
    """Names of the sequences that number Optuna's rows; ours have no numbers of their own."""
    found = []
    for table in optuna_tables():
        column = table.autoincrement_column
        if column is not None:
            found.append(f"{table.name}_{column.name}_seq")
    return found
