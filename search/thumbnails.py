"""A trial's pictures, made small enough to be embedded in a page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from search.document import Picture

WIDTHS = (1000, 800, 640, 480, 360)  # pixels; the first at which all pictures fit
JPEG_QUALITY = 82
COLOURS = 64  # of a chart's palette


def thumbnails(folder: Path, most_bytes: int) -> tuple[list[Picture], int]:
    """Shrink the PNG files of a folder until they have at most `most_bytes` together.

    Returns:
        The pictures, charts first, each with its name for a caption; and how many files were
        left out, because they cannot be read or because there was no room.
    """
    paths = sorted(folder.glob("*.png"), key=_order)
    images = [(path.stem, image) for path in paths if (image := _read(path)) is not None]
    pictures: list[Picture] = []
    for width in WIDTHS:
        pictures = [_encoded(name, image, width) for name, image in images]
        if sum(len(picture.content) for picture in pictures) <= most_bytes:
            break
    kept = _first(pictures, most_bytes)
    return kept, len(paths) - len(kept)


def _order(path: Path) -> tuple[bool, str]:
    return path.stem.startswith(("best-", "worst-")), path.name


def _read(path: Path) -> Image.Image | None:
    """An RGB image on white, or None for a file that is none."""
    try:
        with Image.open(path) as file:
            image = file.convert("RGBA")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError):
        return None  # counted among those left out
    image.thumbnail((WIDTHS[0], 4 * WIDTHS[0]))
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _encoded(name: str, image: Image.Image, width: int) -> Picture:
    """As a palette PNG, which suits charts, or as a JPEG, which suits photos: the smaller one."""
    image = image.copy()
    image.thumbnail((width, 4 * width))
    png, jpeg = io.BytesIO(), io.BytesIO()
    image.quantize(COLOURS).save(png, "PNG", optimize=True)
    image.save(jpeg, "JPEG", quality=JPEG_QUALITY, optimize=True)
    if len(png.getvalue()) <= len(jpeg.getvalue()):
        return Picture(name, png.getvalue(), "image/png")
    return Picture(name, jpeg.getvalue(), "image/jpeg")


def _first(pictures: Sequence[Picture], most_bytes: int) -> list[Picture]:
    """As many of the first pictures as there is room for."""
    kept: list[Picture] = []
    for picture in pictures:
        most_bytes -= len(picture.content)
        if most_bytes < 0:
            break
        kept.append(picture)
    return kept
