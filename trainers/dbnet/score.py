"""The ICDAR detection score: one-to-one matches at IoU above 0.5, counted over the whole split.

The same matching as the ICDAR 2015 task 1 script and mmocr's hmean-iou; a spatial index leaves only
pairs that touch, and `sweep` counts every box_thresh from one set of IoUs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import shapely
from numpy.typing import NDArray

from trainers.dbnet.decode import Candidates
from trainers.dbnet.icdar import TextAnnotation

MATCH_IOU = 0.5  # a match is strictly above
DONT_CARE_SHARE = 0.5  # a detection with strictly more of its area in don't-care text is dropped


@dataclass(frozen=True)
class Scores:
    """Pooled counts of a split and what follows from them."""

    matches: int
    detections: int
    """Valid ones, without those dropped for don't-care text."""
    truths: int
    """Valid ones that are not don't-care."""

    @property
    def precision(self) -> float:
        """matches / detections; 0 without detections."""
        return self.matches / self.detections if self.detections else 0.0

    @property
    def recall(self) -> float:
        """matches / truths; 0 without truths."""
        return self.matches / self.truths if self.truths else 0.0

    @property
    def hmean(self) -> float:
        """2 PR / (P + R) = 2 * matches / (detections + truths); 0 where both are 0."""
        total = self.detections + self.truths
        return 2 * self.matches / total if total else 0.0


