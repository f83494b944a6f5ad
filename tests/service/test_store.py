"""One contract for every kind of store: it migrates once, keeps specs, reports and results."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from optuna.trial import TrialState
from typer.testing import CliRunner

import search.database.store
from search.cli import app
from search.database.migrations import SCHEMA_VERSION
from search.database.store import Store, UnknownStudy, open_store
from search.database.tables import schema_table, study_table
from search.findings.ranking import ranked
from search.studies.configs import CONFIG
from search.studies.learning_curves import curves_ended_after
from search.studies.slots import Result
from search.studies.study import create_or_resume, open_study, study_names
from search.work.preflight import preflight
from spaces.entries import build_space
from spaces.errors import InputError
from spaces.sections import WorkersSpec
from spaces.space import Space
from spaces.spec import StudySpec
from tests.scripted import make_spec as small
from tests.scripted import new_worker, scripted
from tests.stores import sqlite_too
from trainers.report import EpochReport

MakeSpec = Callable[..., StudySpec]


def test_a_launch_builds_its_space_once(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Space] = []

    def build(*args: Any) -> Space:
        built.append(build_space(*args))
        return built[-1]

    monkeypatch.setattr("spaces.spec.build_space", build)
    store = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    spec = make_spec(starting_points="true")
    spec = spec.model_copy(update={"workers": WorkersSpec(count=2)})  # segtune launch --workers 2
    study = create_or_resume(store, spec, preflight(spec).fingerprint, None)
    store.close()
    assert len(built) == 1 and study.space is study.spec.search_space()


@sqlite_too
def test_opening_again_changes_nothing(store_url: str, make_spec: MakeSpec) -> None:
    for _ in range(2):
        store = open_store(store_url)
        create_or_resume(store, make_spec(), "f" * 64, None)
        assert study_names(store) == ["small"]
        with store.engine.connect() as connection:
            assert connection.execute(sa.select(schema_table.c.version)).all() == [
                (SCHEMA_VERSION,)
            ]
        store.close()


def test_a_study_of_an_older_version_goes_on_as_it_began(store: Store, make_spec: MakeSpec) -> None:
    """Its spec has no number of defaults, and the config of its trial lacks what came later."""
    given = make_spec(trials=12).model_copy(update={"use_default_space": True})
    old = create_or_resume(store, given.model_copy(update={"defaults": 1}), "f" * 64, None)
    assert old.slots.claim(old.ask) is not None
    flat = old.config(old.trial(0)).flat()
    assert flat.pop("train.ema", "missing") is None
    store.storage.set_trial_system_attr(old.trial_id(0), CONFIG, flat)
    tree = json.loads(old.spec.to_json())
    del tree["defaults"], tree["left_out"]
    with store.engine.begin() as connection:
        connection.execute(sa.update(study_table).values(spec=json.dumps(tree)))
    study = create_or_resume(store, given, "f" * 64, None)
    assert study.space == old.space != given.search_space()
    train = study.config(study.trial(0)).train
    assert (train.ema, train.patience) == (None, 0)  # as its file says
    for _ in range(11):  # Optuna finds the choices that it knows
        assert study.slots.claim(study.ask) is not None
    assert {study.config(trial).train.ema for trial in study.trials()} == {None}


def test_a_server_that_goes_away_while_a_store_opens_is_said(
    own_postgres: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna's look at its tables loses its server: no traceback, and no password."""
    migrate = search.database.store.migrate

    def stop(connection: sa.Connection) -> None:
        own_postgres.stop(signal.SIGQUIT)

    def then_goes(engine: sa.Engine, url: str) -> None:
        migrate(engine, url)
        sa.event.listen(sa.Engine, "commit", stop, once=True)

    monkeypatch.setattr(search.database.store, "migrate", then_goes)
    with pytest.raises(InputError, match="cannot be set up: server closed the connection") as said:
        open_store(own_postgres.url)
    assert own_postgres.process.poll() is not None
    assert quote(own_postgres.password, safe="") not in str(said.value)


