"""What docs/operations.md says about the store: back it up, lose it, restore it, go on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from search.database import optuna_writer
from search.database.optuna_private import TRIAL_USER_ATTRS, TRIAL_VALUES, TRIALS
from search.database.store import open_store
from search.database.tables import schema_table, slot_table
from search.studies.learning_curves import curves_ended_after
from search.studies.slots import Result
from search.studies.study import create_or_resume, open_study
from search.studies.trial_facts import TrialFacts
from spaces.spec import StudySpec
from tests.older import downgrade
from tests.stores import sqlite_too
from trainers.report import EpochReport

MakeSpec = Callable[..., StudySpec]


def test_a_dump_restores_studies_slots_and_reports(
    own_postgres: Any, make_spec: MakeSpec, tmp_path: Path
) -> None:
    store = open_store(own_postgres.url)
    study = create_or_resume(store, make_spec(trials=3), "f" * 64, None)
    claim = study.slots.claim(study.ask)
    assert claim and study.report(claim, EpochReport(epoch=1, metric=0.5))
    assert study.slots.end(claim, Result("COMPLETE", 0.5, "completed", {}))
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
    assert again.slots.counts() == {
        "OPEN": 2, "RUNNING": 0, "COMPLETE": 1, "PRUNED": 0, "FAILED": 0,
    }  # fmt: skip
    assert [report.metric for report in again.history(claim.trial_number)] == [0.5]
    assert again.trial(claim.trial_number).value == 0.5
    assert again.slots.claim(again.ask)  # and it goes on
    store.close()


@sqlite_too
@pytest.mark.parametrize("version", [1, 2])
def test_an_older_store_is_upgraded_in_place(
    version: int, store_url: str, make_spec: MakeSpec
) -> None:
    store = open_store(store_url)
    study = create_or_resume(store, make_spec(trials=3), "f" * 64, None)
    ended = study.slots.claim(study.ask)
    assert ended and study.report(ended, EpochReport(epoch=1, metric=0.25))
    assert study.slots.end(ended, Result("COMPLETE", 0.25, "completed", {}))
    claim = study.slots.claim(study.ask)
    assert claim
    downgrade(store.engine, version)
    store.close()
    store = open_store(store_url)
    again = open_study(store, "small")
    assert again.slots.counts()["RUNNING"] == 1
    until, curves = curves_ended_after(again, 0, warmups=True)
    assert {n: c.values for n, c in curves.items()} == {ended.trial_number: (0.25,)}
    with store.engine.begin() as connection:
        connection.execute(sa.update(slot_table).values(lease_until=store.now() - 1))
    taken = again.slots.claim(again.ask)
    assert taken and taken.trial_number == claim.trial_number
    assert again.report(taken, EpochReport(epoch=1, metric=0.5))
    assert again.slots.end(taken, Result("COMPLETE", 0.5, "completed", {}))
    later, curves = curves_ended_after(again, until, warmups=False)
    assert later > until and list(curves) == [taken.trial_number]
    inspector = sa.inspect(store.engine)
    assert {i["name"] for i in inspector.get_indexes("segtune_slot")} >= {
        "segtune_slot_state",
        "segtune_slot_ended",
    }
    store.close()


@sqlite_too
def test_what_version_4_left_half_done_is_mended_once(store_url: str, make_spec: MakeSpec) -> None:
    """A result that Optuna was not told, trials without a slot, and what was found lost before."""
    store = open_store(store_url)
    spec = make_spec(trials=6, starting_points="true")
    study = create_or_resume(store, spec, "f" * 64, 20)
    assert len(study.optuna().trials) == 2  # starting points in the queue
    claim = study.slots.claim(study.ask)
    assert claim and study.slots.end(claim, Result("COMPLETE", 0.25, "completed", {"epochs": 2}))
    point = study.ask(1)  # of the queue, as by a worker that died before its claim
    drawn, lost = study.ask(9), study.ask(10)
    running = study.slots.claim(study.ask)
    assert running
    id_of_told = study.trial_id(claim.trial_number)
    with store.engine.begin() as connection:  # as that version had it
        connection.execute(
            sa.update(TRIALS)
            .where(TRIALS.c.trial_id == id_of_told)
            .values(state=TrialState.RUNNING, datetime_complete=None)
        )
        for table in (TRIAL_VALUES, TRIAL_USER_ATTRS):
            connection.execute(sa.delete(table).where(table.c.trial_id == id_of_told))
        unclaimed = {"reason": "unclaimed"}
        optuna_writer.end(connection, study.study_id, lost, TrialState.FAIL, None, unclaimed)
        connection.execute(sa.update(schema_table).values(version=4))
    store.close()

    store = open_store(store_url)
    study = open_study(store, spec.name)
    told = study.trial(claim.trial_number)
    assert (told.state, told.value) == (TrialState.COMPLETE, 0.25)
    assert TrialFacts.of(told).reason == "completed" and TrialFacts.of(told).epochs == 2
    assert study.trial(point).state == TrialState.WAITING and study.trial(point).params == {}
    assert study.trial(running.trial_number).state == TrialState.RUNNING
    assert {drawn, lost} < {trial.number for trial in study.optuna().trials}
    assert [trial.number for trial in study.trials()] == [told.number, running.trial_number]
    again = study.slots.claim(study.ask)
    assert again and again.trial_number == point
    assert TrialFacts.of(study.trial(point)).origin
    store.close()
