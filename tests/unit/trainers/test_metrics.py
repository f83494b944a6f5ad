"""Scores against torchmetrics and MONAI, and the threshold sweep against separate evaluations."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.metrics.meandice import compute_dice
from torch import Tensor
from torchmetrics.classification import (
    BinaryF1Score,
    BinaryJaccardIndex,
    MulticlassF1Score,
    MulticlassJaccardIndex,
)

from spaces.config import SegmentationMetric
from spaces.data import SegmentationDataSpec
from trainers.image_counts import ImageCounts, class_dice, class_iou, score_of
from trainers.losses import IGNORE
from trainers.metrics import ClassCounts, ThresholdCurve, best_threshold, binary_parts

CPU = torch.device("cpu")


def scored(counts: np.ndarray, names: int, **metric: Any) -> Any:
    """Counts (..., K, 3) by a metric of so many named classes; one name has a background too."""
    split = {"list": "never read"}
    classes = [f"c{index}" for index in range(names)]
    data = SegmentationDataSpec.model_validate({"train": split, "val": split, "classes": classes})
    return score_of(SegmentationMetric.model_validate(metric), data)(counts)


def case(seed: int, classes: int, present: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """(guess, truth, counts (3, K, 3)), with void and with classes in truth, guess, or neither."""
    torch.manual_seed(seed)
    truth = torch.randint(0, min(present, classes), (3, 9, 7))
    guess = torch.randint(0, classes, (3, 9, 7)) if seed % 2 else truth.roll(1, 2)
    truth[torch.rand(truth.shape) < 0.2] = IGNORE
    truth[0, 0, 0] = 0
    counts = ClassCounts(classes, CPU)
    counts.update(guess[:2], truth[:2])  # pooled over batches, not averaged
    counts.update(guess[2:], truth[2:])
    return guess, truth, counts.images().numpy()


@given(seed=st.integers(0, 2**31), classes=st.integers(2, 8), present=st.integers(1, 8))
def test_miou_and_dice_equal_torchmetrics(seed: int, classes: int, present: int) -> None:
    guess, truth, counts = case(seed, classes, present)
    for name, oracle_of in (("iou", MulticlassJaccardIndex), ("dice", MulticlassF1Score)):
        oracle = oracle_of(classes, average="macro", ignore_index=IGNORE)
        pooled = scored(counts.sum(0), classes, name=name)
        assert pooled == pytest.approx(oracle(guess, truth).item(), abs=1e-6)
        alone = scored(counts, classes, name=name)
        for one, true, own in zip(guess, truth, alone, strict=True):
            if bool((true != IGNORE).any()):
                assert own == pytest.approx(oracle(one, true).item(), abs=1e-6)


@given(seed=st.integers(0, 2**31), present=st.integers(1, 4))
def test_chosen_and_weighted_classes_are_a_mean_of_torchmetrics_own(
    seed: int, present: int
) -> None:
    guess, truth, counts = case(seed, 4, present)
    there = [bool(((guess == c) | (truth == c))[truth != IGNORE].any()) for c in range(4)]
    for name, oracle_of in (("iou", MulticlassJaccardIndex), ("dice", MulticlassF1Score)):
        own = oracle_of(4, average="none", ignore_index=IGNORE)(guess, truth).numpy()
        for shares, metric in (
            ([1, 0, 0, 1], {"classes": ["c3", "c0"]}),
            ([1, 2.5, 1, 0], {"weights": {"c1": 2.5, "c3": 0}}),
            ([0, 2, 1, 0], {"classes": ["c1", "c2"], "weights": {"c1": 2}}),
        ):
            weights = np.array(shares) * there
            expected = (weights * own).sum() / weights.sum() if weights.any() else 0.0
            found = scored(counts.sum(0), 4, name=name, **metric)
            assert found == pytest.approx(expected, abs=1e-6)


@given(seed=st.integers(0, 2**31))
def test_dice_of_an_image_equals_monais(seed: int) -> None:
    guess, truth, counts = case(seed, 3, 3)
    void = truth == IGNORE
    masks = [torch.stack([(m == c) & ~void for c in range(3)], 1).float() for m in (guess, truth)]
    theirs = compute_dice(*masks, ignore_empty=False).numpy()  # (N, C)
    ours = class_dice(counts)
    there = ~np.isnan(ours)
    assert ours[there] == pytest.approx(theirs[there], abs=1e-6)


def test_a_class_in_neither_truth_nor_prediction_is_nan_and_left_out() -> None:
    counts = ClassCounts(3, CPU)
    counts.update(torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 1, 1, IGNORE]]]))
    pooled = counts.images().numpy().sum(0)
    assert class_iou(pooled)[:2] == pytest.approx([0.5, 0.5])
    assert math.isnan(class_iou(pooled)[2])
    assert scored(pooled, 3) == pytest.approx(0.5)


def test_a_class_that_is_only_predicted_counts_as_0() -> None:
    counts = ClassCounts(2, CPU)
    counts.update(torch.tensor([[[0, 1]]]), torch.tensor([[[0, 0]]]))
    assert class_iou(counts.images().numpy().sum(0)).tolist() == [0.5, 0.0]


@given(seed=st.integers(0, 2**31))
def test_every_threshold_equals_its_own_evaluation(seed: int) -> None:
    torch.manual_seed(seed)
    thresholds = [round(0.05 * i, 2) for i in range(1, 20)]
    probability = (torch.rand(4, 8, 8) * 40).round() / 40  # many lie on a threshold exactly
    truth = (torch.rand(4, 8, 8) < probability).long()
    truth[torch.rand(truth.shape) < 0.1] = IGNORE
    curve = ThresholdCurve(thresholds, CPU)
    for one, true in zip(probability.split(2), truth.split(2), strict=True):
        curve.update(one, true)
    valid = truth != IGNORE
    images = curve.images().numpy()  # (N, T, 2, 3)
    ious, f1s = (scored(images.sum(0), 1, name=name) for name in ("iou", "f1"))
    for at, threshold in enumerate(thresholds):
        guess = (probability >= torch.tensor(threshold)).long()
        assert ious[at] == pytest.approx(BinaryJaccardIndex()(guess[valid], truth[valid]).item())
        f1 = BinaryF1Score()(guess[valid], truth[valid]).item()
        assert f1s[at] == pytest.approx(f1)
        assert binary_parts(images[:, at].sum(0))["f1"] == pytest.approx(f1)
        counts = ClassCounts(2, CPU)
        counts.update(guess, truth)
        assert (images[:, at] == counts.images().numpy()).all()
    assert ious[best_threshold(f1s, thresholds)] == ious.max()


def test_of_equal_thresholds_the_nearest_to_one_half_is_best() -> None:
    assert best_threshold(np.array([0.5, 0.7, 0.7, 0.7]), [0.1, 0.2, 0.4, 0.8]) == 2


def test_a_split_without_foreground_scores_0_without_error() -> None:
    curve = ThresholdCurve([0.5], CPU)
    curve.update(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))
    pooled = curve.images().numpy().sum(0)[0]
    assert binary_parts(pooled) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert (scored(pooled, 1), scored(pooled, 1, name="dice")) == (0, 0)
    assert scored(pooled, 1, classes=["background"]) == 1


@given(seed=st.integers(0, 2**31), images=st.integers(0, 5), classes=st.integers(1, 4))
def test_counts_of_images_are_read_back(seed: int, images: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 2**40 if seed % 2 else 9, (images, classes, 3))
    assert (ImageCounts.from_bytes(ImageCounts(counts).to_bytes()).counts == counts).all()


@pytest.mark.parametrize("stored", [b"", b"PK\x03\x04", pickle.dumps([1])])
def test_what_is_no_counts_is_refused(stored: bytes) -> None:
    with pytest.raises(ValueError, match="not the counts"):
        ImageCounts.from_bytes(stored)
