"""Stores as older versions of segtune had them."""

from __future__ import annotations

import sqlalchemy as sa

from search.database.tables import metadata, schema_table, slot_table

# {version: what the next one has added}: columns as "table.column", tables
_ADDED = {
    8: ("segtune_job.sent",),
    7: ("segtune_job",),
    6: ("segtune_user", "segtune_session", "segtune_token", "segtune_audit"),
    5: ("segtune_slot.images",),
    4: (),
    3: ("segtune_worker.job",),
    2: ("segtune_slot.ended_as", "segtune_control.ended"),
    1: (
        "segtune_slot.result",
        "segtune_slot.claimed_at",
        "segtune_slot.seconds",
        "segtune_control",
        "segtune_worker",
    ),
}


def downgrade(engine: sa.Engine, version: int) -> None:
    """Take out what versions after this one have added."""
    with engine.begin() as connection:
        have = connection.execute(sa.select(schema_table.c.version)).scalar_one()
        for step in range(have - 1, version - 1, -1):
            for index in slot_table.indexes if step == 2 else ():
                index.drop(connection, checkfirst=True)
            for added in _ADDED[step]:
                table, _, column = added.partition(".")
                if column:
                    connection.execute(sa.text(f"ALTER TABLE {table} DROP COLUMN {column}"))
                else:
                    metadata.tables[table].drop(connection)
        connection.execute(sa.update(schema_table).values(version=version))
