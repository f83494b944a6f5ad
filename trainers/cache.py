"""Decoded splits on disk: each is resized once for a resolution and then memory-mapped by all.

Decoding a JPEG costs more than a training step on it, and every trial of a study reads the same
images; so the first trial at a resolution writes uint8 arrays, and the rest map them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from spaces.paths import cache_dir
from trainers.data import SegmentationData, decode_image, decode_mask

FREE_SHARE = 0.5  # a split may fill at most this share of what the disk has left

_LAYOUT = 1  # raise it when the files' layout changes


@dataclass(frozen=True)
class Arrays:
    """One split at one resolution.

    Shape:
        images (N, H, W, 3) uint8; masks (N, H, W) uint8 at network size;
        originals: N masks (h, w) uint8 at the images' own sizes.
    """

    images: np.ndarray
    masks: np.ndarray
    originals: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.images)


def load_arrays(data: SegmentationData, split: str, size: tuple[int, int]) -> Arrays:
    """Return a split at (height, width), from the cache or after building it.

    Built under a lock, by one process of the machine, into a temporary folder that is renamed
    when it is complete; so a killed build leaves nothing that could be taken for a whole one.

    Raises:
        OSError: the cache folder cannot hold the arrays.
    """
    samples = data.split(split)
    key = _key(data, split, size)
    folder = cache_dir() / "arrays" / key
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder.parent / f"{key}.lock"):
            if not folder.exists():
                _check_room(folder.parent, len(samples) * size[0] * size[1] * 4)
                try:
                    _build(data, split, size, folder)
                except BaseException:
                    shutil.rmtree(_half(folder), ignore_errors=True)
                    raise
    shapes = json.loads((folder / "sizes.json").read_text())
    flat = np.load(folder / "originals.npy", mmap_mode="r")
    ends = np.cumsum([height * width for height, width in shapes])
    originals = [
        flat[end - height * width : end].reshape(height, width)
        for end, (height, width) in zip(ends, shapes, strict=True)
    ]
    images = np.load(folder / "images.npy", mmap_mode="r")
    return Arrays(images, np.load(folder / "masks.npy", mmap_mode="r"), originals)


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return (H, W, 3) uint8 at (height, width), bilinear with antialiasing."""
    resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(resized)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return (H, W) uint8 at (height, width), nearest neighbour."""
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


def _key(data: SegmentationData, split: str, size: tuple[int, int]) -> str:
    parts = [_LAYOUT, data.fingerprint, split, size]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _build(data: SegmentationData, split: str, size: tuple[int, int], folder: Path) -> None:
    samples = data.split(split)
    temporary = _half(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    shape = (len(samples), *size)
    images = np.lib.format.open_memmap(
        temporary / "images.npy", mode="w+", dtype=np.uint8, shape=(*shape, 3)
    )
    masks = np.lib.format.open_memmap(
        temporary / "masks.npy", mode="w+", dtype=np.uint8, shape=shape
    )

    def fill(index: int) -> np.ndarray:
        sample = samples[index]
        images[index] = resize_image(decode_image(sample.image, data.spec.max_pixels), size)
        mask = decode_mask(sample.mask, data.spec)
        masks[index] = resize_mask(mask, size)
        return mask

    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        originals = list(pool.map(fill, range(len(samples))))
    # the train split is scored at network size only; its originals would double the cache
    kept = [] if split == "train" else originals
    np.save(
        temporary / "originals.npy",
        np.concatenate([mask.ravel() for mask in kept]) if kept else np.zeros(0, np.uint8),
    )
    (temporary / "sizes.json").write_text(json.dumps([mask.shape for mask in kept]))
    images.flush()
    masks.flush()
    temporary.rename(folder)


def _half(folder: Path) -> Path:
    """Where this process builds what will be `folder`."""
    return folder.with_name(f"{folder.name}.{os.getpid()}.tmp")


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > FREE_SHARE * free:
        raise OSError(
            errno.ENOSPC,
            f"the cache of this split needs {needed / 1e9:.1f} GB, but {folder} may use "
            f"{FREE_SHARE * free / 1e9:.1f} GB; point SEGTUNE_HOME at a larger disk or lower "
            "data.resolution",
        )


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock among the processes of this machine."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
