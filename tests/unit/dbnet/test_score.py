"""The ICDAR score against a plain O(n * m) implementation, the sweep against single settings."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainers.dbnet.decode import Candidates, candidates, decode
from trainers.dbnet.icdar import TextAnnotation
from trainers.dbnet.score import Scores, match, pool, sweep

Polygon = NDArray[np.float64]
BOX_THRESHS = [round(0.1 + 0.05 * i, 2) for i in range(17)]
RATIOS = [1.5, 2.0, 2.5, 3.0]


def box(x: float, y: float, width: float, height: float) -> Polygon:
    return np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]], float)


def truth(polygons: list[Polygon], ignore: list[bool] | None = None) -> TextAnnotation:
    flags = np.array(ignore if ignore is not None else [False] * len(polygons), bool)
    return TextAnnotation(polygons, flags, [""] * len(polygons))


def plain(detections: list[Polygon], known: TextAnnotation) -> tuple[Scores, list[float]]:
    """The ICDAR 2015 script's loops, and every IoU and share that it compared with 0.5."""
    compared = []
    gts = [
        (p, i)
        for p, i in zip(map(shapely.Polygon, known.polygons), known.ignore, strict=True)
        if p.is_valid
    ]
    dets = [p for p in map(shapely.Polygon, detections) if p.is_valid]
    dropped = set()
    for d, shape in enumerate(dets):
        for region in (p for p, ignore in gts if ignore):
            share = shape.intersection(region).area / shape.area
            compared.append(share)
            if share > 0.5:
                dropped.add(d)
    matched_gts, matched_dets = set(), set()
    for g, (gt, ignore) in enumerate(gts):
        for d, shape in enumerate(dets):
            iou = gt.intersection(shape).area / gt.union(shape).area
            compared.append(iou)
            free = g not in matched_gts and d not in matched_dets
            if free and not ignore and d not in dropped and iou > 0.5:
                matched_gts.add(g)
                matched_dets.add(d)
    cared = sum(not ignore for _, ignore in gts)
    return Scores(len(matched_gts), len(dets) - len(dropped), cared), compared


# small whole coordinates make many overlaps, touching edges and invalid polygons
corner = st.tuples(st.integers(0, 14), st.integers(0, 14))
quads = st.lists(corner, min_size=4, max_size=6).map(lambda c: np.array(c, float))
boxes = st.builds(box, st.integers(0, 10), st.integers(0, 10), st.integers(1, 8), st.integers(1, 6))
shapes = st.lists(st.one_of(boxes, boxes, quads), max_size=9)


@given(shapes, shapes, st.data())
def test_equals_the_plain_implementation(
    gts: list[Polygon], detections: list[Polygon], data: st.DataObject
) -> None:
    flags = data.draw(st.lists(st.booleans(), min_size=len(gts), max_size=len(gts)))
    known = truth(gts, flags)
    expected, compared = plain(detections, known)
    # union() and a + b - i may round a tie differently, where a corner is not a whole number
    assume(not any(0 < abs(value - 0.5) < 1e-9 for value in compared))
    assert pool([match(detections, known)]) == expected


def test_toy_case_of_mmocr() -> None:
    """tests/test_evaluation/test_metrics/test_hmean_iou_metric.py: P 3/5, R 3/4."""
    first = truth(
        [box(0, 0, 1, 1), box(2, 0, 1, 1), box(10, 0, 1, 1), box(1, 0, 1, 1)],
        [False, False, False, True],
    )
    found = [box(0, 0, 1, 1), box(2, 0.1, 1, 1), box(1, 1, 1, 1), box(1, -0.5, 1, 1)]
    second = truth([box(0, 0, 1, 1)])
    # mmocr cuts the fourth detection by its score of 0.001; its share of don't-care is just 1/2
    scores = pool([match(found[:3], first), match([box(0, 0, 1, 1)] * 2, second)])
    assert (scores.precision, scores.recall) == (3 / 5, 3 / 4)
    assert scores.hmean == pytest.approx(2 * 0.6 * 0.75 / (0.6 + 0.75))


def test_greedy_in_truth_order_is_not_the_best_matching() -> None:
    """mmocr's other case: vanilla matching finds one of two, maximum matching both."""
    known = truth([box(0, 0, 10, 1), box(2, 0, 10, 1)])
    found = [box(2, 0, 10, 1), box(-2, 0, 10, 1)]
    # the first truth meets both (IoU 2/3), takes the first, and the second truth has none left
    assert pool([match(found, known)]) == Scores(1, 2, 2)
    assert pool([match(found[::-1], known)]) == Scores(2, 2, 2)


