"""Segmentation metrics from counts of pixels pooled over the split, kept on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.losses import IGNORE


class ClassCounts:
    """Pixels of each class over a split, image by image, kept on the device."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self.classes, self.device = classes, device
        self._batches: list[Tensor] = []  # (B, C, 3) each

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add B images: both (B, H, W) class indices; IGNORE in target is left out."""
        images, cells = len(target), self.classes * self.classes
        valid = target != IGNORE
        pairs = target.int() * self.classes + prediction.int()
        # ignored pixels go to one extra bin: no data-dependent shape, so no wait for the device
        pairs = torch.where(valid, pairs, cells)
        own = torch.arange(images, device=pairs.device, dtype=torch.int32).view(-1, 1, 1)
        bins = torch.bincount((pairs + own * (cells + 1)).flatten(), minlength=images * (cells + 1))
        matrix = bins.view(images, cells + 1)[:, :-1].view(images, self.classes, self.classes)
        parts = (matrix.diagonal(dim1=1, dim2=2), matrix.sum(2), matrix.sum(1))
        self._batches.append(torch.stack(parts, dim=2))

    def images(self) -> Tensor:
        """(N, C, 3) on the host: hits, truths, found of each image, in the order of the updates."""
        if not self._batches:
            return torch.zeros(0, self.classes, 3, dtype=torch.int64)
        return torch.cat(self._batches).cpu()

    def compute(self) -> SegmentationScores:
        """Read the counts back and score their sum."""
        return scores(self.images().sum(0))


@dataclass(frozen=True)
class SegmentationScores:
    """Scores of a split; a class in neither truth nor prediction is NaN."""

    miou: float
    per_class: list[float]
    pixel_accuracy: float


def scores(counts: Tensor) -> SegmentationScores:
    """Score counts (C, 3) of hits, truths, found: IoU = TP / (TP + FP + FN), and its mean.

    Equal to torchmetrics' MulticlassJaccardIndex(average="macro"): a class that occurs in neither
    truth nor prediction is left out of the mean; one that is only predicted counts as 0.
    """
    hits, truths, found = counts.double().unbind(1)
    union = truths + found - hits
    iou = torch.where(union > 0, hits / union.clamp(min=1), torch.nan)
    seen = union > 0
    miou = float(iou[seen].mean()) if bool(seen.any()) else float("nan")
    total = float(truths.sum())
    accuracy = float(hits.sum()) / total if total else float("nan")
    return SegmentationScores(miou, iou.tolist(), accuracy)


class ThresholdCurve:
    """Foreground scores at every threshold of a grid, from one pass over the pixels.

    A histogram of the probabilities of foreground and background pixels, image by image; a
    cumulative sum gives the exact counts at each threshold (foreground where probability >=
    threshold).
    """

    def __init__(self, thresholds: list[float], device: torch.device) -> None:
        assert thresholds == sorted(thresholds) and thresholds
        self.thresholds = thresholds
        self.edges = torch.tensor(thresholds, dtype=torch.float32, device=device)
        self.bins = len(thresholds) + 1
        self._batches: list[Tensor] = []  # (B, 2, bins) each

    def update(self, probability: Tensor, target: Tensor) -> None:
        """Add B images: probability (B, H, W) fp32, target (B, H, W) of 0, 1, IGNORE."""
        images, cells = len(target), 2 * self.bins
        bins = torch.bucketize(probability, self.edges, right=True, out_int32=True)
        index = bins + self.bins * target.int()
        index = torch.where(target == IGNORE, cells, index)
        own = torch.arange(images, device=index.device, dtype=torch.int32).view(-1, 1, 1)
        counted = torch.bincount(
            (index + own * (cells + 1)).flatten(), minlength=images * (cells + 1)
        )
        self._batches.append(counted.view(images, cells + 1)[:, :-1].view(images, 2, self.bins))

    def compute(self) -> list[BinaryScores]:
        """Scores at each threshold, in order."""
        counts = torch.stack([batch.sum(0) for batch in self._batches]).sum(0).cpu().double()
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

    def images(self, threshold: float) -> Tensor:
        """(N, 2, 3) on the host at a threshold of the grid: hits, truths, found of background and
        foreground of each image, in the order of the updates."""
        first = self.thresholds.index(threshold) + 1  # the first bin of the foreground
        counts = torch.cat(self._batches).cpu()  # (N, 2, bins)
        truths, found = counts.sum(2), counts[:, :, first:].sum((1, 2))
        below, above = counts[:, 0, :first].sum(1), counts[:, 1, first:].sum(1)
        background = torch.stack([below, truths[:, 0], truths.sum(1) - found], dim=1)
        foreground = torch.stack([above, truths[:, 1], found], dim=1)
        return torch.stack([background, foreground], dim=1)


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
