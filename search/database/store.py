"""The study store: a Postgres server by URL, the embedded Postgres by default, or sqlite for one.

Optuna's tables and ours live side by side; ours hold what Optuna has no place for: the study file,
a study's slots with their leases, and the full report of every epoch.
"""

from __future__ import annotations

import fcntl
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import optuna
import sqlalchemy as sa
from optuna.storages import BaseStorage, RDBStorage

from search.database import locks
from search.database.embedded import EmbeddedServer, start_embedded
from search.database.migrations import migrate
from search.database.optuna_private import STUDY_SYSTEM_ATTRS, cached, study_attr_row
from search.database.optuna_reader import BulkStorage
from search.database.tables import begin_immediate, seconds_now, study_table
from search.database.url import (
    STORE,
    STORE_FORM,
    drivers_words,
    engine_options,
    parse_store_url,
    warn_unencrypted,
)
from spaces.errors import InputError
from spaces.paths import NO_LOCKS, home

NO_RIGHT = "42501"  # SQLSTATE: insufficient_privilege
NO_CONNECTION_LEFT = ("too many clients", "too many connections", "connection slots are reserved")


class UnknownStudy(InputError):
    """There is no such study, or not any more."""


@dataclass
class Store:
    """An open store; close it when done.

    Attributes:
        shown: what it is called in messages; never holds a password.
    """

    engine: sa.Engine
    storage: BaseStorage
    shown: str
    _optuna: RDBStorage
    _lock_file: IO[str] | None = None

    @property
    def postgres(self) -> bool:
        return self.engine.dialect.name == "postgresql"

    def now(self) -> sa.ColumnElement[Any]:
        """SQL for the database's own time in seconds since 1970."""
        return seconds_now(self.engine.dialect.name)

    @contextmanager
    def locked(self, study_id: int) -> Iterator[sa.Connection]:
        """One transaction that holds a study among all workers, until it ends.

        On Postgres it locks the study's row, which a role that may only read cannot do; sqlite
        has one lock for all that write.

        Raises:
            UnknownStudy: it was deleted.
        """
        if self.postgres:
            with self.engine.begin() as connection:
                self.lock_in(connection, study_id)
                yield connection
            return
        with self.engine.connect() as connection:
            begin_immediate(connection)
            try:
                self.lock_in(connection, study_id)
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    @contextmanager
    def study_lock(self, study_id: int) -> Iterator[None]:
        """Keep others from creating a study (0), or from planning or deleting that one, meanwhile.

        sqlite has one worker and needs no lock.

        Raises:
            LockHeld: others have held the lock for DEAD_SECONDS; the message says who.
        """
        if not self.postgres:
            yield
            return
        with self.engine.connect() as connection:
            locks.take(connection, locks.STUDY, study_id)
            try:
                yield
            finally:
                locks.release(connection, locks.STUDY, study_id)

    def lock_in(self, connection: sa.Connection, study_id: int) -> None:
        """Lock a study's row; raises UnknownStudy where there is none."""
        row = sa.select(study_table.c.study_id).where(study_table.c.study_id == study_id)
        if connection.execute(row.with_for_update()).first() is None:
            raise UnknownStudy(f"study {study_id} of {self.shown} was deleted")

    def work_alone(self) -> None:
        """Take a sqlite store for this process's work; Postgres serves many and needs no taking.

        Raises:
            InputError: another process works on this sqlite store.
        """
        database = self.engine.url.database
        if self.postgres or self._lock_file is not None:
            return
        self._lock_file = open(f"{database}.lock", "w")  # noqa: SIM115 - held until close
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock_file.close()
            self._lock_file = None
            if error.errno in NO_LOCKS:
                raise InputError(
                    f"{self.shown} is on a file system without file locks; name a file on another"
                ) from None
            raise InputError(
                f"{self.shown} is in use by another segtune process; sqlite serves one worker. "
                "Leave --store away to use the embedded Postgres"
            ) from None

    def size(self) -> int:
        """Bytes of the database, indexes included."""
        if not self.postgres:
            return Path(str(self.engine.url.database)).stat().st_size
        with self.engine.connect() as connection:
            query = sa.text("SELECT pg_database_size(current_database())")
            return int(connection.execute(query).scalar_one())

    def study_attrs(self, study_id: int, *like: str) -> dict[str, Any]:
        """System attributes of a study whose key is like one of the patterns (% is any text)."""
        table = STUDY_SYSTEM_ATTRS
        with self.engine.connect() as connection:
            rows = connection.execute(
                sa.select(table.c.key, table.c.value_json).where(
                    table.c.study_id == study_id,
                    sa.or_(*(table.c.key.like(pattern) for pattern in like)),
                )
            ).all()
        return {row.key: json.loads(row.value_json) for row in rows}

    def replace_study_attrs(
        self, study_id: int, prefixes: Sequence[str], attrs: Mapping[str, Any]
    ) -> None:
        """Put `attrs` in place of what had their keys, or a key that starts with one of `prefixes`.

        One transaction under a lock: a reader sees the old or the new ones, never a mixture, as
        it could with Optuna's own setters, which store one key at a time.
        """
        table = STUDY_SYSTEM_ATTRS
        rows = [study_attr_row(study_id, key, value) for key, value in attrs.items()]
        with self.locked(study_id) as connection:
            connection.execute(
                sa.delete(table).where(
                    table.c.study_id == study_id,
                    sa.or_(
                        table.c.key.in_(list(attrs)),
                        *(table.c.key.startswith(p, autoescape=True) for p in prefixes),
                    ),
                )
            )
            if rows:
                connection.execute(sa.insert(table), rows)

    def close(self) -> None:
        self.storage.remove_session()
        self._optuna.engine.dispose()
        self.engine.dispose()
        if self._lock_file is not None:
            self._lock_file.close()


