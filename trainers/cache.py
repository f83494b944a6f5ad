"""Decoded segmentation splits: each is resized once for a resolution or scale, then mapped by all.

Decoding a JPEG costs more than a training step on it, and every trial of a study reads the same
images; so the first trial at a resolution writes uint8 arrays, and the rest map them. A split that
the cache folder has no room for is decoded again in each epoch, to the same pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from spaces.data import SegmentationDataSpec
from trainers.cache_folder import Entry, Make, entry, split_key
from trainers.data import (
    Kept,
    Sample,
    SegmentationData,
    each_decoded,
)
from trainers.images import decode_image, pixels_of, size_of
from trainers.masks import decode_mask
from trainers.windows import scaled_size

Sized = tuple[int, int] | float
"""The (height, width) that all images are resized to, or the scale by which each is."""


@dataclass(frozen=True)
class Arrays:
    """One split at one resolution, or at one scale.

    Shape:
        images (M, H, W, C) uint8; masks (M, H, W) uint8 at network size, of which the split has
        `rows` (N,); at a scale lists of M arrays (H, W, C) and (H, W) of their own sizes.
        originals: N masks (h, w) uint8 at the images' own sizes; none of the train split, which is
        scored at network size only: they would double the cache for nothing.
    """

    images: np.ndarray | list[np.ndarray]
    masks: np.ndarray | list[np.ndarray]
    originals: list[np.ndarray]
    rows: np.ndarray
    entry: Entry
    scored: bool

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        kept = sum(self.images[row].nbytes + self.masks[row].nbytes for row in self.rows)
        return kept + sum(mask.nbytes for mask in self.originals)

    def chosen(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and masks of the split: the mapped files, or of a fold a copy of its rows."""
        assert isinstance(self.images, np.ndarray) and isinstance(self.masks, np.ndarray)
        if len(self) == len(self.images):
            return self.images, self.masks
        return self.images[self.rows], self.masks[self.rows]

    def __reduce__(self) -> tuple[Callable[..., Arrays], tuple[Entry, list[int], bool]]:
        return _arrays, (self.entry, self.rows.tolist(), self.scored)  # mapped anew, not copied


def load_arrays(data: SegmentationData, split: str, size: Sized) -> Arrays | None:
    """Return a split at (height, width) or at a scale, from the cache or after building it.

    None, and a line in the log, where the cache folder has no room for it.

    Raises:
        InputError: $SEGTUNE_CACHE_BYTES is no size.
    """
    kept = data.kept(split)
    at = f"{size[0]}x{size[1]}" if isinstance(size, tuple) else f"scale {size:g}"

    found = entry(
        "arrays",
        split_key(kept.fingerprint + _unmarked(data.spec), kept.name, size),
        lambda: arrays_bytes(kept, size, data.spec.channels),
        lambda make: _build(kept, data.spec, size, make),
        f"the {split} split at {at}",
    )
    return None if found is None else _arrays(found, kept.rows, split != "train")


def _unmarked(spec: SegmentationDataSpec) -> str:
    """What decides the content of masks and is in no fingerprint: studies go on with theirs."""
    if spec.palette is None or not spec.binary or not spec.palette_ignore:
        return ""
    return f"/ignored {spec.palette_ignore}"  # any other colour is background


def arrays_bytes(kept: Kept[Sample], size: Sized, channels: int) -> int:
    """Bytes of a split's images and masks at (height, width) or at a scale, decoded.

    Of a split that is scored with the masks at their own sizes.
    """
    scored = [] if kept.name == "train" else kept.samples
    originals = sum(pixels_of(sample.mask) for sample in scored)
    return (channels + 1) * sum(map(math.prod, _sizes(kept.samples, size))) + originals


