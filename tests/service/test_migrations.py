"""A store that is set up, or upgraded, by a process that is killed: the next one goes on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import sqlalchemy as sa

from search.database.migrations import SCHEMA_VERSION, UPGRADES
from search.database.store import open_store
from search.database.tables import schema_table
from search.studies.slots import Result
from search.studies.study import create_or_resume, study_names
from spaces.errors import InputError
from spaces.spec import StudySpec
from tests.older import downgrade


def test_every_version_has_its_upgrade() -> None:
    assert [older for older, _ in UPGRADES] == list(range(1, SCHEMA_VERSION))


def test_a_setup_of_sqlite_that_is_killed_anywhere_is_gone_on_with(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with copies_at_each_write(tmp_path) as copies:
        open_store(url).close()
    assert len(copies) >= 4
    for copy in copies:
        assert shape(f"sqlite:///{copy}") == shape(url), copy.name


def test_an_upgrade_of_sqlite_that_is_killed_anywhere_is_gone_on_with(
    tmp_path: Path, make_spec: Callable[..., StudySpec]
) -> None:
    """From version 1 on, so it is killed in the upgrade of each."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    fill(url, make_spec())
    expected = shape(url)
    age(url)
    with copies_at_each_write(tmp_path) as copies:
        open_store(url).close()
    assert len(copies) >= SCHEMA_VERSION - 1
    for copy in copies:
        assert shape(f"sqlite:///{copy}") == expected, copy.name


def test_a_setup_of_postgres_that_is_cut_off_anywhere_is_gone_on_with(
    any_postgres: str, postgres_url: str
) -> None:
    writes = next(n for n in itertools.count() if not cut_off(any_postgres, n))
    assert writes > 15
    assert shape(any_postgres) == shape(postgres_url)


def test_an_upgrade_of_postgres_that_is_cut_off_anywhere_is_gone_on_with(
    postgres_url: str, make_spec: Callable[..., StudySpec]
) -> None:
    """From version 1 on, so it is cut off in the upgrade of each."""
    fill(postgres_url, make_spec())
    expected = shape(postgres_url)
    for write in itertools.count():
        age(postgres_url)
        cut = cut_off(postgres_url, write)
        assert shape(postgres_url) == expected, write
        if not cut:
            break
    assert write >= 2 * (SCHEMA_VERSION - 1)


def test_a_sqlite_store_that_an_older_version_was_killed_in_is_mended(tmp_path: Path) -> None:
    """It made its tables one by one, and wrote its version last."""
    whole, url = f"sqlite:///{tmp_path / 'whole.db'}", f"sqlite:///{tmp_path / 'store.db'}"
    open_store(whole).close()
    open_store(url).close()
    with sa.create_engine(url).begin() as connection:
        connection.execute(sa.delete(schema_table))
        for statement in ("TABLE segtune_epoch", "INDEX segtune_slot_ended"):
            connection.execute(sa.text(f"DROP {statement}"))
    assert shape(url) == shape(whole)


def fill(url: str, spec: StudySpec) -> None:
    """A study with a trial that has ended, and one that runs."""
    store = open_store(url)
    study = create_or_resume(store, spec, "f" * 64, None)
    claim = study.slots.claim(study.ask)
    assert claim and study.slots.end(claim, Result("COMPLETE", 0.5, "completed", {}))
    assert study.slots.claim(study.ask)
    store.close()


def age(url: str) -> None:
    """Make a store one of version 1."""
    store = open_store(url)
    downgrade(store.engine, 1)
    store.close()


def shape(url: str) -> dict[str, Any]:
    """What a store has once it is opened: its tables, its version, its studies and their slots."""
    store = open_store(url)
    inspector = sa.inspect(store.engine)
    found: dict[str, Any] = {
        table: (
            sorted(column["name"] for column in inspector.get_columns(table)),
            sorted(str(index["name"]) for index in inspector.get_indexes(table)),
        )
        for table in inspector.get_table_names()
    }
    with store.engine.connect() as connection:
        found["version"] = connection.execute(sa.select(schema_table.c.version)).all()
        for table in ("segtune_slot", "segtune_control", "alembic_version", "version_info"):
            count = connection.execute(sa.text(f"SELECT count(*) FROM {table}"))
            found[f"rows of {table}"] = count.scalar()
    found["studies"] = study_names(store)
    store.close()
    return found


def is_write(statement: str) -> bool:
    return not statement.lstrip().upper().startswith(("SELECT", "PRAGMA", "SET", "RESET", "SHOW"))


@contextmanager
def copies_at_each_write(folder: Path) -> Iterator[list[Path]]:
    """Copy `store.db` before each statement that changes it, and before each end of a transaction.

    With its journal: what a kill would leave there. Equal copies are made once.
    """
    copies: dict[tuple[bytes, ...], Path] = {}

    def copy(*event: Any) -> None:
        if len(event) > 1 and not is_write(event[2]):
            return
        files = [Path(f"{folder / 'store.db'}{ending}") for ending in ("", "-journal")]
        left = tuple(file.read_bytes() if file.exists() else b"" for file in files)
        if left not in copies:
            copies[left] = to = folder / f"killed-{len(copies)}.db"
            for content, ending in zip(left, ("", "-journal"), strict=True):
                if content:
                    Path(f"{to}{ending}").write_bytes(content)
            found.append(to)

    found: list[Path] = []
    with listening("before_cursor_execute", copy), listening("commit", copy):
        yield found


def cut_off(url: str, writes: int) -> bool:
    """Open a store whose server drops the connection at a later write; False if there is none."""
    left = iter(range(writes))
    cut = False

    def drop(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        nonlocal cut
        if is_write(statement) and not cut and next(left, None) is None:
            cut = True
            plain = url.replace("postgresql+psycopg2", "postgresql")
            admin = psycopg2.connect(plain)
            pid = cursor.connection.info.backend_pid
            admin.cursor().execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))
            admin.close()

    with listening("before_cursor_execute", drop):
        try:
            open_store(url).close()
        except InputError as error:
            assert "cannot be" in str(error)
    return cut


@contextmanager
def listening(event: str, listener: Any) -> Iterator[None]:
    sa.event.listen(sa.Engine, event, listener)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, event, listener)
