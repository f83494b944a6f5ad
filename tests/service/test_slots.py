"""Slots: exactly N, each claimed once, whatever happens to those who hold them."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from search.database import optuna_writer
from search.database.store import Store, open_store
from search.database.tables import slot_table, worker_table
from search.studies.heartbeats import Registration, workers
from search.studies.open_slots import studies_with_open_slots
from search.studies.owners import new_owner
from search.studies.slots import MAX_ATTEMPTS, Result, Slots
from search.studies.study import Study, create_or_resume
from spaces.sections import SamplerSpec
from spaces.spec import StudySpec
from tests.noop import claim_all
from tests.stores import sqlite_too
from tests.waiting import Running

MakeSpec = Callable[..., StudySpec]


def make(store: Store, make_spec: MakeSpec, trials: int = 3) -> Study:
    return create_or_resume(store, make_spec(trials=trials), "f" * 64, None)


def worker(study: Study) -> Slots:
    """Another worker's view of the slots."""
    return Slots(study.store, study.study_id, new_owner())


def completed(value: float = 0.5) -> Result:
    return Result("COMPLETE", value, "completed", {"epochs": 2})


@sqlite_too
def test_slots_are_claimed_once_each_and_then_none(store: Store, make_spec: MakeSpec) -> None:
    study = make(store, make_spec)
    claims = [worker(study).claim(study.ask) for _ in range(3)]
    assert [claim.slot for claim in claims if claim] == [0, 1, 2]
    assert [claim.trial_number for claim in claims if claim] == [0, 1, 2]
    assert worker(study).claim(study.ask) is None
    assert len(study.trials()) == 3


@sqlite_too
def test_a_claim_whose_answer_was_lost_is_returned_again(store: Store, make_spec: MakeSpec) -> None:
    study = make(store, make_spec)
    budget = worker(study)
    assert budget.claim(study.ask) == budget.claim(study.ask)
    assert study.slots.counts()["RUNNING"] == 1 and len(study.trials()) == 1


def test_a_budget_grows_and_never_shrinks(store: Store, make_spec: MakeSpec) -> None:
    study = make(store, make_spec)
    study.slots.extend(5)
    study.slots.extend(2)
    assert sum(study.slots.counts().values()) == 5


def test_a_returned_slot_keeps_its_trial_and_comes_first(store: Store, make_spec: MakeSpec) -> None:
    study = make(store, make_spec)
    one, two = worker(study), worker(study)
    one.claim(study.ask)
    second = two.claim(study.ask)
    assert second
    two.give_back(second, counts=True)
    again = two.claim(study.ask)
    assert again and (again.trial_number, again.attempt) == (second.trial_number, 2)


def test_preemption_does_not_use_up_attempts(store: Store, make_spec: MakeSpec) -> None:
    study = make(store, make_spec, trials=1)
    for _ in range(MAX_ATTEMPTS + 2):
        claim = study.slots.claim(study.ask)
        assert claim and claim.attempt == 1
        study.slots.give_back(claim, counts=False)


def test_attempts_run_out(store: Store, make_spec: MakeSpec) -> None:
    study = make(store, make_spec, trials=1)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        claim = study.slots.claim(study.ask)
        assert claim and claim.attempt == attempt
        study.slots.give_back(claim, counts=True)
    assert study.slots.claim(study.ask) is None
    assert study.slots.counts()["FAILED"] == 1
    trial = study.trial(0)
    assert trial.state == TrialState.FAIL and trial.user_attrs["reason"] == "crashed"


@sqlite_too
def test_the_slot_of_a_dead_worker_is_claimed_again(store: Store, make_spec: MakeSpec) -> None:
    study = make(store, make_spec, trials=1)
    claim = study.slots.claim(study.ask)
    assert claim
    assert worker(study).claim(study.ask) is None  # alive: its lease holds
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    owner = f"{socket.gethostname()}:{dead.pid}:gone"
    with store.engine.begin() as connection:
        connection.execute(sa.update(slot_table).values(owner=owner))
    again = worker(study).claim(study.ask)
    assert again and again.trial_number == claim.trial_number
    assert len(study.trials()) == 1


@sqlite_too
def test_an_expired_lease_is_taken_and_its_holder_refused(
    store: Store, make_spec: MakeSpec
) -> None:
    study = make(store, make_spec, trials=1)
    stale, other = worker(study), worker(study)
    claim = stale.claim(study.ask)
    assert claim and stale.renew(claim)
    with store.engine.begin() as connection:
        connection.execute(sa.update(slot_table).values(lease_until=store.now() - 1))
    fresh = other.claim(study.ask)
    assert fresh and fresh.attempt == 2
    assert not stale.renew(claim)
    assert not stale.end(claim, completed())
    assert not stale.give_back(claim, counts=False)
    assert study.slots.counts()["RUNNING"] == 1
    assert study.trial(claim.trial_number).state == TrialState.RUNNING
    assert other.end(fresh, completed())
    assert not stale.end(claim, completed())


