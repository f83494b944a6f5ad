"""What a trial asks of the store, counted exactly: a statement more is seen here."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage

from search.database.store import Store, open_store
from search.findings.facts import gather
from search.studies.heartbeats import Registration
from search.studies.limits import limits
from search.studies.reports import Stored
from search.studies.slots import Result
from search.studies.study import Study, create_or_resume
from search.work.worker import Worker
from tests.fake_child import report
from tests.filled import fill_ended
from tests.scripted import EPOCHS, curve, make_spec, new_worker, scripted
from tests.statements import Statements, stock_trial
from tests.stores import sqlite_too
from trainers.report import EpochReport

RISING = [(epoch + 1) / 40 for epoch in range(EPOCHS)]
OTHER_ALIGNED = {"name": "ended_median", "startup_trials": 1, "stop_from": 1, "align": "warmup"}


@pytest.fixture
def on_postgres(postgres_url: str) -> Iterator[Store]:
    store = open_store(postgres_url)
    yield store
    store.close()


def make(store: Store, folder: Path, **given: object) -> Study:
    spec = make_spec(folder, "counted", trials=60, **given)  # type: ignore[arg-type]
    return create_or_resume(store, spec, "f" * 64, None)


def end_one(study: Study, metrics: list[float]) -> None:
    """A trial of another worker."""
    other = study.slots
    other.owner = f"other-{random.random()}"
    claim = other.claim(study.ask)
    assert claim
    claimed, study.owner = study.owner, other.owner
    for epoch, metric in enumerate(metrics, start=1):
        assert study.report(claim, report(epoch, metric))
    study.owner = claimed
    assert other.end(claim, Result("COMPLETE", max(metrics), "completed", {}))


@pytest.mark.parametrize(
    ("pruner", "before", "whole"),
    [
        ("ended_median", 10 + 1, 54),  # claim 10, curves that ended since 1
        ("quantile", 1 + 14, 58),  # what is paused 1, claim 14: paused trials are read anew
    ],
)
def test_a_whole_trial(
    pruner: str,
    before: int,
    whole: int,
    on_postgres: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """30 epochs, 10 parameters: from the claim to the result that everybody sees."""
    for name in ("REFRESH_SECONDS", "NEW_BEST_SECONDS"):
        monkeypatch.setattr(f"search.dashboard.publish.{name}", math.inf)  # else the clock decides
    study = make(on_postgres, tmp_path, pruner=pruner)
    worker, rng = new_worker(study, tmp_path), random.Random(0)
    with scripted(worker, lambda: curve(rng)):
        for _ in range(12):
            assert worker.serve_one()
        while (found := worker.judge.review()) and (found.goes or found.stops):
            assert worker.serve_one()  # the next one shall be new
    assert ("PAUSED" in study.slots.waiting().values()) is (pruner == "quantile")
    best = [1.0 + value for value in RISING]  # never below others
    with scripted(worker, lambda: best), Statements.of(on_postgres) as counted:
        assert worker.serve_one()
    trial = study.trials()[-1]
    assert len(trial.intermediate_values) == EPOCHS and len(trial.params) == 10
    # where it begins 1; a report for each epoch; end 3, telling Optuna 3, reading what has been
    # found 6
    assert len(counted) == before + 1 + EPOCHS + 3 + 3 + 6 == whole, counted.texts
    with Statements.of(on_postgres) as refresh:  # of notes and graphs, at most every minute
        worker.background.publisher.refresh(gather(study))
    assert len(refresh) == 10 + (4 if pruner == "quantile" else 0), refresh.texts
    assert len(counted) + len(refresh) <= 150  # the stock loop: about 370


def test_the_stock_loop_asks_far_more(on_postgres: Store, tmp_path: Path) -> None:
    """Optuna's own, on the same server: TPE, MedianPruner, no other trial running."""
    storage = RDBStorage(on_postgres.engine.url.render_as_string(hide_password=False))
    study = optuna.create_study(
        storage=storage,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=0, multivariate=True, group=True),
        pruner=optuna.pruners.MedianPruner(),
    )
    rng = random.Random(0)
    for _ in range(12):
        stock_trial(study, curve(rng))
    with Statements(storage.engine) as counted:
        stock_trial(study, [1.0 + value for value in RISING])
    assert len(study.trials[-1].intermediate_values) == EPOCHS
    assert len(counted) > 300  # 358 of Optuna 5.0.0
    storage.engine.dispose()


