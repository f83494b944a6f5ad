"""A trial's pictures, made small enough to be embedded in a page."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from search.findings.markup import Picture

WIDTHS = (1000, 800, 640, 480, 360)  # pixels; the first at which all pictures fit
MOST_PIXELS = 50_000_000  # of a picture; ours have a fraction of that
JPEG_QUALITY = 82
CHART_COLOURS = 4096  # a chart has fewer, a photo more
PALETTE = 64  # colours that a chart keeps


@dataclass(frozen=True)
class _Source:
    """A picture as it was made, on white; a chart has sharp lines and few colours."""

    name: str
    image: Image.Image
    chart: bool


def thumbnails(folder: Path, most_bytes: int) -> tuple[list[Picture], int]:
    """Shrink the PNG files of a folder until they have at most `most_bytes` together.

    Returns:
        The pictures, charts first, each with its name for a caption; and how many files were
        left out, because they cannot be read or because there was no room.
    """
    paths = sorted(folder.glob("*.png"), key=_order)
    sources = [source for path in paths if (source := _read(path)) is not None]
    pictures: list[Picture] = []
    widest = float(WIDTHS[0])
    for width in WIDTHS:
        if width > widest and width != WIDTHS[-1]:
            continue
        pictures = [_encoded(source, width) for source in sources]
        size = sum(len(picture.content) for picture in pictures)
        if size <= most_bytes:
            break
        widest = width * math.sqrt(most_bytes / size)  # bytes grow with the area at most
    kept = _first(pictures, most_bytes)
    return kept, len(paths) - len(kept)


def _order(path: Path) -> tuple[bool, str]:
    return _is_overlay(path), path.name


def _is_overlay(path: Path) -> bool:
    """Whether a picture is of an image of the data set."""
    return path.stem.startswith(("best-", "worst-"))


def _read(path: Path) -> _Source | None:
    """Read a picture, or return None for a file that is none."""
    try:
        with Image.open(path, formats=["PNG"]) as file:
            if file.width * file.height > MOST_PIXELS:
                return None
            image = file.convert("RGBA")
    except Exception:  # whatever a broken file makes of its decoder
        return None  # counted among those left out
    whole = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    # a grey page has few colours too, but a palette of them would lose the few red lines on it
    chart = not _is_overlay(path) and whole.getcolors(CHART_COLOURS) is not None
    return _Source(path.stem, whole, chart)


def _encoded(source: _Source, width: int) -> Picture:
    """A chart as a PNG with a palette, a photo as a JPEG."""
    image, content = source.image.copy(), io.BytesIO()
    image.thumbnail((width, 4 * width))
    if source.chart:
        image.quantize(PALETTE).save(content, "PNG", optimize=True)
        return Picture(source.name, content.getvalue(), "image/png")
    image.save(content, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return Picture(source.name, content.getvalue(), "image/jpeg")


def _first(pictures: Sequence[Picture], most_bytes: int) -> list[Picture]:
    """As many of the first pictures as there is room for."""
    kept: list[Picture] = []
    for picture in pictures:
        most_bytes -= len(picture.content)
        if most_bytes < 0:
            break
        kept.append(picture)
    return kept
