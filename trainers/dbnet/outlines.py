"""Outlines of text: what the corners of a label must be, and what of it lies on the page."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

LEAST_AREA = 1.0  # square pixels of the image; less is no box
SWAPS = ([0, 1, 3, 2], [0, 2, 1, 3])  # the orders of four corners other than the given one


def in_order(outline: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
    """Return an outline whose corners go round it, and whether they had to be put in order.

    Four corners that cross (top left, top right, bottom left, bottom right) go round in exactly one
    other order, which they are given.

    Args:
        outline: (K, 2) of x, y in image pixels, K >= 3.

    Raises:
        ValueError: it has no area, or crosses itself in a way that has no one order.
    """
    if _valid(outline):
        return outline, False
    if not shapely.is_valid(shapely.Polygon(outline)) and len(outline) == 4:
        ordered = [outline[swap] for swap in SWAPS if _valid(outline[swap])]
        if len(ordered) == 1:
            return ordered[0], True
    raise ValueError(f"the box {_fault(outline)}: {_corners(outline)}")


def clipped(outline: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Return what of an outline lies on a page: each corner is moved to the edge, as the decoder
    moves those of a detection.

    Args:
        outline: (K, 2) of x, y in image pixels.
        size: (H, W) of the page.

    Returns:
        (K, 2); other corners where moved ones cross; of what lies wholly outside, without area.
    """
    height, width = size
    moved: NDArray[np.float64] = outline.clip(0, [width, height])
    if np.array_equal(moved, outline) or shapely.is_valid(shapely.Polygon(moved)):
        return moved
    on_page = shapely.intersection(shapely.Polygon(outline), shapely.box(0, 0, width, height))
    parts = [part for part in shapely.get_parts(on_page) if isinstance(part, shapely.Polygon)]
    if not parts:
        return moved
    largest = max(parts, key=lambda part: float(part.area))
    return np.array(largest.exterior.coords[:-1], np.float64)


def area(outline: NDArray[np.float64]) -> float:
    """Area of a (K, 2) outline that does not cross itself."""
    return float(shapely.Polygon(outline).area)


def _valid(outline: NDArray[np.float64]) -> bool:
    shape = shapely.Polygon(outline)
    return bool(shape.area >= LEAST_AREA and shapely.is_valid(shape))


def _fault(outline: NDArray[np.float64]) -> str:
    """What is wrong with an outline, and what must hold."""
    if not np.isfinite(outline).all():
        return "must have finite corners"
    low, high = outline.min(axis=0), outline.max(axis=0)
    if (low >= 0).all() and (high <= 1).all():
        return "must be in pixels of the image, but its corners lie within 0..1"
    if (
        shapely.Polygon(outline).area < LEAST_AREA
        and shapely.MultiPoint(outline).convex_hull.area < LEAST_AREA
    ):
        return "has no area; correct its corners, or remove it"
    return "crosses itself; its corners must go round the text"


def _corners(outline: NDArray[np.float64]) -> str:
    """`1,2 30,2 30,14`, the first eight."""
    shown = " ".join(f"{x:g},{y:g}" for x, y in outline[:8])
    return f"{shown} ..." if len(outline) > 8 else shown