@sqlite_too
def test_a_clock_that_was_put_back_holds_a_dead_workers_slot_for_one_lease(
    store: Store, make_spec: MakeSpec
) -> None:
    """Its lease ends an hour after now: it is cut to a whole one, which a living worker renews."""
    study = make(store, make_spec, trials=1)
    holder, other = worker(study), worker(study)
    claim = holder.claim(study.ask)
    assert claim
    registration = Registration(store, holder.owner, "cpu")
    registration.enter()
    put_forward(store, 3600)  # all that was stored, as seen after the clock was put back
    assert studies_with_open_slots(store, None) == [study.study_id]
    assert workers(store)[0]["state"] == "lost" and workers(store)[0]["silent_seconds"] == 0
    assert study.slots.used_seconds() == 0
    assert other.claim(study.ask) is None  # it may live
    assert studies_with_open_slots(store, None) == []
    assert holder.renew(claim)
    put_forward(store, -61)
    assert other.claim(study.ask) is not None and not holder.renew(claim)


def put_forward(store: Store, seconds: float) -> None:
    """Move every stored time."""
    with store.engine.begin() as connection:
        for table, *names in ((slot_table, "lease_until", "claimed_at"), (worker_table, "seen_at")):
            later = {name: table.c[name] + seconds for name in names}
            connection.execute(sa.update(table).values(later))


@sqlite_too
def test_a_result_whose_answer_was_lost_is_ended_again(store: Store, make_spec: MakeSpec) -> None:
    study = make(store, make_spec, trials=1)
    claim = study.slots.claim(study.ask)
    assert claim
    for _ in range(2):
        assert study.slots.end(claim, completed())
    assert study.trial(0).value == 0.5 and study.trial(0).user_attrs["epochs"] == 2


class Died(Exception):
    """In place of a worker's death: what it had begun is never committed."""


def die(*given: object, **named: object) -> None:
    raise Died


def test_a_result_is_stored_with_its_trial_or_not_at_all(
    store: Store, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make(store, make_spec, trials=1)
    claim = study.slots.claim(study.ask)
    assert claim
    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(optuna_writer, "end", die)
        study.slots.end(claim, completed(0.75))
    assert study.slots.counts()["RUNNING"] == 1
    assert study.trial(0).state == TrialState.RUNNING
    assert study.slots.end(claim, completed(0.75))
    trial = study.trial(0)
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.75)
    assert trial.user_attrs["reason"] == "completed"


@pytest.mark.parametrize("sampler", ["random", "qmc"])
def test_a_trial_is_begun_with_its_slot_or_not_at_all(
    sampler: str, store: Store, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sequence of QMC that goes on is stored with them too."""
    spec = make_spec(trials=2, starting_points="true")
    spec = spec.model_copy(update={"sampler": SamplerSpec(name=sampler)})
    study = create_or_resume(store, spec, "f" * 64, 9)
    queued = len(study.optuna().trials)
    for _ in range(queued):
        claim = study.slots.claim(study.ask)
        assert claim and study.slots.end(claim, completed())
    before = store.storage.get_study_system_attrs(study.study_id)
    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(Slots, "_set", die)
        study.slots.claim(study.ask)
    assert study.slots.counts()["RUNNING"] == 0 and len(study.optuna().trials) == queued
    assert store.storage.get_study_system_attrs(study.study_id) == before
    claim = study.slots.claim(study.ask)
    assert claim and claim.trial_number == queued
    after = store.storage.get_study_system_attrs(study.study_id)
    assert (after != before) is (sampler == "qmc")


def test_a_starting_point_that_was_begun_in_vain_waits_in_the_queue(
    store: Store, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = create_or_resume(store, make_spec(trials=1, starting_points="true"), "f" * 64, None)
    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(Slots, "_set", die)
        study.slots.claim(study.ask)
    assert study.trial(0).state == TrialState.WAITING
    claim = study.slots.claim(study.ask)
    assert claim and claim.trial_number == 0 and study.trial(0).user_attrs["origin"]


@sqlite_too
def test_seconds_count_over_attempts(store: Store, make_spec: MakeSpec) -> None:
    study = make(store, make_spec, trials=2)
    for seconds in (100, 50):
        claim = study.slots.claim(study.ask)
        assert claim
        with store.engine.begin() as connection:
            connection.execute(
                sa.update(slot_table)
                .where(slot_table.c.slot == claim.slot)
                .values(claimed_at=store.now() - seconds)
            )
        assert study.slots.give_back(claim, counts=False)
    assert 150 <= study.slots.used_seconds() < 155


def test_workers_that_claim_at_once_never_share_a_slot(
    postgres_url: str, make_spec: MakeSpec
) -> None:
    store = open_store(postgres_url)
    study = make(store, make_spec, trials=24)
    claimed = []
    for running in [Running.fork(claim_all, postgres_url) for _ in range(4)]:
        claimed += [tuple(map(int, line.split())) for line in running.finish().splitlines()]
    assert len(claimed) == len({slot for slot, _ in claimed}) == 24
    assert len({number for _, number in claimed}) == len(study.trials())
    store.close()
