"""DBNet targets: text polygons to kernel and threshold maps, as Liao et al. 2020 (section 3.4) do.

Every polygon is drawn inside its own bounding box, so that a map costs by its text, not its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import pyclipper
import shapely
from numpy.typing import NDArray

SHRINK_RATIO = 0.4
MIN_SIDE = 8.0  # px at network size; a line lower than this has a kernel of about one pixel
THRESHOLD_LOW, THRESHOLD_HIGH = 0.3, 0.7
GRID = 256  # pyclipper works on integers: steps of 1/256 px

Polygons = Sequence[NDArray[np.floating]]


class Targets(NamedTuple):
    """The four maps of one image, each (H, W)."""

    kernel: NDArray[np.uint8]
    """1 inside a shrunk polygon: what the probability map learns."""
    kernel_mask: NDArray[np.uint8]
    """0 where the kernel loss does not look."""
    threshold: NDArray[np.float32]
    """0.7 on a polygon's outline, falling to 0.3 at the border of its band and beyond."""
    threshold_mask: NDArray[np.uint8]
    """1 inside an expanded polygon: where the threshold map learns."""

    def packed(self) -> NDArray[np.uint8]:
        """(4, H, W), a quarter of the bytes: the threshold's 0.3..0.7 in 255 steps of 0.0016."""
        share = (self.threshold - THRESHOLD_LOW) / (THRESHOLD_HIGH - THRESHOLD_LOW)
        bytes_ = np.rint(share * 255).astype(np.uint8)
        return np.stack([self.kernel, self.kernel_mask, bytes_, self.threshold_mask])


def make_targets(
    polygons: Polygons,
    ignore: Sequence[bool] | NDArray[np.bool_],
    size: tuple[int, int],
    *,
    shrink_ratio: float = SHRINK_RATIO,
    min_side: float = MIN_SIDE,
    subpixel: bool = False,
) -> Targets:
    """Draw the maps that a network of input size `size` learns from.

    The offset of a polygon is d = A (1 - r^2) / L: shrunk by d it is a kernel, expanded by d the
    outer border of its band. The threshold map is 1 - clip(distance / d), rescaled to 0.3..0.7.

    A polygon that is don't-care, has a short side below `min_side`, crosses itself or shrinks to
    nothing is masked out of the kernel loss and has no band. The kernel of a small one is drawn
    under its mask all the same: a network may find it, and `perfect_scores` counts on that.

    Args:
        polygons: (K, 2) arrays of x, y in network pixels, K >= 3; parts outside are cut off.
        ignore: one flag a polygon, true for don't-care.
        size: (H, W) of the maps, in pixels.
        shrink_ratio: r, in 0..1 exclusive.
        min_side: short side of the minimum-area rectangle, in pixels, below which text is masked.
        subpixel: shrink the polygon as given; else its vertices are first rounded to pixels, as
            the published recipe does.

    Raises:
        ValueError: shapes, sizes or ratios out of range.
    """
    active, kernel, kernel_mask = _kernels(polygons, ignore, size, shrink_ratio, min_side, subpixel)
    band = np.zeros(size, np.float32)
    threshold_mask = np.zeros(size, np.uint8)
    for outline, distance in active:
        _add_band(band, threshold_mask, outline, distance)
    threshold = THRESHOLD_LOW + (THRESHOLD_HIGH - THRESHOLD_LOW) * band
    return Targets(kernel, kernel_mask, threshold, threshold_mask)


def kernel_map(
    polygons: Polygons,
    ignore: Sequence[bool] | NDArray[np.bool_],
    size: tuple[int, int],
    *,
    shrink_ratio: float = SHRINK_RATIO,
    subpixel: bool = False,
) -> NDArray[np.uint8]:
    """Draw the kernel map (H, W) of `make_targets` alone: the output of a perfect network."""
    return _kernels(polygons, ignore, size, shrink_ratio, 0.0, subpixel)[1]


def too_small(polygons: Polygons, min_side: float = MIN_SIDE) -> NDArray[np.bool_]:
    """Say which polygons (K, 2), in network pixels, have a short side below `min_side`.

    The short side is that of the minimum-area rectangle.
    """
    sides = [min(cv2.minAreaRect(np.asarray(p, np.float32))[1]) for p in polygons]
    return np.array(sides, np.float64) < min_side


