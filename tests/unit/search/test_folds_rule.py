"""Early stopping between folds: values -> whether a trial goes on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from search.stopping.folds import chance, is_hopeless

BEST, SECOND = [0.80, 0.60, 0.90, 0.70, 0.75], [0.78, 0.60, 0.87, 0.69, 0.74]


@pytest.mark.parametrize(
    ("trial", "whole", "stops"),
    [
        ([0.30], [], False),  # nobody to compare with
        ([0.30], [BEST], False),  # nothing is known of the noise
        ([0.30], [BEST, SECOND], True),  # far below: after one fold
        ([0.79], [BEST, SECOND], False),  # too near
        ([0.79, 0.59], [BEST, SECOND], False),
        ([0.79, 0.59, 0.89, 0.69], [BEST, SECOND], True),  # one fold cannot make up for it
        ([0.77, 0.57, 0.87, 0.67], [BEST, SECOND], True),  # as far below on every fold
        ([0.60], [BEST, [0.2, 0.7, 0.3, 0.9, 0.1]], False),  # the same, where folds are all noise
        ([0.85], [BEST, SECOND], False),  # above
        ([0.70], [SECOND, BEST], True),  # the order of the others does not matter
        ([0.7], [[0.8, 0.8], [0.8, 0.8]], True),  # no noise at all
        ([0.8], [[0.8, 0.8], [0.8, 0.8]], False),
    ],
)
def test_verdicts(trial: Sequence[float], whole: list[Sequence[float]], stops: bool) -> None:
    assert is_hopeless(trial, whole) is stops


def test_a_hard_fold_is_hard_for_all() -> None:
    """The first fold's level drops out: only the difference on it counts."""
    shift = np.array([-0.4, 0, 0, 0, 0])
    whole = [BEST, SECOND]
    shifted = [(np.array(values) + shift).tolist() for values in whole]
    assert chance([0.3], shifted[0], shifted) == pytest.approx(chance([0.7], BEST, whole))


def test_the_chance_is_what_it_says() -> None:
    """Of trials whose chance is between 0.1 and 0.2, so many do end above the best."""
    rng = np.random.default_rng(0)
    came, said = [], []
    for _ in range(20_000):
        levels = rng.normal(0, 0.05, 4)[:, None]
        values = levels + rng.normal(0, 0.05, 5) + rng.normal(0, 0.02, (4, 5))
        *whole, trial = values.tolist()
        best = whole[0]  # any one: the best of several is above its level by luck
        expected = chance(trial[:2], best, whole)
        if 0.1 < expected < 0.2:
            said.append(expected)
            came.append(np.mean(trial) > np.mean(best))
    assert len(said) > 500
    assert np.mean(came) == pytest.approx(np.mean(said), abs=0.04)
