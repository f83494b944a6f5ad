"""Trackers with their real packages, offline; and trackers that fail, hang, or are not there."""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from rich.console import Console

from search.database.store import Store, open_store
from search.files.artifacts import Artifacts
from search.launch import launch
from search.studies.study import Study, create_or_resume, open_study
from search.work import tracker_feed as tracked
from search.work import trackers
from search.work.service import new_worker
from search.work.tracker_feed import Tracked
from search.work.trackers import TrackedTrial, check_trackers
from search.work.watchers import Interrupt
from spaces.config import TrialConfig
from spaces.errors import DONE, InputError
from spaces.spec import StudySpec
from tests.fake_child import FakeChild, whole
from tests.waiting import until
from trainers.report import EpochReport
from trainers.tasks import load_data

MakeSpec = Callable[..., StudySpec]

ALL = ["tensorboard", "wandb", "mlflow"]


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """W&B reads its environment once a process, and leaves a service running."""
    folder = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
            patch.delenv(name)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        for name in ("CONFIG", "CACHE", "DATA"):
            patch.setenv(f"WANDB_{name}_DIR", str(folder))
        check_trackers(ALL)
        yield
        import wandb

        wandb.teardown()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def nothing_trains() -> Iterator[None]:
    yield


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def said(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return [line for line in console.file.getvalue().splitlines() if line.startswith("tracker")]


class Silent:
    """A watcher that takes notes."""

    def __init__(self, on_epoch: Callable[[EpochReport], None] = lambda report: None) -> None:
        self.on_epoch = on_epoch
        self.ended: list[str] = []

    def trial_started(self, number: int, config: TrialConfig, attempt: int) -> None: ...

    def trial_resumed(self, number: int, epoch: int, dropped: int) -> None: ...

    def epoch_ended(self, number: int, report: EpochReport) -> None:
        self.on_epoch(report)

    def trial_ended(
        self, number: int, state: str, reason: str, value: float | None, epochs: int
    ) -> None:
        self.ended.append(state)

    def store_away(self, error: BaseException) -> None:
        raise AssertionError(error)

    def paused(self, message: str) -> None:
        raise AssertionError(message)

    def not_shown(self, number: int | None, problem: str) -> None:
        raise AssertionError(problem)


# ---------------------------------------------------------------- what trackers have kept


def in_tensorboard(artifacts: Path, number: int) -> dict[str, list[tuple[int, float]]]:
    """{tag: [(epoch, value)]} of a trial."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    [folder] = (artifacts / "tensorboard").glob(f"*/trial-{number:04d}")
    found = EventAccumulator(str(folder)).Reload()
    tags = found.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in tags}


def in_wandb(artifacts: Path, number: int) -> tuple[list[Any], list[dict[str, Any]]]:
    """The run records of a trial's attempts, and the rows of its history."""
    from wandb.proto.wandb_internal_pb2 import Record

    def records(path: Path) -> list[Any]:
        return [Record.FromString(data) for data in wandb_records(path.read_bytes())]

    def is_written(path: Path) -> bool:
        return any(record.HasField("exit") for record in records(path))

    runs, rows = [], []
    for path in sorted((artifacts / "wandb").glob(f"offline-run-*/*-{number:04d}.wandb")):
        until(partial(is_written, path))  # a process of W&B's own writes it
        for record in records(path):
            if record.HasField("run"):
                runs.append(record.run)
            if record.HasField("history"):
                items = record.history.item
                row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
                rows.append(row)
    return runs, rows


def wandb_records(file: bytes) -> Iterator[bytes]:
    """Read a .wandb file, which is a LevelDB log after a header of 7 bytes."""
    assert file.startswith(b":W&B")
    at, record = 7, b""
    while at + 7 <= len(file):
        if 32768 - at % 32768 < 7:  # no record begins so near to the end of a block
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", file, at)
        record += file[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole, or the last part
            yield record
            record = b""


def in_mlflow(artifacts: Path) -> dict[str, Any]:
    """{run name: run}, with the history of each metric as `history`."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{artifacts / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    found = {}
    for run in client.search_runs([experiment.experiment_id]):
        history = {
            name: [(e.step, e.value) for e in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        assert run.info.run_name not in found
        found[run.info.run_name] = SimpleNamespace(
            status=run.info.status, params=run.data.params, tags=run.data.tags, history=history
        )
    return found


def check_kept(study: Study, artifacts: Path, number: int) -> None:
    """Every tracker has every epoch of an ended trial once, with the values of its reports."""
    reports, config = study.history(number), study.config(study.trial(number)).flat()
    miou = [(report.epoch, pytest.approx(report.metric)) for report in reports]
    loss = [(report.epoch, pytest.approx(report.train.total)) for report in reports]
    road = [(report.epoch, pytest.approx(report.per_class[1])) for report in reports]
    last, name = reports[-1].epoch, study.spec.data.names[1]
    value = pytest.approx(study.trial(number).value)

    scalars = in_tensorboard(artifacts, number)
    assert (scalars["mIoU"], scalars["train/total"]) == (miou, loss)
    assert (scalars[f"IoU/{name}"], scalars["value"]) == (road, [(last, value)])

    runs, rows = in_wandb(artifacts, number)
    assert {run.project for run in runs} == {"small"} and len({run.run_id for run in runs}) == 1
    assert [(row["_step"], row["mIoU"]) for row in rows] == miou
    assert [(row["_step"], row[f"IoU/{name}"]) for row in rows] == road
    sent = {update.key: update.value_json for update in runs[0].config.update}
    assert float(sent["optim.lr"]) == config["optim.lr"]

    run = in_mlflow(artifacts)[f"trial-{number:04d}"]
    assert (run.status, run.tags["state"]) == ("FINISHED", "COMPLETE")
    assert (run.history["mIoU"], run.history["train/total"]) == (miou, loss)
    assert (run.history[f"IoU/{name}"], run.history["value"][0][1]) == (road, value)
    assert float(run.params["optim.lr"]) == config["optim.lr"]


# ---------------------------------------------------------------- studies


def test_the_epochs_of_a_study_are_logged(
    store: Store, make_spec: MakeSpec, tmp_path: Path, console: Console, capfd: Any
) -> None:
    spec = make_spec(trials=2).model_copy(update={"trackers": ALL})
    assert launch(spec, store, Artifacts(tmp_path / "a"), console, make_child=whole) == DONE
    study = open_study(store, "small")
    assert said(console) == [] and capfd.readouterr() == ("", "")
    for number in (0, 1):
        check_kept(study, tmp_path / "a", number)
    assert set(in_mlflow(tmp_path / "a")) == {"trial-0000", "trial-0001"}


@pytest.mark.parametrize("how", ["killed", "interrupted"])
def test_a_resumed_trial_logs_each_epoch_once(
    how: str, store: Store, make_spec: MakeSpec, tmp_path: Path, console: Console
) -> None:
    spec = make_spec(trials=1, epochs=6).model_copy(update={"trackers": ALL})
    data = load_data(spec.data)
    study = create_or_resume(store, spec, data.fingerprint, None)
    children: list[FakeChild] = []

    def child(*given: Any) -> FakeChild:
        children.append(whole(*given))
        return children[-1]

    def serve(on_epoch: Callable[[EpochReport], None], interrupt: Interrupt) -> bool:
        watcher = Silent(on_epoch)
        artifacts = Artifacts(tmp_path / "a")
        with Tracked(study, artifacts, watcher, console, interrupt) as watching:
            worker = new_worker(study, data, artifacts, watching, interrupt, make_child=child)
            return worker.run()

    interrupt = Interrupt()

    def end_first(report: EpochReport) -> None:
        if len(children) == 1 and report.epoch == 2:
            if how == "killed":
                children[0].kill()
            else:
                interrupt.count = 1

    if how == "killed":
        assert serve(end_first, interrupt)
    else:
        assert not serve(end_first, interrupt)
        run = in_mlflow(tmp_path / "a")["trial-0000"]
        assert (run.status, run.tags["reason"]) == ("KILLED", "given back")
        assert serve(lambda report: None, Interrupt())
    assert len(children) == 2 and said(console) == []
    assert [report.epoch for report in study.history(0)] == [*range(1, 7)]
    check_kept(study, tmp_path / "a", 0)
    assert len(in_wandb(tmp_path / "a", 0)[0]) == 2  # one file an attempt


def test_a_later_launch_may_have_other_trackers(
    store: Store, make_spec: MakeSpec, tmp_path: Path, console: Console
) -> None:
    spec = make_spec(trials=1, epochs=1)
    assert launch(spec, store, Artifacts(tmp_path / "a"), console, make_child=whole) == DONE
    assert not (tmp_path / "a" / "tensorboard").exists()
    spec = spec.model_copy(update={"trackers": ["tensorboard"]})
    assert (
        launch(spec, store, Artifacts(tmp_path / "a"), console, trials=2, make_child=whole) == DONE
    )
    assert open_study(store, "small").spec.trackers == ["tensorboard"]  # so workers see them
    assert len(in_tensorboard(tmp_path / "a", 1)["mIoU"]) == 1
    assert len(list((tmp_path / "a" / "tensorboard").glob("*/*"))) == 1


# ---------------------------------------------------------------- trackers that do harm


class Fake:
    """A tracker that keeps what it is told."""

    needs = "json"
    logged = 0
    told: ClassVar[list[Any]]

    def __init__(self, trial: TrackedTrial) -> None:
        self.number = trial.number

    def log(self, epoch: int, values: dict[str, float]) -> None:
        self.told.append((self.number, epoch))

    def end(self, state: str, reason: str, value: float | None) -> None:
        self.told.append((self.number, state, reason))


def test_a_tracker_that_fails_is_said_once_and_left_out(
    store: Store,
    make_spec: MakeSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    console: Console,
) -> None:
    class Failing(Fake):
        told: ClassVar[list[Any]] = []

        def log(self, epoch: int, values: dict[str, float]) -> None:
            super().log(epoch, values)
            raise OSError("https://me:pass@host said no to key-123")

    monkeypatch.setitem(trackers.TRACKERS, "wandb", Failing)
    monkeypatch.setenv("WANDB_API_KEY", "key-123")
    spec = make_spec(trials=2, epochs=1)
    spec = spec.model_copy(update={"trackers": ["wandb", "tensorboard"]})
    assert launch(spec, store, Artifacts(tmp_path / "a"), console, make_child=whole) == DONE
    assert said(console) == [
        "tracker wandb failed in trial 0: https://***@host said no to ***; training goes on, and "
        "the next trial tries it again"
    ]
    assert Failing.told == [(0, 1), (1, 1)]
    assert len(in_tensorboard(tmp_path / "a", 1)["mIoU"]) == 1
    assert open_study(store, "small").slots.counts()["COMPLETE"] == 2


def test_a_tracker_that_hangs_holds_nothing_up(
    store: Store,
    make_spec: MakeSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    console: Console,
) -> None:
    freed = threading.Event()

    class Hanging(Fake):
        told: ClassVar[list[Any]] = []

        def log(self, epoch: int, values: dict[str, float]) -> None:
            assert freed.wait(100)
            super().log(epoch, values)

    monkeypatch.setitem(trackers.TRACKERS, "mlflow", Hanging)
    monkeypatch.setattr(tracked, "SLOW_SECONDS", 0.01)
    monkeypatch.setattr(tracked, "DRAIN_SECONDS", 0.5)
    spec = make_spec(trials=2, epochs=1).model_copy(update={"trackers": ["mlflow"]})
    assert launch(spec, store, Artifacts(tmp_path / "a"), console, make_child=whole) == DONE
    assert open_study(store, "small").slots.counts()["COMPLETE"] == 2 and Hanging.told == []
    slow, lost = said(console)
    assert "has not answered" in slow and "is given up" in lost
    [thread] = [t for t in threading.enumerate() if t.name == "tracker mlflow"]
    freed.set()
    thread.join(10)
    assert Hanging.told == [(0, 1)]  # what waited behind it was given up


def test_a_trial_whose_slot_was_given_back_is_closed(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: Console
) -> None:
    class Keeping(Fake):
        told: ClassVar[list[Any]] = []

    monkeypatch.setitem(trackers.TRACKERS, "wandb", Keeping)
    spec = make_spec().model_copy(update={"trackers": ["wandb"]})
    study: Any = SimpleNamespace(spec=spec, uid="0" * 32, metric="mIoU")
    report = EpochReport(epoch=1, metric=0.5)
    with Tracked(study, Artifacts(tmp_path), Silent(), console, Interrupt()) as watcher:
        config = spec.search_space().base
        watcher.trial_started(0, config, 1)
        watcher.epoch_ended(0, report)
        watcher.trial_started(1, config, 1)
        watcher.epoch_ended(1, report)
        watcher.epoch_ended(1, replace(report, epoch=2))
    assert Keeping.told == [
        (0, 1), (0, "RETRY", "given back"), (1, 1), (1, 2), (1, "RETRY", "given back")
    ]  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_a_missing_package_is_said_before_anything_begins(
    name: str,
    store: Store,
    make_spec: MakeSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    console: Console,
) -> None:
    monkeypatch.setitem(sys.modules, trackers.TRACKERS[name].needs, None)
    spec = make_spec().model_copy(update={"trackers": [name]})
    with pytest.raises(InputError, match=rf"pip install 'segtune\[{name}\]'"):
        launch(spec, store, Artifacts(tmp_path / "a"), console, make_child=whole)
    assert not store.storage.get_all_studies() and not (tmp_path / "a").exists()