def test_a_server_that_goes_away_during_a_command_is_said(
    own_postgres: Any, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(own_postgres.url)
    create_or_resume(store, make_spec(), "f" * 64, None)
    store.close()

    def then_goes(*args: Any, **options: Any) -> Store:
        opened = open_store(*args, **options)
        own_postgres.stop(signal.SIGQUIT)
        return opened

    monkeypatch.setattr(search.database.store, "open_store", then_goes)
    for command in ("status small", "stop small", "export small --to best", "report small"):
        if own_postgres.process.poll() is not None:
            own_postgres.start()
        place = {"SEGTUNE_STORE": own_postgres.url}
        answer = CliRunner().invoke(app, command.split(), env=place)
        assert answer.exit_code == 1, (command, answer.output)
        assert "segtune: the store does not answer any more: " in answer.output, command
        assert answer.output.count("\n") == 1, answer.output
        assert quote(own_postgres.password, safe="") not in answer.output


def test_a_store_of_a_newer_segtune_is_refused(store: Store, store_url: str) -> None:
    with store.engine.begin() as connection:
        connection.execute(sa.update(schema_table).values(version=99))
    with pytest.raises(InputError, match="schema 99"):
        open_store(store_url)


def test_a_changed_spec_is_refused_with_a_diff(store: Store, make_spec: MakeSpec) -> None:
    create_or_resume(store, make_spec(), "f" * 64, None)
    with pytest.raises(InputError) as caught:
        create_or_resume(store, make_spec(epochs=5), "f" * 64, None)
    assert "-  train.epochs: 2" in str(caught.value)
    assert "+  train.epochs: 5" in str(caught.value)


def test_changed_data_are_refused(store: Store, make_spec: MakeSpec) -> None:
    create_or_resume(store, make_spec(), "f" * 64, None)
    with pytest.raises(InputError, match="data of study small have changed"):
        create_or_resume(store, make_spec(), "0" * 64, None)


def test_an_unknown_study_names_the_nearest(store: Store, make_spec: MakeSpec) -> None:
    create_or_resume(store, make_spec(name="streets"), "f" * 64, None)
    with pytest.raises(UnknownStudy, match="did you mean streets"):
        open_study(store, "street")


def test_a_foreign_optuna_study_is_left_alone(store: Store, make_spec: MakeSpec) -> None:
    import optuna

    foreign = optuna.create_study(study_name="small", storage=store.storage)
    foreign.add_trial(optuna.trial.create_trial(value=1.0))
    assert study_names(store) == []
    with pytest.raises(InputError, match="segtune did not make"):
        create_or_resume(store, make_spec(), "f" * 64, None)
    assert len(foreign.trials) == 1


@sqlite_too
def test_a_creation_that_was_killed_halfway_is_done_again(
    store: Store, make_spec: MakeSpec
) -> None:
    import optuna

    optuna.create_study(study_name="small", storage=store.storage).enqueue_trial({"optim.lr": 0.1})
    study = create_or_resume(store, make_spec(), "f" * 64, None)
    assert study.slots.counts()["OPEN"] == 3


@sqlite_too
def test_reports_are_kept_once_and_in_order(store: Store, make_spec: MakeSpec) -> None:
    study = create_or_resume(store, make_spec(), "f" * 64, None)
    claim = study.slots.claim(study.ask)
    assert claim
    number = claim.trial_number
    for epoch, metric in ((1, 0.25), (2, 0.125), (2, 0.125), (1, 0.25)):
        assert study.report(claim, EpochReport(epoch=epoch, metric=metric))
    study.slots.give_back(claim, counts=False)
    assert not study.report(claim, EpochReport(epoch=3, metric=0.5))
    assert [report.epoch for report in study.history(number)] == [1, 2]
    assert [report.metric for report in study.history(number)] == [0.25, 0.125]
    assert study.trial(number).intermediate_values == {1: 0.25, 2: 0.125}


@sqlite_too
def test_a_metric_of_nan_is_kept_and_is_no_value(store: Store, tmp_path: Path) -> None:
    """sqlite takes NaN for NULL, and Optuna's tables have no place for it as a trial's value."""
    study = create_or_resume(store, small(tmp_path, "nan", trials=3), "f" * 64, None)
    curves = ([math.nan] * 3, [math.nan, 0.5, 0.25], [0.25, math.nan, 0.5])
    script = iter(curves)
    worker = new_worker(study, tmp_path / "a")
    with scripted(worker, lambda: next(script)):
        assert worker.run()
    for number, curve in enumerate(curves):
        stored = [report.metric for report in study.history(number)]
        trained = curve[: len(stored)]  # the rule may have ended it
        assert stored == pytest.approx(trained, nan_ok=True) and stored
        steps = study.trial(number).intermediate_values
        assert list(steps.values()) == pytest.approx(trained, nan_ok=True)
    assert study.trial(0).value is None
    _, ended = curves_ended_after(study, 0, warmups=False)
    assert ended[0].values == pytest.approx(curves[0], nan_ok=True)
    assert [trial.number for trial in ranked(study.trials())][-1] != 0


def test_a_pruned_trial_keeps_the_value_of_its_best_epoch(
    store: Store, make_spec: MakeSpec
) -> None:
    study = create_or_resume(store, make_spec(), "f" * 64, None)
    claim = study.slots.claim(study.ask)
    assert claim and study.report(claim, EpochReport(epoch=1, metric=0.25))
    assert study.slots.end(claim, Result("PRUNED", 0.5, "median", {}))
    trial = study.trial(claim.trial_number)
    assert (trial.state, trial.value) == (TrialState.PRUNED, 0.5)


def test_a_config_is_kept_with_its_trial_and_rebuilt_exactly(
    store: Store, make_spec: MakeSpec
) -> None:
    study = create_or_resume(store, make_spec(), "f" * 64, None)
    trial = study.trial(study.ask(0))
    again = open_study(store, "small")
    assert again.config(trial) == again.space.config(trial.params)
    assert math.isclose(again.config(trial).optim.lr, trial.params["optim.lr"])


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "cmaes", "qmc"])
def test_every_sampler_draws_new_configs_after_a_resume(
    sampler: str, postgres_url: str, make_spec: MakeSpec
) -> None:
    spec = make_spec().model_copy(
        update={
            "sampler": make_spec().sampler.model_copy(update={"name": sampler, "startup_trials": 3})
        }
    )
    drawn = []
    for start in (0, 4):
        store = open_store(postgres_url)
        study = create_or_resume(store, spec, "f" * 64, 8)
        for slot in range(start, start + 4):
            claim = study.slots.claim(study.ask)
            assert claim and claim.slot == slot
            assert study.slots.end(claim, Result("COMPLETE", 0.1 * slot, "completed", {}))
            drawn.append(study.trial(claim.trial_number).params["optim.lr"])
        store.close()
    assert not set(drawn[:3]) & set(drawn[4:])  # the first draws are not repeated
    assert all(1e-4 <= lr <= 1e-2 for lr in drawn)
