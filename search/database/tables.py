"""Our tables beside Optuna's: studies, slots with their leases, epochs, workers, people, jobs."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()


class Metric(sa.Double[float]):
    """A number that may be NaN, which sqlite takes for NULL: there it is a text.

    To both kinds of store it is larger than any number.
    """

    def bind_processor(self, dialect: sa.Dialect) -> Any:
        if dialect.name == "sqlite":
            return _nan_as_text
        return super().bind_processor(dialect)  # type: ignore[no-untyped-call]

    def result_processor(self, dialect: sa.Dialect, coltype: Any) -> Any:
        if dialect.name == "sqlite":
            return _number
        return super().result_processor(dialect, coltype)  # type: ignore[no-untyped-call]


def _nan_as_text(value: float | None) -> float | str | None:
    return "NaN" if value != value else value


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


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
    sa.Column("result", sa.Text),  # slots.Result as JSON, of an ended slot
    sa.Column("claimed_at", sa.Double),
    sa.Column("seconds", sa.Double),  # that earlier attempts have held a device
    sa.Column("images", sa.LargeBinary),  # trainers' ImageCounts, of a confirmation's slot
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
    sa.Column("study", sa.String(120)),
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
    sa.Column("metric", Metric, nullable=False),
    sa.Column("report", sa.Text, nullable=False),
)

user_table = sa.Table(
    "segtune_user",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("password", sa.String(200)),  # passwords.hashed; NULL: it opens nothing
    # random, and new with each password: sessions and tokens of an earlier one open nothing
    sa.Column("key", sa.String(32), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("changed_at", sa.Double, nullable=False),
)

session_table = sa.Table(
    "segtune_session",
    metadata,
    sa.Column("token", sa.String(64), primary_key=True),  # its SHA-256
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("key", sa.String(32), nullable=False),  # the user's, when it began
    sa.Column("begun_at", sa.Double, nullable=False),
    sa.Column("ends_at", sa.Double, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Index("segtune_session_name", "name"),
)

token_table = sa.Table(
    "segtune_token",
    metadata,
    sa.Column("token", sa.String(64), primary_key=True),  # its SHA-256
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("key", sa.String(32), nullable=False),
    sa.Column("label", sa.String(64), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("used_at", sa.Double),
    sa.Index("segtune_token_name", "name", "label", unique=True),
)

audit_table = sa.Table(
    "segtune_audit",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),  # grows
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("who", sa.String(64), nullable=False),
    sa.Column("what", sa.String(200), nullable=False),
    sa.Column("study", sa.String(120)),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Index("segtune_audit_at", "at"),
)

job_table = sa.Table(
    "segtune_job",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),  # grows
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("arguments", sa.Text, nullable=False),  # of job_kinds.KINDS, as JSON
    sa.Column("study", sa.String(120)),
    sa.Column("asked_by", sa.String(64), nullable=False),  # "" where nobody has a name
    sa.Column("asked_at", sa.Double, nullable=False),
    sa.Column("cancelled_by", sa.String(64)),  # who wants its end
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("runner", sa.String(200)),  # its owner's name
    sa.Column("begun_at", sa.Double),
    sa.Column("seen_at", sa.Double),
    sa.Column("ended_at", sa.Double),
    sa.Column("code", sa.Integer),  # its command's exit code
    sa.Column("lines", sa.Text, nullable=False, server_default=""),  # bounded by job_log
    sa.Column("result", sa.String(36)),  # its file's key
    sa.Column("sent", sa.LargeBinary),  # the image that was sent along; NULL when it is over
    sa.Index("segtune_job_state", "state"),
)


# what slots and studies say
OPEN, RUNNING = "OPEN", "RUNNING"
PAUSED = "paused"  # reason of an open slot whose trial waits for its rule
ENDED = ("COMPLETE", "PRUNED", "FAILED")
AFTER, NOW = "after", "now"  # why no new trial begins, as a user asks for it; else the spent limit
GAIN = "gain"  # or too little to gain: it has ended by itself; paused trials wait as with AFTER
HOURS, GPU_HOURS = "hours", "gpu_hours"
SPENT = (HOURS, GPU_HOURS)  # paused trials end then, running ones too


def begin_immediate(connection: sa.Connection) -> None:
    """Begin a transaction of sqlite that holds its lock, tables included; end it as any other.

    The driver would begin none before a table is made, and take the lock too late.
    """
    connection.execution_options(isolation_level="AUTOCOMMIT")
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def seconds_now(dialect: str) -> sa.ColumnElement[Any]:
    """The database's own time in seconds since 1970."""
    if dialect == "postgresql":
        return sa.extract("epoch", sa.func.clock_timestamp())
    return sa.cast(sa.func.strftime("%s", "now"), sa.Double)
