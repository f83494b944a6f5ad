"""Studies that really run: children, verdicts, crashes, interrupts, exports."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
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
from search.findings.export import export_study
from search.findings.facts import summary
from search.findings.ranking import best_trial, ranked
from search.launch import launch
from search.studies.slots import Result
from search.studies.study import open_study
from search.work.watchers import Interrupt
from search.work.worker import Worker
from spaces.config import TrialConfig
from spaces.errors import DONE, InputError
from spaces.spec import StudySpec, load_run_config
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
        self.pauses: list[str] = []
        self.on_pause: Callable[[], None] | None = None
        self.on_epoch = on_epoch

    def trial_started(self, number: int, config: TrialConfig, attempt: int) -> None:
        self.attempts.append(attempt)

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


def test_a_study_runs_to_its_budget_and_is_exported(
    store: Store, make_spec: MakeSpec, tmp_path: Path, quiet: Console
) -> None:
    spec = make_spec(trials=2)
    assert launch(spec, store, Artifacts(tmp_path / "artifacts"), quiet) == DONE
    study = open_study(store, "small")
    assert study.budget.counts()["COMPLETE"] == 2
    assert [t.user_attrs["reason"] for t in study.trials()] == ["completed"] * 2
    found = summary(study)
    assert found["epochs"] == 4 and found["epochs_saved"] == 0
    assert json.loads(json.dumps(found)) == found
    to = export_study(study, Artifacts(tmp_path / "artifacts"), tmp_path / "best")
    best = best_trial(study)
    data, config = load_run_config(to / "config.yaml")
    assert config == study.config(best)
    assert data == spec.data
    weights = (
        Artifacts(tmp_path / "artifacts")
        .workdir(study, best.number)
        .glob("model-*/model.safetensors")
    )
    with open(next(weights), "r+b") as file:  # a bit that fell over on disk
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    with pytest.raises(InputError, match="are not what the trial has written"):
        export_study(study, Artifacts(tmp_path / "artifacts"), tmp_path / "again")
    facts = json.loads((to / "provenance.json").read_text())
    assert (facts["trial"], facts["value"]) == (best.number, best.value)
    assert facts["data_fingerprint"] == load_data(spec.data).fingerprint
    assert (to / "curves.png").read_bytes().startswith(b"\x89PNG")
    # extending goes on where it ended
    assert launch(spec, store, Artifacts(tmp_path / "artifacts"), quiet, trials=3) == DONE
    assert study.budget.counts()["COMPLETE"] == 3


def test_the_median_rule_stops_a_trial_and_its_best_value_counts(
    postgres_url: str, make_spec: MakeSpec, tmp_path: Path
) -> None:
    pruner = "{name: median, startup_trials: 1, min_epochs: 1}"
    store = open_store(postgres_url)
    from search.studies.study import create_or_resume

    spec = make_spec(trials=2, epochs=40, pruner=pruner)
    data = load_data(spec.data)
    study = create_or_resume(store, spec, data.fingerprint, None)
    ended = study.budget.claim(study.ask)  # a trial that nobody can match
    report = EpochReport(epoch=1, metric=2.0)
    assert ended and study.report(ended, report)
    assert study.budget.end(ended, Result("COMPLETE", 2.0, "completed", {}))
    watcher = Silent()
    assert Worker(study, data, Artifacts(tmp_path / "a"), watcher, Interrupt()).run()
    [(number, state, reason)] = watcher.ended
    assert (state, reason) == ("PRUNED", "median")
    trial = study.trial(number)
    assert 1 <= trial.user_attrs["epochs"] < 40
    assert trial.value == max(report.metric for report in study.history(number))
    store.close()


def test_a_killed_child_is_resumed_with_its_reports(
    store: Store, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from search.studies.study import create_or_resume
    from search.work import worker as worker_module

    spec = make_spec(trials=1, epochs=12)  # it shall not have ended when it is killed
    data = load_data(spec.data)
    study = create_or_resume(store, spec, data.fingerprint, None)
    children: list[Any] = []
    original = worker_module.TrialProcess

    def remember(*args: Any) -> Any:
        children.append(original(*args))
        return children[-1]

    monkeypatch.setattr(worker_module, "TrialProcess", remember)

    def kill_first(number: int, report: EpochReport) -> None:
        if len(children) == 1 and report.epoch == 2:
            os.kill(children[0].pid, signal.SIGKILL)

    watcher = Silent(kill_first)
    assert Worker(study, data, Artifacts(tmp_path / "a"), watcher, Interrupt()).run()
    assert watcher.attempts == [1, 2]
    assert watcher.ended[0][1] == "RETRY" and "SIGKILL" in watcher.ended[0][2]
    assert watcher.ended[1] == (0, "COMPLETE", "completed")
    assert len(study.trials()) == 1
    assert [r.epoch for r in study.history(0)] == [*range(1, 13)]


def test_a_child_killed_at_twenty_moments_loses_nothing(
    postgres_url: str, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten trials, each killed twice: at its start, in its steps, at its writes, as time falls."""
    from search.studies.study import create_or_resume
    from search.work import worker as worker_module

    store = open_store(postgres_url)
    spec = make_spec(trials=10, epochs=4)
    data = load_data(spec.data)
    study = create_or_resume(store, spec, data.fingerprint, None)
    original, timers = worker_module.TrialProcess, []

    def mortal(*args: Any) -> Any:
        child = original(*args)
        kills = [timer for timer in timers if timer.attempt < 3]
        if watcher.attempts[-1] < 3:
            timer = threading.Timer(0.05 * (len(kills) + 1), child._process.kill)
            timer.attempt = watcher.attempts[-1]
            timer.start()
            timers.append(timer)
        return child

    watcher = Silent()
    monkeypatch.setattr(worker_module, "TrialProcess", mortal)
    assert Worker(study, data, Artifacts(tmp_path / "a"), watcher, Interrupt()).run()
    for timer in timers:
        timer.join()
    retries = sum(state == "RETRY" for _, state, _ in watcher.ended)
    assert len(timers) >= 10 and retries >= 8, (len(timers), retries)
    assert study.budget.counts()["COMPLETE"] == 10 and len(study.trials()) == 10
    for trial in study.trials():
        assert [r.epoch for r in study.history(trial.number)] == [1, 2, 3, 4]
        assert trial.value == max(report.metric for report in study.history(trial.number))
    store.close()