def decode(
    sample: Sample, spec: SegmentationDataSpec, size: Sized
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a sample's image (H, W, C) and mask (H, W) resized, and its mask as it is."""
    image = resize_image(decode_image(sample.image, spec), size)
    mask = decode_mask(sample.mask, spec)
    return image, resize_mask(mask, size), mask


def resize_image(image: np.ndarray, size: Sized) -> np.ndarray:
    """Return (H, W, C) uint8 at (height, width) or a scale, bilinear with antialiasing."""
    if image.shape[2] == 3:
        return _resized(image, size, Image.Resampling.BILINEAR)
    each = np.moveaxis(image, 2, 0)  # Pillow would take a fourth channel for opacity
    resized = [_resized(np.ascontiguousarray(c), size, Image.Resampling.BILINEAR) for c in each]
    return np.stack(resized, axis=-1)


def resize_mask(mask: np.ndarray, size: Sized) -> np.ndarray:
    """Return (H, W) uint8 at (height, width) or a scale, nearest neighbour."""
    return _resized(mask, size, Image.Resampling.NEAREST)


def _resized(pixels: np.ndarray, size: Sized, method: Image.Resampling) -> np.ndarray:
    own = pixels.shape[0], pixels.shape[1]
    size = size if isinstance(size, tuple) else scaled_size(own, size)
    if size == own:
        return pixels
    return np.array(Image.fromarray(pixels).resize(size[::-1], method))  # one that is writable


def _sizes(samples: Sequence[Sample], size: Sized) -> list[tuple[int, int]]:
    """(height, width) of each sample at network size or at a scale, from its mask's header."""
    if isinstance(size, tuple):
        return [size] * len(samples)
    return [scaled_size(size_of(sample.mask), size) for sample in samples]


def _build(kept: Kept[Sample], spec: SegmentationDataSpec, size: Sized, make: Make) -> None:
    samples = kept.samples
    count = len(samples)
    images: np.ndarray | list[np.ndarray]
    masks: np.ndarray | list[np.ndarray]
    if isinstance(size, tuple):
        images = make("images", (count, *size, spec.channels), np.uint8)
        masks = make("masks", (count, *size), np.uint8)
    else:
        sizes = make("sizes", (count, 2), np.int64)
        sizes[:] = _sizes(samples, size)
        pixels = int(sizes.prod(axis=1).sum())
        images = _divided(make("images", (pixels, spec.channels), np.uint8), sizes)
        masks = _divided(make("masks", (pixels,), np.uint8), sizes)

    def fill(index: int, sample: Sample) -> np.ndarray:
        images[index][:], masks[index][:], original = decode(sample, spec, size)
        return original

    if kept.name == "train":

        def put(index: int, sample: Sample) -> None:
            fill(index, sample)

        each_decoded(samples, put)
        return
    ends = np.cumsum([pixels_of(sample.mask) for sample in samples])
    originals = make("originals", (int(ends[-1]),), np.uint8)
    shapes = make("shapes", (count, 2), np.int64)

    def put_all(index: int, sample: Sample) -> None:
        original = fill(index, sample)
        shapes[index] = original.shape
        originals[ends[index] - original.size : ends[index]] = original.ravel()

    each_decoded(samples, put_all)


def _arrays(found: Entry, chosen: list[int] | None, scored: bool) -> Arrays:
    """The rows of a split (None: all), where it is scored with the masks at their own sizes."""
    arrays, originals = found.arrays, []
    images: np.ndarray | list[np.ndarray] = arrays["images"]
    masks: np.ndarray | list[np.ndarray] = arrays["masks"]
    if "sizes" in arrays:
        images, masks = (_divided(arrays[name], arrays["sizes"]) for name in ("images", "masks"))
    rows = np.arange(len(images)) if chosen is None else np.array(chosen)
    if scored and "shapes" in arrays:
        whole = _divided(arrays["originals"], arrays["shapes"])
        originals = [whole[row] for row in rows]
    return Arrays(images, masks, originals, rows, found, scored)


def _divided(flat: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """Pixels (P, ...) that lie one image behind another -> images (h, w, ...), not copied."""
    ends = np.cumsum(sizes.prod(axis=1))
    return [
        flat[end - height * width : end].reshape(height, width, *flat.shape[1:])
        for end, (height, width) in zip(ends, sizes, strict=True)
    ]
