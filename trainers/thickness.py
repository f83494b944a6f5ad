"""How thin the parts of each class are, and what resizing leaves of them.

The thickness of a pixel is the shorter of the two runs of its class through it, along its row and
along its column: the width of a pole, the height of a kerb, the smaller side of a distant car. An
image that is resized by (y, x) shortens them by these factors, so one look at a mask tells it for
every resolution. A part that is slanted by 45 degrees is measured 1.4 times too thick.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainers.cache import Sized
from trainers.data import Sample, SegmentationData
from trainers.images import size_of
from trainers.losses import IGNORE
from trainers.masks import decode_mask

PIXELS, FEWEST = 40_000_000, 4  # pixels of all masks that are looked at, but at least so many masks
SHARES = (0.5, 0.1)  # of a class's pixels: what is thinner than these is printed
BINS, FINEST = 400, 0.25  # px: thicknesses are counted in steps of it, up to BINS of them
MOST = BINS * FINEST  # px: what is thicker counts as this


@dataclass(frozen=True)
class Thickness:
    """Of each class at each size, in pixels of the network's input.

    Attributes:
        pixels: (S, K, 2): half and a tenth of the class's pixels lie in parts that are no thicker;
            at most MOST; NaN for a class without any.
        images: how many were looked at.
    """

    pixels: NDArray[np.float64]
    images: int


def thickness(data: SegmentationData, sizes: Sequence[Sized]) -> Thickness:
    """Measure train masks, evenly spread over the split, of PIXELS together; at least FEWEST."""
    chosen = _spread(data.split("train"))
    counts = np.zeros((len(sizes), data.classes, BINS), np.int64)

    def look(sample: Sample) -> NDArray[np.int64]:
        return _counted(decode_mask(sample.mask, data.spec), sizes, data.classes)

    with ThreadPoolExecutor(max_workers=2) as pool:
        for one in pool.map(look, chosen):
            counts += one
    below = counts.cumsum(axis=2)[..., None]  # (S, K, BINS, 1)
    total = below[:, :, -1]
    at = (below < np.array(SHARES) * total[:, :, None]).sum(axis=2)
    return Thickness(np.where(total > 0, (at + 1) * FINEST, np.nan), len(chosen))


def runs(mask: NDArray[np.uint8], axis: int) -> NDArray[np.int32]:
    """(H, W): pixels of one value in a row (axis 1) or column (axis 0) through each pixel."""
    lines = mask if axis == 1 else mask.T
    begins = np.ones(lines.shape, bool)
    begins[:, 1:] = lines[:, 1:] != lines[:, :-1]
    of = np.cumsum(begins.ravel(), dtype=np.int32) - 1
    lengths = np.bincount(of).astype(np.int32)[of].reshape(lines.shape)
    return lengths if axis == 1 else lengths.T


def _spread(samples: Sequence[Sample]) -> list[Sample]:
    pixels = sum(np.prod(size_of(sample.mask)) for sample in samples)
    count = min(len(samples), max(FEWEST, int(len(samples) * PIXELS / pixels)))
    return [samples[index * len(samples) // count] for index in range(count)]


def _counted(mask: NDArray[np.uint8], sizes: Sequence[Sized], classes: int) -> NDArray[np.int64]:
    """(S, K, BINS): pixels of each class by their thickness at each size."""
    along, down = runs(mask, 1), runs(mask, 0)
    valid = mask != IGNORE
    counts = []
    for size in sizes:
        y, x = (size, size) if isinstance(size, float) else np.divide(size, mask.shape)
        thick = np.minimum(along * np.float32(x), down * np.float32(y))
        bins = np.clip(np.ceil(thick / FINEST) - 1, 0, BINS - 1).astype(np.int32)
        index = (mask * np.int32(BINS) + bins)[valid]
        counts.append(np.bincount(index, minlength=classes * BINS).reshape(classes, BINS))
    return np.stack(counts)
