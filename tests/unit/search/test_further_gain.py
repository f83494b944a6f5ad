"""What the next trials are expected to gain: known distributions, ends, and its cost."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from search.stopping.further_gain import WINDOW, further_gain


@pytest.mark.parametrize(("draw", "least", "most"), [("normal", 0.6, 1.0), ("uniform", 1, 10)])
def test_what_it_says_is_near_what_comes(draw: str, least: float, most: float) -> None:
    """On average over 400 searches that draw at random; too much where values have an end, as
    metrics do (research/early-stopping/own_end.md), and a little less of normal ones."""
    rng = np.random.default_rng(0)
    said, came = [], []
    for _ in range(400):
        values = getattr(rng, draw)(size=40)
        said.append(further_gain(values[:30].tolist(), 10))
        came.append(max(0.0, values[30:].max() - values[:30].max()))
    assert least * np.mean(came) < np.mean(said) < most * np.mean(came)


def test_it_falls_with_trials_and_with_a_best_that_stands_alone() -> None:
    values = np.random.default_rng(1).normal(0.5, 0.05, 400).tolist()
    gains = [further_gain(values[:n], 10) for n in (15, 60, 200)]
    assert gains[0] > gains[1] > gains[2] > 0
    assert further_gain([*values[:60], 0.9], 10) < 0.7 * gains[1]
    assert further_gain(values[:60], 20) > gains[1]


def test_units_and_a_shift_change_nothing() -> None:
    values = np.random.default_rng(2).normal(0.5, 0.05, 30)
    expected = further_gain(values.tolist(), 10)
    assert further_gain((100 * values + 7).tolist(), 10) == pytest.approx(100 * expected)


def test_trials_without_a_value_make_a_gain_less_likely() -> None:
    values = np.random.default_rng(3).normal(0.5, 0.05, 20).tolist()
    assert further_gain([*values, *[-math.inf] * 20], 10) < further_gain(values, 10)
    assert further_gain([-math.inf, 0.5], 10) == math.inf  # nothing is known yet
    assert further_gain([0.5, 0.5, 0.5], 10) == 0.0


def test_ten_thousand_trials_cost_no_more_than_two_hundred() -> None:
    values = np.random.default_rng(4).normal(0.5, 0.05, 10_000).tolist()

    def seconds(count: int) -> float:
        began = time.perf_counter()
        for _ in range(20):
            further_gain(values[:count], 10)
        return time.perf_counter() - began

    few = min(seconds(WINDOW) for _ in range(3))
    many = min(seconds(10_000) for _ in range(3))
    assert many < 3 * few
