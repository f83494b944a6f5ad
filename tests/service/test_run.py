"""Studies that really run: children, verdicts, crashes, interrupts, exports."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from rich.console import Console

from search.database.store import Store, open_store
from search.files.artifacts import Artifacts
from search.findings.answer import best_trial
from search.findings.export import export_study
from search.findings.facts import summary
from search.findings.ranking import ranked
from search.launch import launch
from search.studies.slots import Result
from search.studies.study import Study, create_or_resume, open_study, study_names
from search.work.child import Failed, TrialProcess
from search.work.service import new_worker
from search.work.supervision import Timing
from search.work.watchers import Interrupt
from search.work.worker import DeviceLost
from spaces.config import SegmentationConfig
from spaces.errors import DONE, InputError
from spaces.run_config import load_run_config
from spaces.spec import StudySpec
from tests.fake_child import FakeChild, whole
from tests.waiting import Running, until
from trainers.report import EpochReport
from trainers.tasks import load_data

MakeSpec = Callable[..., StudySpec]


@pytest.fixture
def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


class Silent:
    """A watcher that only takes notes."""

    def __init__(self, on_epoch: Callable[[int, EpochReport], None] | None = None) -> None:
        self.ended: list[tuple[int, str, str]] = []
        self.attempts: list[int] = []
        self.resumed: list[tuple[int, int]] = []  # after which epoch, and how many were dropped
        self.pauses: list[str] = []
        self.on_pause: Callable[[], None] | None = None
        self.on_epoch = on_epoch

    def trial_started(self, number: int, config: SegmentationConfig, attempt: int) -> None:
        self.attempts.append(attempt)

    def trial_resumed(self, number: int, epoch: int, dropped: int) -> None:
        self.resumed.append((epoch, dropped))

    def epoch_ended(self, number: int, report: EpochReport) -> None:
        if self.on_epoch:
            self.on_epoch(number, report)

    def trial_ended(
        self, number: int, state: str, reason: str, value: float | None, epochs: int
    ) -> None:
        self.ended.append((number, state, reason))

    def store_away(self, error: BaseException) -> None:
        raise AssertionError(error)

    def not_shown(self, number: int | None, problem: str) -> None:
        raise AssertionError(problem)

    def paused(self, message: str) -> None:
        self.pauses.append(message)
        if self.on_pause:
            self.on_pause()


def test_a_study_runs_to_its_budget(finished: Any) -> None:
    store = open_store(finished.url)
    study = open_study(store, "my-study")
    assert study.slots.counts()["COMPLETE"] == 3
    assert [t.user_attrs["reason"] for t in study.trials()] == ["completed"] * 3
    found = summary(study)
    assert found["epochs"] == 6 and found["epochs_saved"] == 0
    assert json.loads(json.dumps(found)) == found
    store.close()


def test_the_best_trial_is_exported_and_a_damaged_model_is_not(
    finished: Any, tmp_path: Path
) -> None:
    store, artifacts = open_store(finished.url), Artifacts(tmp_path / "artifacts")
    shutil.copytree(finished.artifacts, artifacts.folder)
    study = open_study(store, "my-study")
    to = export_study(study, artifacts, tmp_path / "best")
    best = best_trial(study)
    data, config = load_run_config(to / "config.yaml")
    assert config == study.config(best)
    assert data == finished.spec.data
    facts = json.loads((to / "provenance.json").read_text())
    assert (facts["trial"], facts["value"]) == (best.number, best.value)
    assert facts["data_fingerprint"] == load_data(finished.spec.data).fingerprint
    assert (to / "curves.png").read_bytes().startswith(b"\x89PNG")
    weights = artifacts.workdir(study, best.number).glob("model-*/model.safetensors")
    with open(next(weights), "r+b") as file:  # a bit that fell over on disk
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    with pytest.raises(InputError, match="are not what the trial has written"):
        export_study(study, artifacts, tmp_path / "again")
    store.close()


def test_only_the_best_models_are_kept(finished: Any) -> None:
    store, artifacts = open_store(finished.url), Artifacts(finished.artifacts)
    study = open_study(store, "my-study")
    best = ranked(study.trials())[: finished.spec.keep_models]
    models = finished.artifacts.glob("*/*/model-*")
    kept = {artifacts.workdir(study, trial.number) for trial in best}
    assert len(kept) == 2 and {path.parent for path in models} == kept
    assert not [*finished.artifacts.glob("*/*/last.json"), *finished.artifacts.glob("*/*/state-*")]
    store.close()


def test_extending_goes_on_where_a_study_ended(
    store: Store, make_spec: MakeSpec, tmp_path: Path, quiet: Console
) -> None:
    artifacts = Artifacts(tmp_path / "artifacts")
    assert launch(make_spec(trials=2), store, artifacts, quiet, make_child=whole) == DONE
    assert launch(make_spec(trials=2), store, artifacts, quiet, trials=3, make_child=whole) == DONE
    study = open_study(store, "small")
    assert study.slots.counts()["COMPLETE"] == 3
    assert [trial.number for trial in study.trials()] == [0, 1, 2]


def test_the_rule_stops_a_trial_and_its_best_value_counts(
    postgres_url: str, make_spec: MakeSpec, tmp_path: Path
) -> None:
    pruner = "{name: ended_median, startup_trials: 1, stop_from: 1}"
    store = open_store(postgres_url)
    spec = make_spec(trials=2, epochs=40, pruner=pruner)
    data = load_data(spec.data)
    study = create_or_resume(store, spec, data.fingerprint, None)
    ended = study.slots.claim(study.ask)  # a trial that nobody can match
    assert ended and study.report(ended, EpochReport(epoch=1, metric=2.0))
    assert study.slots.end(ended, Result("COMPLETE", 2.0, "completed", {}))
    watcher = Silent()
    assert new_worker(
        study, data, Artifacts(tmp_path / "a"), watcher, Interrupt(), make_child=whole
    ).run()
    [(number, state, reason)] = watcher.ended
    assert (state, reason) == ("PRUNED", "ended_median")
    trial = study.trial(number)
    assert 1 <= trial.user_attrs["epochs"] < 40
    assert trial.value == max(report.metric for report in study.history(number))
    store.close()


def test_a_killed_child_is_resumed_with_its_reports(
    postgres_url: str, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(postgres_url)
    spec = make_spec(trials=1, epochs=12)  # it shall not have ended when it is killed
    data = load_data(spec.data)
    study = create_or_resume(store, spec, data.fingerprint, None)
    children: list[Any] = []

    def remember(*args: Any) -> Any:
        children.append(TrialProcess(*args))
        return children[-1]

    def kill_first(number: int, report: EpochReport) -> None:
        if len(children) == 1 and report.epoch == 2:
            os.kill(children[0].pid, signal.SIGKILL)

    watcher, artifacts = Silent(kill_first), Artifacts(tmp_path / "a")
    assert new_worker(study, data, artifacts, watcher, Interrupt(), make_child=remember).run()
    assert watcher.attempts == [1, 2]
    assert watcher.ended[0][1] == "RETRY" and "SIGKILL" in watcher.ended[0][2]
    assert watcher.ended[1] == (0, "COMPLETE", "completed")
    assert len(study.trials()) == 1
    assert [r.epoch for r in study.history(0)] == [*range(1, 13)]
    store.close()


@pytest.mark.cluster
def test_a_child_killed_at_twenty_moments_loses_nothing(
    postgres_url: str, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten trials, each killed twice: at its start, in its steps, at its writes, as time falls."""
    store = open_store(postgres_url)
    spec = make_spec(trials=10, epochs=4)
    data = load_data(spec.data)
    study = create_or_resume(store, spec, data.fingerprint, None)
    timers: list[Any] = []

    def mortal(*args: Any) -> Any:
        child = TrialProcess(*args)
        kills = [timer for timer in timers if timer.attempt < 3]
        if watcher.attempts[-1] < 3:
            timer = threading.Timer(0.05 * (len(kills) + 1), child._process.kill)
            timer.attempt = watcher.attempts[-1]
            timer.start()
            timers.append(timer)
        return child

    watcher, artifacts = Silent(), Artifacts(tmp_path / "a")
    assert new_worker(study, data, artifacts, watcher, Interrupt(), make_child=mortal).run()
    for timer in timers:
        timer.join()
    retries = sum(state == "RETRY" for _, state, _ in watcher.ended)
    assert len(timers) >= 10 and retries >= 8, (len(timers), retries)
    assert study.slots.counts()["COMPLETE"] == 10 and len(study.trials()) == 10
    for trial in study.trials():
        assert [r.epoch for r in study.history(trial.number)] == [1, 2, 3, 4]
        assert trial.value == max(report.metric for report in study.history(trial.number))
    store.close()