def test_a_match_is_strictly_above_a_half() -> None:
    known = truth([box(0, 0, 10, 10)])
    assert pool([match([box(0, 0, 5, 10)], known)]).matches == 0  # IoU 0.5
    assert pool([match([box(0, 0, 5.01, 10)], known)]).matches == 1


def test_dont_care_is_strictly_more_than_half_of_one_region() -> None:
    known = truth([box(0, 0, 10, 10), box(10, 0, 10, 10)], [True, True])
    assert pool([match([box(5, 0, 10, 10)], known)]) == Scores(0, 1, 0)  # half in each
    assert pool([match([box(4.9, 0, 10, 10)], known)]) == Scores(0, 0, 0)


def test_a_dropped_detection_takes_no_truth() -> None:
    known = truth([box(0, 0, 10, 10), box(0, 0, 10, 7)], [False, True])
    result = match([box(0, 0, 10, 9)], known)
    assert result.pairs.tolist() == [] and result.detection_counts.tolist() == [False]


def test_match_tells_misses_from_false_alarms() -> None:
    bow_tie = np.array([[0.0, 0], [10, 10], [10, 0], [0, 10]])
    known = truth(
        [box(0, 0, 10, 5), bow_tie, box(50, 0, 10, 5), box(90, 0, 9, 9)],
        [False, False, False, True],
    )
    found = [bow_tie, box(30, 30, 5, 5), box(50, 0, 10, 5), box(91, 1, 3, 3)]
    result = match(found, known)
    assert result.pairs.tolist() == [[2, 2]]
    assert result.truth_counts.tolist() == [True, False, True, False]
    assert result.detection_counts.tolist() == [False, True, True, False]


def test_counts_are_pooled_and_empty_splits_score_zero() -> None:
    good = match([box(0, 0, 9, 9)], truth([box(0, 0, 9, 9)]))
    bad = match([box(0, 0, 9, 9)] * 3, truth([]))
    assert pool([good, bad]) == Scores(1, 4, 1)
    assert pool([good, bad]).hmean == 2 / 5
    nothing = pool([match([], truth([]))])
    assert (nothing.precision, nothing.recall, nothing.hmean) == (0, 0, 0)
    assert pool([match([], truth([box(0, 0, 9, 9)]))]) == Scores(0, 0, 1)


# ---------------------------------------------------------------- sweep


def separately(cands: Candidates, known: TextAnnotation, thresh: float, ratio: float) -> Scores:
    return plain(list(cands.cut(thresh, ratio).boxes), known)[0]


def noisy_image(seed: int) -> tuple[NDArray[np.float32], TextAnnotation]:
    """A probability map at half size, and a truth of which some is don't-care and some doubled."""
    rng = np.random.default_rng(seed)
    canvas = np.zeros((150, 150), np.float32)
    polygons = []
    for y in range(12, 140, 16):
        width, height = rng.uniform(20, 110), rng.uniform(3, 6)
        corners = cv2.boxPoints(((75, y), (width, height), float(rng.uniform(-4, 4))))
        cv2.fillPoly(canvas, [np.rint(corners).astype(np.int32)], float(rng.uniform(0.35, 1)))
        grown = ((75, y), (width + 9, height + 9), 0.0)
        polygons.append(2 * cv2.boxPoints(grown).astype(float) + rng.normal(0, 3, (4, 2)))
    canvas = cv2.GaussianBlur(canvas, (0, 0), 0.8)
    canvas += cv2.GaussianBlur(rng.normal(0, 0.3, canvas.shape).astype(np.float32), (0, 0), 1)
    polygons.append(polygons[0] + 1)
    return canvas.clip(0, 1), truth(polygons, [bool(b) for b in rng.random(len(polygons)) < 0.2])


def test_sweep_equals_separate_evaluations() -> None:
    images = [noisy_image(seed) for seed in range(4)]
    cands = [
        (candidates(p, (300, 300), (2.0, 2.0), unclip_ratios=RATIOS), known) for p, known in images
    ]
    result = sweep(iter(cands), BOX_THRESHS)
    assert result.hmean.shape == (4, 17)
    for row, ratio in enumerate(RATIOS):
        for column, box_thresh in enumerate(BOX_THRESHS):
            single = pool(
                match(
                    decode(
                        p, (300, 300), (2.0, 2.0), box_thresh=box_thresh, unclip_ratio=ratio
                    ).boxes,
                    known,
                )
                for p, known in images
            )
            assert result.at(row, column) == single
            assert result.hmean[row, column] == single.hmean
        assert result.curve(ratio) == [result.at(row, column) for column in range(17)]
    assert len({result.at(r, c) for r in range(4) for c in range(17)}) > 20
    box_thresh, ratio, scores = result.best
    assert scores.hmean == result.hmean.max()
    place = RATIOS.index(ratio), BOX_THRESHS.index(box_thresh)
    assert result.at(*place) == scores
    matched = [match(list(found.cut(box_thresh, ratio).boxes), known) for found, known in cands]
    singles = [pool([one]) for one in matched]
    assert result.images()[:, *place, 0].tolist() == [
        [single.matches, single.truths, single.detections] for single in singles
    ]


