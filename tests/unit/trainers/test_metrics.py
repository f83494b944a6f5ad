"""Scores against torchmetrics, and the threshold sweep against separate evaluations."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.classification import BinaryF1Score, BinaryJaccardIndex, MulticlassJaccardIndex

from trainers.image_counts import ImageCounts, foreground_iou, mean_iou
from trainers.losses import IGNORE
from trainers.metrics import ClassCounts, ThresholdCurve

CPU = torch.device("cpu")


@given(seed=st.integers(0, 2**31), classes=st.integers(2, 8), present=st.integers(1, 8))
def test_miou_equals_torchmetrics(seed: int, classes: int, present: int) -> None:
    """Random cases with void, and with classes that occur in truth, prediction, or neither."""
    torch.manual_seed(seed)
    truth = torch.randint(0, min(present, classes), (3, 9, 7))
    guess = torch.randint(0, classes, (3, 9, 7)) if seed % 2 else truth.roll(1, 2)
    truth[torch.rand(truth.shape) < 0.2] = IGNORE
    truth[0, 0, 0] = 0
    oracle = MulticlassJaccardIndex(classes, average="macro", ignore_index=IGNORE)
    counts = ClassCounts(classes, CPU)
    counts.update(guess[:2], truth[:2])  # pooled over batches, not averaged
    counts.update(guess[2:], truth[2:])
    assert counts.compute().miou == pytest.approx(oracle(guess, truth).item(), abs=1e-6)
    images = counts.images().numpy()
    assert mean_iou(images.sum(0)) == pytest.approx(counts.compute().miou, abs=1e-12)
    for one, true, own in zip(guess, truth, mean_iou(images), strict=True):
        if bool((true != IGNORE).any()):
            assert own == pytest.approx(oracle(one, true).item(), abs=1e-6)


def test_a_class_in_neither_truth_nor_prediction_is_nan_and_left_out() -> None:
    counts = ClassCounts(3, CPU)
    counts.update(torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 1, 1, IGNORE]]]))
    scores = counts.compute()
    assert scores.per_class[:2] == pytest.approx([0.5, 0.5])
    assert math.isnan(scores.per_class[2])
    assert scores.miou == pytest.approx(0.5)
    assert scores.pixel_accuracy == pytest.approx(2 / 3)


def test_a_class_that_is_only_predicted_counts_as_0() -> None:
    counts = ClassCounts(2, CPU)
    counts.update(torch.tensor([[[0, 1]]]), torch.tensor([[[0, 0]]]))
    assert counts.compute().per_class == [0.5, 0.0]


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
    for scores, threshold in zip(curve.compute(), thresholds, strict=True):
        guess = (probability >= torch.tensor(threshold)).long()[valid]
        assert scores.iou == pytest.approx(BinaryJaccardIndex()(guess, truth[valid]).item())
        assert scores.f1 == pytest.approx(BinaryF1Score()(guess, truth[valid]).item())
    assert curve.best().iou == max(scores.iou for scores in curve.compute())
    assert curve.best().f1 == pytest.approx(max(scores.f1 for scores in curve.compute()))
    for at in curve.compute():
        images = curve.images(at.threshold).numpy()
        assert foreground_iou(images.sum(0)) == pytest.approx(at.iou)
        counts = ClassCounts(2, CPU)
        counts.update((probability >= torch.tensor(at.threshold)).long(), truth)
        assert (images == counts.images().numpy()).all()


def test_a_split_without_foreground_scores_0_without_error() -> None:
    curve = ThresholdCurve([0.5], CPU)
    curve.update(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))
    best = curve.best()
    assert (best.iou, best.recall, best.pixel_accuracy, best.background_iou) == (0, 0, 1, 1)


@given(seed=st.integers(0, 2**31), images=st.integers(0, 5), classes=st.integers(1, 4))
def test_counts_of_images_are_read_back(seed: int, images: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 2**40 if seed % 2 else 9, (images, classes, 3))
    assert (ImageCounts.from_bytes(ImageCounts(counts).to_bytes()).counts == counts).all()


@pytest.mark.parametrize("stored", [b"", b"PK\x03\x04", pickle.dumps([1])])
def test_what_is_no_counts_is_refused(stored: bytes) -> None:
    with pytest.raises(ValueError, match="not the counts"):
        ImageCounts.from_bytes(stored)