@pytest.mark.parametrize(
    "interruption", [signal.SIGHUP, pytest.param(signal.SIGKILL, marks=pytest.mark.cluster)]
)
def test_an_interrupted_launch_resumes_where_it_was(
    interruption: signal.Signals, postgres_url: str, make_spec: MakeSpec, tmp_path: Path
) -> None:
    make_spec(trials=1, epochs=12)
    command = (
        "launch", tmp_path / "small.yaml", "--store", postgres_url, "--artifacts", tmp_path / "a"
    )  # fmt: skip
    running = Running.segtune(*command)
    store = open_store(postgres_url)

    def begun() -> Study | None:
        assert running.returncode is None, running
        study = open_study(store, "small") if "small" in study_names(store) else None
        return study if study and study.trials() and len(study.history(0)) >= 2 else None

    study = until(begun, progress=running.progress)
    assert study is not None
    if interruption == signal.SIGHUP:  # a closed terminal tells all processes
        running.send_all(interruption)
        assert "everything is saved" in running.finish(130)
    else:
        running.send(interruption)
        running.finish(-interruption)
    before = study.history(0)
    counts = study.slots.counts()
    assert counts["OPEN" if interruption == signal.SIGHUP else "RUNNING"] == 1
    Running.segtune(*command).finish()
    assert study.history(0)[: len(before)] == before
    assert [r.epoch for r in study.history(0)] == list(range(1, 13))
    assert study.trial(0).state == TrialState.COMPLETE
    assert len(study.trials()) == 1
    store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 400 MB; only root can have one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_pauses_and_the_trial_goes_on_when_there_is_room(
    small_disk: Path, postgres_url: str, make_spec: MakeSpec
) -> None:
    store = open_store(postgres_url)
    spec = make_spec(trials=1, epochs=2)
    data = load_data(spec.data)
    study = create_or_resume(store, spec, data.fingerprint, None)
    ballast = fill(small_disk, but=1_000_000)
    watcher = Silent()
    halves: list[list[Path]] = []

    def make_room() -> None:
        halves.append([*small_disk.rglob("*.tmp"), *small_disk.rglob("state-*.pt")])
        ballast.unlink()

    watcher.on_pause = make_room
    assert new_worker(study, data, Artifacts(small_disk / "artifacts"), watcher, Interrupt()).run()
    assert len(watcher.pauses) == 1 and "the disk is full" in watcher.pauses[0]
    assert halves == [[]]  # nothing half written stayed
    assert watcher.ended == [(0, "COMPLETE", "completed")] and watcher.attempts == [1, 1]
    store.close()


