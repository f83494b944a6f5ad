"""Sheets of captioned panels with a legend, and colours that are well apart."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, ...]
MAX_SIDE = 1600  # px, of a panel
MIN_SIDE = 480  # px: a panel whose sides are both smaller is enlarged


def sheet(
    panels: Sequence[tuple[str, Image.Image]], caption: str, legend: Sequence[tuple[str, Colour]]
) -> Image.Image:
    """Lay panels of one size out side by side, each under its title, over a legend."""
    font = ImageFont.load_default(14)
    width, height = panels[0][1].size
    gap, head = 8, 46
    total = len(panels) * (width + gap) - gap
    places, x, y = [], 4, 0
    for name, colour in legend:
        needed = 30 + int(font.getlength(name))
        if x + needed > total:
            x, y = 4, y + 22
        places.append((x, y, name, colour))
        x += needed
    image = Image.new("RGB", (total, head + height + y + 34), "white")
    draw = ImageDraw.Draw(image)
    draw.text((4, 4), caption, fill="black", font=font)
    for i, (title, panel) in enumerate(panels):
        draw.text((i * (width + gap) + 4, 25), title, fill="black", font=font)
        image.paste(panel, (i * (width + gap), head))
    for x, y, name, colour in places:
        top = head + height + 8 + y
        draw.rectangle((x, top, x + 14, top + 14), fill=colour, outline="black")
        draw.text((x + 19, top - 1), name, fill="black", font=font)
    return image


def palette(classes: int) -> np.ndarray:
    """Return (classes, 3) uint8 colours that are well apart in hue and lightness."""
    colours = []
    for index in range(classes):
        hue = (index * 0.61803398875) % 1.0
        lightness = (0.45, 0.62, 0.33)[index % 3]
        colours.append([round(255 * c) for c in colorsys.hls_to_rgb(hue, lightness, 0.75)])
    return np.array(colours, dtype=np.uint8)


def picture_folder(folder: Path) -> None:
    """Make the folder of an evaluation's pictures, and its parent; earlier pictures in it go.

    Raises:
        FileNotFoundError: what the parent would be in is not there, as after a study was deleted.
    """
    folder.parent.mkdir(exist_ok=True)
    folder.mkdir(exist_ok=True)
    for rank in ("best", "worst"):
        for old in folder.glob(f"{rank}-[0-9]*-*.png"):
            old.unlink()


def best_and_worst(values: Sequence[float], count: int) -> dict[str, int]:
    """Return {`best-1`: index, ..., `worst-1`: index, ...} of at most `count` each, no overlap."""
    order = sorted(range(len(values)), key=lambda i: -values[i])
    count = min(count, len(order) // 2 or 1)
    chosen = {f"best-{rank + 1}": order[rank] for rank in range(count)}
    return chosen | {f"worst-{rank + 1}": order[-1 - rank] for rank in range(count)}


def painted(
    image: np.ndarray,
    mask: np.ndarray,
    names: Sequence[str],
    caption: str,
    colours: Sequence[Colour] | None = None,
) -> Image.Image:
    """Return an image with its predicted classes over it, and a legend of those that are there.

    Args:
        image: (H, W, 3) uint8 RGB; it is brought to `shown_size`.
        mask: (H, W) uint8, indices of `names`.
        colours: RGB of each class; of a binary task of the foreground alone.
    """
    if colours is None:
        chosen = palette(len(names))
    else:
        chosen = np.array([*[(0, 0, 0)] * (len(names) - len(colours)), *colours], np.uint8)
    size = shown_size((image.shape[0], image.shape[1]))
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    classes = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    panel = (0.45 * small + 0.55 * chosen[classes]).astype(np.uint8)
    legend = [(names[c], tuple(int(v) for v in chosen[c])) for c in np.unique(mask)]
    return sheet([("prediction", Image.fromarray(panel))], caption, legend)


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of an image -> (width, height) of its picture, no side above MAX_SIDE.

    A small one is enlarged by a whole number.
    """
    scale = min(MAX_SIDE / max(size), max(1, MIN_SIDE // max(size)))
    return max(1, round(size[1] * scale)), max(1, round(size[0] * scale))
