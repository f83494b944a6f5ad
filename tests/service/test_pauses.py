"""Paused trials: who goes on when, that nothing is trained twice, and that each of them ends."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from search.database.store import Store, open_store
from search.database.tables import AFTER, HOURS
from search.files.artifacts import Artifacts
from search.findings.facts import summary
from search.launch import launch
from search.stopping.replay import WAIT, InOrder, OurRule, Recorded, Run, Stopped, replay
from search.stopping.rules import Review, our_rule
from search.studies.limits import close, reopen
from search.studies.owners import new_owner
from search.studies.slots import Claim, Result, Slots
from search.studies.study import Study, create_or_resume, open_study
from search.work.child import Alive, Epoch, TrialProcess
from search.work.supervision import Timing
from spaces.errors import DONE
from spaces.sections import PrunerSpec
from spaces.spec import StudySpec
from tests.fake_child import FakeChild, report
from tests.scripted import EPOCHS, curve, make_spec, new_worker
from tests.statements import Statements
from tests.stores import TCP
from trainers.tasks import load_data


@dataclass
class Resumable:
    """Trials that train nothing; each goes on where it was, and repeats its reports first.

    Attributes:
        curves: by trial.
        children: every child that was started, with its trial, in order.
    """

    curves: list[list[float]]
    children: list[tuple[int, FakeChild]] = field(default_factory=list)

    @property
    def trained(self) -> dict[int, int]:
        """Epochs that each trial has trained so far."""
        return {number: child.sent for number, child in self.children}

    @property
    def starts(self) -> list[int]:
        """Which trials were started, in order."""
        return [number for number, _ in self.children]

    def start(self, config: Any, data: Any, workdir: Path, *given: Any) -> FakeChild:
        number = int(workdir.name.removeprefix("trial-"))
        self.children.append((number, FakeChild(self.curves[number], workdir)))
        return self.children[-1][1]


def make_curves(count: int, seed: int = 0) -> list[list[float]]:
    rng = random.Random(seed)
    return [curve(rng) for _ in range(count)]


def make(store: Store, folder: Path, trials: int, **pruner: object) -> Study:
    spec = make_spec(folder, "pauses", trials=trials, sampler="random", pruner=pruner)
    return create_or_resume(store, spec, "f" * 64, None)


@dataclass
class Noted(OurRule):
    """Our rule; notes which run a worker starts, be it to end it."""

    starts: list[int] = field(default_factory=list)

    def next(self, can_begin: bool) -> Run | Stopped | str:
        chosen = super().next(can_begin)
        if chosen != WAIT:
            run = chosen.run if isinstance(chosen, Stopped) else chosen
            self.starts.append(run.number if isinstance(run, Run) else len(set(self.starts)))
        return chosen


@pytest.mark.parametrize(
    "pruner", [{}, {"pause_below": 0.8, "startup_trials": 3, "stop_from": 6, "pause_from": 4}]
)
def test_a_worker_does_what_the_replay_says(
    pruner: dict[str, Any], store: Store, tmp_path: Path
) -> None:
    curves = make_curves(20)
    rule = Noted(our_rule(PrunerSpec(**pruner), EPOCHS, len(curves)))
    runs = [Recorded({}, tuple(metric), (1.0,) * EPOCHS) for metric in curves]
    expected = replay(InOrder(runs), rule, EPOCHS)
    study, trials = make(store, tmp_path, 20, **pruner), Resumable(curves)
    worker = new_worker(study, tmp_path, make_child=trials.start)
    assert worker.run()
    assert sum(trials.trained.values()) == expected.epochs < 20 * EPOCHS * 0.75
    ended = [len(c.values) for c in rule.ended]
    assert [trials.trained[number] for number in rule.ended._curves] == ended
    assert sorted(trials.starts) == sorted(rule.starts) and len(rule.starts) > 24
    best = max(range(20), key=lambda number: max(curves[number]))
    assert study.trial(best).value == max(curves[best])
    assert study.slots.waiting() == {} and study.slots.counts()["OPEN"] == 0


def test_nobody_waits_for_others_that_never_come(store: Store, tmp_path: Path) -> None:
    """Five trials never have five others: each is trained at once and in full."""
    study, trials = make(store, tmp_path, 5), Resumable(make_curves(5))
    assert new_worker(study, tmp_path, make_child=trials.start).run()
    assert trials.starts == [0, 1, 2, 3, 4] and set(trials.trained.values()) == {EPOCHS}


def other(study: Study) -> Slots:
    return Slots(study.store, study.study_id, new_owner())


def give_back(study: Study, *, paused: bool) -> int:
    """A trial that was begun and returned."""
    budget = other(study)
    claim = budget.claim(study.ask)
    assert claim and budget.give_back(claim, counts=False, paused=paused)
    return claim.trial_number


def test_who_is_claimed_first(store: Store, tmp_path: Path) -> None:
    study = make(store, tmp_path, 8)
    paused = []
    for _ in range(5):
        budget = other(study)
        claim = budget.claim(study.ask)
        assert claim
        paused.append((budget, claim))
    for budget, claim in paused:
        budget.give_back(claim, counts=False, paused=True)
    interrupted = give_back(study, paused=False)
    assert interrupted == 5  # none of the paused ones, which wait for a review
    assert study.slots.waiting() == dict.fromkeys(range(5), "PAUSED") | {5: "INTERRUPTED"}
    review = Review(stops={3: 0.25}, goes=[4, 1], waits=[2, 0])

    def claimed() -> Claim:
        claim = other(study).claim(study.ask, review)
        assert claim and claim.attempt == 1 and not claim.spent
        return claim

    found = [claimed() for _ in range(8)]
    assert [claim.trial_number for claim in found] == [5, 3, 4, 1, 6, 7, 2, 0]
    assert [claim.bar for claim in found] == [None, 0.25, None, None, None, None, None, None]
    assert [claim.may_pause for claim in found] == [True] * 6 + [False] * 2
    assert other(study).claim(study.ask, review) is None
    assert study.slots.waiting() == {}


def test_a_paused_trial_is_claimed_without_a_review_when_nothing_else_is_left(
    store: Store, tmp_path: Path
) -> None:
    """It may have been paused after the look of the worker that claims."""
    study = make(store, tmp_path, 1)
    number = give_back(study, paused=True)
    claim = study.slots.claim(study.ask, Review())
    assert claim and (claim.trial_number, claim.may_pause) == (number, False)


def test_paused_trials_do_not_cost_the_claims_of_others_a_statement(
    store: Store, tmp_path: Path
) -> None:
    study = make(store, tmp_path, 60)
    for _ in range(3):
        give_back(study, paused=False)
        claim = other(study).claim(study.ask)
        assert claim

    def statements() -> int:
        with Statements.of(store) as counted:
            assert study.slots.claim(study.ask, Review())
        study.owner = study.slots.owner = new_owner()
        return len(counted)

    statements()
    before = statements()
    budget = other(study)
    claim = budget.claim(study.ask)
    assert claim and budget.give_back(claim, counts=False, paused=True)
    assert statements() == before


def test_a_spent_study_ends_its_paused_trials_and_a_stopped_one_keeps_them(
    store: Store, tmp_path: Path
) -> None:
    study, trials = make(store, tmp_path, 20), Resumable(make_curves(20))
    worker = new_worker(study, tmp_path, make_child=trials.start)
    for _ in range(3):  # too few to compare with
        assert worker.serve_one()
    waiting = {0: "PAUSED", 1: "PAUSED", 2: "PAUSED"}
    assert study.slots.waiting() == waiting
    states = [(row["number"], row["state"]) for row in summary(study)["trials"]]
    assert states == [(0, "PAUSED"), (1, "PAUSED"), (2, "PAUSED")]
    assert summary(study)["reasons"] == {"paused": 3}
    close(store, study.study_id, AFTER)
    assert not worker.serve_one() and study.slots.waiting() == waiting
    reopen(store, study.study_id)
    close(store, study.study_id, HOURS)
    assert worker.run()
    assert study.slots.counts()["PRUNED"] == 3 and study.slots.counts()["OPEN"] == 17
    for number, trial in enumerate(study.trials()):
        assert trial.user_attrs["reason"] == "stopped"
        assert trial.value == max(trials.curves[number][: trials.trained[number]])
    assert set(trials.trained.values()) == {3}


def test_a_trial_that_is_taken_up_to_end_may_take_long_to_its_first_step(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with torch.compile: it heeds no word before, and must not be killed for it."""
    study, trials = make(store, tmp_path, 20), Resumable(make_curves(20))
    worker = new_worker(study, tmp_path, make_child=trials.start)
    assert worker.serve_one() and study.slots.waiting() == {0: "PAUSED"}
    close(store, study.study_id, HOURS)
    worker.timing = Timing(look=math.inf, stop=-0.5)  # an epoch took 1 s: late after 0.5
    slow = Slow([], said=[Epoch(report(1, 0.5)), None, None, Alive()])
    worker.make_child = lambda *given: slow
    assert worker.serve_one()
    assert study.trial(0).user_attrs["reason"] == "stopped" and not slow.killed