def test_a_worker_that_may_open_no_more_files_waits_and_loses_nothing(
    store: Store, make_spec: MakeSpec, tmp_path: Path
) -> None:
    """At the start of a child, and within one."""
    spec = make_spec(trials=2, epochs=2)
    study = create_or_resume(store, spec, "f" * 64, None)
    inside = Failed(unfit=False, message="Too many open files", files=True)
    faults: list[Exception | Failed] = [OSError(errno.EMFILE, "Too many open files"), inside]

    def child(*given: Any) -> FakeChild:
        if not faults:
            return whole(*given)
        if isinstance(fault := faults.pop(0), Exception):
            raise fault
        return FakeChild([0.1], said=[fault])

    watcher = Silent()
    data, kept = load_data(spec.data), Artifacts(tmp_path / "a")
    timing = Timing(room=0.1, poll=0.01)
    worker = new_worker(study, data, kept, watcher, Interrupt(), make_child=child, timing=timing)
    assert worker.run()
    assert len(watcher.pauses) == 2 and "ulimit -n" in watcher.pauses[0]
    assert watcher.attempts == [1, 1, 1, 1]
    assert [state for _, state, _ in watcher.ended] == ["COMPLETE"] * 2
    assert study.slots.counts()["COMPLETE"] == 2


@pytest.mark.cluster  # a process whose trials know of its own cache
def test_a_full_disk_under_the_data_cache_is_no_reason_to_stop(
    small_disk: Path, postgres_url: str, make_spec: MakeSpec, tmp_path: Path
) -> None:
    make_spec(trials=1, epochs=1)
    path = tmp_path / "small.yaml"
    path.write_text(path.read_text().replace("32x32", "256x256"))  # 2 MB of arrays
    fill(small_disk, but=600_000)
    done = Running.program(
        sys.executable, "-m", "search.cli", "launch", path,
        "--store", postgres_url, "--artifacts", tmp_path / "artifacts",
        env={"SEGTUNE_HOME": str(small_disk)},
    )  # fmt: skip
    assert "trial 0 COMPLETE" in done.finish()
    (log,) = (tmp_path / "artifacts").glob("*/trial-0000/trial.log")
    assert log.read_text().count("streaming: the train split at 256x256") == 1
    assert not [*(small_disk / "cache" / "arrays").glob("*/*.npy")]  # nothing half built stays