def test_only_the_best_models_are_kept(
    postgres_url: str, make_spec: MakeSpec, tmp_path: Path, quiet: Console
) -> None:
    store = open_store(postgres_url)
    spec = make_spec(trials=3, epochs=1).model_copy(update={"keep_models": 1})
    launch(spec, store, Artifacts(tmp_path / "a"), quiet)
    study = open_study(store, "small")
    best = ranked(study.trials())[0]
    models = list((tmp_path / "a").glob("*/*/model-*"))
    assert [path.parent for path in models] == [
        Artifacts(tmp_path / "a").workdir(study, best.number)
    ]
    assert not [*(tmp_path / "a").glob("*/*/last.json"), *(tmp_path / "a").glob("*/*/state-*")]
    store.close()


@pytest.mark.parametrize("interruption", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_launch_resumes_where_it_was(
    interruption: signal.Signals, postgres_url: str, make_spec: MakeSpec, tmp_path: Path
) -> None:
    make_spec(trials=1, epochs=12)
    command = [
        str(Path(sys.executable).with_name("segtune")), "launch", str(tmp_path / "small.yaml"),
        "--store", postgres_url, "--artifacts", str(tmp_path / "a"),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    store = open_store(postgres_url)
    deadline = time.monotonic() + 120
    study = None
    while time.monotonic() < deadline:
        if study is None and "small" in _names(store):
            study = open_study(store, "small")
        if study is not None and study.trials() and len(study.history(0)) >= 2:
            break
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    assert study is not None
    process.send_signal(interruption)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == (130 if interruption == signal.SIGINT else -signal.SIGKILL), out
    before = study.history(0)
    counts = study.budget.counts()
    assert counts["OPEN" if interruption == signal.SIGINT else "RUNNING"] == 1
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert study.history(0)[: len(before)] == before
    assert [r.epoch for r in study.history(0)] == list(range(1, 13))
    assert study.trial(0).state == TrialState.COMPLETE
    assert len(study.trials()) == 1
    store.close()


def _names(store: Store) -> list[str]:
    from search.studies.study import study_names

    return study_names(store)


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
    from search.studies.study import create_or_resume

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
    assert Worker(study, data, Artifacts(small_disk / "artifacts"), watcher, Interrupt()).run()
    assert len(watcher.pauses) == 1 and "the disk is full" in watcher.pauses[0]
    assert halves == [[]]  # nothing half written stayed
    assert watcher.ended == [(0, "COMPLETE", "completed")] and watcher.attempts == [1, 1]
    store.close()


def test_a_full_disk_under_the_data_cache_is_no_reason_to_stop(
    small_disk: Path, postgres_url: str, make_spec: MakeSpec, tmp_path: Path
) -> None:
    make_spec(trials=1, epochs=1)
    path = tmp_path / "small.yaml"
    path.write_text(path.read_text().replace("32x32", "256x256"))  # 2 MB of arrays
    fill(small_disk, but=600_000)
    command = [
        str(Path(sys.executable).with_name("segtune")), "launch", str(path),
        "--store", postgres_url, "--artifacts", str(tmp_path / "artifacts"),
    ]  # fmt: skip
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "SEGTUNE_HOME": str(small_disk)},
        timeout=180,
    )
    assert done.returncode == 0 and "trial 0 COMPLETE" in done.stdout, done.stdout + done.stderr
    (log,) = (tmp_path / "artifacts").glob("*/trial-0000/trial.log")
    assert log.read_text().count("streaming: the train split at 256x256") == 1
    assert not [*(small_disk / "cache" / "arrays").glob("*/*.npy")]  # nothing half built stays


def fill(disk: Path, but: int) -> Path:
    """Fill a disk up but for some bytes; returns the file to delete."""
    ballast = disk / "ballast"
    with open(ballast, "wb") as file:
        file.write(b"x" * (shutil.disk_usage(disk).free - but))
    return ballast