class Slow(FakeChild):
    """One that takes its time."""

    def receive(self, timeout: float) -> Any:
        time.sleep(0.3 if self.said else 0.0)
        return super().receive(timeout)


@pytest.mark.parametrize("store_url", ["embedded", TCP], indirect=True)  # sqlite asks more
def test_statements_of_a_trial_beside_paused_ones(store: Store, tmp_path: Path) -> None:
    """A claim looks once at what has begun, and at what has ended only where that is new."""
    study = make(store, tmp_path, 20)
    worker = new_worker(study, tmp_path)
    assert study.slots.claim(study.ask)
    with Statements.of(store) as counted:
        assert worker.judge.review() == Review()
    assert len(counted) == 2, counted.texts  # slots, once a worker
    budget = other(study)
    claim = budget.claim(study.ask)
    assert claim
    study.owner = budget.owner
    for epoch in (1, 2, 3):
        assert study.report(claim, report(epoch, 0.5))
    assert budget.give_back(claim, counts=False, paused=True)
    for _ in range(2):
        with Statements.of(store) as counted:
            assert worker.judge.review() == Review(waits=[claim.trial_number])
        assert len(counted) == 1, counted.texts
    ended = other(study)
    claim = ended.claim(study.ask, Review())
    assert claim and ended.end(claim, Result("COMPLETE", 0.5, "completed", {}))
    with Statements.of(store) as counted:
        worker.judge.review()
    assert len(counted) == 2, counted.texts


