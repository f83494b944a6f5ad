"""Replayed searches: outcomes worked out by hand, and rules that stop, pause and wait."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import optuna
import pytest

from search.stopping.curves import Curve, EndedCurves
from search.stopping.replay import (
    NEW,
    WAIT,
    InOrder,
    OptunaRule,
    OurRule,
    Recorded,
    Run,
    Unpruned,
    replay,
)
from search.stopping.rules import QuantileRule, Verdict

NAN = math.nan


def run_of(*metric: float, seconds: float = 1.0, warmup: int = 0) -> Recorded:
    return Recorded({}, metric, (seconds,) * len(metric), warmup)


RUNS = [
    run_of(0.1, 0.2, 0.3),
    run_of(0.3, 0.4, 0.5),
    run_of(0.05, 0.06, 0.9),
    run_of(0.2, 0.5, 0.6),
]


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_every_epoch_of_an_unpruned_search_counts_until_the_target() -> None:
    assert replay(InOrder(RUNS), Unpruned(), 3).epochs == 12
    arrived = replay(InOrder(RUNS), Unpruned(), 3, target=0.9)
    assert (arrived.solved, arrived.epochs, arrived.seconds) == (True, 9, 9.0)
    short_of = replay(InOrder(RUNS), Unpruned(), 3, target=0.91)
    assert (short_of.solved, short_of.epochs, short_of.best) == (False, 12, 0.9)


def test_the_median_rule_stops_the_late_starter_for_good() -> None:
    """After two ended runs the bar at epoch 2 is 0.3: the third, 0.06 there, stops."""
    rule = OurRule(QuantileRule(2, ((2, 0.5),)))
    found = replay(InOrder(RUNS), rule, 3, target=0.9)
    assert (found.solved, found.epochs, found.best) == (False, 3 + 3 + 2 + 3, 0.6)
    assert [curve.values for curve in rule.ended][2] == (0.05, 0.06)


def test_workers_train_at_once_and_share_what_has_ended() -> None:
    runs = [run_of(0.1, 0.2, seconds=5.0), *(run_of(0.3, 0.4, seconds=1.0) for _ in range(4))]
    found = replay(InOrder(runs), Unpruned(), 2, workers=2)
    # the first worker needs 10 s for one run, the second 2 s for each of the other four
    assert (found.epochs, found.seconds) == (10, 10.0)
    assert replay(InOrder(runs), Unpruned(), 2, workers=1).seconds == 18.0
    assert replay(InOrder(runs), Unpruned(), 2, workers=5).seconds == 10.0


def test_an_optuna_pruner_judges_the_epochs_as_in_a_study() -> None:
    pruner = optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=2)
    found = replay(InOrder(RUNS), OptunaRule(), 3, pruner=pruner)
    # third run: stopped at epoch 2 (0.06 < median 0.3); fourth: 0.5 is above it, goes on
    assert found.epochs == 3 + 3 + 2 + 3
    assert found.best == 0.6


def test_no_number_is_no_progress_and_no_crash() -> None:
    runs = [run_of(NAN, NAN), run_of(0.1, NAN), run_of(0.2, 0.3)]
    for rule, pruner in (
        (OurRule(QuantileRule(1, ((1, 0.5),))), None),
        (OptunaRule(), optuna.pruners.MedianPruner(1)),
    ):
        found = replay(InOrder(runs), rule, 2, pruner=pruner)
        assert found.best == 0.3


class PausesAll(Unpruned):
    """Pauses each run after its first epoch and takes them up again in the same order."""

    def __init__(self) -> None:
        self.paused: list[Run] = []

    def next(self, can_begin: bool) -> Run | str:
        if can_begin:
            return NEW
        return self.paused.pop(0) if self.paused else WAIT

    def epoch_ended(self, run: Run) -> Verdict:
        if run.epoch > 1:
            return Verdict.GO
        self.paused.append(run)
        return Verdict.PAUSE


def test_a_paused_run_goes_on_where_it_was() -> None:
    found = replay(InOrder(RUNS), PausesAll(), 3, target=0.9)
    # four first epochs, then runs 0 and 1 to their ends (4), then epochs 2 and 3 of run 2
    assert (found.solved, found.epochs) == (True, 4 + 4 + 2)


def test_what_lies_between_the_bars_waits_and_the_best_go_on_first() -> None:
    """The first two wait for a third; the best of three goes on, the worst ends, 0.2 waits."""
    runs = [run_of(0.2, 0.4, 0.5), run_of(0.1, 0.6, 0.9), run_of(0.3, 0.4, 0.6)]
    rule = OurRule(QuantileRule(2, ((1, 0.5),), 1, running=True, pause_below=1.0))
    found = replay(InOrder([*runs, run_of(0.25, 0.3, 0.3)]), rule, 3)
    # runs 0 and 1 wait for others; run 2 is the best and trains on; run 1 ends below the median;
    # run 3 (0.25) is below the best: it waits until nothing is left to begin, and goes on then;
    # run 0 (0.2) ends, beside 0.3, 0.1 and 0.25
    assert found.epochs == 3 + 2 + 1 + 2
    assert found.rises == ((1, 0.2), (3, 0.3), (4, 0.4), (5, 0.6))
    ended = {number: len(curve.values) for number, curve in rule.ended._curves.items()}
    assert ended == {1: 1, 2: 3, 0: 1, 3: 3}
    assert list(ended) == [2, 1, 0, 3]


def naive_median(
    runs: Sequence[Recorded], startup: int, first: int, quantile: float = 0.5
) -> tuple[int, float]:
    """Epochs and best of a search one run at a time, written without any of our classes."""
    ended: list[list[float]] = []
    epochs, best = 0, -math.inf
    for run in runs:
        seen: list[float] = []
        for epoch, value in enumerate(run.metric, 1):
            seen.append(value)
            epochs += 1
            best = max(best, value)
            others = sorted(max(other[:epoch]) for other in ended)
            if epoch < first or epoch == len(run.metric) or len(others) < startup:
                continue
            half = len(others) // 2
            bar = others[half] if len(others) % 2 else (others[half - 1] + others[half]) / 2
            if max(seen) < bar:
                break
        ended.append(seen)
    return epochs, best


@pytest.mark.parametrize("seed", range(20))
def test_one_worker_does_what_a_loop_over_the_runs_would_do(seed: int) -> None:
    generator = random.Random(seed)
    runs = [run_of(*(generator.random() for _ in range(6))) for _ in range(25)]
    rule = OurRule(QuantileRule(4, ((2, 0.5),)))
    found = replay(InOrder(runs), rule, 6)
    assert (found.epochs, found.best) == naive_median(runs, 4, 2)
    assert found.epochs < 25 * 6


@pytest.mark.parametrize(
    ("rule", "bar"),
    [
        (QuantileRule(1, ((1, 0.5),)), 0.3),
        (QuantileRule(1, ((1, 0.25),)), 0.25),
        (QuantileRule(1, ((1, 0.5),), margin=0.05), 0.25),
        (QuantileRule(1, ((1, 1.0),)), 0.4),
    ],
)
def test_the_bar_moves_with_quantile_and_margin(rule: QuantileRule, bar: float) -> None:
    ended = EndedCurves.of([Curve((0.2,)), Curve((0.3,)), Curve((0.4,))])
    assert rule.bar(Curve((0.1,)), ended) == pytest.approx(bar)
