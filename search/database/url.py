"""The URL of a store: checked, shown without its password, and what an engine needs for it."""

from __future__ import annotations

import functools
import ipaddress
import logging
import os
import re
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from spaces.errors import InputError

STORE_FORM = "postgresql://user@host:5432/database"
STORE = "SEGTUNE_STORE"  # environment variable: the store's URL, where --store is left away
UNENCRYPTED = ("disable", "allow", "prefer")  # libpq's modes that may send in clear text
_PASSWORD = re.compile(r"(^|://)[^:/@\s]*:(?!//|\d+/)[^@]+@|password\s*=")

_log = logging.getLogger("segtune.store")
CONNECT_TIMEOUT = 10  # seconds
DEAD_SECONDS = 15  # a statement, or a connection that does not answer, is given up after this


def spellings(*passwords: str | None) -> set[str]:
    """Passwords that are to be taken out of a text: plain, and as they stand in URLs and forms."""
    plain = {password for password in passwords if password}
    return plain | {quote(password, safe="") for password in plain}


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
    is_port = re.fullmatch("[0-9]{1,5}", port) or port.endswith("]")
    if host and not is_port:  # not shown: it may be a password
        raise InputError(
            f"the port of the store URL must be a number below 65536, as in {STORE_FORM}"
        )
    return f"postgresql+psycopg2://{rest}", redact(url)


def refuse_password(url: str) -> str:
    """Return the URL of a command line as it is.

    Raises:
        InputError: it holds a password, which the list of processes shows to all users.
    """
    if url.startswith("sqlite:") or not _PASSWORD.search(url):
        return url
    raise InputError(
        "--store holds a password, which everybody on this machine can read in the list of "
        f"processes. Leave --store away and put the URL into the environment: export {STORE}="
        "postgresql://... Or leave the password out of it, and name it in $PGPASSWORD, or in "
        "~/.pgpass (one line, host:port:database:user:password; chmod 600). And change it: it was "
        "shown"
    )


def warn_unencrypted(url: sa.URL) -> None:
    """Say once, in the log, that a connection to another machine may not be encrypted."""
    if url.get_backend_name() != "postgresql":
        return
    host = url.host or _of_query(url, "host") or os.environ.get("PGHOST", "")
    mode = _of_query(url, "sslmode") or os.environ.get("PGSSLMODE") or "prefer"
    if mode in UNENCRYPTED and not _is_here(host):
        _warn_of(host, mode)


@functools.cache
def _warn_of(host: str, mode: str) -> None:
    _log.warning(
        "warning: the connection to the store at %s may send its data in clear text (sslmode=%s); "
        "add ?sslmode=verify-full (or at least require) to its URL, or set PGSSLMODE",
        host,
        mode,
    )


def _of_query(url: sa.URL, name: str) -> str:
    found = url.query.get(name, "")
    return found if isinstance(found, str) else ",".join(found)


def _is_here(host: str) -> bool:
    """Whether a host is this machine, as far as its name says: a socket, a loopback, our name."""
    if host in ("", "localhost", socket.gethostname()) or host.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def drivers_words(error: BaseException) -> str:
    """What the database's driver said, in one line, without a password."""
    cause: BaseException | None = None if isinstance(error, sa.exc.TimeoutError) else error  # ours
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
    text = re.sub(rf"{user}:[^@]*@([^@\s]*@)*", r"\1:***@", text)
    return re.sub(r"(password\s*=\s*)[^&]*", r"\1***", text)