@given(shapes, st.lists(st.tuples(boxes, boxes, st.integers(0, 10)), max_size=12), st.data())
def test_sweep_of_crowded_boxes_equals_the_plain_implementation(
    gts: list[Polygon], rows: list[tuple[Polygon, Polygon, int]], data: st.DataObject
) -> None:
    """Many boxes on one truth: here a threshold decides who gets it."""
    known = truth(gts, data.draw(st.lists(st.booleans(), min_size=len(gts), max_size=len(gts))))
    found = Candidates(
        scores=np.array([score / 10 for _, _, score in rows]),
        boxes=np.array([[a for a, _, _ in rows], [b for _, b, _ in rows]]).reshape(2, -1, 4, 2),
        kept=np.array(
            data.draw(st.lists(st.booleans(), min_size=2 * len(rows), max_size=2 * len(rows)))
        )
        .reshape(2, -1)
        .astype(bool),
        unclip_ratios=(1.5, 2.0),
        max_candidates_bound=False,
        ranks=np.arange(len(rows)),
    )
    threshs = [0.0, 0.2, 0.5, 0.7, 1.0]
    result = sweep([(found, known)], threshs)
    for row, ratio in enumerate(found.unclip_ratios):
        for column, box_thresh in enumerate(threshs):
            single, compared = plain(list(found.cut(box_thresh, ratio).boxes), known)
            assume(not any(0 < abs(value - 0.5) < 1e-9 for value in compared))
            assert result.at(row, column) == single


def simple(scores: list[float], *rows: list[Polygon]) -> Candidates:
    ratios = tuple(1.5 + 0.5 * i for i in range(len(rows)))
    kept = np.ones((len(rows), len(scores)), bool)
    return Candidates(np.array(scores), np.array(rows), kept, ratios, True, np.arange(len(scores)))


def test_a_higher_threshold_can_free_a_truth() -> None:
    known = truth([box(0, 0, 10, 1), box(2, 0, 10, 1)])
    weak_between = [box(2, 0, 10, 1), box(-2, 0, 10, 1), box(3, 0, 10, 1)]
    found = simple([0.3, 0.9, 0.8], weak_between)
    result = sweep([(found, known)], [0.2, 0.5, 0.85])
    assert result.matches.tolist() == [[2, 2, 1]]
    assert result.detections.tolist() == [[3, 2, 1]]
    stolen = sweep([(simple([0.3, 0.9], weak_between[:2]), known)], [0.2, 0.5])
    assert stolen.matches.tolist() == [[1, 1]]
    assert stolen.bound_images == 1


def test_ties_go_to_the_smallest_ratio_and_the_middle_threshold() -> None:
    known = truth([box(0, 0, 10, 10), box(30, 0, 10, 10)])
    good, bad = [box(0, 0, 10, 10), box(60, 0, 10, 10)], [box(80, 0, 5, 5), box(60, 0, 10, 10)]
    found = simple([0.9, 0.1], bad, good, good)
    result = sweep([(found, known)], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert result.best == (0.4, 2.0, Scores(1, 1, 2))
    shuffled = sweep([(found, known)], [0.8, 0.2, 1.0, 0.6, 0.0, 0.4])
    assert shuffled.best == result.best


def test_a_score_equal_to_the_threshold_stays() -> None:
    found = simple([0.7], [box(0, 0, 9, 9)])
    result = sweep([(found, truth([box(0, 0, 9, 9)]))], [0.7, np.nextafter(0.7, 1)])
    assert result.detections.tolist() == [[1, 0]]


def test_errors() -> None:
    found = simple([0.7], [box(0, 0, 9, 9)])
    with pytest.raises(ValueError, match="box_threshs must not be empty"):
        sweep([(found, truth([]))], [])
    with pytest.raises(ValueError, match=r"must have images, .* but got \[\]"):
        sweep([], [0.5])
    other = simple([0.7], [box(0, 0, 9, 9)], [box(0, 0, 9, 9)])
    with pytest.raises(ValueError, match=r"same unclip ratios, but got \[\(1.5,\), \(1.5, 2.0\)\]"):
        sweep([(found, truth([])), (other, truth([]))], [0.5])
    with pytest.raises(ValueError, match="at least 3 corners, but one has 2"):
        match([np.zeros((2, 2))], truth([]))
