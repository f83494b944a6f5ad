"""What people did in a store's dashboard, and who changed them: lines that are only added."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from search.database.store import Store
from search.database.tables import audit_table


@dataclass(frozen=True)
class Deed:
    """One line.

    Attributes:
        number: later lines have larger ones.
        at: seconds since 1970, the database's clock.
        who: a user's name, or `system user@host` of a command line.
        address: where the request came from; of a command line, "".
    """

    number: int
    at: float
    who: str
    what: str
    study: str | None
    address: str


def add_deed(
    store: Store,
    who: str,
    what: str,
    *,
    study: str | None = None,
    address: str = "",
    connection: sa.Connection | None = None,
) -> None:
    """Add a line, in the transaction of `connection` where there is one.

    To be called before what it says is done: what cannot be written down must not happen.
    """
    values = {"who": who, "what": what, "study": study, "address": address}
    cut = {
        name: value and value[: audit_table.c[name].type.length]  # type: ignore[attr-defined]
        for name, value in values.items()
    }
    row = sa.insert(audit_table).values(at=store.now(), **cut)
    if connection is not None:
        connection.execute(row)
        return
    with store.engine.begin() as own:
        own.execute(row)


def deeds(store: Store, most: int = 200, before: int | None = None) -> list[Deed]:
    """The latest lines, latest first; with `before`, those with smaller numbers."""
    columns = (getattr(audit_table.c, name) for name in Deed.__dataclass_fields__)
    query = sa.select(*columns).order_by(audit_table.c.number.desc()).limit(most)
    if before is not None:
        query = query.where(audit_table.c.number < before)
    with store.engine.connect() as connection:
        return [Deed(*row) for row in connection.execute(query)]
