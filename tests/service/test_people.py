"""Who may sign in: `segtune users`, and what the store keeps of passwords, sessions and tokens."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from search.cli import app
from search.database.audit import deeds
from search.database.passwords import hashed, matches
from search.database.people import (
    add_user,
    has_users,
    remove_user,
    set_password,
    set_role,
    users,
)
from search.database.sessions import (
    MOST,
    Visitor,
    begin_session,
    end_session,
    end_sessions,
    key_of,
    new_token,
    of_name,
    of_session,
    of_token,
)
from search.database.store import Store
from search.database.tables import metadata, session_table
from spaces.errors import InputError
from tests.stores import sqlite_too

PASSWORD = "correct horse"
BY = "system user test@here"


@pytest.fixture
def people(store: Store) -> Store:
    """A store with an owner, a member and a reader without password."""
    add_user(store, "olga", "owner", PASSWORD, BY)
    add_user(store, "max", "member", PASSWORD, BY)
    add_user(store, "ray", "reader", None, BY)
    return store


def session_of(store: Store, name: str, seconds: float = 60.0) -> str:
    key = key_of(store, name, PASSWORD)
    assert key is not None
    return begin_session(store, name, key, seconds, "192.0.2.1")


def all_text(store: Store) -> str:
    """All that our tables hold."""
    with store.engine.connect() as connection:
        rows = [connection.execute(sa.select(t)).all() for t in metadata.tables.values()]
    return repr(rows)


def test_a_password_is_kept_as_scrypt_with_a_salt_of_its_own() -> None:
    one, other = hashed(PASSWORD), hashed(PASSWORD)
    assert one != other and one.startswith("scrypt$32768$8$1$") and len(one) <= 200
    assert matches(PASSWORD, one) and matches(PASSWORD, other)
    assert not matches(PASSWORD + " ", one) and not matches("", one)
    assert not matches("", None) and not matches(PASSWORD, None)
    cheap = "scrypt$16$1$1$AAAA$GwImUP0vMhk6qrJJoIUKb24YM1Cnp5gn19Nd8xQpS8o="
    assert not matches(PASSWORD, cheap)  # reckoned with the parameters that stand there


@sqlite_too
def test_a_password_opens_its_own_user_and_no_other(people: Store) -> None:
    assert key_of(people, "olga", PASSWORD) and key_of(people, "max", PASSWORD)
    assert key_of(people, "olga", PASSWORD) != key_of(people, "max", PASSWORD)
    for name, password in (
        ("olga", "wrong horse"),
        ("ray", ""),
        ("ray", PASSWORD),
        ("nobody", PASSWORD),
        ("OLGA", PASSWORD),
        ("", ""),
        ("o%", PASSWORD),
        ("olga\0", PASSWORD),
    ):
        assert key_of(people, name, password) is None, name


@sqlite_too
def test_a_session_lasts_until_its_end(people: Store) -> None:
    token, short = session_of(people, "max"), session_of(people, "max", seconds=0.0)
    assert of_session(people, token) == Visitor("max", "member")
    assert of_session(people, short) is None
    assert of_session(people, "") is None and of_session(people, "\udcff") is None
    assert of_token(people, token) is None  # one is not the other
    end_session(people, token)
    assert of_session(people, token) is None
    tokens = [session_of(people, name) for name in ("max", "max", "olga")]
    end_sessions(people, "max", "192.0.2.1")
    assert [of_session(people, t) for t in tokens] == [None, None, Visitor("olga", "owner")]


def test_sessions_of_one_user_are_bounded(people: Store) -> None:
    other = session_of(people, "olga")
    key = key_of(people, "max", PASSWORD)
    assert key
    tokens = [begin_session(people, "max", key, 60.0, "x") for _ in range(MOST + 2)]
    held = [of_session(people, token) is not None for token in tokens]
    assert sum(held) == MOST and held[-1] and of_session(people, other)
    if people.postgres:  # sqlite's clock has whole seconds
        assert not any(held[:2])


@sqlite_too
def test_a_new_role_counts_at_once_and_a_new_password_ends_all(people: Store) -> None:
    session, token = session_of(people, "max"), new_token(people, "max", "ci", BY)
    key = key_of(people, "max", PASSWORD)
    assert key
    set_role(people, "max", "reader", BY)
    assert of_session(people, session) == of_token(people, token) == Visitor("max", "reader")
    set_password(people, "max", "another one", BY)
    assert of_session(people, session) is None and of_token(people, token) is None
    assert key_of(people, "max", PASSWORD) is None and key_of(people, "max", "another one")
    # of who had given the old password when it was changed
    late = begin_session(people, "max", key, 60.0, "x")
    assert of_session(people, late) is None


@sqlite_too
def test_who_is_removed_is_out_and_a_namesake_does_not_inherit(people: Store) -> None:
    session, token = session_of(people, "max"), new_token(people, "max", "ci", BY)
    key = key_of(people, "max", PASSWORD)
    assert key
    remove_user(people, "max", BY)
    late = begin_session(people, "max", key, 60.0, "x")
    add_user(people, "max", "owner", PASSWORD, BY)
    assert [of_session(people, session), of_session(people, late)] == [None, None]
    assert of_token(people, token) is None and of_name(people, "max") == Visitor("max", "owner")


@sqlite_too
def test_a_token_of_a_label_takes_the_place_of_the_one_before(people: Store) -> None:
    first, other = new_token(people, "ray", "ci", BY), new_token(people, "ray", "laptop", BY)
    second = new_token(people, "ray", "ci", BY)
    found = [of_token(people, token) for token in (first, other, second)]
    assert found == [None, Visitor("ray", "reader"), Visitor("ray", "reader")]
    assert second.startswith("segtune_") and of_session(people, second) is None
    assert users(people)[2].tokens == ("ci", "laptop")


@sqlite_too
def test_the_store_holds_no_secret_that_opens_anything(people: Store) -> None:
    secrets = [PASSWORD, session_of(people, "max"), new_token(people, "max", "ci", BY)]
    held = all_text(people)
    assert "scrypt$" in held and "signed in" in held
    assert not [secret for secret in secrets if secret in held]


@sqlite_too
def test_when_somebody_was_seen_is_written_once_a_minute(people: Store) -> None:
    token = session_of(people, "max")

    def seen(change: float = 0.0) -> float:
        with people.engine.begin() as connection:
            column = session_table.c.seen_at
            connection.execute(sa.update(session_table).values({column: column + change}))
            return float(connection.execute(sa.select(column)).scalar_one())

    before = seen()
    assert of_session(people, token) and seen() == before
    aged = seen(-61.0)
    assert of_session(people, token) and seen() > aged + 60


@sqlite_too
def test_an_owner_is_always_there(store: Store) -> None:
    assert not has_users(store)
    for role in ("reader", "member"):
        with pytest.raises(InputError, match="the first user must be an owner"):
            add_user(store, "ann", role, None, BY)
    add_user(store, "ann", "owner", None, BY)
    add_user(store, "bob", "member", None, BY)
    for change in (
        lambda: remove_user(store, "ann", BY),
        lambda: set_role(store, "ann", "member", BY),
    ):
        with pytest.raises(InputError, match="ann is the only owner; first make another one"):
            change()
    set_role(store, "bob", "owner", BY)
    start = threading.Barrier(2, timeout=20)

    def leave(name: str) -> bool:
        start.wait()
        try:
            set_role(store, name, "reader", BY)
        except InputError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(leave, ("ann", "bob"))) == [False, True]
    [reader, owner] = sorted(users(store), key=lambda user: user.role == "owner")
    assert (reader.role, owner.role) == ("reader", "owner")
    remove_user(store, reader.name, BY)
    remove_user(store, owner.name, BY)  # who is alone may go
    assert not has_users(store)


@sqlite_too
def test_what_was_done_to_users_is_written_down(people: Store) -> None:
    set_role(people, "ray", "member", BY)
    set_password(people, "ray", PASSWORD, BY)
    session_of(people, "ray")
    remove_user(people, "ray", BY)
    with pytest.raises(InputError):
        remove_user(people, "olga", BY)
    found = deeds(people)
    assert [(deed.who, deed.what) for deed in found] == [
        (BY, "users remove ray"),
        ("ray", "signed in"),
        (BY, "users password ray"),
        (BY, "users role ray member"),
        (BY, "users add ray --role reader"),
        (BY, "users add max --role member"),
        (BY, "users add olga --role owner"),
    ]
    assert [deed.address for deed in found][:2] == ["", "192.0.2.1"]


# ---------------------------------------------------------------- the command


def run(store: Store, *words: str, typed: str | None = None) -> Result:
    url = store.engine.url.render_as_string(hide_password=False)
    return CliRunner().invoke(app, ["users", *words], env={"SEGTUNE_STORE": url}, input=typed)


def test_users_are_kept_by_command(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "p"
    file.write_text(PASSWORD + "\n")
    assert run(store, "list").output.startswith("nobody has a name yet: segtune users add")
    answer = run(store, "add", "ann", "--role", "owner", "--password-file", str(file))
    assert answer.output == (
        "ann may sign in as owner\nstart the dashboard again: it asks for names from now on\n"
    )
    answer = run(store, "add", "bob", "--without-password")
    assert answer.output == "bob may sign in as reader\n"
    token = run(store, "token", "bob", "--label", "ci").output.strip()
    assert of_token(store, token) == Visitor("bob", "reader")
    assert key_of(store, "ann", PASSWORD) and key_of(store, "bob", "") is None
    listed = json.loads(run(store, "list", "--json").output)
    expected = [("ann", "owner", True, []), ("bob", "reader", False, ["ci"])]
    assert [(u["name"], u["role"], u["password"], u["tokens"]) for u in listed] == expected
    assert "ann" in run(store, "list").output
    file.write_text("another one")
    assert run(store, "password", "bob", "--password-file", str(file)).exit_code == 0
    assert key_of(store, "bob", "another one") and of_token(store, token) is None
    assert run(store, "role", "bob", "member").output == "bob is member now\n"
    run(store, "token", "bob", "--label", "ci")
    assert run(store, "token", "bob", "--label", "ci", "--remove").exit_code == 0
    assert run(store, "remove", "bob").exit_code == 0
    assert [user.name for user in users(store)] == ["ann"]


def test_a_password_is_typed_twice_and_not_shown(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.cli.people.somebody_is_there", lambda: True)
    words = ("add", "ann", "--role", "owner")
    answer = run(store, *words, typed=f"{PASSWORD}\nwrong horse\n{PASSWORD}\n{PASSWORD}\n")
    assert answer.exit_code == 0 and "do not match" in answer.output
    assert PASSWORD not in answer.output and key_of(store, "ann", PASSWORD)


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("add Ann", "a user's name must have 1 to 64 small letters, digits and . _ + @ -"),
        (f"add {'a' * 65}", "a user's name must have 1 to 64"),
        ("add eva --role boss", "--role must be one of reader, member, owner, but got boss"),
        ("add eva --role ownr", "did you mean owner?"),
        ("add olga --without-password", "there is a user olga already, with the role owner"),
        ("add eva", "nobody is there to type the password"),
        ("add eva --password-file short", "short: the password must have 8 to 1000 characters"),
        ("add eva --password-file two", "--password-file: two must hold one line, but has 2"),
        ("add eva --password-file absent", "--password-file: absent cannot be read: No such"),
        ("add eva --password-file short --without-password", "leave one of them out"),
        ("remove olga", "olga is the only owner; first make another one: segtune users role"),
        ("role olga reader", "olga is the only owner"),
        ("role max boss", "--role must be one of"),
        ("remove mex", "there is no user mex; did you mean max?"),
        ("password eva --password-file good", "there is no user eva; known: max, olga, ray"),
        ("token eva --label ci", "there is no user eva"),
        ("token max --label a/b", "--label must have 1 to 64 letters"),
        ("token max --label ci --remove", "max has no token ci; segtune users list shows"),
    ],
)
def test_bad_input_changes_nothing(
    words: str, said: str, people: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in {"short": "seven 7", "two": "x" * 9 + "\ny", "good": PASSWORD}.items():
        Path(name).write_text(text)
    before = all_text(people)
    answer = run(people, *words.split())
    assert answer.exit_code == 2 and said in answer.output, answer.output
    assert answer.output.startswith("segtune: ") and answer.output.count("\n") == 1
    assert "seven 7" not in answer.output and all_text(people) == before
