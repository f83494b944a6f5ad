"""The images of a binary task that any network learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_blobs(folder: Path, **splits: int) -> None:
    """Write {split}/{images,masks}/*.png: so many dark blobs on light ground for each split."""
    rng = np.random.default_rng(0)
    for split, count in splits.items():
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for index in range(count):
            mask = np.zeros((40, 48), np.uint8)
            y, x = rng.integers(4, 24, 2)
            mask[y : y + 14, x : x + 16] = 255
            pixels = np.where(mask[..., None] > 0, 80, 170) + rng.normal(0, 10, (40, 48, 3))
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(folder / split / "images" / f"{index}.png")
            Image.fromarray(mask).save(folder / split / "masks" / f"{index}.png")
