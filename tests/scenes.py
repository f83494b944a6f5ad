"""Pictures that have as much at each scale as photos have, and are drawn from a seed."""

from __future__ import annotations

import numpy as np
from PIL import Image


def scene(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """(width, height) of noise at many scales, the coarse ones strongest, as in a photo."""
    rng = np.random.default_rng(seed)
    total = np.zeros((*size[::-1], 3))
    for cell in (40, 20, 10, 5, 2):
        rough = rng.integers(0, 256, (size[1] // cell, size[0] // cell, 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(rough).resize(size)) * cell**0.5
    return Image.fromarray((total / 18.7).astype(np.uint8))
