"""Intervals, winners and rounds of a confirmation, on candidates that nobody has trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np
import pytest
from scipy import stats

from search.findings.answer import rank_bands
from search.findings.evidence import Candidate, Evidence, Run, next_round
from spaces.sections import ConfirmSpec
from trainers.image_counts import class_iou, hmean

SEEDS = (11, 22, 33)


def candidate(number: int, first: float, *fresh: float, **more: object) -> Candidate:
    runs = {
        seed: Run(number * 10 + i, v) for i, (seed, v) in enumerate(zip(SEEDS, fresh, strict=False))
    }
    return Candidate(number, first, runs, **more)  # type: ignore[arg-type]


def evidence(*candidates: Candidate, baseline: int | None = None, waiting: int = 0) -> Evidence:
    return Evidence(lambda counts: class_iou(counts)[..., 0], candidates, baseline, waiting)


def test_ranked_by_all_seeds_and_reported_by_the_fresh_ones() -> None:
    found = evidence(candidate(1, 0.9, 0.5, 0.5), candidate(2, 0.6, 0.6, 0.6))
    assert [c.number for c in found.ranking] == [1, 2]  # 0.633 and 0.6
    assert found.ranking[0].mean == 0.5 and found.ranking[0].sd == 0.0
    assert candidate(1, 0.9, 0.5).sd is None
    assert found.ranking[0].median_run.number == 10


def test_the_interval_is_students_over_pooled_seeds() -> None:
    found = evidence(candidate(1, 0.50, 0.52, 0.51), candidate(2, 0.40, 0.44, 0.45))
    values = [[0.50, 0.52, 0.51], [0.40, 0.44, 0.45]]
    pooled = fmean(np.var(v, ddof=1) for v in values)
    difference = found.difference(*found.candidates)
    assert difference is not None and difference.seeds == 2
    assert difference.mean == pytest.approx(0.07)
    assert difference.half == pytest.approx(stats.t.ppf(0.975, 4) * math.sqrt(pooled))
    assert difference.above and not difference.below


def test_which_images_there_are_adds_to_the_interval() -> None:
    """Two images that differ widely, against many that agree."""
    rng = np.random.default_rng(0)

    def with_counts(number: int, hits: Sequence[int]) -> Candidate:
        counts = np.array([[[h, 100, 100]] for h in hits])
        return Candidate(number, 0.5, {1: Run(number, 0.5, counts)})

    steady = [with_counts(1, [60] * 50), with_counts(2, [50] * 50)]
    noisy = [with_counts(1, rng.integers(20, 100, 50).tolist()), with_counts(2, [50] * 50)]
    halves = []
    for pair in (steady, noisy):
        found = Evidence(hmean, pair).difference(*pair)
        assert found is not None
        halves.append(found.half)
    assert halves[0] < 1e-9 and halves[1] > 0.03


def test_no_common_seed_is_no_difference() -> None:
    one, other = candidate(1, 0.5, 0.5), Candidate(2, 0.5, {99: Run(1, 0.4)})
    assert evidence(one, other).difference(one, other) is None


def test_the_cheaper_one_wins_within_a_standard_error() -> None:
    dear = candidate(1, 0.52, 0.50, 0.51, seconds=2.0, device="gpu", parameters=9)
    cheap = candidate(2, 0.51, 0.49, 0.51, seconds=1.0, device="gpu", parameters=9)
    far = candidate(3, 0.30, 0.31, 0.32, seconds=0.1, device="gpu", parameters=1)
    found = evidence(dear, cheap, far)
    assert found.winner is cheap and found.by_cost
    # on other devices seconds say nothing, but parameters do
    other = candidate(2, 0.51, 0.49, 0.51, seconds=1.0, device="cpu", parameters=10)
    assert evidence(dear, other, far).winner is dear


def test_gain_is_over_the_baseline_alone() -> None:
    best, recipe = candidate(1, 0.52, 0.50, 0.51), candidate(2, 0.41, 0.40, 0.42)
    gain = evidence(best, recipe, baseline=2).gain
    assert gain is not None and gain.above and gain.mean == pytest.approx(0.095)
    assert evidence(best, recipe).gain is None
    assert evidence(best, recipe, baseline=1).gain is None


def rounds(spec: ConfirmSpec, *candidates: Candidate, left: float = 99, **more: object) -> object:
    return next_round(evidence(*candidates, **more), spec, SEEDS, left)  # type: ignore[arg-type]


def test_rounds_of_a_race() -> None:
    spec = ConfirmSpec(top=3, seeds=2)
    new = [candidate(n, 0.5 - n / 100) for n in (1, 2, 3)]
    assert rounds(spec, *new) == [(1, 11), (2, 11), (3, 11)]
    assert rounds(spec, *new, waiting=1) == []
    ran = [candidate(1, 0.50, 0.50), candidate(2, 0.50, 0.49), candidate(3, 0.30, 0.31)]
    assert rounds(spec, *ran) == [(1, 22), (2, 22)]  # the third has lost
    twice = [candidate(1, 0.50, 0.50, 0.51), candidate(2, 0.50, 0.49, 0.5), ran[2]]
    assert rounds(spec, *twice) == []
    assert rounds(ConfirmSpec(top=3, seeds=3), *twice) == [(1, 33), (2, 33)]


def test_one_that_is_left_is_not_run_again() -> None:
    spec = ConfirmSpec(top=2, seeds=3)
    assert rounds(spec, candidate(1, 0.50, 0.50), candidate(2, 0.20, 0.21)) == []
    assert rounds(spec, candidate(1, 0.5, 0.5)) == [(1, 22)]  # but where it was alone all along


def test_who_cannot_be_trained_is_out() -> None:
    spec = ConfirmSpec(top=2, seeds=2)
    broken = Candidate(1, 0.6, {}, frozenset({11}))
    assert rounds(spec, broken, candidate(2, 0.5)) == [(2, 11)]
    assert rounds(spec, broken, candidate(2, 0.5, 0.5)) == []
    assert rounds(spec, broken) == []


def test_the_share_limits_the_runs_but_never_below_two() -> None:
    spec = ConfirmSpec(top=4, seeds=2)
    new = [candidate(n, 0.5 - n / 100) for n in (1, 2, 3, 4)]
    assert rounds(spec, *new, left=3.9, baseline=4) == [(1, 11), (2, 11), (4, 11)]
    assert rounds(spec, *new, left=0, baseline=4) == [(1, 11), (4, 11)]
    assert rounds(spec, *new, left=0) == [(1, 11), (2, 11)]
    ran = [candidate(1, 0.5, 0.5), candidate(2, 0.49, 0.49), new[2]]
    assert rounds(spec, *ran, left=0.9) == []
    assert rounds(spec, *ran, left=1.5) == [(3, 11)]
    assert rounds(spec, *ran[:2], left=1.5) == []  # a round is whole or is not


def test_ranks_that_noise_allows() -> None:
    noise = evidence(candidate(1, 0.50, 0.51, 0.49), candidate(2, 0.30, 0.31, 0.29))
    assert rank_bands([0.50, 0.495, 0.40, 0.30], noise) == ["1-2", "1-2", "3", "4"]
    assert rank_bands([0.5, 0.4], evidence(candidate(1, 0.5))) == ["", ""]
