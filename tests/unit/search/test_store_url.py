"""Store URLs: what is accepted, what is refused, and that no message holds a password."""

from __future__ import annotations

import logging
import socket

import pytest
import sqlalchemy as sa

from search.database.url import _warn_of, parse_store_url, refuse_password, warn_unencrypted
from spaces.errors import InputError


@pytest.mark.parametrize(
    ("given", "full", "shown"),
    [
        (
            "postgresql://ann:secret@db:5432/studies",
            "postgresql+psycopg2://ann:secret@db:5432/studies",
            "postgresql://ann:***@db:5432/studies",
        ),
        (
            "postgresql+psycopg2://ann:a%7Bb%40c@db/studies",
            "postgresql+psycopg2://ann:a%7Bb%40c@db/studies",
            "postgresql+psycopg2://ann:***@db/studies",
        ),
        (
            "postgresql://db/studies?user=ann&password=secret",
            "postgresql+psycopg2://db/studies?user=ann&password=secret",
            "postgresql://db/studies?user=ann&password=***",
        ),
    ],
)
def test_accepted(given: str, full: str, shown: str) -> None:
    assert parse_store_url(given) == (full, shown)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("postgres://ann:secret@db/x", "must be postgresql://, but got postgres://"),
        ("mysql://ann:secret@db/x", "must be postgresql:// or sqlite:///, but got mysql://"),
        ("postgresql+psycopg://ann:secret@db/x", "but got postgresql+psycopg://"),
        ("studies.db", "must be a URL"),
        ("postgresql://ann:sec{ret@db/x", "%7B"),
        ("postgresql://ann:sec}ret@db/x", "%7D"),
        ("postgresql://ann:sec@ret@db/x", "%40"),
        ("postgresql://ann:sec@ret/x@db/x", "%40"),
        ("postgresql://ann:secret", "port of the store URL must be a number"),
        ("postgresql://ann@db:54²/x", "port of the store URL must be a number"),
        ("postgresql://ann@db:543210/x", "port of the store URL must be a number"),
        ("postgresql://ann:sec ret@db:54x2/x", "port of the store URL must be a number"),
        ("ann:sec ret@db/x", "but got 'ann:\\*\\*\\*@db/x'"),
        ("ann:sec@ret@db/x", "but got 'ann:\\*\\*\\*@db/x'"),
        ("host=db password=secret user=ann", "but got 'host=db password=\\*\\*\\*'"),
        ("sqlite:///:memory:", "sqlite:///file.db"),
        ("sqlite:///.", "but . is a folder"),
        ("sqlite:///", "sqlite:///file.db"),
        ("sqlite:////no/such/folder/x.db", "does not exist"),
    ],
)
def test_refused(given: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("+", r"\+")) as caught:
        parse_store_url(given)
    assert "sec" not in str(caught.value).split("but got")[-1]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:secret@db/x",
        "postgresql://:secret@db/x",
        "postgresql://ann:sec/ret@db/x",
        "postgresql://ann:sec@ret@db/x",
        "postgresql://db/x?user=ann&password=secret",
        "postgresql://db/x?sslpassword=secret",
        "postgres://ann:secret@db/x",
        "ann:secret@db/x",
        "host=db password=secret",
    ],
)
def test_a_password_on_the_command_line_is_refused(url: str) -> None:
    with pytest.raises(InputError, match=r"SEGTUNE_STORE.*PGPASSWORD.*pgpass") as caught:
        refuse_password(url)
    assert "sec" not in str(caught.value) and "ret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann@db:5432/x",
        "postgresql://db:5432/x?application_name=ann@here",
        "postgresql://db/x?passfile=/home/ann/.pgpass&sslmode=require",
        "postgresql://postgres:@/x?host=/tmp/segtune",  # the embedded server's own
        "sqlite:///runs:1@home.db",
        "studies.db",
    ],
)
def test_a_url_without_a_password_is_taken(url: str) -> None:
    assert refuse_password(url) == url


@pytest.mark.parametrize(
    ("url", "variables", "warns"),
    [
        ("postgresql://ann@db/x", {}, True),
        ("postgresql://ann@10.0.0.7/x?sslmode=allow", {}, True),
        ("postgresql://ann@db/x?sslmode=disable", {"PGSSLMODE": "require"}, True),
        ("postgresql:///x?host=db", {}, True),
        ("postgresql:///x", {"PGHOST": "db"}, True),
        ("postgresql://ann@db/x?sslmode=require", {}, False),
        ("postgresql://ann@db/x?sslmode=verify-full", {}, False),
        ("postgresql://ann@db/x", {"PGSSLMODE": "verify-ca"}, False),
        ("postgresql://ann@localhost/x", {}, False),
        ("postgresql://ann@127.0.0.2/x", {}, False),
        ("postgresql://ann@[::1]/x", {}, False),
        (f"postgresql://ann@{socket.gethostname()}/x", {}, False),
        ("postgresql:///x?host=/run/postgresql", {}, False),
        ("postgresql:///x", {}, False),
        ("sqlite:////tmp/x.db", {}, False),
    ],
)
def test_a_connection_in_clear_text_to_another_machine_is_said_once(
    url: str,
    variables: dict[str, str],
    warns: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _warn_of.cache_clear()
    for name in ("PGHOST", "PGSSLMODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            warn_unencrypted(sa.make_url(url))
    assert len(caplog.records) == warns
    assert all("sslmode=verify-full" in record.getMessage() for record in caplog.records)
