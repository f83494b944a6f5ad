"""What each image of a split adds to its score, so that a score can be drawn again over images.

A pooled score is a function of sums over the images. Kept image by image, the same counts give the
score of any resample of them: the bootstrap of `search/findings/evidence.py`.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spaces.config import MetricConfig, SegmentationMetric
from spaces.data import AnyDataSpec, SegmentationDataSpec
from spaces.metric import class_shares

FILE = "images.npz"  # beside the weights of the epoch that they are of
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ImageCounts:
    """Counts of a split's images, in the order of the split.

    Attributes:
        counts: (N, K, 3) of N images and K classes: hits, truths, found. Segmentation: pixels, TP,
            TP + FN and TP + FP (a binary task: background, foreground), for boundary IoU those near
            outlines. Text detection, K = 1: matched boxes, boxes that count, detections that
            count; for CLEval, K = 2: characters of the truth, characters of what was found.
    """

    counts: Counts

    def save(self, path: Path) -> None:
        """Write a compressed .npz; the file is whole once this returns."""
        path.write_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        buffer = io.BytesIO()
        most = int(self.counts.max(initial=0))
        small = np.uint32 if most < 2**32 else np.uint64
        np.savez_compressed(buffer, counts=self.counts.astype(small))
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, stored: bytes) -> ImageCounts:
        """Read back `to_bytes`; nothing in it is run.

        Raises:
            ValueError: it is something else.
        """
        try:
            with np.load(io.BytesIO(stored), allow_pickle=False) as arrays:
                counts = arrays["counts"].astype(np.int64)
        except Exception as error:
            raise ValueError(f"not the counts of a split's images: {error}") from error
        if counts.ndim != 3 or counts.shape[2] != 3:
            raise ValueError(f"counts must be (images, classes, 3), but are {counts.shape}")
        return cls(counts)


def class_iou(counts: NDArray[np.number]) -> Floats:
    """(..., K, 3) -> (..., K): IoU = hits / (truths + found - hits); NaN of a class without any."""
    hits, truths, found = np.moveaxis(counts.astype(np.float64), -1, 0)  # (..., K) each
    union = truths + found - hits
    return np.divide(hits, union, out=np.full_like(hits, np.nan), where=union > 0)


def class_dice(counts: NDArray[np.number]) -> Floats:
    """(..., K, 3) -> (..., K): Dice = F1 = 2 * hits / (truths + found); NaN of a class without."""
    hits, truths, found = np.moveaxis(counts.astype(np.float64), -1, 0)  # (..., K) each
    both = truths + found
    return np.divide(2 * hits, both, out=np.full_like(hits, np.nan), where=both > 0)


def score_of(
    metric: MetricConfig, data: AnyDataSpec, *, nothing: float = 0.0
) -> Callable[[NDArray[np.number]], Floats]:
    """Return the metric as a function of counts that are summed over images: (..., K, 3) -> (...).

    Args:
        nothing: the score where neither truth nor prediction has a class that counts.
    """
    if not isinstance(metric, SegmentationMetric):
        return {"hmean": hmean, "cleval": cleval_hmean}[metric.name]
    assert isinstance(data, SegmentationDataSpec)
    shares = np.array(class_shares(metric, data))
    of_class = {"iou": class_iou, "dice": class_dice, "boundary_iou": class_iou}[metric.name]
    return partial(_mean_over_classes, of_class, shares, nothing)


def _mean_over_classes(
    of_class: Callable[[NDArray[np.number]], Floats],
    shares: Floats,
    nothing: float,
    counts: NDArray[np.number],
) -> Floats:
    """Mean of the classes that are there, weighted by `shares` (K,).

    With equal shares and IoU equal to torchmetrics' MulticlassJaccardIndex(average="macro"): a
    class in neither truth nor prediction is left out; one that is only predicted counts as 0.
    """
    scores = of_class(counts)
    there = ~np.isnan(scores)
    weight, total = (there * shares).sum(axis=-1), (np.where(there, scores, 0.0) * shares).sum(-1)
    return np.divide(total, weight, out=np.full_like(total, nothing), where=weight > 0)


def hmean(counts: NDArray[np.number]) -> Floats:
    """(..., 1, 3) -> (...): Hmean = 2 * hits / (truths + found); 0 where both are 0."""
    return np.nan_to_num(class_dice(counts)[..., 0])


def cleval_hmean(counts: NDArray[np.number]) -> Floats:
    """(..., 2, 3) -> (...): harmonic mean of CLEval's recall and precision; 0 where both are 0."""
    recall, precision = np.moveaxis(cleval_parts(counts), -1, 0)
    both = recall + precision
    return np.divide(2 * recall * precision, both, out=np.zeros_like(both), where=both > 0)


def cleval_parts(counts: NDArray[np.number]) -> Floats:
    """(..., 2, 3) -> (..., 2): recall, precision; a penalty never makes them negative."""
    hits, of = np.moveaxis(counts[..., :2].astype(np.float64), -1, 0)  # (..., 2) each
    return np.divide(hits.clip(min=0), of, out=np.zeros_like(hits), where=of > 0)
