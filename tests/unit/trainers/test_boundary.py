"""Boundary IoU against masks eroded by scipy, class by class and threshold by threshold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from trainers.boundary import BoundaryCounts, BoundaryCurve, width
from trainers.losses import IGNORE

CPU = torch.device("cpu")
VOID = 0.05  # share of pixels


def band(mask: np.ndarray, void: np.ndarray, d: int) -> np.ndarray:
    """As Cheng et al.'s mask_to_boundary: the mask less its erosion; void is inside of all."""
    window = np.ones((2 * d + 1, 2 * d + 1))
    return mask & ~void & ~ndimage.binary_erosion(mask | void, window, border_value=0)


def blocks(rng: np.random.Generator, size: tuple[int, int], values: int) -> Tensor:
    """(2, H, W) of 0..values-1 in blocks of 6 pixels."""
    height, width = size
    coarse = rng.integers(0, values, (2, height // 6 + 1, width // 6 + 1))
    return torch.from_numpy(coarse.repeat(6, 1).repeat(6, 2)[:, :height, :width].copy())


@settings(max_examples=12)
@given(seed=st.integers(0, 2**31), height=st.integers(3, 90), wide=st.integers(3, 90))
def test_counts_are_those_of_eroded_masks(seed: int, height: int, wide: int) -> None:
    rng = np.random.default_rng(seed)
    truth = blocks(rng, (height, wide), 4)
    guess = truth.roll(2, 2)
    truth[torch.from_numpy(rng.random(truth.shape) < VOID)] = IGNORE
    truth[0, :8, :8] = IGNORE
    counter, d = BoundaryCounts(4, CPU), width((height, wide))
    counter.update(guess, truth)
    for one, true, counts in zip(guess.numpy(), truth.numpy(), counter.images(), strict=True):
        for index in range(4):
            own, found = (band(m == index, true == IGNORE, d) for m in (true, one))
            expected = [int((own & found).sum()), int(own.sum()), int(found.sum())]
            assert counts[index].tolist() == expected


@settings(max_examples=12)
@given(seed=st.integers(0, 2**31), height=st.integers(3, 60), wide=st.integers(3, 60))
def test_every_threshold_equals_its_own_masks(seed: int, height: int, wide: int) -> None:
    rng = np.random.default_rng(seed)
    thresholds = [0.1, 0.3, 0.5, 0.7, 0.9]
    probability = blocks(rng, (height, wide), 21) / 20  # many lie on a threshold exactly
    truth = blocks(rng, (height, wide), 2)
    truth[torch.from_numpy(rng.random(truth.shape) < VOID)] = IGNORE
    curve = BoundaryCurve(thresholds, CPU)
    curve.update(probability.float(), truth)
    found = curve.images()  # (N, T, 2, 3)
    for at, threshold in enumerate(thresholds):
        counter = BoundaryCounts(2, CPU)
        counter.update((probability.float() >= torch.tensor(threshold)).long(), truth)
        assert torch.equal(found[:, at], counter.images())


@pytest.mark.parametrize(("size", "d"), [((360, 480), 12), ((10, 10), 1), ((1080, 1920), 44)])
def test_the_band_is_2_percent_of_the_diagonal(size: tuple[int, int], d: int) -> None:
    assert width(size) == d


def test_a_good_large_region_with_a_shifted_outline_loses_more_than_its_iou() -> None:
    truth = torch.zeros(1, 100, 100, dtype=torch.long)
    truth[:, 20:80, 20:80] = 1
    counter = BoundaryCounts(2, CPU)
    counter.update(truth.roll(2, 2), truth)
    hits, truths, found = counter.images()[0, 1].tolist()
    assert hits / (truths + found - hits) <= 0.5 < 0.93 < 58 / 62
