"""A study that ends by itself: what begins no more, what goes on, what is said, and resuming."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from search.database.store import Store
from search.database.tables import AFTER, GAIN
from search.files.artifacts import Artifacts
from search.findings.facts import gather, summary
from search.findings.notes import headline
from search.launch import launch
from search.studies.limits import close, reopen, stopped
from search.studies.own_end import own_end
from search.studies.study import Study, create_or_resume, open_study
from search.work.worker import Worker
from spaces.errors import DONE
from spaces.sections import BudgetSpec
from spaces.spec import StudySpec
from tests.fake_child import FakeChild
from tests.scripted import EPOCHS, NoData, Quiet, make_spec, new_worker, scripted
from tests.stores import sqlite_too, worker_too

MakeSpec = Callable[..., StudySpec]
FIRST = 10  # trials at random, of TPE and of `until`
LITTLE = [0.5, 0.5003, 0.4998, 0.5002, 0.4999]  # values between which nobody would choose


class Hears(Quiet):
    """A watcher that keeps what is said of the study."""

    said: str = ""

    def paused(self, message: str) -> None:
        self.said += message


def make(store: Store, folder: Path, trials: int = 40, **given: Any) -> Study:
    until = given.pop("until", {"gain_below": 0.005, "trials": 4})
    spec = make_spec(folder, "small", trials=trials, sampler="random", **given)
    budget = {"budget": BudgetSpec.model_validate({"trials": trials, "until": until})}
    return create_or_resume(store, spec.model_copy(update=budget), NoData.fingerprint, None)


def work(study: Study, folder: Path, values: list[float]) -> Worker:
    """A worker whose trials come to these values, again and again, until nothing is to be had."""
    worker, number = new_worker(study, folder), iter(range(10_000))
    worker.watcher = Hears()

    def curve() -> list[float]:
        value = values[next(number) % len(values)]
        return [value * (e + 1) / EPOCHS for e in range(EPOCHS)]

    with scripted(worker, curve):
        assert worker.run()
    return worker


@sqlite_too
def test_a_study_ends_when_little_is_to_be_gained_and_says_why(
    store: Store, tmp_path: Path
) -> None:
    study = make(store, tmp_path, pruner="none")
    worker = work(study, tmp_path, LITTLE)
    assert study.slots.counts()["COMPLETE"] == FIRST and stopped(study) == GAIN
    why = own_end(study)
    assert why is not None and 0 < why.gain < 0.005
    sentence = why.sentence(study.metric)
    assert sentence == (
        f"ended by itself after 10 of 40 trials: the next 4 trials are expected to gain "
        f"{why.gain:.4f} mIoU, less than 0.005"
    )
    assert sentence in worker.watcher.said  # type: ignore[attr-defined]
    found = summary(study)
    assert sentence in found["says"] and found["ended_by_itself"]["of"] == 40
    assert any(sentence in str(block) for block in headline(gather(study)))


@sqlite_too
def test_a_resumed_study_goes_on_for_as_many_trials_at_least(store: Store, tmp_path: Path) -> None:
    study = make(store, tmp_path, pruner="none")
    work(study, tmp_path, LITTLE)
    for more in (4, 8):
        reopen(store, study.study_id)
        assert stopped(study) is None and own_end(study) is None
        work(study, tmp_path, LITTLE)  # a worker that knows nothing of it
        assert study.slots.counts()["COMPLETE"] == FIRST + more and stopped(study) == GAIN
    close(store, study.study_id, AFTER)  # its user's word counts more
    assert own_end(study) is None and not any("by itself" in s for s in summary(study)["says"])


def test_a_study_goes_on_while_there_is_much_to_be_gained(store: Store, tmp_path: Path) -> None:
    study = make(store, tmp_path, trials=20, pruner="none")
    work(study, tmp_path, [0.1 + 0.02 * number for number in range(20)])
    assert study.slots.counts()["COMPLETE"] == 20 and stopped(study) is None


def test_a_study_of_before_and_one_without_until_never_end(store: Store, tmp_path: Path) -> None:
    study = make(store, tmp_path, trials=14, pruner="none", until=None)
    work(study, tmp_path, LITTLE)
    assert study.slots.counts()["COMPLETE"] == 14


def test_trials_that_have_begun_go_on_to_their_ends(store: Store, tmp_path: Path) -> None:
    """Paused ones too, as if the study's budget had been so many trials."""
    study = make(store, tmp_path, trials=60, pruner="median")
    worker, rest = new_worker(study, tmp_path), iter(LITTLE * 100)
    worker.watcher, waited = Hears(), set()
    with scripted(worker, lambda: [next(rest)] * EPOCHS):
        while stopped(study) is None:
            assert worker.serve_one()
        begun = len(study.trials())
        waited = {n for n, why in study.slots.waiting().items() if why == "PAUSED"}
        while worker.serve_one():
            pass
    assert waited and begun < 60
    trials = study.trials()
    assert len(trials) == begun and all(trial.state.is_finished() for trial in trials)
    reasons = {trial.user_attrs["reason"] for trial in trials if trial.number in waited}
    assert reasons <= {"completed", "median"} and not study.slots.waiting()


def little(config: Any, data: Any, workdir: Path, free: Any) -> FakeChild:
    """A trial that trains nothing; its value hardly depends on which one it is."""
    number = int(workdir.name.removeprefix("trial-"))
    return FakeChild([LITTLE[number % len(LITTLE)]], workdir, classes=data.classes)


@worker_too
def test_launch_shows_the_answer_again_and_a_larger_budget_goes_on(
    store: Store, make_spec: MakeSpec, tmp_path: Path
) -> None:
    spec = make_spec(trials=30, epochs=1, pruner="none")
    budget = BudgetSpec.model_validate({"trials": 30, "until": {"gain_below": 0.01, "trials": 5}})
    spec = spec.model_copy(update={"budget": budget})

    def launched(trials: int | None = None) -> str:
        console = Console(file=io.StringIO(), width=200)
        artifacts = Artifacts(tmp_path / "artifacts")
        assert launch(spec, store, artifacts, console, trials, make_child=little) == DONE
        return console.file.getvalue()  # type: ignore[attr-defined]

    said = launched()
    study = open_study(store, "small")
    why = own_end(study)
    assert why is not None and why.of == 30 and why.sentence(study.metric) in said
    assert "go on: segtune resume small" in said and "was stopped" not in said
    ended = len(study.trials())
    assert why.sentence(study.metric) in launched() and len(study.trials()) == ended
    launched(31)
    assert len(study.trials()) == ended + 5
    launched(31)
    assert len(study.trials()) == ended + 5


def test_a_changed_until_is_no_other_study(store: Store, tmp_path: Path) -> None:
    study = make(store, tmp_path, trials=14, pruner="none", until=None)
    given = study.spec.model_copy(
        update={"budget": BudgetSpec.model_validate({"trials": 14, "until": {}})}
    )
    again = create_or_resume(store, given, NoData.fingerprint, None)
    again.take_settings(given)
    stored = open_study(store, "small").spec.budget
    assert stored == given.budget
