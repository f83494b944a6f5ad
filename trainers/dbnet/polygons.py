"""Outlines of curved text: a region's contour, moved out as a whole, in place of its rectangle."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from trainers.dbnet.targets import offset_outline

COARSENESS = 0.002  # of a contour's length: how far an outline may leave it, as Liao et al. 2020
ROUNDING = 0.25  # px at network size by which an unclipped outline may be simplified


def outline_of(contour: NDArray[np.integer]) -> NDArray[np.float64] | None:
    """Return (K, 2) of a region's contour, in network pixels; None where it has no area."""
    outline = cv2.approxPolyDP(contour, COARSENESS * cv2.arcLength(contour, True), True)[:, 0]
    fits = len(outline) >= 3 and cv2.contourArea(outline) > 0
    return outline.astype(np.float64) if fits else None


def unclip_outlines(
    outlines: Sequence[NDArray[np.float64]], ratios: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Move N outlines outwards by d' = A * ratio / L with round joins, for each of R ratios.

    Args:
        outlines: (K, 2) each, in network pixels, with an area.
        ratios: (R,), each > 0.

    Returns:
        Corners (R, N, K, 2), where an outline of fewer than K corners has its last one again and
        again, and short sides (R, N) of the minimum-area rectangles.
    """
    rows = [[_unclipped(outline, float(ratio)) for outline in outlines] for ratio in ratios]
    most = max((len(ring) for row in rows for ring in row), default=4)
    corners = np.empty((len(ratios), len(outlines), most, 2))
    short_sides = np.empty((len(ratios), len(outlines)))
    for r, row in enumerate(rows):
        for n, ring in enumerate(row):
            corners[r, n, : len(ring)] = ring
            corners[r, n, len(ring) :] = ring[-1]
            short_sides[r, n] = min(cv2.minAreaRect(ring.astype(np.float32))[1])
    return corners, short_sides


def without_repeats(outline: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return an outline of `unclip_outlines` without the corners that fill it up."""
    last = len(outline)
    while last > 3 and np.array_equal(outline[last - 1], outline[last - 2]):
        last -= 1
    return outline[:last]


def _unclipped(outline: NDArray[np.float64], ratio: float) -> NDArray[np.float64]:
    flat = outline.astype(np.float32)
    distance = cv2.contourArea(flat) * ratio / cv2.arcLength(flat, True)
    rings = offset_outline(outline, distance)
    if not rings:
        return outline
    ring = max(rings, key=lambda one: cv2.contourArea(one.astype(np.float32)))
    return cv2.approxPolyDP(ring.astype(np.float32), ROUNDING, True)[:, 0].astype(np.float64)
