"""A study that ends by itself: what begins no more, what goes on, what is said, and resuming."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from rich.console import Console

from search.database.store import Store
from search.database.tables import AFTER, GAIN
from search.files.artifacts import Artifacts
from search.findings.facts import gather, summary
from search.findings.notes import headline
from search.launch import launch
from search.studies import own_end
from search.studies.confirmations import create_confirmation, plan
from search.studies.limits import close, limits, reopen, stopped
from search.studies.own_end import OwnEnd
from search.studies.owners import new_owner
from search.studies.slots import Result, Slots
from search.studies.study import Study, create_or_resume, open_study
from search.work.confirming import is_due, search_is_over
from search.work.until import Until
from search.work.worker import Worker
from spaces.errors import DONE
from spaces.limits import LimitsSpec
from spaces.sections import BudgetSpec, SamplerSpec
from spaces.spec import StudySpec
from tests.fake_child import FakeChild
from tests.scripted import EPOCHS, NoData, Quiet, make_spec, new_worker, scripted
from tests.statements import Statements
from tests.stores import sqlite_too

MakeSpec = Callable[..., StudySpec]
FIRST = 5  # trials at random
LITTLE = [0.5, 0.5003, 0.4998, 0.5002, 0.4999]  # values between which nobody would choose


class Hears(Quiet):
    """A watcher that keeps what is said of the study."""

    said: str = ""

    def paused(self, message: str) -> None:
        self.said += message


def make(store: Store, folder: Path, trials: int = 40, name: str = "small", **given: Any) -> Study:
    until = given.pop("until", {"gain_below": 0.005, "trials": 4})
    sampler = {"name": "random", "startup_trials": FIRST}
    spec = make_spec(folder, name, trials=trials, sampler=sampler, **given)
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
    why = own_end.own_end(study)
    assert why is not None and 0 < why.gain < 0.005
    sentence = why.sentence(study.metric)
    assert sentence == (
        f"ended by itself after 5 of 40 trials: the next 4 trials are expected to gain "
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
        assert stopped(study) is None and own_end.own_end(study) is None
        work(study, tmp_path, LITTLE)  # a worker that knows nothing of it
        assert study.slots.counts()["COMPLETE"] == FIRST + more and stopped(study) == GAIN
    close(store, study.study_id, AFTER)  # its user's word counts more
    assert own_end.own_end(study) is None and not any(
        "by itself" in s for s in summary(study)["says"]
    )


def test_a_look_asks_the_store_for_nothing(store: Store, tmp_path: Path) -> None:
    study = make(store, tmp_path, trials=9, pruner="none")
    values = [0.1 * number for number in range(6)]
    work(study, tmp_path, values)
    trials, until = study.trials(), Until(study)
    with Statements.of(store) as counted:
        assert until.trial_ended(trials) is None
    assert not counted.texts


def test_what_was_outside_of_the_limits_is_no_trial_that_came_to_nothing(
    store: Store, tmp_path: Path
) -> None:
    study = make(store, tmp_path, trials=20, pruner="none")
    study.spec = study.spec.model_copy(update={"limits": LimitsSpec(latency_ms=20)})
    for number in range(FIRST - 1):
        end_next(study, LITTLE[number])
    attrs = {"reason": "limit", "epochs": 0}
    refused = optuna.trial.create_trial(state=TrialState.PRUNED, user_attrs=attrs)
    until = Until(study)
    assert until.trial_ended([*study.trials(), *[refused] * 20]) is None  # too few have trained
    end_next(study, LITTLE[-1])
    why = until.trial_ended([*study.trials(), *[refused] * 20])
    assert why is not None and why.ended == FIRST


def end_next(study: Study, value: float) -> None:
    claim = study.slots.claim(study.ask)
    assert claim is not None
    assert study.slots.end(claim, Result("COMPLETE", value, "completed", {"epochs": EPOCHS}))


def test_the_bar_is_the_noise_between_seeds_where_it_was_measured(
    store: Store, tmp_path: Path
) -> None:
    first = make(store, tmp_path, 1, "first", confirm={"top": 1, "seeds": 2}, until=None)
    end_next(first, 0.5)
    unmeasured = make(store, tmp_path, name="unmeasured", pruner="none", until={"trials": 4})
    work(unmeasured, tmp_path, LITTLE)
    why = own_end.own_end(unmeasured)
    assert why is not None and (why.below, why.noise) == (0.005, False)
    confirmation = create_confirmation(first)
    [trial] = first.trials()
    for seed, value in ((1, 0.52), (2, 0.48)):
        plan(confirmation, trial, first.config(trial), seed)
        confirmation.slots.extend(seed)
        end_next(confirmation, value)
    measured = make(store, tmp_path, name="measured", pruner="none", until={"trials": 4})
    work(measured, tmp_path, LITTLE)
    why = own_end.own_end(measured)
    assert why is not None and why.noise and why.below == pytest.approx(0.02)
    assert "less than 0.0200, the noise between seeds" in why.sentence("mIoU")


def test_a_study_goes_on_while_there_is_much_to_be_gained(store: Store, tmp_path: Path) -> None:
    study = make(store, tmp_path, trials=9, pruner="none")
    work(study, tmp_path, [0.1 + 0.02 * number for number in range(9)])
    assert study.slots.counts()["COMPLETE"] == 9 and stopped(study) is None


def test_a_study_of_before_and_one_without_until_never_end(store: Store, tmp_path: Path) -> None:
    study = make(store, tmp_path, trials=8, pruner="none", until=None)
    work(study, tmp_path, LITTLE)
    assert study.slots.counts()["COMPLETE"] == 8


@sqlite_too
def test_paused_trials_wait_interrupted_ones_go_on(store: Store, tmp_path: Path) -> None:
    study = make(store, tmp_path, confirm={"top": 1, "seeds": 1})
    others = [Slots(store, study.study_id, new_owner()) for _ in range(4)]
    begun = [slots.claim(study.ask) for slots in others]
    paused, interrupted, running, ended = (claim for claim in begun if claim is not None)
    assert others[0].give_back(paused, counts=False, paused=True)
    assert others[1].give_back(interrupted, counts=False)
    assert others[3].end(ended, Result("COMPLETE", 0.5, "completed", {"epochs": EPOCHS}))
    why = OwnEnd(1, 1, 40, 4, 0.001, 0.005, noise=False)
    assert own_end.end(study, why, after=4) is None
    assert "after 1 of 40 trials, 1 more paused: the next 4" in why.sentence("mIoU")
    assert limits(study).now is None and not search_is_over(study, asked=False)
    again = others[0].claim(study.ask)
    assert again is not None and again.trial_number == interrupted.trial_number
    assert not again.spent and others[1].claim(study.ask) is None
    for slots, claim in ((others[0], again), (others[2], running)):
        assert slots.end(claim, Result("COMPLETE", 0.4, "completed", {"epochs": EPOCHS}))
    assert search_is_over(study, asked=False) and is_due(study)  # it is confirmed as any other
    assert study.slots.waiting() == {paused.trial_number: "PAUSED"}
    reopen(store, study.study_id)
    assert others[1].claim(study.ask) is not None


def little(config: Any, data: Any, workdir: Path, *given: Any) -> FakeChild:
    """A trial that trains nothing; its value hardly depends on which one it is."""
    number = int(workdir.name.removeprefix("trial-"))
    return FakeChild([LITTLE[number % len(LITTLE)]], workdir, classes=data.classes)


def test_launch_shows_the_answer_again_and_a_larger_budget_goes_on(
    store: Store, make_spec: MakeSpec, tmp_path: Path
) -> None:
    spec = make_spec(trials=30, epochs=1, pruner="none")
    budget = BudgetSpec.model_validate({"trials": 30, "until": {"gain_below": 0.01, "trials": 2}})
    sampler = SamplerSpec(startup_trials=2)
    spec = spec.model_copy(update={"budget": budget, "sampler": sampler})

    def launched(trials: int | None = None) -> str:
        console = Console(file=io.StringIO(), width=200)
        artifacts = Artifacts(tmp_path / "artifacts")
        assert launch(spec, store, artifacts, console, trials, make_child=little) == DONE
        return console.file.getvalue()  # type: ignore[attr-defined]

    said = launched()
    study = open_study(store, "small")
    why = own_end.own_end(study)
    assert why is not None and why.of == 30 and why.sentence(study.metric) in said
    assert "go on: segtune resume small" in said and "was stopped" not in said
    ended = len(study.trials())
    assert why.sentence(study.metric) in launched() and len(study.trials()) == ended
    launched(31)
    assert len(study.trials()) == ended + 2
    launched(31)
    assert len(study.trials()) == ended + 2


def test_a_changed_until_is_no_other_study(store: Store, tmp_path: Path) -> None:
    study = make(store, tmp_path, trials=14, pruner="none", until=None)
    given = study.spec.model_copy(
        update={"budget": BudgetSpec.model_validate({"trials": 14, "until": {}})}
    )
    again = create_or_resume(store, given, NoData.fingerprint, None)
    again.take_settings(given)
    stored = open_study(store, "small").spec.budget
    assert stored == given.budget