@dataclass(frozen=True, eq=False)
class Match:
    """How the detections of one image meet its truth."""

    pairs: NDArray[np.int64]
    """(M, 2) of (truth index, detection index)."""
    truth_counts: NDArray[np.bool_]
    """(G,) false for don't-care and invalid polygons."""
    detection_counts: NDArray[np.bool_]
    """(D,) false for invalid polygons and those dropped for don't-care text."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """Counts of N images at T values of box_thresh x R unclip ratios, and the best setting."""

    box_threshs: tuple[float, ...]
    unclip_ratios: tuple[float, ...]
    counts: NDArray[np.int64]
    """(N, 2, R, T): matches, detections."""
    image_truths: NDArray[np.int64]
    """(N,)"""
    bound_images: int
    """Images in which max_candidates left something out."""

    @cached_property
    def matches(self) -> NDArray[np.int64]:
        """(R, T), pooled."""
        pooled: NDArray[np.int64] = self.counts[:, 0].sum(axis=0)
        return pooled

    @cached_property
    def detections(self) -> NDArray[np.int64]:
        """(R, T), pooled."""
        pooled: NDArray[np.int64] = self.counts[:, 1].sum(axis=0)
        return pooled

    @property
    def truths(self) -> int:
        return int(self.image_truths.sum())

    def images(self) -> NDArray[np.int64]:
        """(N, R, T, 1, 3): matches, truths, detections of each image at each setting."""
        matches, detections = self.counts[:, 0], self.counts[:, 1]  # (N, R, T)
        truths = np.broadcast_to(self.image_truths[:, None, None], matches.shape)
        return np.stack([matches, truths, detections], axis=3)[:, :, :, None]

    def at(self, unclip_row: int, thresh_column: int) -> Scores:
        """Scores of one setting, by its place in the grid."""
        place = unclip_row, thresh_column
        return Scores(int(self.matches[place]), int(self.detections[place]), self.truths)

    def curve(self, unclip_ratio: float) -> list[Scores]:
        """Scores over all box_threshs at one unclip ratio."""
        row = self.unclip_ratios.index(unclip_ratio)
        return [self.at(row, column) for column in range(len(self.box_threshs))]

    @property
    def hmean(self) -> NDArray[np.float64]:
        """(R, T) Hmean."""
        return 2 * self.matches / np.maximum(self.detections + self.truths, 1)

    @property
    def best(self) -> tuple[float, float, Scores]:
        """(box_thresh, unclip_ratio, scores) of the highest Hmean; see `best_of`."""
        return self.best_of(self.hmean)

    def best_of(self, values: NDArray[np.float64]) -> tuple[float, float, Scores]:
        """(box_thresh, unclip_ratio, scores) of the highest of the values (R, T).

        Of equal settings: the smallest unclip ratio, and of its box_threshs the middle one (of an
        even count the lower): it is the farthest from where the score changes.
        """
        best = values == values.max()
        row = min(np.flatnonzero(best.any(axis=1)), key=lambda r: self.unclip_ratios[r])
        columns = sorted(np.flatnonzero(best[row]), key=lambda c: self.box_threshs[c])
        column = columns[(len(columns) - 1) // 2]
        scores = self.at(int(row), int(column))
        return self.box_threshs[column], self.unclip_ratios[row], scores


def match(detections: Sequence[NDArray[np.floating]], truth: TextAnnotation) -> Match:
    """Match the detections of one image, one to one, greedily in the order of the truths.

    For each truth in order, the first detection in order that is still free and has an IoU
    strictly above 0.5 is its match. Don't-care truths take no part, nor does a detection that lies
    more than half in one of them, nor an invalid polygon (self-crossing, or without area).

    Args:
        detections: (K, 2) arrays of x, y in image pixels, in the order of the decoder.
        truth: of the same image.
    """
    known = _Truth(truth)
    counts, pairs = known.meet(_polygons(detections))
    matched = _greedy(pairs, counts[:, None])[:, 0]
    return Match(pairs[matched], known.counts, counts)


def pool(matches: Iterable[Match]) -> Scores:
    """Add up the images of a split: counts are pooled, ratios are never averaged."""
    totals = np.zeros(3, np.int64)
    for one in matches:
        totals += (len(one.pairs), one.detection_counts.sum(), one.truth_counts.sum())
    return Scores(*map(int, totals))


def sweep(
    images: Iterable[tuple[Candidates, TextAnnotation]], box_threshs: Sequence[float]
) -> Sweep:
    """Score every box_thresh at every unclip ratio of the candidates, exactly.

    Equal to cutting, matching and pooling once a setting. A threshold that removes a detection can
    hand its truth to another one, so matches are not simply counted by score: the greedy pass runs
    over the few pairs above IoU 0.5, for all thresholds side by side.

    Args:
        images: (candidates, truth) of each image, all with the same unclip ratios; may be a
            generator, of which one image at a time is held.
        box_threshs: T of them, in any order.

    Raises:
        ValueError: no images, no thresholds, or unclip ratios that differ.
    """
    if not box_threshs:
        raise ValueError("box_threshs must not be empty")
    threshs = np.asarray(box_threshs, np.float64)
    ratios, counts, truths, bound = set(), [], [], 0
    for found, truth in images:
        known = _Truth(truth)
        counts.append(_count(found, known, threshs))
        ratios.add(found.unclip_ratios)
        truths.append(int(known.counts.sum()))
        bound += found.max_candidates_bound
    if len(ratios) != 1:
        raise ValueError(
            f"a sweep must have images, all with the same unclip ratios, but got {sorted(ratios)}"
        )
    return Sweep(tuple(box_threshs), ratios.pop(), np.array(counts), np.array(truths), bound)


class _Truth:
    """The truth of an image, indexed once for all detections."""

    def __init__(self, truth: TextAnnotation) -> None:
        self.shapes = _polygons(truth.polygons)
        self.ignore = np.asarray(truth.ignore, bool)
        self.valid = shapely.is_valid(self.shapes)
        self.counts = self.valid & ~self.ignore
        self.areas = shapely.area(self.shapes)
        self.bounds = shapely.bounds(self.shapes)
        self.tree = shapely.STRtree(self.shapes)

    def meet(self, shapes: NDArray[np.object_]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Return which detections count, (D,), and the pairs above the IoU of a match, (P, 2).

        Pairs are (truth, detection), of those that count only, sorted by truth, then detection.
        """
        counts = shapely.is_valid(shapes)
        areas = shapely.area(shapes)
        d, g = self._near(shapes, areas, counts)
        overlaps = shapely.area(shapely.intersection(shapes[d], self.shapes[g]))
        drowned = self.ignore[g] & (overlaps / areas[d] > DONT_CARE_SHARE)
        counts[d[drowned]] = False
        iou = overlaps / (areas[d] + self.areas[g] - overlaps)
        match = (iou > MATCH_IOU) & self.counts[g] & counts[d]
        pairs = np.stack([g[match], d[match]], axis=1)
        return counts, pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]

    def _near(
        self, shapes: NDArray[np.object_], areas: NDArray[np.float64], valid: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Valid (detection, truth) pairs whose bounding boxes allow a match, or a drop."""
        d, g = self.tree.query(shapes)
        usable = valid[d] & self.valid[g]
        d, g = d[usable], g[usable]
        bounds = shapely.bounds(shapes)[d], self.bounds[g]  # (P, 4) each: x0, y0, x1, y1
        low = np.maximum(bounds[0][:, :2], bounds[1][:, :2])
        high = np.minimum(bounds[0][:, 2:], bounds[1][:, 2:])
        possible = (high - low).prod(axis=1)  # no intersection has a larger area
        # IoU > 1/2 needs an intersection above half of the larger area: most neighbours fall here
        larger = np.maximum(areas[d], self.areas[g])
        needed = np.where(self.ignore[g], DONT_CARE_SHARE * areas[d], MATCH_IOU * larger)
        near = possible >= needed * (1 - 1e-9)
        return d[near], g[near]


def _count(
    found: Candidates, known: _Truth, box_threshs: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Matches and detections (R, T) of one image; the boxes of all ratios go in at once."""
    ratios, boxes = found.kept.shape
    counts, pairs = known.meet(shapely.polygons(found.boxes.reshape(-1, *found.boxes.shape[2:])))
    chosen = found.scores[:, None] >= box_threshs  # (N, T)
    alive = (counts.reshape(ratios, boxes) & found.kept)[:, :, None] & chosen  # (R, N, T)
    row = pairs[:, 1] // max(boxes, 1)
    # every ratio has its own copy of the truths
    own = np.stack([pairs[:, 0] + row * len(known.counts), pairs[:, 1]], axis=1)
    hits = _greedy(own, alive.reshape(ratios * boxes, len(box_threshs)))  # (P, T)
    matches = np.zeros((ratios, len(box_threshs)), np.int64)
    np.add.at(matches, row, hits)
    return matches, alive.sum(axis=1)


def _greedy(pairs: NDArray[np.int64], alive: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Say which pairs match in each of T independent passes.

    Args:
        pairs: (P, 2) of (truth, detection), in the order in which they are tried.
        alive: (D, T) detections that take part in each pass.

    Returns:
        (P, T)
    """
    truth, detection = pairs.T
    hits = alive[detection]
    # where neither side has another partner the pass is decided; the rest are few
    alone = (np.bincount(truth)[truth] == 1) & (np.bincount(detection)[detection] == 1)
    free_truth = np.ones((truth.max(initial=-1) + 1, alive.shape[1]), bool)
    free_detection = alive.copy()
    for i in np.flatnonzero(~alone):
        g, d = pairs[i]
        hits[i] = free_truth[g] & free_detection[d]
        free_truth[g] &= ~hits[i]
        free_detection[d] &= ~hits[i]
    return hits


def _polygons(outlines: Sequence[NDArray[np.floating]]) -> NDArray[np.object_]:
    """(N,) shapely polygons of (K, 2) arrays."""
    if not len(outlines):
        return np.empty(0, object)
    sizes = [len(outline) for outline in outlines]
    if min(sizes) < 3:
        raise ValueError(f"a polygon must have at least 3 corners, but one has {min(sizes)}")
    corners = np.concatenate([np.asarray(outline, np.float64) for outline in outlines])
    rings = shapely.linearrings(corners, indices=np.repeat(np.arange(len(sizes)), sizes))
    return shapely.polygons(rings)