def fill(disk: Path, but: int) -> Path:
    """Fill a disk up but for some bytes; returns the file to delete."""
    ballast = disk / "ballast"
    with open(ballast, "wb") as file:
        file.write(b"x" * (shutil.disk_usage(disk).free - but))
    return ballast


def test_a_gpu_that_is_lost_ends_the_worker_and_not_the_trial(
    postgres_url: str, make_spec: MakeSpec, tmp_path: Path
) -> None:
    """The slot is free for others, and no attempt is counted."""
    store = open_store(postgres_url)
    spec = make_spec(trials=1, epochs=3)
    data = load_data(spec.data)
    study = create_or_resume(store, spec, data.fingerprint, None)
    lost = Failed(unfit=False, message="NVIDIA L4 cannot be used: its driver is gone", device=True)
    worker = new_worker(
        study, data, Artifacts(tmp_path / "artifacts"), Silent(), Interrupt(),
        make_child=lambda *given: FakeChild([], said=[lost]),
    )  # fmt: skip
    with pytest.raises(DeviceLost, match="trial 0 was returned to its study: NVIDIA L4 cannot"):
        worker.run()
    assert study.slots.counts()["OPEN"] == 1
    watcher = Silent()
    children = lambda *given: FakeChild([0.1, 0.2, 0.3], classes=8)  # noqa: E731
    other = new_worker(
        study, data, Artifacts(tmp_path / "artifacts"), watcher, Interrupt(), make_child=children
    )
    assert other.run() and watcher.attempts == [1]
    store.close()


