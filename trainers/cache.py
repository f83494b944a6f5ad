"""Decoded segmentation splits: each is resized once for a resolution and then mapped by all.

Decoding a JPEG costs more than a training step on it, and every trial of a study reads the same
images; so the first trial at a resolution writes uint8 arrays, and the rest map them. A split that
the cache folder has no room for is decoded again in each epoch, to the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from spaces.data import SegmentationDataSpec
from trainers.cache_folder import Entry, Make, entry, split_key
from trainers.data import (
    Kept,
    Sample,
    SegmentationData,
    decode_image,
    decode_mask,
    each_decoded,
    pixels_of,
)


@dataclass(frozen=True)
class Arrays:
    """One split at one resolution.

    Shape:
        images (M, H, W, 3) uint8; masks (M, H, W) uint8 at network size, of which the split has
        `rows` (N,); originals: N masks (h, w) uint8 at the images' own sizes; none of the train
        split, which is scored at network size only: they would double the cache for nothing.
    """

    images: np.ndarray
    masks: np.ndarray
    originals: list[np.ndarray]
    rows: np.ndarray
    entry: Entry
    scored: bool

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        kept = self.images.nbytes + self.masks.nbytes
        return kept * len(self) // len(self.images) + sum(mask.nbytes for mask in self.originals)

    def chosen(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and masks of the split: the mapped files, or of a fold a copy of its rows."""
        if len(self) == len(self.images):
            return self.images, self.masks
        return self.images[self.rows], self.masks[self.rows]

    def __reduce__(self) -> tuple[Callable[..., Arrays], tuple[Entry, list[int], bool]]:
        return _arrays, (self.entry, self.rows.tolist(), self.scored)  # mapped anew, not copied


def load_arrays(data: SegmentationData, split: str, size: tuple[int, int]) -> Arrays | None:
    """Return a split at (height, width), from the cache or after building it.

    None, and a line in the log, where the cache folder has no room for it.

    Raises:
        InputError: $SEGTUNE_CACHE_BYTES is no size.
    """
    kept = data.kept(split)

    def needed() -> int:
        scored = [] if kept.name == "train" else kept.samples
        originals = sum(pixels_of(sample.mask) for sample in scored)
        return len(kept.samples) * size[0] * size[1] * 4 + originals

    found = entry(
        "arrays",
        split_key(kept.fingerprint, kept.name, size),
        needed,
        lambda make: _build(kept, data.spec, size, make),
        f"the {split} split at {size[0]}x{size[1]}",
    )
    return None if found is None else _arrays(found, kept.rows, split != "train")


def decode(
    sample: Sample, spec: SegmentationDataSpec, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a sample's image (H, W, 3) and mask (H, W) at network size, and its mask as it is."""
    image = resize_image(decode_image(sample.image, spec.max_pixels), size)
    mask = decode_mask(sample.mask, spec)
    return image, resize_mask(mask, size), mask


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return (H, W, 3) uint8 at (height, width), bilinear with antialiasing."""
    resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(resized)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return (H, W) uint8 at (height, width), nearest neighbour."""
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


def _build(
    kept: Kept[Sample], spec: SegmentationDataSpec, size: tuple[int, int], make: Make
) -> None:
    samples = kept.samples
    count = len(samples)
    images = make("images", (count, *size, 3), np.uint8)
    masks = make("masks", (count, *size), np.uint8)
    if kept.name == "train":

        def put(index: int, sample: Sample) -> None:
            images[index], masks[index], _ = decode(sample, spec, size)

        each_decoded(samples, put)
        return
    ends = np.cumsum([pixels_of(sample.mask) for sample in samples])
    originals = make("originals", (int(ends[-1]),), np.uint8)
    shapes = make("shapes", (count, 2), np.int64)

    def put_all(index: int, sample: Sample) -> None:
        images[index], masks[index], original = decode(sample, spec, size)
        shapes[index] = original.shape
        originals[ends[index] - original.size : ends[index]] = original.ravel()

    each_decoded(samples, put_all)


def _arrays(found: Entry, chosen: list[int] | None, scored: bool) -> Arrays:
    """The rows of a split (None: all), where it is scored with the masks at their own sizes."""
    arrays, originals = found.arrays, []
    rows = np.arange(len(arrays["images"])) if chosen is None else np.array(chosen)
    if scored and "shapes" in arrays:
        ends = np.cumsum(arrays["shapes"].prod(axis=1))
        originals = [
            arrays["originals"][ends[row] - height * width : ends[row]].reshape(height, width)
            for row, (height, width) in zip(rows, arrays["shapes"][rows], strict=True)
        ]
    return Arrays(arrays["images"], arrays["masks"], originals, rows, found, scored)
