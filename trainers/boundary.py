"""Boundary IoU: the IoU of the pixels near the outlines of truth and prediction.

Cheng et al. 2021 (arXiv 2103.16562, section 4): of truth and of prediction only the pixels that lie
within d of their mask's contour count. It tells models apart whose large regions are all right and
whose outlines differ. As theirs, d is 2 % of the image's diagonal, a window of (2d + 1)^2 pixels
erodes, and the image's border is a contour. Ours: counts are pooled over the split, and a border to
void pixels is no contour, as nobody knows where the class ends there.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.losses import IGNORE
from trainers.metrics import OfClasses, per_image

SHARE_OF_DIAGONAL = 0.02
OUTSIDE = 1000  # beyond every class index and every probability


def width(size: tuple[int, int]) -> int:
    """Return d, in pixels, of an image of (height, width)."""
    return max(1, round(SHARE_OF_DIAGONAL * math.hypot(*size)))


def windows(values: Tensor, void: Tensor, d: int) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest value in the window of (2d + 1)^2 around each pixel.

    Args:
        values: (B, H, W), |value| < OUTSIDE. What is outside of the image is both smaller and
            larger than any.
        void: (B, H, W) bool; these pixels count for nothing.

    Shape:
        Two of (B, H, W).
    """
    hidden = torch.stack([-values, values]).masked_fill(void, -OUTSIDE)  # (2, B, H, W)
    padded = F.pad(hidden, (d, d, d, d), value=OUTSIDE)
    low, high = _running_max(_running_max(padded, 2 * d + 1, dim=2), 2 * d + 1, dim=3)
    return -low, high


def _running_max(values: Tensor, side: int, dim: int) -> Tensor:
    """The largest of each `side` neighbours along a dimension, which gets `side` - 1 shorter.

    By doubling: the maximum of 2, 4, 8 neighbours, and of two such that overlap. On a CPU an image
    of 1920x1080, d = 44, costs an eighth of what it costs with max pooling.
    """
    span = 1
    while span < side:
        step = min(span, side - span)
        length = values.shape[dim] - step
        values = torch.maximum(values.narrow(dim, 0, length), values.narrow(dim, step, length))
        span += step
    return values


def near_outline(classes: Tensor, void: Tensor, d: int) -> Tensor:
    """Say which pixels lie within d of the outline of the class that they have.

    A mask eroded by a window has a pixel where the whole window is of the mask. So one look at the
    smallest and largest index in the window tells it for all classes at once.

    Args:
        classes: (B, H, W) class indices.
        void: (B, H, W) bool, neither inside nor outside of any class; False in the result.
    """
    values = classes.to(torch.int16)
    low, high = windows(values, void, d)
    return ((low != values) | (high != values)) & ~void


class BoundaryCounts(OfClasses):
    """Pixels of each class near outlines."""

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add B images of one size: both (B, H, W) class indices; IGNORE in target is left out."""
        void, d = target == IGNORE, width(target.shape[1:])  # type: ignore[arg-type]
        true, guess = (near_outline(mask, void, d) for mask in (target, prediction))
        hit = true & guess & (target == prediction)
        parts = [
            _by_class(classes, band, self.classes)
            for classes, band in ((target, hit), (target, true), (prediction, guess))
        ]
        self._batches.append(torch.stack(parts, dim=2))


class BoundaryCurve:
    """The same of a binary task, at every threshold of a grid, from one pass over the pixels.

    At threshold t a pixel of probability p is foreground where p >= t, and so is its whole window
    where the window's smallest p is >= t. So it is near the foreground's outline where
    smallest < t <= p, and near the background's where p < t <= largest: two counts of pixels above
    t each, of which ThresholdCurve's histogram gives every t at once.
    """

    def __init__(self, thresholds: list[float], device: torch.device) -> None:
        self.edges = torch.tensor(thresholds, dtype=torch.float32, device=device)
        self._batches: list[Tensor] = []  # (B, T, 2, 3) each

    def update(self, probability: Tensor, target: Tensor) -> None:
        """Add B images of one size: probability (B, H, W) fp32, target of 0, 1, IGNORE."""
        void, d = target == IGNORE, width(target.shape[1:])  # type: ignore[arg-type]
        low, high = windows(probability, void, d)
        band = near_outline(target, void, d)
        parts = []
        for label, inner, outer in ((0, probability, high), (1, low, probability)):
            true = band & (target == label)
            hits, found = (
                self._above(outer, mask) - self._above(inner, mask) for mask in (true, ~void)
            )
            truths = true.flatten(1).sum(1)[:, None].expand_as(hits)
            parts.append(torch.stack([hits, truths, found], dim=2))
        self._batches.append(torch.stack(parts, dim=2))

    def images(self) -> Tensor:
        """(N, T, 2, 3) on the host: hits, truths, found of background and foreground."""
        return torch.cat(self._batches).cpu()

    def _above(self, values: Tensor, mask: Tensor) -> Tensor:
        """(B, H, W) -> (B, T): masked pixels with a value at or above each threshold."""
        images, bins = len(values), len(self.edges) + 1
        index = torch.bucketize(values, self.edges, right=True, out_int32=True)
        counted = per_image(torch.where(mask, index, bins), bins + 1)[:, :bins]
        return counted.flip(1).cumsum(1).flip(1)[:, 1:].view(images, -1)


def _by_class(classes: Tensor, mask: Tensor, count: int) -> Tensor:
    """(B, H, W) -> (B, C): masked pixels of each class."""
    return per_image(torch.where(mask, classes.int(), count), count + 1)[:, :count]
