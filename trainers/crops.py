"""Which window of an image a training step sees.

It is a function of (seed, epoch, index) and of the image's mask alone, as augmentation is: a
resumed run sees the same windows, wherever its pixels come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainers.draws import Uniform
from trainers.losses import IGNORE
from trainers.windows import Place

KNOWN = 64  # pixels of each class of an image that crops are drawn at
STREAM = 0x632BE59BD9B4E019  # added to the seed: other numbers than those of augmentation


class Crop(NamedTuple):
    """A sample of which a window is wanted, and four numbers in 0..1 that say which."""

    sample: int
    drawn: tuple[float, float, float, float]


def draw_crops(seed: int, epoch: int, indices: Sequence[int]) -> list[Crop]:
    """Return what decides on the window of each sample in an epoch."""
    drawn = Uniform(seed + STREAM, epoch, indices)
    columns = [drawn.next().tolist() for _ in range(4)]
    return [Crop(*one) for one in zip(indices, zip(*columns, strict=True), strict=True)]


@dataclass
class Cropper:
    """Chooses windows of (height, width).

    random: all places are as likely. balanced: one of the image's classes is drawn, each as likely
    as any other, then a pixel of it, then a window that has this pixel, anywhere in it; so thin and
    rare classes are seen in as many steps as the others (after the oversampling of foreground in
    nnU-Net, Isensee et al. 2021, which puts the pixel into the middle).
    """

    size: tuple[int, int]
    how: Literal["random", "balanced"]
    _pixels: dict[int, list[NDArray[np.int64]]] = field(default_factory=dict)

    def place(self, crop: Crop, mask: NDArray[np.uint8]) -> Place:
        """Return (top, left) of the window in an image with this mask (H, W)."""
        of_class, of_pixel, *shares = crop.drawn
        room = [max(0, length - side) for length, side in zip(mask.shape, self.size, strict=True)]
        classes = self._classes(crop.sample, mask) if self.how == "balanced" else []
        if not classes:  # or every pixel is void
            top, left = (int(share * (most + 1)) for share, most in zip(shares, room, strict=True))
            return top, left
        pixels = classes[int(of_class * len(classes))]
        pixel = divmod(int(pixels[int(of_pixel * len(pixels))]), mask.shape[1])
        top, left = (
            min(max(0, at - int(share * side)), most)
            for at, share, side, most in zip(pixel, shares, self.size, room, strict=True)
        )
        return top, left

    def _classes(self, index: int, mask: NDArray[np.uint8]) -> list[NDArray[np.int64]]:
        """Some pixels of each class of a sample, as indices of the flat mask; remembered."""
        if index not in self._pixels:
            self._pixels[index] = known_pixels(index, mask)
        return self._pixels[index]


def known_pixels(index: int, mask: NDArray[np.uint8]) -> list[NDArray[np.int64]]:
    """Return up to KNOWN pixels of each class that a mask (H, W) has, drawn by the index alone."""
    counts = np.array(Image.fromarray(mask).histogram())
    counts[IGNORE] = 0
    chance = np.random.default_rng(index)
    found = []
    for label in np.flatnonzero(counts):
        ranks = chance.choice(int(counts[label]), min(KNOWN, int(counts[label])), replace=False)
        found.append(np.flatnonzero(mask == label)[ranks])
    return found
