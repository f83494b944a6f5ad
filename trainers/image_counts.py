"""What each image of a split adds to its score, so that a score can be drawn again over images.

A pooled score is a function of sums over the images. Kept image by image, the same counts give the
score of any resample of them: the bootstrap of `search/findings/evidence.py`.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FILE = "images.npz"  # beside the weights of the epoch that they are of
Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ImageCounts:
    """Counts of a split's images, in the order of the split.

    Attributes:
        counts: (N, K, 3) of N images and K classes: hits, truths, found. Segmentation: pixels, TP,
            TP + FN and TP + FP (a binary task: background, foreground). Text detection, K = 1:
            matched boxes, boxes that count, detections that count.
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


def class_iou(counts: NDArray[np.number]) -> NDArray[np.float64]:
    """(..., K, 3) -> (..., K): IoU = hits / (truths + found - hits); NaN of a class without any."""
    hits, truths, found = np.moveaxis(counts.astype(np.float64), -1, 0)  # (..., K) each
    union = truths + found - hits
    return np.divide(hits, union, out=np.full_like(hits, np.nan), where=union > 0)


def mean_iou(counts: NDArray[np.number]) -> NDArray[np.float64]:
    """(..., K, 3) -> (...): mean IoU of the classes that are there; NaN where none is."""
    iou = class_iou(counts)
    there = ~np.isnan(iou)
    classes, total = there.sum(axis=-1), np.where(there, iou, 0.0).sum(axis=-1)
    return np.divide(total, classes, out=np.full_like(total, np.nan), where=classes > 0)


def foreground_iou(counts: NDArray[np.number]) -> NDArray[np.float64]:
    """(..., 2, 3) -> (...): IoU of the foreground of a binary task; 0 where there is none."""
    return np.nan_to_num(class_iou(counts[..., 1, :]))


def hmean(counts: NDArray[np.number]) -> NDArray[np.float64]:
    """(..., 1, 3) -> (...): Hmean = 2 * hits / (truths + found); 0 where both are 0."""
    hits, truths, found = np.moveaxis(counts[..., 0, :].astype(np.float64), -1, 0)
    both = truths + found
    return np.divide(2 * hits, both, out=np.zeros_like(hits), where=both > 0)


OF_METRIC = {"mIoU": mean_iou, "IoU": foreground_iou, "Hmean": hmean}
"""{name of a metric: how it is scored from counts}."""