def test_a_child_that_hangs_is_killed_and_its_trial_goes_on(
    postgres_url: str, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen by SIGSTOP after its first epoch, as by a dead file server."""
    from search.studies.study import create_or_resume
    from search.work import supervision
    from search.work import worker as worker_module

    store = open_store(postgres_url)
    spec = make_spec(trials=1, epochs=12)
    data = load_data(spec.data)
    study = create_or_resume(store, spec, data.fingerprint, None)
    children: list[Any] = []
    original = worker_module.TrialProcess

    def remember(*args: Any) -> Any:
        children.append(original(*args))
        return children[-1]

    monkeypatch.setattr(worker_module, "TrialProcess", remember)

    def freeze(number: int, report: EpochReport) -> None:
        frozen = len(children) == 1
        if frozen:
            os.kill(children[0].pid, signal.SIGSTOP)
        # the second child may be slow to start on a busy machine
        monkeypatch.setattr(supervision, "WATCHDOG_SECONDS", 2.0 if frozen else 3600.0)

    class Patient(Silent):
        def trial_started(self, number: int, config: TrialConfig, attempt: int) -> None:
            super().trial_started(number, config, attempt)
            monkeypatch.setattr(supervision, "WATCHDOG_SECONDS", 3600.0)

    watcher = Patient(freeze)
    assert Worker(study, data, Artifacts(tmp_path / "a"), watcher, Interrupt()).run()
    assert watcher.attempts == [1, 2] and watcher.ended[-1] == (0, "COMPLETE", "completed")
    assert [r.epoch for r in study.history(0)] == [*range(1, 13)]
    store.close()


def test_a_worker_needs_two_connections(
    postgres_url: str, make_spec: MakeSpec, tmp_path: Path
) -> None:
    import sqlalchemy as sa

    from search.studies.study import create_or_resume

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

    assert Worker(study, data, Artifacts(tmp_path / "a"), Silent(look), Interrupt()).run()
    watching.dispose()
    assert seen and max(seen) <= 2, seen
    store.close()


def test_a_trial_ends_by_itself_when_its_supervisor_is_silent(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    """The fence is a time, kept in the child: a frozen supervisor need not do anything."""
    from search.work.child import Alive, Done, Epoch, TrialProcess

    spec = make_spec(epochs=10_000)
    config = spec.search_space().base.replace({"optim.lr": 1e-3})
    child = TrialProcess(config, load_data(spec.data), tmp_path / "trial", {})
    assert isinstance(child.receive(60), Alive)  # after its first step
    assert isinstance(child.receive(60), Epoch)
    child.fence(time.monotonic() + 1)
    time.sleep(0.5)
    child.fence(time.monotonic() + 1)  # renewed
    silent = time.monotonic()
    message = child.receive(60)
    while isinstance(message, Epoch):
        message = child.receive(60)
    assert isinstance(message, Done) and message.result.reason == "preempted"
    assert 0.5 < time.monotonic() - silent < 20
    child.join()


def test_a_second_ctrl_c_ends_the_child_at_once(
    postgres_url: str, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from search.studies.study import create_or_resume
    from search.work import worker as worker_module

    store = open_store(postgres_url)
    spec = make_spec(trials=1, epochs=12)
    data = load_data(spec.data)
    study = create_or_resume(store, spec, data.fingerprint, None)
    interrupt = Interrupt()
    children: list[Any] = []
    original = worker_module.TrialProcess

    def remember(*args: Any) -> Any:
        children.append(original(*args))
        return children[-1]

    monkeypatch.setattr(worker_module, "TrialProcess", remember)

    def twice(number: int, report: EpochReport) -> None:
        os.kill(children[0].pid, signal.SIGSTOP)  # it cannot follow any word
        interrupt.count = 2

    began = time.monotonic()
    assert not Worker(study, data, Artifacts(tmp_path / "a"), Silent(twice), interrupt).run()
    assert time.monotonic() - began < 30
    assert study.budget.counts()["OPEN"] == 1 and study.budget.waiting() == {0: "INTERRUPTED"}
    assert Worker(study, data, Artifacts(tmp_path / "a"), Silent(), Interrupt()).run()
    assert [r.epoch for r in study.history(0)] == [*range(1, 13)]
    store.close()


def test_a_launch_on_a_terminal_shows_its_bars(
    postgres_url: str, make_spec: MakeSpec, tmp_path: Path
) -> None:
    make_spec(trials=1)
    ours, theirs = pty.openpty()
    command = [
        str(Path(sys.executable).with_name("segtune")), "launch", str(tmp_path / "small.yaml"),
        "--store", postgres_url, "--artifacts", str(tmp_path / "a"),
    ]  # fmt: skip
    shown = b""
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        with contextlib.suppress(OSError):  # how a terminal says that nobody writes any more
            while part := os.read(ours, 65536):
                shown += part
    os.close(ours)
    assert process.returncode == 0, shown.decode()
    assert b"trials" in shown and b"1/1" in shown and b"best trials" in shown
