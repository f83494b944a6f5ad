"""Slots: exactly N, each claimed once, whatever happens to those who hold them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from optuna.trial import TrialState

from search.budget import MAX_ATTEMPTS, Budget
from search.store import Store, open_store, slot_table
from search.study import Study, create_or_resume
from spaces.spec import StudySpec

MakeSpec = Callable[..., StudySpec]


def make(store: Store, make_spec: MakeSpec, trials: int = 3) -> Study:
    return create_or_resume(store, make_spec(trials=trials), "f" * 64, None)


def test_slots_are_claimed_once_each_and_then_none(store: Store, make_spec: MakeSpec) -> None:
    study = make(store, make_spec)
    budget = study.budget
    claims = [budget.claim(study.ask) for _ in range(3)]
    assert [claim.slot for claim in claims if claim] == [0, 1, 2]
    assert [claim.trial_number for claim in claims if claim] == [0, 1, 2]
    assert budget.claim(study.ask) is None
    assert len(study.trials()) == 3


def test_a_budget_grows_and_never_shrinks(store: Store, make_spec: MakeSpec) -> None:
    study = make(store, make_spec)
    study.budget.extend(5)
    study.budget.extend(2)
    assert sum(study.budget.counts().values()) == 5


def test_a_returned_slot_keeps_its_trial_and_comes_first(store: Store, make_spec: MakeSpec) -> None:
    study = make(store, make_spec)
    first = study.budget.claim(study.ask)
    second = study.budget.claim(study.ask)
    assert first and second
    study.budget.give_back(second, counts=True)
    again = study.budget.claim(study.ask)
    assert again and (again.trial_number, again.attempt) == (second.trial_number, 2)


def test_preemption_does_not_use_up_attempts(store: Store, make_spec: MakeSpec) -> None:
    study = make(store, make_spec, trials=1)
    for _ in range(MAX_ATTEMPTS + 2):
        claim = study.budget.claim(study.ask)
        assert claim and claim.attempt == 1
        study.budget.give_back(claim, counts=False)


def test_attempts_run_out(store: Store, make_spec: MakeSpec) -> None:
    study = make(store, make_spec, trials=1)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        claim = study.budget.claim(study.ask)
        assert claim and claim.attempt == attempt
        study.budget.give_back(claim, counts=True)
    assert study.budget.claim(study.ask) is None
    assert study.budget.counts()["FAILED"] == 1
    assert study.trial(0).state == TrialState.FAIL


def test_the_slot_of_a_dead_worker_is_claimed_again(store: Store, make_spec: MakeSpec) -> None:
    study = make(store, make_spec, trials=1)
    claim = study.budget.claim(study.ask)
    assert claim
    assert study.budget.claim(study.ask) is None  # alive: its lease holds
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    owner = study.budget.owner.rsplit(":", 1)[0] + f":{dead.pid}"
    with store.engine.begin() as connection:
        connection.execute(sa.update(slot_table).values(owner=owner))
    again = study.budget.claim(study.ask)
    assert again and again.trial_number == claim.trial_number
    assert len(study.trials()) == 1


def test_an_expired_lease_is_taken_and_its_holder_refused(
    store: Store, make_spec: MakeSpec
) -> None:
    study = make(store, make_spec, trials=1)
    stale = study.budget
    claim = stale.claim(study.ask)
    assert claim and stale.renew(claim)
    stale.owner = "elsewhere:1"  # another machine, whose process cannot be looked up here
    with store.engine.begin() as connection:
        connection.execute(
            sa.update(slot_table).values(owner=stale.owner, lease_until=store.now() - 1)
        )
    fresh = study.budget.claim(study.ask)
    assert fresh and fresh.attempt == 2
    assert not stale.renew(claim)
    assert not stale.end(claim, "COMPLETE", "completed")
    assert study.budget.counts()["RUNNING"] == 1


def test_a_worker_that_died_between_tell_and_end_leaves_one_result(
    store: Store, make_spec: MakeSpec
) -> None:
    study = make(store, make_spec, trials=1)
    claim = study.budget.claim(study.ask)
    assert claim
    study.tell(claim.trial_number, TrialState.COMPLETE, 0.5, reason="completed")
    study.budget.give_back(claim, counts=True)
    assert study.budget.claim(study.ask) is None
    assert study.budget.counts()["COMPLETE"] == 1
    assert len(study.trials()) == 1


def test_a_trial_that_no_slot_knows_is_failed(store: Store, make_spec: MakeSpec) -> None:
    study = make(store, make_spec, trials=1)
    orphan = study.ask(0)  # a worker died between asking and claiming
    claim = study.budget.claim(study.ask)
    assert claim and claim.trial_number != orphan
    assert study.trial(orphan).state == TrialState.FAIL


CLAIMER = """
import sys
from search.store import open_store
from search.study import open_study
store = open_store(sys.argv[1])
study = open_study(store, "small")
while (claim := study.budget.claim(study.ask)) is not None:
    print(claim.slot, claim.trial_number, flush=True)
"""


def test_workers_that_claim_at_once_never_share_a_slot(
    postgres_url: str, make_spec: MakeSpec, tmp_path: Path
) -> None:
    store = open_store(postgres_url)
    study = make(store, make_spec, trials=24)
    script = tmp_path / "claimer.py"
    script.write_text(CLAIMER)
    workers = [
        subprocess.Popen(
            [sys.executable, str(script), postgres_url], stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    claimed = []
    for worker in workers:
        out, _ = worker.communicate(timeout=120)
        assert worker.returncode == 0
        claimed += [tuple(map(int, line.split())) for line in out.splitlines()]
    assert isinstance(study.budget, Budget)
    assert len({slot for slot, _ in claimed}) == 24
    assert len({number for _, number in claimed}) == len(study.trials())
    store.close()