def test_real_trials_go_on_from_their_checkpoints(
    postgres_url: str, make_spec: Callable[..., StudySpec], tmp_path: Path
) -> None:
    store = open_store(postgres_url)
    spec = make_spec(trials=6, epochs=4, pruner="{startup_trials: 3}")
    study = create_or_resume(store, spec, load_data(spec.data).fingerprint, None)
    console = Console(quiet=True)
    reports: dict[tuple[int, int], list[Any]] = {}

    class Heard(TrialProcess):
        def __init__(self, config: Any, data: Any, workdir: Path, *given: Any) -> None:
            self.number = int(workdir.name.removeprefix("trial-"))
            super().__init__(config, data, workdir, *given)

        def receive(self, timeout: float) -> Any:
            said = super().receive(timeout)
            if isinstance(said, Epoch):
                key = self.number, said.report.epoch
                reports.setdefault(key, []).append(said.report)
            return said

    assert launch(spec, store, Artifacts(tmp_path / "a"), console, make_child=Heard) == DONE
    counts = study.slots.counts()
    assert counts["COMPLETE"] + counts["PRUNED"] == 6 and counts["PRUNED"] >= 1
    repeated = [said for said in reports.values() if len(said) > 1]
    assert len(repeated) >= 4  # two epochs each of two paused trials, at least
    assert all(again == first for first, *more in repeated for again in more)
    for trial in open_study(store, "small").trials():
        history = study.history(trial.number)
        assert [r.epoch for r in history] == list(range(1, len(history) + 1))
        assert trial.user_attrs["epochs"] == len(history)
        assert trial.user_attrs["reason"] in ("completed", "median")
    store.close()
