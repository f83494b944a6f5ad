"""Verdicts from what the store keeps, against a naive reading of the same rows.

The metric (mIoU, Hmean) is always maximised: there is no other direction to hold.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from search.database.store import open_store
from search.database.tables import control_table, epoch_table, slot_table
from search.stopping.rules import QuantileRule, asks_running, our_rule, warmup_end
from search.studies import reports as epochs
from search.studies.reports import Stored
from search.studies.slots import Claim
from search.studies.study import Study, create_or_resume
from tests.scripted import EPOCHS, make_spec, new_worker
from trainers.report import EpochReport

TRIALS, HISTORIES = 12, 400


@pytest.mark.parametrize(
    ("name", "align"),
    [
        ("ended_median", "start"),
        ("ended_median", "warmup"),
        ("quantile", "start"),
        ("quantile", "warmup"),
    ],
)
def test_equal_to_a_naive_implementation(
    name: str, align: str, postgres_url: str, tmp_path: Path
) -> None:
    """Random histories: NaN, missing epochs, trials without any, failed ones, in any order.

    The trial of the verdict reports through the store; others have ended, run, or wait.
    """
    store = open_store(postgres_url)
    spec = make_spec(tmp_path, "verdicts", trials=TRIALS, sampler="random", pruner={"name": name})
    study = create_or_resume(store, spec, "f" * 64, None)
    numbers = [study.ask(slot) for slot in range(TRIALS)]
    configs = {number: study.config(study.trial(number)) for number in numbers}
    assert len({warmup_end(config) for config in configs.values()}) > 3
    rng, seen, beside = random.Random(0), Counter[str](), 0
    for _ in range(HISTORIES // 4):  # of each rule and alignment
        pruner = spec.pruner.model_copy(
            update={
                "align": align,
                "startup_trials": rng.randint(0, 4),
                "stop_from": rng.choice([None, 1, 3, 5, 8]),
                "pause_from": rng.choice([None, 1, 3, 5]),
                "quantile": rng.choice([0.1, 0.3, 0.5, 0.8]),
                "margin": rng.choice([0.0, 0.1]),
                "pause_below": rng.choice([None, 0.95, 0.95, 0.95]),
            }
        )
        study.spec = spec.model_copy(update={"pruner": pruner})
        rule = our_rule(pruner, EPOCHS, TRIALS)
        forget(study)
        worker = new_worker(study, tmp_path)
        mine, *others = rng.sample(numbers, rng.randint(3, TRIALS))
        ended: list[int] = []
        for count in sorted(rng.sample(range(len(others) + 1), 2)):
            while len(ended) < count:  # more have ended since the verdict before
                end(study, others[len(ended)], len(ended) + 1, rng)
                ended.append(others[len(ended)])
            for slot, other in enumerate(others[count:], start=count):
                run_or_wait(study, other, slot, rng)
            level = rng.choice([0.4, 0.8, 1.0])
            values = [level * value(rng) for _ in range(rng.randint(1, 10))]
            said = told(study, mine, len(values))
            assert said.ended == len(ended)
            beside += len(said.beside)
            said = rng.choice([said, replace(said, ended=None)])  # None: the store is asked
            claim = Claim(0, mine, 1, may_pause=rng.random() < 0.8)
            word = worker.judge.verdict(claim, configs[mine], values, said)
            known = naive_known(study, rule, values, warmup_end(configs[mine]), configs)
            reason, bar = naive_word(claim, rule, name, values, known)
            assert (word and word.reason) == reason, (values, known)
            assert (word and word.bar) == (bar and pytest.approx(bar))
            seen[str(reason)] += 1
            seen["early"] += reason == "paused" and len(values) < rule.pause_from
    assert min(seen["None"], seen[name]) > 20, seen
    assert (seen["paused"] > 15) is (seen["early"] > 5) is rule.running, seen
    assert beside > 50 if rule.running else beside == 0
    store.close()


def value(rng: random.Random) -> float:
    return math.nan if rng.random() < 0.15 else round(rng.random(), 3)


def told(study: Study, mine: int, epoch: int) -> Stored:
    """What the store says when it takes the report of an epoch, which is then taken back."""
    claim, row = Claim(TRIALS - 1, mine, 1), EpochReport(epoch=epoch, metric=0.5)
    with study.store.engine.begin() as connection:
        connection.execute(
            sa.update(slot_table)
            .where(slot_table.c.slot == claim.slot)
            .values(state="RUNNING", trial_number=mine, attempt=1, owner=study.owner)
            .values(lease_until=study.store.now() + 60)
        )
        trial_id = study.trial_id(mine)
        asks = asks_running(study.spec.pruner)
        said = epochs.store(connection, study.slots, claim, trial_id, row, beside=asks)
        assert said is not None
        connection.execute(sa.delete(epoch_table).where(epoch_table.c.trial_number == mine))
        connection.execute(
            sa.update(slot_table)
            .where(slot_table.c.slot == claim.slot)
            .values(state="OPEN", trial_number=None)
        )
    return said


def forget(study: Study) -> None:
    """Begin a new history with the same trials."""
    with study.store.engine.begin() as connection:
        connection.execute(sa.delete(epoch_table))
        connection.execute(
            sa.update(slot_table).values(
                state="OPEN", trial_number=None, ended_as=None, reason=None
            )
        )
        connection.execute(sa.update(control_table).values(ended=0))


def end(study: Study, number: int, ended: int, rng: random.Random) -> None:
    """A slot ends with what its trial has reported: some epochs are missing."""
    state = rng.choice(["COMPLETE", "PRUNED", "PRUNED", "FAILED"])
    with study.store.engine.begin() as connection:
        write(connection, study, number, ended - 1, rng, state=state, ended_as=ended)
        connection.execute(sa.update(control_table).values(ended=ended))


def run_or_wait(study: Study, number: int, slot: int, rng: random.Random) -> None:
    """A slot runs, or was returned, or paused."""
    state, reason = rng.choice([("RUNNING", None), ("OPEN", None), ("OPEN", "paused")])
    with study.store.engine.begin() as connection:
        write(connection, study, number, slot, rng, state=state, reason=reason)


def write(
    connection: sa.Connection,
    study: Study,
    number: int,
    slot: int,
    rng: random.Random,
    **values: Any,
) -> None:
    """Give a slot to a trial, whose reports take the place of earlier ones."""
    rows = [
        {
            "study_id": study.study_id,
            "trial_number": number,
            "epoch": epoch,
            "metric": value(rng),
            "report": "{}",
        }
        for epoch in range(1, rng.randint(1, 10))
        if rng.random() < 0.8
    ]
    connection.execute(sa.delete(epoch_table).where(epoch_table.c.trial_number == number))
    if rows:
        connection.execute(sa.insert(epoch_table), rows)
    connection.execute(
        sa.update(slot_table).where(slot_table.c.slot == slot).values(trial_number=number, **values)
    )


def naive_word(
    claim: Claim, rule: QuantileRule, name: str, values: list[float], known: list[float] | None
) -> tuple[str | None, float | None]:
    """What the trial is told, and the bar that it is told of."""
    upper = rule.pause_below if len(values) >= rule.pause_from else rule.pause_early
    pauses = claim.may_pause and upper is not None
    if known is None:
        return None, None
    if len(known) < max(1, rule.startup_trials):
        return "paused" if pauses and len(values) == max(1, rule.pause_from) else None, None
    best = max((v for v in values if not math.isnan(v)), default=-math.inf)
    quantiles = [quantile for first, quantile in rule.bars if len(values) >= first]
    bar = float(np.quantile(known, quantiles[-1])) - rule.margin if quantiles else -math.inf
    if best < bar:
        return name, bar
    higher = np.quantile(known, upper or 0.0) - rule.margin
    return "paused" if pauses and best < higher else None, None


def naive_known(
    study: Study, rule: QuantileRule, values: list[float], warmup: int, configs: Mapping[int, Any]
) -> list[float] | None:
    """The others' bests: every row of the store, read anew, one at a time; None: no look is due."""
    epoch = len(values)
    early = rule.pause_early is not None and epoch >= max(1, rule.pause_from // 2)
    if (
        epoch < min(rule.bars[0][0], rule.pause_from if rule.pause_below else 99) and not early
    ) or (rule.align_warmup and epoch <= warmup):
        return None
    with study.store.engine.connect() as connection:
        slots = connection.execute(sa.select(slot_table)).all()
        rows = connection.execute(sa.select(epoch_table)).all()
    reached = []
    for slot in slots:
        mine = [row for row in rows if row.trial_number == slot.trial_number]
        as_far = max((row.epoch for row in mine), default=0) >= epoch
        waits = slot.state == "OPEN" and slot.reason == "paused"
        runs_beside = rule.running and (waits or (slot.state == "RUNNING" and as_far))
        if slot.state not in ("COMPLETE", "PRUNED") and not runs_beside:
            continue
        until = epoch
        if rule.align_warmup:
            until = warmup_end(configs[slot.trial_number]) + epoch - warmup
        seen = [row.metric for row in mine if row.epoch <= until and not math.isnan(row.metric)]
        if seen:
            reached.append(max(seen))
    return reached
