"""Decoded segmentation splits: each is resized once for a resolution and then mapped by all.

Decoding a JPEG costs more than a training step on it, and every trial of a study reads the same
images; so the first trial at a resolution writes uint8 arrays, and the rest map them. A split that
the cache folder has no room for is decoded again in each epoch, to the same pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from trainers.cache_folder import Entry, Make, entry, split_key
from trainers.data import SegmentationData, decode_image, decode_mask


@dataclass(frozen=True)
class Arrays:
    """One split at one resolution.

    Shape:
        images (N, H, W, 3) uint8; masks (N, H, W) uint8 at network size;
        originals: N masks (h, w) uint8 at the images' own sizes; none of the train split, which is
        scored at network size only, so that they would double the cache for nothing.
    """

    images: np.ndarray
    masks: np.ndarray
    originals: list[np.ndarray]
    entry: Entry

    def __len__(self) -> int:
        return len(self.images)

    @property
    def nbytes(self) -> int:
        return self.images.nbytes + self.masks.nbytes + sum(mask.nbytes for mask in self.originals)

    def __reduce__(self) -> tuple[Callable[[Entry], Arrays], tuple[Entry]]:
        return _arrays, (self.entry,)  # mapped anew, not copied


def load_arrays(data: SegmentationData, split: str, size: tuple[int, int]) -> Arrays | None:
    """Return a split at (height, width), from the cache or after building it.

    None, and a line in the log, where the cache folder has no room for it.

    Raises:
        InputError: $SEGTUNE_CACHE_BYTES is no size.
    """
    samples = data.split(split)

    def needed() -> int:
        originals = 0 if split == "train" else sum(_pixels(sample.mask) for sample in samples)
        return len(samples) * size[0] * size[1] * 4 + originals

    found = entry(
        "arrays",
        split_key(data.fingerprint, split, size),
        needed,
        lambda make: _build(data, split, size, make),
        f"the {split} split at {size[0]}x{size[1]}",
    )
    return None if found is None else _arrays(found)


def decode(
    data: SegmentationData, split: str, index: int, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a sample's image (H, W, 3) and mask (H, W) at network size, and its mask as it is."""
    sample = data.split(split)[index]
    image = resize_image(decode_image(sample.image, data.spec.max_pixels), size)
    mask = decode_mask(sample.mask, data.spec)
    return image, resize_mask(mask, size), mask


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return (H, W, 3) uint8 at (height, width), bilinear with antialiasing."""
    resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(resized)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return (H, W) uint8 at (height, width), nearest neighbour."""
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


def fill(count: int, one: Callable[[int], None]) -> None:
    """Call `one` with 0..count-1 from as many threads as there are cores."""
    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        for _ in pool.map(one, range(count)):
            pass


def _build(data: SegmentationData, split: str, size: tuple[int, int], make: Make) -> None:
    samples = data.split(split)
    count = len(samples)
    images = make("images", (count, *size, 3), np.uint8)
    masks = make("masks", (count, *size), np.uint8)
    if split == "train":
        fill(count, lambda i: _put(decode(data, split, i, size)[:2], (images, masks), i))
        return
    ends = np.cumsum([_pixels(sample.mask) for sample in samples])
    originals = make("originals", (int(ends[-1]),), np.uint8)
    shapes = make("shapes", (count, 2), np.int64)

    def one(index: int) -> None:
        image, mask, original = decode(data, split, index, size)
        _put((image, mask, original.shape), (images, masks, shapes), index)
        originals[ends[index] - original.size : ends[index]] = original.ravel()

    fill(count, one)


def _put(values: tuple[object, ...], arrays: tuple[np.ndarray, ...], index: int) -> None:
    for value, array in zip(values, arrays, strict=True):
        array[index] = value


def _arrays(found: Entry) -> Arrays:
    arrays, originals = found.arrays, []
    if "shapes" in arrays:
        ends = np.cumsum(arrays["shapes"].prod(axis=1))
        originals = [
            arrays["originals"][end - height * width : end].reshape(height, width)
            for end, (height, width) in zip(ends, arrays["shapes"], strict=True)
        ]
    return Arrays(arrays["images"], arrays["masks"], originals, found)


def _pixels(path: str) -> int:
    """Pixels of an image file, from its header."""
    with Image.open(path) as image:
        return image.width * image.height