def test_a_child_that_hangs_is_killed_and_its_trial_goes_on(
    postgres_url: str, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says nothing after its first epoch, and heeds no word, as before a dead file server."""
    store = open_store(postgres_url)
    spec = make_spec(trials=1, epochs=3)
    data = load_data(spec.data)
    study = create_or_resume(store, spec, data.fingerprint, None)
    children: list[FakeChild] = []

    def child(config: Any, data: Any, workdir: Path, free: Any, probe: Any = None) -> FakeChild:
        hangs = None if children else 1
        children.append(FakeChild([0.1, 0.2, 0.3], workdir, classes=8, hangs_after=hangs))
        return children[-1]

    watcher = Silent()
    assert new_worker(
        study,
        data,
        Artifacts(tmp_path / "a"),
        watcher,
        Interrupt(),
        make_child=child,
        timing=Timing(watchdog=0.5),
    ).run()
    assert [child.killed for child in children] == [True, False] and watcher.attempts == [1, 2]
    assert watcher.ended[0][1] == "RETRY" and "SIGKILL" in watcher.ended[0][2]
    assert watcher.ended[1] == (0, "COMPLETE", "completed")
    assert [r.epoch for r in study.history(0)] == [1, 2, 3]
    store.close()


def test_a_worker_needs_two_connections(
    postgres_url: str, make_spec: MakeSpec, tmp_path: Path
) -> None:
    import sqlalchemy as sa

    store = open_store(postgres_url)
    spec = make_spec(trials=3, epochs=2, pruner="median")
    data = load_data(spec.data)
    study = create_or_resume(store, spec, data.fingerprint, None)
    store.close()
    store = open_store(postgres_url)
    study = open_study(store, "small")
    watching = sa.create_engine(sa.make_url(postgres_url).set(drivername="postgresql+psycopg2"))
    seen: list[int] = []

    def look(number: int, report: EpochReport) -> None:
        with watching.connect() as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'segtune'"
            seen.append(connection.execute(sa.text(query)).scalar_one())

    assert new_worker(
        study, data, Artifacts(tmp_path / "a"), Silent(look), Interrupt(), make_child=whole
    ).run()
    watching.dispose()
    assert seen and max(seen) <= 2, seen
    store.close()


def test_a_trial_ends_by_itself_when_its_supervisor_is_silent(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    """The fence is a time, kept in the child: a frozen supervisor need not do anything."""
    from search.work.child import Alive, Done, Epoch, Resumed

    spec = make_spec(epochs=10_000)
    config = spec.search_space().base.replace({"optim.lr": 1e-3})
    child = TrialProcess(config, load_data(spec.data), tmp_path / "trial", {})
    assert isinstance(until(lambda: child.receive(5)), Resumed)  # from nothing
    assert isinstance(until(lambda: child.receive(5)), Alive)  # after its first step
    assert isinstance(until(lambda: child.receive(5)), Epoch)
    child.fence(time.monotonic() + 1)
    time.sleep(0.5)
    child.fence(time.monotonic() + 1)  # renewed
    silent, epochs = time.monotonic(), 1
    while isinstance(message := until(lambda: child.receive(5)), Epoch | Alive):
        epochs += isinstance(message, Epoch)
    assert isinstance(message, Done) and message.result.reason == "preempted"
    assert time.monotonic() - silent > 0.5 and epochs < 10_000
    child.join()


@pytest.mark.parametrize("name", ["trial.log", "lock"])
def test_a_link_planted_in_a_trials_folder_is_not_written_through(
    name: str, make_spec: MakeSpec, tmp_path: Path
) -> None:
    spec, workdir, target = make_spec(), tmp_path / "trial", tmp_path / "precious"
    workdir.mkdir()
    target.write_text("precious")
    (workdir / name).symlink_to(target)
    child = TrialProcess(spec.search_space().base, load_data(spec.data), workdir, {})
    message = until(lambda: child.receive(5))
    assert isinstance(message, Failed) and not message.unfit
    assert f"{workdir}/{name} must be a plain file, but is a link" in message.message
    assert target.read_text() == "precious"
    child.join()


def test_a_trials_folder_that_leads_elsewhere_is_refused(
    store: Store, make_spec: MakeSpec, tmp_path: Path
) -> None:
    study = create_or_resume(store, make_spec(), "f" * 64, None)
    artifacts = Artifacts(tmp_path / "shared")
    folder = artifacts.workdir(study, 0)
    folder.parent.mkdir(parents=True)
    (tmp_path / "home").mkdir()
    folder.symlink_to(tmp_path / "home")
    with pytest.raises(InputError, match=r"trial-0000' must be the name of something in .*shared"):
        artifacts.workdir(study, 0)


def test_a_second_ctrl_c_ends_the_child_at_once(
    postgres_url: str, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(postgres_url)
    spec = make_spec(trials=1, epochs=3)
    data = load_data(spec.data)
    study = create_or_resume(store, spec, data.fingerprint, None)
    interrupt = Interrupt()
    children: list[FakeChild] = []

    def child(config: Any, data: Any, workdir: Path, free: Any, probe: Any = None) -> FakeChild:
        hangs = None if children else 1  # it cannot follow any word
        children.append(FakeChild([0.1, 0.2, 0.3], workdir, classes=8, hangs_after=hangs))
        return children[-1]

    def twice(number: int, report: EpochReport) -> None:
        interrupt.count = 2

    timing = Timing(stop=math.inf)  # how long one Ctrl-C would wait
    assert not new_worker(
        study,
        data,
        Artifacts(tmp_path / "a"),
        Silent(twice),
        interrupt,
        make_child=child,
        timing=timing,
    ).run()
    assert children[0].killed
    assert study.slots.counts()["OPEN"] == 1
    assert study.slots.waiting() == {0: "INTERRUPTED"}
    assert new_worker(
        study, data, Artifacts(tmp_path / "a"), Silent(), Interrupt(), make_child=child
    ).run()
    assert [r.epoch for r in study.history(0)] == [1, 2, 3]
    store.close()


def test_a_launch_on_a_terminal_shows_its_bars(
    postgres_url: str, make_spec: MakeSpec, tmp_path: Path
) -> None:
    make_spec(trials=1)
    running = Running.segtune(
        "launch", tmp_path / "small.yaml", "--store", postgres_url, "--artifacts", tmp_path / "a",
        terminal=True,
    )  # fmt: skip
    shown = running.finish()
    assert "trials" in shown and "1/1" in shown and "best trials" in shown
