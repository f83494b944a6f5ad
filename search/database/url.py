"""The URL of a store: checked, shown without its password, and what an engine needs for it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from spaces.errors import InputError

STORE_FORM = "postgresql://user:password@host:5432/database"
CONNECT_TIMEOUT = 10  # seconds
DEAD_SECONDS = 15  # a statement, or a connection that does not answer, is given up after this


def parse_store_url(url: str) -> tuple[str, str]:
    """Return (SQLAlchemy URL with its driver, the same without password) of a store URL.

    Raises:
        InputError: a scheme that is no store, or a password whose special characters are not
            percent-encoded. Messages hold no password.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise InputError(
            f"the store must be a URL, {STORE_FORM} or sqlite:///file.db, but got {redact(url)!r}"
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
    if (
        host and not re.fullmatch("[0-9]{1,5}", port) and not port.endswith("]")
    ):  # not shown: it may be a password
        raise InputError(
            f"the port of the store URL must be a number below 65536, as in {STORE_FORM}"
        )
    return f"postgresql+psycopg2://{rest}", redact(url)


def drivers_words(error: BaseException) -> str:
    """What the database's driver said, in one line, without a password."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, sa.exc.DBAPIError):  # Optuna hides it
        cause = cause.__cause__ or cause.__context__
    return redact(" ".join(str(error if cause is None else cause.orig).split()))


def engine_options(url: str) -> dict[str, Any]:
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


def redact(text: str) -> str:
    """Take out the password of a URL, and of what was meant to be one."""
    user = r"(://[^:/@\s]*)" if "://" in text else r"(^[^:/@\s]*)"
    text = re.sub(rf"{user}:[^@]*@", r"\1:***@", text)
    return re.sub(r"(password\s*=\s*)[^&]*", r"\1***", text)
