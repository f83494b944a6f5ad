"""What docs/operations.md says about the store: back it up, lose it, restore it, go on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from search.budget import Result
from search.store import metadata, open_store, schema_table, slot_table
from search.study import create_or_resume, open_study
from spaces.spec import StudySpec

MakeSpec = Callable[..., StudySpec]


def test_a_dump_restores_studies_slots_and_reports(
    own_postgres: Any, make_spec: MakeSpec, tmp_path: Path
) -> None:
    store = open_store(own_postgres.url)
    study = create_or_resume(store, make_spec(trials=3), "f" * 64, None)
    claim = study.budget.claim(study.ask)
    assert claim and study.report(claim, {"epoch": 1, "metric": 0.5})
    assert study.budget.end(claim, Result("COMPLETE", 0.5, "completed", {}))
    store.close()

    def program(name: str, *arguments: str, database: str = "postgres") -> None:
        subprocess.run(
            [
                own_postgres.programs / name, *arguments,
                "-h", own_postgres.host, "-p", str(own_postgres.port),
                "-U", own_postgres.user, "-d", database,
            ],
            check=True,
            capture_output=True,
            env={**os.environ, "PGPASSWORD": own_postgres.password},
        )  # fmt: skip

    dump = tmp_path / "segtune.dump"
    program("pg_dump", "--format=custom", f"--file={dump}")
    program("psql", "-c", "CREATE DATABASE restored")
    program("pg_restore", "--no-owner", str(dump), database="restored")
    store = open_store(own_postgres.url.removesuffix("postgres") + "restored")
    again = open_study(store, "small")
    assert again.budget.counts() == {
        "OPEN": 2, "RUNNING": 0, "COMPLETE": 1, "PRUNED": 0, "FAILED": 0,
    }  # fmt: skip
    assert [report["metric"] for report in again.history(claim.trial_number)] == [0.5]
    assert again.trial(claim.trial_number).value == 0.5
    assert again.budget.claim(again.ask)  # and it goes on
    store.close()


def test_a_store_of_version_1_is_upgraded_in_place(postgres_url: str, make_spec: MakeSpec) -> None:
    store = open_store(postgres_url)
    study = create_or_resume(store, make_spec(trials=2), "f" * 64, None)
    claim = study.budget.claim(study.ask)
    assert claim
    with store.engine.begin() as connection:  # as version 1 had it
        for column in ("result", "claimed_at", "seconds"):
            connection.execute(sa.text(f"ALTER TABLE {slot_table.name} DROP COLUMN {column}"))
        for table in ("segtune_control", "segtune_worker"):
            metadata.tables[table].drop(connection)
        connection.execute(sa.update(schema_table).values(version=1))
    store.close()
    store = open_store(postgres_url)
    again = open_study(store, "small")
    assert again.budget.counts()["RUNNING"] == 1
    with store.engine.begin() as connection:
        connection.execute(sa.update(slot_table).values(lease_until=store.now() - 1))
    taken = again.budget.claim(again.ask)
    assert taken and taken.trial_number == claim.trial_number
    assert again.budget.end(taken, Result("COMPLETE", 0.5, "completed", {}))
    store.close()
