"""Probability map to text boxes: Liao et al. 2020, section 3.6, with box_thresh left for the end.

Contours and scores do not depend on unclip_ratio, and nothing but the last step depends on
box_thresh: `candidates` does the work once, and every setting is a cut through its result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from trainers.dbnet.polygons import outline_of, unclip_outlines, without_repeats

Output = Literal["quad", "polygon"]

THRESH = 0.3
MAX_CANDIDATES = 1000
MIN_SIDE = 3.0  # px at network size, of a contour's rectangle
MIN_UNCLIPPED_SIDE = 5.0  # px at network size, after unclipping


@dataclass(frozen=True, eq=False)
class Detections:
    """Text boxes of one image, in contour order."""

    boxes: NDArray[np.float64]
    """(M, K, 2) corners x, y in image pixels, inside the image; K is 4, but for polygons, of which
    those with fewer than K corners have the last one again and again."""
    scores: NDArray[np.float64]
    """(M,) mean probability inside the box before unclipping, 0..1."""

    @property
    def outlines(self) -> list[NDArray[np.float64]]:
        """M arrays (k, 2): the corners that each box has."""
        quads = self.boxes.shape[1] == 4
        return list(self.boxes) if quads else [without_repeats(box) for box in self.boxes]


@dataclass(frozen=True, eq=False)
class Candidates:
    """What one probability map holds, before any box_thresh, at R unclip ratios."""

    scores: NDArray[np.float64]
    """(N,) mean probability inside each rectangle, 0..1."""
    boxes: NDArray[np.float64]
    """(R, N, K, 2) corners x, y in image pixels, inside the image; K as of Detections."""
    kept: NDArray[np.bool_]
    """(R, N) false where a box is too small after unclipping or lies outside the image."""
    unclip_ratios: tuple[float, ...]
    max_candidates_bound: bool
    """True where max_candidates left out a contour that was large enough."""
    ranks: NDArray[np.int64]
    """(N,) places by the area of the rectangles, 0 the largest; of equal ones the first found."""

    def limited(self, max_candidates: int) -> Candidates:
        """Return what `candidates` finds with this smaller max_candidates."""
        if len(self.scores) <= max_candidates:
            return self
        at = self.ranks < max_candidates
        return Candidates(
            self.scores[at],
            self.boxes[:, at],
            self.kept[:, at],
            self.unclip_ratios,
            True,
            self.ranks[at],
        )

    def cut(self, box_thresh: float, unclip_ratio: float) -> Detections:
        """Return the boxes of score >= box_thresh at one of the unclip ratios."""
        if unclip_ratio not in self.unclip_ratios:
            raise ValueError(
                f"unclip_ratio must be one of {self.unclip_ratios}, but got {unclip_ratio}"
            )
        row = self.unclip_ratios.index(unclip_ratio)
        chosen = self.kept[row] & (self.scores >= box_thresh)
        return Detections(self.boxes[row, chosen], self.scores[chosen])


def candidates(
    probability: NDArray[np.floating],
    original_size: tuple[int, int],
    scale: tuple[float, float],
    *,
    unclip_ratios: Sequence[float],
    thresh: float = THRESH,
    max_candidates: int = MAX_CANDIDATES,
    output: Output = "quad",
) -> Candidates:
    """Find and score everything that may be text, and unclip it by each ratio.

    P > thresh -> connected regions -> minimum-area rectangle, short side >= 3 px -> mean P inside
    -> each side moved out by d' = A * ratio / L -> short side >= 5 px -> image pixels, clipped.

    A polygon, for curved text, is the region's own contour, scored and moved out as a whole.

    Of more than `max_candidates` rectangles the largest by area stay (of equal ones those found
    first), whatever their scores, so that box_thresh remains a pure cut.

    Args:
        probability: (h, w) in 0..1, the network's output; padding at the bottom and right.
        original_size: (H, W) of the image, in pixels.
        scale: image pixels a network pixel, (x, y), as from `targets.fit_long_side`.
        unclip_ratios: R of them, each > 0.
        thresh: binarisation threshold, 0 <= thresh < 1.
        max_candidates: at least 1.
        output: rectangles, or polygons.

    Raises:
        ValueError: an argument out of range.
    """
    _check(probability, original_size, scale, unclip_ratios, thresh, max_candidates)
    probability = np.ascontiguousarray(probability, np.float32)
    rectangles, contours, ranks, bound = _regions(probability > thresh, max_candidates)
    ratios = np.array(unclip_ratios, np.float64)
    shapes: Sequence[NDArray[np.float64]] = list(rectangles)
    if output == "polygon":
        pairs = zip(map(outline_of, contours), rectangles, strict=True)
        shapes = [rectangle if outline is None else outline for outline, rectangle in pairs]
        boxes, short_sides = unclip_outlines(shapes, ratios)  # (R, N, K, 2), (R, N)
    else:
        boxes, short_sides = unclip(rectangles, ratios)  # (R, N, 4, 2), (R, N)
    scores = np.array([_mean_inside(probability, shape) for shape in shapes], np.float64)
    # whole network pixels, as from pyclipper, which knows integers only: published results and
    # the perfect scores of reference receipts have them
    boxes = np.rint(boxes) * np.asarray(scale)
    boxes = boxes.clip(0, [original_size[1], original_size[0]])
    kept = (short_sides >= MIN_UNCLIPPED_SIDE) & (_area(boxes) > 0)
    return Candidates(scores, boxes, kept, tuple(unclip_ratios), bound, ranks)


def decode(
    probability: NDArray[np.floating],
    original_size: tuple[int, int],
    scale: tuple[float, float],
    *,
    box_thresh: float,
    unclip_ratio: float,
    thresh: float = THRESH,
    max_candidates: int = MAX_CANDIDATES,
    output: Output = "quad",
) -> Detections:
    """Return the boxes of one setting; arguments as for `candidates`."""
    found = candidates(
        probability,
        original_size,
        scale,
        unclip_ratios=[unclip_ratio],
        thresh=thresh,
        max_candidates=max_candidates,
        output=output,
    )
    return found.cut(box_thresh, unclip_ratio)


def unclip(
    rectangles: NDArray[np.float64], ratios: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Move the sides of N rectangles outwards by d' = A * ratio / L, for each of R ratios.

    A rectangle offset with round joins has this as its minimum-area rectangle (its area at angle
    a, A + |sin a cos a| (w^2 + h^2) + 2 d' (w + h) (|sin a| + |cos a|) + 4 d'^2, is least at
    a = 0), so pyclipper and a second minAreaRect are not needed.

    Args:
        rectangles: (N, 4, 2) corners in order round the rectangle, no side of length 0.
        ratios: (R,).

    Returns:
        Corners (R, N, 4, 2) and short sides (R, N), in the unit of the rectangles.
    """
    along = rectangles[:, 1] - rectangles[:, 0]  # (N, 2)
    across = rectangles[:, 2] - rectangles[:, 1]
    width, height = np.linalg.norm(along, axis=1), np.linalg.norm(across, axis=1)
    distance = ratios[:, None] * (width * height / (2 * (width + height)))  # (R, N)
    u = distance[..., None] * (along / width[:, None])  # (R, N, 2)
    v = distance[..., None] * (across / height[:, None])
    corners = rectangles + np.stack([-u - v, u - v, u + v, v - u], axis=2)
    return corners, np.minimum(width, height) + 2 * distance


