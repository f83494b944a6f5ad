"""Pages that are written file by file, for tests of how a data set is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_pages(folder: Path, line: str) -> Path:
    """Write two train pages and one val page of 80 x 60, each with a file of this line."""
    for split, count in (("train", 2), ("val", 1)):
        for kind in ("images", "labels"):
            (folder / split / kind).mkdir(parents=True)
        for index in range(count):
            shade = 40 * index + (100 if split == "val" else 0)
            image = Image.fromarray(np.full((60, 80, 3), shade, np.uint8))
            image.save(folder / split / "images" / f"p{index}.png")
            (folder / split / "labels" / f"gt_p{index}.txt").write_text(line)
    return folder
