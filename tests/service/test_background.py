"""Pictures, notes and graphs come after the next trial has begun, and are never lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from search.dashboard.publish import PICTURES
from search.database.store import open_store
from search.files.artifacts import Artifacts
from search.files.shown import shown_trials
from search.studies.study import Study, create_or_resume
from search.work import background
from search.work.worker import Worker
from tests.scripted import Quiet, make_spec, new_worker, scripted
from trainers.checkpoint import WEIGHTS
from trainers.report import EpochReport


@pytest.fixture
def study(postgres_url: str, tmp_path: Path) -> Iterator[Study]:
    """Of two trials."""
    store = open_store(postgres_url)
    spec = make_spec(tmp_path, "two", trials=2, sampler="random", pruner="none")
    yield create_or_resume(store, spec, "f" * 64, None)
    store.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """One that pictures could be drawn of."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / WEIGHTS).write_bytes(b"weights")
    return folder


class Noting(Quiet):
    """Takes notes of what happens, in order."""

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log, self.problems = log, list[tuple[int | None, str]]()

    def trial_started(self, number: int, config: Any, attempt: int) -> None:
        self.log.append(f"claimed {number}")

    def trial_resumed(self, number: int, epoch: int, dropped: int) -> None: ...

    def epoch_ended(self, number: int, report: EpochReport) -> None:
        if report.epoch == 1:
            self.log.append(f"trains {number}")

    def not_shown(self, number: int | None, problem: str) -> None:
        self.problems.append((number, problem))


def prepare(
    study: Study, folder: Path, monkeypatch: pytest.MonkeyPatch, failures: int = 0
) -> tuple[Worker, Noting, list[str]]:
    """A worker whose pictures take until its trials are over; the first `failures` fail."""
    log: list[str] = []
    over = threading.Event()
    worker = new_worker(study, folder)
    worker.watcher = worker.background.watcher = watcher = Noting(log)
    failing = [failures]

    def draw(drawing: Any, data: Any, to: Path, give_up: Any) -> str | None:
        log.append(f"draws {to.parent.name}")
        assert over.wait(60), "the worker waits for the pictures"
        if failing[0]:
            failing[0] -= 1
            return "no room on the GPU"
        to.mkdir(parents=True)
        (to / "curves.png").write_bytes(b"\x89PNG")
        return None

    monkeypatch.setattr(background, "draw", draw)
    original = worker.background.finish

    def finish() -> None:
        log.append("no trial is left")
        over.set()
        original()

    monkeypatch.setattr(worker.background, "finish", finish)
    refresh = worker.background.publisher.refresh
    monkeypatch.setattr(
        worker.background.publisher,
        "refresh",
        lambda facts: (log.append("refreshes"), refresh(facts)),
    )
    return worker, watcher, log


def test_the_next_trial_waits_for_nothing(
    study: Study, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, watcher, log = prepare(study, tmp_path / "a", monkeypatch)
    with scripted(worker, lambda: [0.25, 0.5, 0.75], model):
        assert worker.run()
    assert log[:4] == ["claimed 0", "trains 0", "claimed 1", "trains 1"]
    after_first = log.index("trains 1")
    assert log.index("draws trial-0000") > after_first < log.index("refreshes")
    assert log.index("no trial is left") < log.index("draws trial-0001")
    ids = {study.trial_id(number) for number in (0, 1)}
    assert shown_trials(study) == ids and not watcher.problems
    assert not worker.background.publisher.stale


@pytest.mark.parametrize(
    ("failures", "lost"),
    [
        (2, []),
        (4, [(0, "its pictures: no room on the GPU"), (1, "its pictures: no room on the GPU")]),
    ],
)
def test_pictures_that_fail_are_drawn_again_when_nothing_else_runs(
    failures: int,
    lost: list[tuple[int, str]],
    study: Study,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker, watcher, log = prepare(study, tmp_path / "a", monkeypatch, failures)
    with scripted(worker, lambda: [0.25, 0.5], model):
        assert worker.run()
    assert sum(word.startswith("draws") for word in log) == 4
    assert watcher.problems == lost
    assert len(shown_trials(study)) == 2 - len(lost)
    assert study.slots.counts()["COMPLETE"] == 2


def test_what_is_overtaken_while_it_is_drawn_is_not_shown(
    study: Study, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.spec = study.spec.model_copy(update={"keep_models": 1})
    worker, watcher, _ = prepare(study, tmp_path / "a", monkeypatch)
    scripts = iter([[0.25], [0.75]])
    with scripted(worker, lambda: next(scripts), model):
        assert worker.run()
    assert shown_trials(study) == {study.trial_id(1)} and not watcher.problems
    folders = [Artifacts(tmp_path / "a").workdir(study, number) / PICTURES for number in (0, 1)]
    assert [folder.exists() for folder in folders][1]


def test_a_bug_in_a_graph_is_said_once_and_ends_nothing(
    study: Study, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, watcher, _ = prepare(study, tmp_path / "a", monkeypatch)

    def broken(facts: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(worker.background.publisher, "refresh", broken)
    with scripted(worker, lambda: [0.25, 0.5], model):
        assert worker.run()
    assert study.slots.counts()["COMPLETE"] == 2
    said = [problem for _, problem in watcher.problems]
    assert said == ["something: ZeroDivisionError: a bug"] * 2  # after each trial that ended
    assert len(shown_trials(study)) == 2
