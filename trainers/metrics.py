"""Counts of pixels that the metrics of segmentation are made of, kept on the device."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers.losses import IGNORE


class Counter(Protocol):
    """Counts what a metric is made of, a few images at a time."""

    def update(self, prediction: Tensor, target: Tensor, /) -> None:
        """Add B images of one size: (B, H, W) class indices or probabilities, and classes."""

    def images(self) -> Tensor:
        """(N, K, 3), or at each of T thresholds (N, T, K, 3), on the host."""
        ...


class OfClasses:
    """Counts of each class over a split, image by image, kept on the device."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self.classes, self.device = classes, device
        self._batches: list[Tensor] = []  # (B, C, 3) each

    def images(self) -> Tensor:
        """(N, C, 3) on the host: hits, truths, found of each image, in the order of the updates."""
        if not self._batches:
            return torch.zeros(0, self.classes, 3, dtype=torch.int64)
        return torch.cat(self._batches).cpu()


class ClassCounts(OfClasses):
    """Pixels of each class."""

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add B images: both (B, H, W) class indices; IGNORE in target is left out."""
        images, cells = len(target), self.classes * self.classes
        valid = target != IGNORE
        pairs = target.int() * self.classes + prediction.int()
        # ignored pixels go to one extra bin: no data-dependent shape, so no wait for the device
        pairs = torch.where(valid, pairs, cells)
        bins = per_image(pairs, cells + 1)[:, :-1]
        matrix = bins.view(images, self.classes, self.classes)
        parts = (matrix.diagonal(dim1=1, dim2=2), matrix.sum(2), matrix.sum(1))
        self._batches.append(torch.stack(parts, dim=2))


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
        counted = per_image(index, cells + 1)[:, :-1]
        self._batches.append(counted.view(images, 2, self.bins))

    def images(self) -> Tensor:
        """(N, T, 2, 3) on the host: hits, truths, found of background and foreground of each image
        at each threshold, in the order of the updates."""
        counts = torch.cat(self._batches).cpu()  # (N, 2, bins)
        above = counts.flip(2).cumsum(2).flip(2)[:, :, 1:]  # (N, 2, T) with probability >= it
        truths = counts.sum(2, keepdim=True).expand_as(above)
        below = truths - above
        background = torch.stack([below[:, 0], truths[:, 0], below.sum(1)], dim=2)
        foreground = torch.stack([above[:, 1], truths[:, 1], above.sum(1)], dim=2)
        return torch.stack([background, foreground], dim=2)


def per_image(index: Tensor, bins: int) -> Tensor:
    """(B, H, W) of 0..bins-1 -> (B, bins): how often each occurs in each image."""
    images = len(index)
    own = torch.arange(images, device=index.device, dtype=torch.int32).view(-1, 1, 1)
    flat = (index + own * bins).flatten()
    if flat.device.type == "cpu":
        return torch.bincount(flat, minlength=images * bins).view(images, bins)
    # a GPU's bincount waits twice: for the largest index, and to be sure that none is negative
    counts = torch.zeros(images * bins, dtype=torch.int64, device=flat.device)
    one = torch.ones((), dtype=torch.int64, device=flat.device).expand_as(flat)
    return counts.scatter_add_(0, flat.long(), one).view(images, bins)


def best_threshold(scores: NDArray[np.float64], thresholds: list[float]) -> int:
    """Return where the highest of T scores is; of equal ones the threshold nearest to 0.5."""
    return max(range(len(scores)), key=lambda i: (scores[i], -abs(thresholds[i] - 0.5)))


def binary_parts(counts: NDArray[np.int64]) -> dict[str, float]:
    """{precision, recall, f1} of the foreground, of counts (2, 3); 0 where nothing is there."""
    hits, truths, found = (int(count) for count in counts[1])
    return {
        "precision": hits / found if found else 0.0,
        "recall": hits / truths if truths else 0.0,
        "f1": 2 * hits / (truths + found) if truths + found else 0.0,
    }
