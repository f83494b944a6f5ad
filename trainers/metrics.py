"""Segmentation metrics from one confusion matrix pooled over the split, kept on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.losses import IGNORE


class ConfusionMatrix:
    """Counts (true class, predicted class) of valid pixels over a whole split."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self.classes = classes
        self.counts = torch.zeros(classes * classes, dtype=torch.int64, device=device)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch: both (..., H, W) class indices; IGNORE in target is left out."""
        valid = target != IGNORE
        pairs = target.int() * self.classes + prediction.int()
        # ignored pixels go to one extra bin: no data-dependent shape, so no wait for the device
        pairs = torch.where(valid, pairs, self.classes * self.classes)
        counts = torch.bincount(pairs.flatten(), minlength=self.classes * self.classes + 1)
        self.counts += counts[:-1]

    def compute(self) -> SegmentationScores:
        """Read the matrix back and score it."""
        matrix = self.counts.view(self.classes, self.classes).cpu()
        return scores(matrix)


@dataclass(frozen=True)
class SegmentationScores:
    """Scores of a split; a class in neither truth nor prediction is NaN."""

    miou: float
    per_class: list[float]
    pixel_accuracy: float


def scores(matrix: Tensor) -> SegmentationScores:
    """Score a confusion matrix (C, C), rows the truth: IoU = TP / (TP + FP + FN), and its mean.

    Equal to torchmetrics' MulticlassJaccardIndex(average="macro"): a class that occurs in neither
    truth nor prediction is left out of the mean; one that is only predicted counts as 0.
    """
    matrix = matrix.double()
    hits = matrix.diagonal()
    union = matrix.sum(0) + matrix.sum(1) - hits
    iou = torch.where(union > 0, hits / union.clamp(min=1), torch.nan)
    seen = union > 0
    miou = float(iou[seen].mean()) if bool(seen.any()) else float("nan")
    total = float(matrix.sum())
    accuracy = float(hits.sum()) / total if total else float("nan")
    return SegmentationScores(miou, iou.tolist(), accuracy)


class ThresholdCurve:
    """Foreground scores at every threshold of a grid, from one pass over the pixels.

    A histogram of the probabilities of foreground and background pixels; a cumulative sum gives
    the exact counts at each threshold (foreground where probability >= threshold).
    """

    def __init__(self, thresholds: list[float], device: torch.device) -> None:
        assert thresholds == sorted(thresholds) and thresholds
        self.thresholds = thresholds
        self.edges = torch.tensor(thresholds, dtype=torch.float32, device=device)
        self.bins = len(thresholds) + 1
        self.counts = torch.zeros(2 * self.bins + 1, dtype=torch.int64, device=device)

    def update(self, probability: Tensor, target: Tensor) -> None:
        """Add a batch: probability (B, H, W) fp32, target (B, H, W) of 0, 1, IGNORE."""
        bins = torch.bucketize(probability, self.edges, right=True, out_int32=True)
        index = bins + self.bins * target.int()
        index = torch.where(target == IGNORE, 2 * self.bins, index)
        self.counts += torch.bincount(index.flatten(), minlength=2 * self.bins + 1)

    def compute(self) -> list[BinaryScores]:
        """Scores at each threshold, in order."""
        counts = self.counts[:-1].view(2, self.bins).cpu().double()
        above = counts.flip(1).cumsum(1).flip(1)[:, 1:]  # pixels with probability >= threshold
        false_positive, true_positive = above[0], above[1]
        positives, negatives = float(counts[1].sum()), float(counts[0].sum())
        return [
            _binary_scores(threshold, float(tp), float(fp), positives, negatives)
            for threshold, tp, fp in zip(
                self.thresholds, true_positive, false_positive, strict=True
            )
        ]

    def best(self) -> BinaryScores:
        """The threshold of the highest IoU (which also has the highest F1); ties: nearest 0.5."""
        return max(self.compute(), key=lambda s: (s.iou, -abs(s.threshold - 0.5)))


@dataclass(frozen=True)
class BinaryScores:
    """Foreground scores of a binary task at one threshold."""

    threshold: float
    iou: float
    precision: float
    recall: float
    f1: float
    pixel_accuracy: float
    background_iou: float


def _binary_scores(
    threshold: float, tp: float, fp: float, positives: float, negatives: float
) -> BinaryScores:
    def ratio(part: float, whole: float) -> float:
        return part / whole if whole > 0 else 0.0

    fn, tn = positives - tp, negatives - fp
    return BinaryScores(
        threshold,
        iou=ratio(tp, tp + fp + fn),
        precision=ratio(tp, tp + fp),
        recall=ratio(tp, positives),
        f1=ratio(2 * tp, 2 * tp + fp + fn),
        pixel_accuracy=ratio(tp + tn, positives + negatives),
        background_iou=ratio(tn, tn + fp + fn),
    )
