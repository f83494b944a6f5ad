"""Who may sign in to the dashboard, and as what: names, roles and passwords in the store."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa

from search.database.audit import add_deed
from search.database.passwords import hashed
from search.database.store import Store
from search.database.tables import begin_immediate, session_table, token_table, user_table
from spaces.errors import InputError, did_you_mean

ROLES = READER, MEMBER, OWNER = "reader", "member", "owner"
NAME = re.compile("[a-z0-9][a-z0-9._+@-]{0,63}")


@dataclass(frozen=True)
class User:
    """Who may sign in.

    Attributes:
        created, changed: seconds since 1970; `changed` is that of the role or the password.
        password: whether there is one to sign in with.
        sessions: how many are open.
        tokens: their labels.
    """

    name: str
    role: str
    created: float
    changed: float
    password: bool
    sessions: int
    tokens: tuple[str, ...]


def checked_name(name: str) -> str:
    """Return a user's name as it is.

    Raises:
        InputError: it is none.
    """
    if not NAME.fullmatch(name):
        raise InputError(
            "a user's name must have 1 to 64 small letters, digits and . _ + @ -, and begin with "
            f"a letter or digit, but got {name[:80]!r}"
        )
    return name


def checked_role(role: str) -> str:
    """Return a role as it is; raises InputError where there is no such one."""
    if role not in ROLES:
        raise InputError(
            f"--role must be one of {', '.join(ROLES)}, but got {role}{did_you_mean(role, ROLES)}"
        )
    return role


def has_users(store: Store) -> bool:
    """Whether people sign in by name; each role of the database may ask that."""
    with store.engine.connect() as connection:
        return connection.execute(sa.select(user_table.c.name).limit(1)).first() is not None


def users(store: Store) -> list[User]:
    """All of them, by name."""
    open_sessions = (
        sa.select(sa.func.count())
        .where(
            session_table.c.name == user_table.c.name,
            session_table.c.key == user_table.c.key,
            session_table.c.ends_at > store.now(),
        )
        .scalar_subquery()
    )
    table = user_table.c
    columns = (table.name, table.role, table.created_at, table.changed_at)
    query = sa.select(*columns, table.password.is_not(None), open_sessions).order_by(table.name)
    labels: dict[str, list[str]] = {}
    with store.engine.connect() as connection:
        rows = connection.execute(query).all()
        given = sa.select(token_table.c.name, token_table.c.label).order_by(token_table.c.label)
        for name, label in connection.execute(given):
            labels.setdefault(name, []).append(label)
    return [
        User(name, role, created, changed, password, sessions, tuple(labels.get(name, ())))
        for name, role, created, changed, password, sessions in rows
    ]


def add_user(store: Store, name: str, role: str, password: str | None, by: str) -> None:
    """Add a user.

    Args:
        password: None opens nothing: for whom a proxy signs in, or who has tokens only.
        by: who adds them, for the audit.

    Raises:
        InputError: the name is taken or none; or they are the first, and no owner.
    """
    checked_name(name), checked_role(role)
    stored = None if password is None else hashed(password)
    with _alone(store) as connection:
        roles = _roles(connection)
        if name in roles:
            raise InputError(
                f"there is a user {name} already, with the role {roles[name]}; change that with: "
                f"segtune users role {name} {role}"
            )
        if not roles and role != OWNER:
            raise InputError(
                f"the first user must be an owner, or nobody could do what owners may: segtune "
                f"users add {name} --role {OWNER}"
            )
        now = store.now()
        row = {"name": name, "role": role, "password": stored, "key": secrets.token_hex(16)}
        connection.execute(sa.insert(user_table).values(**row, created_at=now, changed_at=now))
        add_deed(store, by, f"users add {name} --role {role}", connection=connection)


def remove_user(store: Store, name: str, by: str) -> None:
    """Remove a user, with their sessions and tokens.

    Raises:
        InputError: there is no such one, or it is the last owner and others are there.
    """
    with _alone(store) as connection:
        roles = _known(connection, name)
        if len(roles) > 1:
            _keep_an_owner(roles | {name: ""}, name)
        for table in (session_table, token_table, user_table):
            connection.execute(sa.delete(table).where(table.c.name == name))
        add_deed(store, by, f"users remove {name}", connection=connection)


def set_role(store: Store, name: str, role: str, by: str) -> None:
    """Give a user another role; it counts from their next request on.

    Raises:
        InputError: there is no such user or role, or no owner would be left.
    """
    checked_role(role)
    with _alone(store) as connection:
        _keep_an_owner(_known(connection, name) | {name: role}, name)
        _change(store, connection, name, role=role)
        add_deed(store, by, f"users role {name} {role}", connection=connection)


def set_password(store: Store, name: str, password: str, by: str) -> None:
    """Give a user another password. It ends their sessions and tokens.

    Raises:
        InputError: there is no such user.
    """
    stored = hashed(password)
    with _alone(store) as connection:
        _known(connection, name)
        _change(store, connection, name, password=stored, key=secrets.token_hex(16))
        for table in (session_table, token_table):
            connection.execute(sa.delete(table).where(table.c.name == name))
        add_deed(store, by, f"users password {name}", connection=connection)


@contextmanager
def _alone(store: Store) -> Iterator[sa.Connection]:
    """One transaction, with no other that changes users meanwhile."""
    with store.engine.connect() as connection:
        if store.postgres:
            connection.execute(sa.text(f"LOCK TABLE {user_table.name} IN SHARE ROW EXCLUSIVE MODE"))
        else:
            begin_immediate(connection)
        try:
            yield connection
        except BaseException:
            connection.rollback()
            raise
        connection.commit()


def _roles(connection: sa.Connection) -> dict[str, str]:
    """{name: role} of all."""
    query = sa.select(user_table.c.name, user_table.c.role).order_by(user_table.c.name)
    return {row.name: row.role for row in connection.execute(query)}


def _known(connection: sa.Connection, name: str) -> dict[str, str]:
    """{name: role} of all, this one among them."""
    roles = _roles(connection)
    if name not in roles:
        hint = did_you_mean(name, roles) or f"; known: {', '.join(roles) or 'none'}"
        raise InputError(f"there is no user {name[:80]}{hint}")
    return roles


def _keep_an_owner(roles: dict[str, str], name: str) -> None:
    if OWNER not in roles.values():
        raise InputError(
            f"{name} is the only owner; first make another one: segtune users role NAME {OWNER}"
        )


def _change(store: Store, connection: sa.Connection, name: str, **values: str) -> None:
    changed = sa.update(user_table).where(user_table.c.name == name)
    connection.execute(changed.values(**values, changed_at=store.now()))