def _check(
    probability: NDArray[np.floating],
    original_size: tuple[int, int],
    scale: tuple[float, float],
    unclip_ratios: Sequence[float],
    thresh: float,
    max_candidates: int,
) -> None:
    if probability.ndim != 2:
        raise ValueError(f"probability must be (h, w), but its shape is {probability.shape}")
    if min(original_size) < 1 or min(scale) <= 0:
        raise ValueError(
            f"original_size and scale must be above 0, but got {original_size} and {scale}"
        )
    if not unclip_ratios or min(unclip_ratios) <= 0:
        raise ValueError(f"unclip_ratios must be some numbers above 0, but got {unclip_ratios}")
    if not 0 <= thresh < 1:
        raise ValueError(f"thresh must be at least 0 and below 1, but got {thresh}")
    if max_candidates < 1:
        raise ValueError(f"max_candidates must be at least 1, but got {max_candidates}")


def _regions(
    binary: NDArray[np.bool_], max_candidates: int
) -> tuple[NDArray[np.float64], list[NDArray[np.int32]], NDArray[np.int64], bool]:
    """(N, 4, 2) corners of the regions' rectangles in contour order; their contours, and their
    places by area; whether some were left out."""
    # the two-level hierarchy tells outlines of regions (parent -1) from outlines of their holes
    contours, hierarchy = cv2.findContours(
        binary.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
    )
    if not contours:
        return np.empty((0, 4, 2)), [], np.empty(0, np.int64), False
    outer = [c for c, row in zip(contours, hierarchy[0], strict=True) if row[3] < 0]
    found = [
        (r, c)
        for r, c in zip(map(cv2.minAreaRect, outer), outer, strict=True)
        if min(r[1]) >= MIN_SIDE
    ]
    areas = np.array([width * height for (_, (width, height), _), _ in found])
    ranks = np.empty(len(found), np.int64)
    ranks[np.argsort(-areas, kind="stable")] = np.arange(len(found))
    kept = ranks < max_candidates
    found = [pair for pair, one in zip(found, kept, strict=True) if one]
    corners = np.array([cv2.boxPoints(rectangle) for rectangle, _ in found], np.float64)
    outlines = [np.asarray(contour, np.int32) for _, contour in found]
    return corners.reshape(-1, 4, 2), outlines, ranks[kept], not kept.all()


def _mean_inside(probability: NDArray[np.float32], shape: NDArray[np.float64]) -> float:
    """Mean probability over the pixels of a (K, 2) shape, its outline included."""
    corners = np.rint(shape).astype(np.int32)
    height, width = probability.shape
    x0, y0 = corners.min(axis=0).clip(0, [width - 1, height - 1])
    x1, y1 = corners.max(axis=0).clip(0, [width - 1, height - 1])
    mask = np.zeros((y1 - y0 + 1, x1 - x0 + 1), np.uint8)
    cv2.fillPoly(mask, [corners - [x0, y0]], 1)
    return float(cv2.mean(probability[y0 : y1 + 1, x0 : x1 + 1], mask)[0])


def _area(polygons: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., K, 2) -> (...) area by the shoelace formula."""
    x, y = polygons[..., 0], polygons[..., 1]
    doubled = (x * np.roll(y, -1, axis=-1) - y * np.roll(x, -1, axis=-1)).sum(axis=-1)
    return np.abs(doubled) / 2