def open_store(url: str | None = None, *, create: bool = True) -> Store:
    """Open the store named by `url`, by $SEGTUNE_STORE, or the embedded Postgres.

    Creates the tables or brings them up to date, where that is needed and the role may.

    Args:
        create: make a sqlite file that does not exist.

    Raises:
        InputError: the URL is malformed, the server cannot be reached, or the role may not do what
            is needed; without the password. Statements that the role may not send raise it too.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    named = url or os.environ.get(STORE)
    server = None
    if named:
        full, shown = parse_store_url(named)
        file = full.removeprefix("sqlite:///")
        if not create and file != full and not Path(file).exists():
            raise InputError(f"the store {shown} does not exist; is its name right?")
    else:
        server = start_embedded()
        full, shown = server.url, f"embedded Postgres in {server.data}"
    engine = _engine(full, shown)
    warn_unencrypted(engine.url)
    try:
        _connect(engine, shown)
        storage = _storage(engine, full, shown)
        if server is not None:
            for each in (engine, storage.engine):
                _start_again(each, server)
    except BaseException:
        engine.dispose()
        raise
    # with its cache of ended trials, which `load_study` would else build anew for each trial
    return Store(engine, cached(storage), shown, storage)


def has_store(url: str | None) -> bool:
    """Whether a store is named, or the embedded Postgres was ever started in $SEGTUNE_HOME."""
    return bool(url or os.environ.get(STORE)) or (home() / "postgres").is_dir()


def _engine(url: str, shown: str) -> sa.Engine:
    try:
        engine = sa.create_engine(url, **engine_options(url))
    except (sa.exc.ArgumentError, ValueError):  # whose text may hold a part of the password
        raise InputError(f"the store URL is malformed; it must be {STORE_FORM}") from None
    _say_what_a_role_may_not(engine, shown)
    return engine


def _say_what_a_role_may_not(engine: sa.Engine, shown: str) -> None:
    """Let a statement that the role may not send raise an InputError."""

    def refuse(context: sa.engine.ExceptionContext) -> None:
        if getattr(context.original_exception, "pgcode", None) == NO_RIGHT:
            words = " ".join(str(context.original_exception).split())
            raise InputError(
                f"the role {engine.url.username or 'of this user'} may not do this in {shown}: "
                f"{words}; docs/operations.md says which role each command needs"
            )

    sa.event.listen(engine, "handle_error", refuse)


def _start_again(engine: sa.Engine, server: EmbeddedServer) -> None:
    """Let whoever waits for the embedded server start it, when it has died."""

    @sa.event.listens_for(engine, "do_connect")
    def connect(dialect: Any, record: Any, given: list[Any], named: dict[str, Any]) -> Any:
        away = dialect.loaded_dbapi.OperationalError
        try:
            return dialect.connect(*given, **named)
        except away:
            try:
                server.start()
            except InputError as error:
                raise away(str(error)) from error
        return dialect.connect(*given, **named)


def _connect(engine: sa.Engine, shown: str) -> None:
    try:
        with engine.connect():
            pass
    except sa.exc.DBAPIError as error:
        reason = drivers_words(error)
        if "password authentication failed" in reason or "no password supplied" in reason:
            raise InputError(f"the store {shown} refused the user name or password") from None
        if any(words in reason for words in NO_CONNECTION_LEFT):
            raise InputError(
                f"the store {shown} takes no more connections: {reason}; end some of its clients, "
                "or raise its max_connections"
            ) from None
        raise InputError(f"the store {shown} cannot be reached: {reason}") from None


def _storage(engine: sa.Engine, url: str, shown: str) -> RDBStorage:
    """Bring the tables up to date and open them."""
    try:
        migrate(engine, url)
        storage = BulkStorage(url, engine_kwargs=engine_options(url), skip_table_creation=True)
        _say_what_a_role_may_not(storage.engine, shown)
        return storage
    except (sa.exc.DBAPIError, optuna.exceptions.StorageInternalError, locks.LockHeld) as error:
        raise InputError(f"the store {shown} cannot be set up: {drivers_words(error)}") from None
    except RuntimeError as error:  # Optuna's, for tables of another version
        raise InputError(f"the store {shown} cannot be used: {error}") from None
