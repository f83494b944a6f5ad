"""Stopping, reopening, extending, and limits in hours, while workers run."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from search.cli import app
from search.database.store import Store, open_store
from search.database.tables import AFTER, GAIN, HOURS, NOW, control_table, worker_table
from search.studies.heartbeats import Registration, workers
from search.studies.limits import close, limits, reopen, stopped
from search.studies.owners import new_owner
from search.studies.slots import Result, Slots
from search.studies.study import Study, create_or_resume
from spaces.spec import StudySpec
from tests.noop import crew
from tests.stores import sqlite_too
from tests.waiting import Running

MakeSpec = Callable[..., StudySpec]


def make(store: Store, make_spec: MakeSpec, trials: int = 3, **budget: float) -> Study:
    spec = make_spec(trials=trials)
    spec = spec.model_copy(update={"budget": spec.budget.model_copy(update=budget)})
    return create_or_resume(store, spec, "f" * 64, None)


def test_a_stopped_study_hands_out_no_slot_until_it_is_reopened(
    store: Store, make_spec: MakeSpec
) -> None:
    study = make(store, make_spec)
    running = study.slots.claim(study.ask)
    assert running
    close(store, study.study_id, AFTER)
    assert Slots(store, study.study_id, new_owner()).claim(study.ask) is None
    assert limits(study).now is None  # what runs may end
    assert study.slots.end(running, Result("COMPLETE", 0.5, "completed", {}))
    close(store, study.study_id, NOW)
    assert limits(study).now == "preempted"
    reopen(store, study.study_id)
    assert stopped(study) is None and study.slots.claim(study.ask)


@sqlite_too
def test_resume_with_more_trials_opens_a_study_that_was_stopped_or_has_ended(
    store: Store, make_spec: MakeSpec
) -> None:
    study = make(store, make_spec, trials=1)
    url = {"SEGTUNE_STORE": store.engine.url.render_as_string(hide_password=False)}
    claim = study.slots.claim(study.ask)
    assert claim and study.slots.end(claim, Result("COMPLETE", 0.5, "completed", {}))
    for trials, stop in ((2, None), (3, AFTER), (4, GAIN), (4, HOURS)):
        if stop is not None:
            close(store, study.study_id, stop)
        words = ["resume", "small", "--trials", str(trials)]
        done = CliRunner().invoke(app, words, env=url)
        assert done.exit_code == 0 and "study small is open" in done.output
        assert sum(study.slots.counts().values()) == trials and stopped(study) is None
    fewer = CliRunner().invoke(app, ["resume", "small", "--trials", "3"], env=url)
    assert fewer.exit_code == 2 and "study small has 4 already" in fewer.output
    assert study.slots.claim(study.ask) is not None


@sqlite_too
def test_hours_close_a_study_and_count_anew_when_it_is_reopened(
    store: Store, make_spec: MakeSpec
) -> None:
    study = make(store, make_spec, hours=1.0)
    assert limits(study).now is None
    with store.engine.begin() as connection:
        connection.execute(sa.update(control_table).values(opened_at=store.now() - 3700))
    assert limits(study).now == "stopped" and stopped(study) == HOURS
    reopen(store, study.study_id)
    assert limits(study).now is None


def test_gpu_hours_count_what_all_workers_hold(store: Store, make_spec: MakeSpec) -> None:
    from search.database.tables import slot_table

    study = make(store, make_spec, gpu_hours=1.0)
    for _ in range(2):
        assert Slots(store, study.study_id, new_owner()).claim(study.ask)
    assert limits(study).now is None
    with store.engine.begin() as connection:  # two at once, for 31 minutes
        connection.execute(sa.update(slot_table).values(claimed_at=store.now() - 1860))
    assert limits(study).now == "stopped" and stopped(study) == "gpu_hours"


def test_the_registry_tells_idle_running_and_lost(store: Store) -> None:
    mine, gone = (Registration(store, owner, "cpu") for owner in (new_owner(), "far:1:x"))
    for registration in (mine, gone):
        registration.enter()
    gone.works_on("small", 3)
    with store.engine.begin() as connection:
        connection.execute(
            sa.update(worker_table)
            .where(worker_table.c.owner == "far:1:x")
            .values(seen_at=store.now() - 100)
        )
    assert [worker["state"] for worker in workers(store)] == ["idle", "lost"]
    mine.works_on("small", 1)
    [running] = [worker for worker in workers(store) if worker["state"] == "running"]
    assert (running["study"], running["trial_number"]) == ("small", 1)
    mine.leave()
    assert len(workers(store)) == 1


def start(url: str, folder: Path, epochs: int, seconds: float) -> Running:
    """Two workers of trials that cost nothing."""
    return Running.fork(crew, url, folder, "small", epochs, seconds, 4.0, 2)


def test_stop_resume_and_extend_while_workers_run(
    postgres_url: str, make_spec: MakeSpec, tmp_path: Path
) -> None:
    """`--now` returns the running trials; reopened, they go on where they were."""
    store = open_store(postgres_url)
    study = make(store, make_spec, trials=3)
    running = start(postgres_url, tmp_path, 30, 0.1)
    running.line("epoch")
    close(store, study.study_id, NOW)
    assert "ended" not in running.finish()  # nothing is open any more
    assert study.slots.counts()["OPEN"] == 3 and study.slots.waiting()
    reopen(store, study.study_id)
    study.slots.extend(4)
    running = start(postgres_url, tmp_path, 30, 0.02)
    out = running.finish()
    assert study.slots.counts()["COMPLETE"] == 4, out
    for trial in study.trials():
        assert [r.epoch for r in study.history(trial.number)] == [*range(1, 31)]
    store.close()


def test_one_signal_returns_the_trials(
    postgres_url: str, make_spec: MakeSpec, tmp_path: Path
) -> None:
    store = open_store(postgres_url)
    study = make(store, make_spec, trials=2)
    running = start(postgres_url, tmp_path, 1000, 0.1)
    running.line("epoch")
    running.send(signal.SIGTERM)
    running.finish(130)  # a trial that did not end would go on for 100 s
    assert study.slots.counts()["OPEN"] == 2 and workers(store) == []
    store.close()


@pytest.mark.parametrize("limit", ["trial_hours", "hours"])
def test_a_limit_ends_running_trials_with_their_best_so_far(
    limit: str, postgres_url: str, make_spec: MakeSpec, tmp_path: Path
) -> None:
    store = open_store(postgres_url)
    hours, reason = (2.5 / 3600, "timeout") if limit == "trial_hours" else (1.0, "stopped")
    study = make(store, make_spec, trials=2, **{limit: hours})
    running = start(postgres_url, tmp_path, 1000, 0.1)
    running.line("epoch 1")  # both run
    if limit == "hours":
        with store.engine.begin() as connection:
            connection.execute(sa.update(control_table).values(opened_at=store.now() - 3600))
    out = running.finish()
    ended = [trial for trial in study.trials() if trial.state.is_finished()]
    assert [trial.user_attrs["reason"] for trial in ended] == [reason] * 2, out
    assert all(trial.state.name == "PRUNED" and trial.value > 0 for trial in ended)
    store.close()
