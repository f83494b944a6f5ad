"""Store URLs: what is accepted, what is refused, and that no message holds a password."""

from __future__ import annotations

import pytest

from search.database.url import parse_store_url
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
