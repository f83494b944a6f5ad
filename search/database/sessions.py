"""What opens the dashboard to somebody: sessions and programs' tokens, kept by their SHA-256.

Both hold the user's key of the day that they were made: they open nothing once the user has
another password, or is gone, whatever happens at the same time.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass

import sqlalchemy as sa

from search.database.audit import add_deed
from search.database.passwords import matches
from search.database.people import NAME
from search.database.store import Store
from search.database.tables import session_table, token_table, user_table
from spaces.errors import InputError

MOST = 20  # sessions of a user; the oldest ends when there are more
SEEN_SECONDS = 60.0  # how exactly it is known when one was seen last
TOKEN_START = "segtune_"  # for programs that look for secrets in code


@dataclass(frozen=True)
class Visitor:
    """Who asks, as they have shown."""

    name: str
    role: str


def key_of(store: Store, name: str, password: str) -> str | None:
    """The key of a user, where the password is theirs. Takes as long where there is no such user.

    0.1 s and 32 MiB: the caller lets few in at once.
    """
    table, known = user_table.c, NAME.fullmatch(name)
    query = sa.select(table.password, table.key).where(table.name == (name if known else ""))
    with store.engine.connect() as connection:
        row = connection.execute(query).first()
    right = matches(password, None if row is None else row.password)
    return row.key if right and row is not None else None


def begin_session(store: Store, name: str, key: str, seconds: float, address: str) -> str:
    """Return the token of a new session; sessions that have ended go, and the oldest of many."""
    token = secrets.token_urlsafe(32)
    table, now = session_table.c, store.now()
    latest = sa.select(table.token).where(table.name == name).order_by(table.begun_at.desc())
    with store.engine.begin() as connection:
        newest = connection.execute(latest.limit(MOST - 1)).scalars().all()
        gone = (table.name == name) & table.token.not_in(newest)
        connection.execute(sa.delete(session_table).where(gone | (table.ends_at <= now)))
        row = {"token": _digest(token), "name": name, "key": key, "address": address[:64]}
        times = {"begun_at": now, "ends_at": now + seconds, "seen_at": now}
        connection.execute(sa.insert(session_table).values(**row, **times))
        add_deed(store, name, "signed in", address=address, connection=connection)
    return token


def drop_ended(store: Store) -> None:
    """Forget sessions that have ended; raises InputError where the role may not keep sessions."""
    with store.engine.begin() as connection:
        connection.execute(sa.delete(session_table).where(session_table.c.ends_at <= store.now()))


def of_session(store: Store, token: str) -> Visitor | None:
    """Whose session a token opens; None where it opens none, or none any more."""
    table = session_table
    return _visitor(store, table, table.c.seen_at, token, table.c.ends_at > store.now())


def end_session(store: Store, token: str) -> None:
    """End one session."""
    with store.engine.begin() as connection:
        ended = sa.delete(session_table).where(session_table.c.token == _digest(token))
        connection.execute(ended)


def end_sessions(store: Store, name: str, address: str) -> None:
    """End all sessions of a user."""
    with store.engine.begin() as connection:
        connection.execute(sa.delete(session_table).where(session_table.c.name == name))
        add_deed(store, name, "signed out everywhere", address=address, connection=connection)


def new_token(store: Store, name: str, label: str, by: str) -> str:
    """Return a new token for a user's program, in place of one of the same label.

    Raises:
        InputError: there is no such user, or the label is none.
    """
    if not re.fullmatch(r"[\w.-]{1,64}", label):
        raise InputError(
            f"--label must have 1 to 64 letters, digits and . _ -, as in ci, but got {label[:80]!r}"
        )
    token = TOKEN_START + secrets.token_urlsafe(32)
    table = user_table.c
    with store.engine.begin() as connection:
        key = connection.execute(sa.select(table.key).where(table.name == name)).scalar()
        if key is None:
            raise InputError(f"there is no user {name[:80]}; segtune users list shows them")
        _delete_token(connection, name, label)
        row = {"token": _digest(token), "name": name, "key": key, "label": label}
        connection.execute(sa.insert(token_table).values(**row, created_at=store.now()))
        add_deed(store, by, f"users token {name} --label {label}", connection=connection)
    return token


def end_token(store: Store, name: str, label: str, by: str) -> None:
    """End a token; raises InputError where there is no such one."""
    with store.engine.begin() as connection:
        if not _delete_token(connection, name, label):
            raise InputError(
                f"{name[:80]} has no token {label[:80]}; segtune users list shows all labels"
            )
        deed = f"users token {name} --label {label} --remove"
        add_deed(store, by, deed, connection=connection)


def of_token(store: Store, token: str) -> Visitor | None:
    """Whose token it is; None where it is nobody's, or nobody's any more."""
    return _visitor(store, token_table, token_table.c.used_at, token)


def of_name(store: Store, name: str) -> Visitor | None:
    """The user of a name that somebody else has made sure of."""
    if not NAME.fullmatch(name):
        return None
    query = sa.select(user_table.c.name, user_table.c.role).where(user_table.c.name == name)
    with store.engine.connect() as connection:
        row = connection.execute(query).first()
    return None if row is None else Visitor(*row)


def _visitor(
    store: Store,
    table: sa.Table,
    seen: sa.Column[float],
    token: str,
    *valid: sa.ColumnElement[bool],
) -> Visitor | None:
    """Whose token it is, where it is valid; and writes down, now and then, that it was seen."""
    user, digest = user_table.c, _digest(token)
    stale = sa.func.coalesce(seen, 0) < store.now() - SEEN_SECONDS
    query = sa.select(user.name, user.role, stale).where(
        table.c.token == digest,
        table.c.name == user.name,
        table.c.key == user.key,
        *valid,
    )
    with store.engine.connect() as connection:
        row = connection.execute(query).first()
        if row is None:
            return None
        if row[2]:
            this = sa.update(table).where(table.c.token == digest)
            connection.execute(this.values({seen: store.now()}))
            connection.commit()
    return Visitor(row[0], row[1])


def _delete_token(connection: sa.Connection, name: str, label: str) -> bool:
    table = token_table.c
    deleted = sa.delete(token_table).where(table.name == name, table.label == label)
    return bool(connection.execute(deleted).rowcount)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