@sqlite_too
@pytest.mark.parametrize(
    ("pruner", "new"),
    [({"name": "ended_median", "startup_trials": 1, "stop_from": 1}, 1), (OTHER_ALIGNED, 2)],
)
def test_a_report_and_its_verdict(
    pruner: dict[str, object], new: int, store: Store, tmp_path: Path
) -> None:
    """One statement; where another trial has ended, one for all new curves (and their configs)."""
    study = make(store, tmp_path, sampler="random", pruner=pruner)
    worker = new_worker(study, tmp_path)
    for _ in range(3):
        end_one(study, RISING[:8])
    claim = study.slots.claim(study.ask)
    assert claim
    config = study.begun(claim.trial_number).config
    values: list[float] = []

    def report_and_verdict() -> int:
        values.append(0.9)
        with Statements.of(store) as counted:
            stored = study.report(claim, report(len(values), values[-1]))
            assert stored and worker.judge.verdict(claim, config, values, stored) is None
        return len(counted)

    # sqlite: the lease, two rows, and it always looks for new curves
    expected = [1 + new, 1, 1] if store.postgres else [3 + new, 4, 4]
    assert [report_and_verdict() for _ in range(3)] == expected
    end_one(study, RISING[:8])
    end_one(study, RISING[:8])
    expected = [1 + new, 1] if store.postgres else [3 + new, 4]
    assert [report_and_verdict() for _ in range(2)] == expected
    assert max(expected) <= 4 or not store.postgres


def filled_studies(fresh_databases: Callable[[], str], folder: Path) -> Iterator[tuple[int, Study]]:
    """A study of few ended trials, then one of many, each in a store of its own: (ended, study)."""
    for finished in (20, 400):
        store = open_store(fresh_databases())
        study = make(store, folder, sampler="random")
        fill_ended(study, finished)
        yield finished, study
        store.close()


def test_a_report_and_its_verdict_do_not_grow_with_the_study(
    fresh_databases: Callable[[], str], tmp_path: Path
) -> None:
    """Neither the statements nor the rows that they give or change."""
    found = []
    for finished, study in filled_studies(fresh_databases, tmp_path):
        store, worker = study.store, new_worker(study, tmp_path)
        claim = study.slots.claim(study.ask)
        assert claim
        config, values = study.begun(claim.trial_number).config, RISING[:10]
        # the first verdict reads all curves, once
        verdict = worker.judge.verdict(claim, config, values, Stored(None))
        with Statements.of(store) as counted:
            stored = study.report(claim, report(10, values[-1]))
            assert stored and stored.ended == finished
            assert worker.judge.verdict(claim, config, values, stored) == verdict
        found.append((len(counted), counted.rows))
    assert found == [(1, 1), (1, 1)]


def test_a_claim_does_not_grow_with_the_study(
    fresh_databases: Callable[[], str], tmp_path: Path
) -> None:
    found = []
    for _, study in filled_studies(fresh_databases, tmp_path):
        study.trials()  # a worker that is there already has read what has ended
        with Statements.of(study.store) as counted:
            assert study.slots.claim(study.ask)
        found.append((len(counted), counted.rows))
    assert found[0] == found[1] and found[0][0] <= 15, found


def test_a_worker_of_a_busy_study(on_postgres: Store, tmp_path: Path) -> None:
    """Others end trials while ours runs: a statement more for each time that it is noticed."""
    study = make(on_postgres, tmp_path, sampler="random")
    worker: Worker = new_worker(study, tmp_path)
    for _ in range(5):
        end_one(study, RISING)
    noticed = {3: 1, 9: 2}  # epoch: trials that end before it
    original = worker.watcher.epoch_ended

    def epoch_ended(number: int, said: EpochReport) -> None:
        counted.__exit__(None, None, None)
        for _ in range(noticed.get(said.epoch, 0)):
            end_one(study, RISING)
        counted.__enter__()
        original(number, said)

    worker.watcher.epoch_ended = epoch_ended  # type: ignore[method-assign]
    with scripted(worker, lambda: RISING), Statements.of(on_postgres) as counted:
        assert worker.serve_one()
    curves = [text for text in counted.texts if "ended_as >" in text]
    assert len(curves) == 1 + len(noticed), curves


def test_a_look(on_postgres: Store, tmp_path: Path) -> None:
    """Every few seconds, whatever trains: the lease, what the user asks for, a sign of life."""
    study = make(on_postgres, tmp_path, sampler="random")
    registration = Registration(on_postgres, study.owner, "cpu")
    registration.enter()
    claim = study.slots.claim(study.ask)
    assert claim
    with Statements.of(on_postgres) as counted:
        assert study.slots.renew(claim)
        assert limits(study).now is None
        registration.seen()
    assert len(counted) == 3, counted.texts
