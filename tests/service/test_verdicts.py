"""Verdicts from what the store keeps, against a naive reading of the same rows.

The metric (mIoU, Hmean) is always maximised: there is no other direction to hold.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from benchmarks.statements import EPOCHS, make_spec, new_worker
from search.budget import Claim
from search.pruning import MedianRule, median_rule, warmup_end
from search.store import control_table, epoch_table, open_store, slot_table
from search.study import Study, create_or_resume

TRIALS, HISTORIES = 12, 200


@pytest.mark.parametrize("align", ["none", "warmup"])
def test_equal_to_a_naive_implementation(align: str, postgres_url: str, tmp_path: Path) -> None:
    """Random histories: NaN, missing epochs, trials without any, failed ones, in any order."""
    store = open_store(postgres_url)
    spec = make_spec(
        tmp_path, "verdicts", trials=TRIALS, sampler="random", pruner={"name": "median"}
    )
    study = create_or_resume(store, spec, "f" * 64, None)
    numbers = [study.ask(slot) for slot in range(TRIALS)]
    configs = {number: study.config(study.trial(number)) for number in numbers}
    assert len({warmup_end(config) for config in configs.values()}) > 3
    rng, stopped, bars = random.Random(0), 0, 0
    for _ in range(HISTORIES // 2):  # of each alignment
        pruner = spec.pruner.model_copy(
            update={
                "align": align,
                "startup_trials": rng.randint(0, 4),
                "min_epochs": rng.choice([None, 1, 3, 5]),
            }
        )
        study.spec = spec.model_copy(update={"pruner": pruner})
        rule = median_rule(pruner, EPOCHS)
        forget(study)
        worker = new_worker(study, tmp_path)
        mine, *others = rng.sample(numbers, rng.randint(3, TRIALS))
        ended: list[int] = []
        for count in sorted(rng.sample(range(len(others) + 1), 2)):
            while len(ended) < count:  # more have ended since the verdict before
                end(study, others[len(ended)], len(ended) + 1, rng)
                ended.append(others[len(ended)])
            level = rng.choice([0.4, 1.0])
            values = [level * value(rng) for _ in range(rng.randint(1, 10))]
            verdict = worker.verdict(
                Claim(0, mine, 1), configs[mine], values, rng.choice([None, len(ended)])
            )
            bar = naive_bar(study, rule, values, warmup_end(configs[mine]), configs)
            best = max((v for v in values if not math.isnan(v)), default=None)
            stops = bar is not None and (best is None or best < bar)
            assert (verdict is not None) is stops, (values, bar)
            if verdict is not None:
                assert verdict.bar == pytest.approx(bar)
            stopped, bars = stopped + stops, bars + (bar is not None)
    assert 20 < stopped < bars - 20  # both verdicts were seen
    store.close()


def value(rng: random.Random) -> float:
    return math.nan if rng.random() < 0.15 else round(rng.random(), 3)


def forget(study: Study) -> None:
    """Begin a new history with the same trials."""
    with study.store.engine.begin() as connection:
        connection.execute(sa.delete(epoch_table))
        connection.execute(
            sa.update(slot_table).values(state="OPEN", trial_number=None, ended_as=None)
        )
        connection.execute(sa.update(control_table).values(ended=0))


def end(study: Study, number: int, ended: int, rng: random.Random) -> None:
    """A slot ends with what its trial has reported: some epochs are missing."""
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
    state = rng.choice(["COMPLETE", "PRUNED", "PRUNED", "FAILED"])
    with study.store.engine.begin() as connection:
        if rows:
            connection.execute(sa.insert(epoch_table), rows)
        connection.execute(
            sa.update(slot_table)
            .where(slot_table.c.slot == ended - 1)
            .values(state=state, trial_number=number, ended_as=ended)
        )
        connection.execute(sa.update(control_table).values(ended=ended))


def naive_bar(
    study: Study, rule: MedianRule, values: list[float], warmup: int, configs: Mapping[int, Any]
) -> float | None:
    """Every row of the store, read anew, one at a time."""
    epoch = len(values)
    if epoch < rule.min_epochs or (rule.align_warmup and epoch <= warmup):
        return None
    with study.store.engine.connect() as connection:
        slots = connection.execute(sa.select(slot_table)).all()
        rows = connection.execute(sa.select(epoch_table)).all()
    reached = []
    for slot in slots:
        if slot.state not in ("COMPLETE", "PRUNED"):
            continue
        until = epoch
        if rule.align_warmup:
            until = warmup_end(configs[slot.trial_number]) + epoch - warmup
        seen = [
            row.metric
            for row in rows
            if row.trial_number == slot.trial_number
            and row.epoch <= until
            and not math.isnan(row.metric)
        ]
        if seen:
            reached.append(max(seen))
    if len(reached) < max(1, rule.startup_trials):
        return None
    return float(np.quantile(reached, rule.quantile)) - rule.margin