def fit_long_side(
    size: tuple[int, int], long_side: int
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Return the size (h, w) that an image is resized to, and the way back.

    Args:
        size: (H, W) of the image, in pixels.
        long_side: its longer side after resizing, in pixels.

    Returns:
        ((h, w), (x scale, y scale)): image pixels a network pixel along each axis; the two differ
        a little, because h and w are whole numbers.
    """
    height, width = size
    if min(height, width, long_side) < 1:
        raise ValueError(f"sizes must be at least 1 px, but got {size} and long_side={long_side}")
    ratio = long_side / max(height, width)
    h, w = max(1, round(height * ratio)), max(1, round(width * ratio))
    return (h, w), (width / w, height / h)


def _kernels(
    polygons: Polygons,
    ignore: Sequence[bool] | NDArray[np.bool_],
    size: tuple[int, int],
    shrink_ratio: float,
    min_side: float,
    subpixel: bool,
) -> tuple[list[tuple[NDArray[np.float64], float]], NDArray[np.uint8], NDArray[np.uint8]]:
    """Kernel map, its mask, and (outline, offset) of the polygons that are not masked."""
    _check(polygons, ignore, size, shrink_ratio)
    kernel = np.zeros(size, np.uint8)
    mask = np.ones(size, np.uint8)
    active = []
    outlines = [np.asarray(polygon, np.float64) for polygon in polygons]
    small = too_small(outlines, min_side)
    if not subpixel:
        outlines = [np.rint(outline) for outline in outlines]
    for outline, dont_care, is_small, offset in zip(
        outlines, ignore, small, _offsets(outlines, shrink_ratio), strict=True
    ):
        kernels = [] if dont_care or offset is None else offset_outline(outline, -offset)
        if kernels:
            _fill(kernel, kernels, 1)
        if kernels and not is_small:
            assert offset is not None
            active.append((outline, offset))
        else:
            _fill(mask, [outline], 0)
    return active, kernel, mask


def _offsets(outlines: list[NDArray[np.float64]], shrink_ratio: float) -> list[float | None]:
    """d of each polygon; None for one that has no inside to shrink.

    Less than a pixel is below pyclipper's grid, and a crossed outline has no inside.
    """
    if not outlines:
        return []
    counts = [len(outline) for outline in outlines]
    points = shapely.linearrings(
        np.concatenate(outlines), indices=np.repeat(np.arange(len(counts)), counts)
    )
    shapes = shapely.polygons(points)
    areas, lengths = shapely.area(shapes), shapely.length(shapes)
    inside = shapely.is_valid(shapes) & (areas >= 1)
    found = areas * (1 - shrink_ratio**2) / np.where(inside, lengths, 1.0)
    return [float(offset) if has else None for offset, has in zip(found, inside, strict=True)]


def _check(
    polygons: Polygons,
    ignore: Sequence[bool] | NDArray[np.bool_],
    size: tuple[int, int],
    shrink_ratio: float,
) -> None:
    if len(polygons) != len(ignore):
        raise ValueError(
            f"there must be one ignore flag a polygon, but got {len(polygons)} polygons and "
            f"{len(ignore)} flags"
        )
    for index, polygon in enumerate(polygons):
        shape = np.shape(polygon)
        if len(shape) != 2 or shape[0] < 3 or shape[1] != 2:
            raise ValueError(f"polygon {index} must be (K, 2) with K >= 3, but got {shape}")
        if not np.isfinite(polygon).all():
            raise ValueError(f"polygon {index} must be finite, but got {np.asarray(polygon)}")
    if min(size) < 1:
        raise ValueError(f"size must be at least 1x1 px, but got {size}")
    if not 0 < shrink_ratio < 1:
        raise ValueError(f"shrink_ratio must be between 0 and 1, but got {shrink_ratio}")


def offset_outline(outline: NDArray[np.float64], distance: float) -> list[NDArray[np.float64]]:
    """Move an outline outwards (inwards where negative) by a distance in pixels, round joins."""
    # the arc tolerance is pyclipper's default of 1/4 px: finer arcs would not show in a map
    clipper = pyclipper.PyclipperOffset(2.0, 0.25 * GRID)
    path = np.rint(outline * GRID).astype(np.int64).tolist()
    clipper.AddPath(path, pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    return [np.array(ring, np.float64) / GRID for ring in clipper.Execute(distance * GRID)]


def _fill(canvas: NDArray[np.uint8], rings: list[NDArray[np.float64]], value: int) -> None:
    cv2.fillPoly(canvas, [np.rint(ring).astype(np.int32) for ring in rings], value)


def _add_band(
    band: NDArray[np.float32],
    mask: NDArray[np.uint8],
    outline: NDArray[np.float64],
    distance: float,
) -> None:
    """Raise `band` to 1 - distance to the outline / d, and open `mask` inside the expansion."""
    rings = offset_outline(outline, distance)
    _fill(mask, rings, 1)
    corners = np.concatenate(rings)
    x0, y0 = np.floor(corners.min(axis=0)).astype(int).clip(min=0)
    x1, y1 = np.ceil(corners.max(axis=0)).astype(int) + 1
    view = band[y0 : max(y1, 0), x0 : max(x1, 0)]
    if view.size:
        closeness = 1 - _distance(outline, x0, y0, view.shape) / distance
        np.maximum(view, closeness, out=view)


def _distance(
    outline: NDArray[np.float64], x0: int, y0: int, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Distance (h, w) in pixels from each pixel of a window at (x0, y0) to the nearest edge."""
    edges = np.roll(outline, -1, axis=0) - outline
    lengths = np.hypot(edges[:, 0], edges[:, 1])
    starts, edges, lengths = (values[lengths > 0] for values in (outline, edges, lengths))
    (tx, ty), limits = (edges / lengths[:, None]).T.astype(np.float32), lengths.astype(np.float32)
    dx = np.arange(x0, x0 + shape[1], dtype=np.float32) - starts[:, :1].astype(np.float32)  # (E, w)
    dy = np.arange(y0, y0 + shape[0], dtype=np.float32) - starts[:, 1:].astype(np.float32)  # (E, h)
    along = (dx * tx[:, None])[:, None, :] + (dy * ty[:, None])[:, :, None]  # (E, h, w)
    across = (dy * tx[:, None])[:, :, None] - (dx * ty[:, None])[:, None, :]
    along -= along.clip(0, limits[:, None, None])  # what lies beyond an edge's ends
    across *= across
    along *= along
    across += along
    nearest: NDArray[np.float32] = np.sqrt(across.min(axis=0))
    return nearest
