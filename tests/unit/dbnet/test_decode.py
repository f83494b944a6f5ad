"""Decoding against a step-by-step decoder with pyclipper, and the exactness of its cuts."""

from __future__ import annotations

import cv2
import numpy as np
import pyclipper
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainers.dbnet.decode import Candidates, candidates, decode, unclip
from trainers.dbnet.targets import kernel_map

BOX_THRESHS = [0.1 + 0.05 * i for i in range(17)]
RATIOS = [1.5, 2.0, 2.5, 3.0]


def text_map(seed: int, size: tuple[int, int] = (200, 240)) -> NDArray[np.float32]:
    """Blurred bars of any angle and strength over weak noise, much like a network's output."""
    rng = np.random.default_rng(seed)
    canvas = np.zeros(size, np.float32)
    for y in range(20, size[0] - 10, 25):
        for x in (60, 170):
            side = (float(rng.uniform(5, 80)), float(rng.uniform(2, 9)))
            corners = cv2.boxPoints(((x, y), side, float(rng.uniform(-12, 12))))
            cv2.fillPoly(canvas, [np.rint(corners).astype(np.int32)], float(rng.uniform(0.3, 1.2)))
    canvas = cv2.GaussianBlur(canvas, (0, 0), 0.8)
    noise = cv2.GaussianBlur(rng.normal(0, 0.12, size).astype(np.float32), (0, 0), 0.6)
    return (canvas + noise).clip(0, 1)


def step_by_step(
    probability: NDArray[np.float32], scale: float, box_thresh: float, unclip_ratio: float
) -> list[NDArray[np.float64]]:
    """The decoder as the paper's code has it: one contour after the other, pyclipper for unclip."""
    contours, _ = cv2.findContours(
        (probability > 0.3).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    found = []
    for contour in contours:
        rectangle = cv2.minAreaRect(contour)
        if min(rectangle[1]) < 3:
            continue
        corners = cv2.boxPoints(rectangle)
        mask = np.zeros(probability.shape, np.uint8)
        cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], 1)
        if probability[mask == 1].mean() < box_thresh:
            continue
        shape = shapely.Polygon(corners)
        clipper = pyclipper.PyclipperOffset(2.0, 1.0)
        grid = np.rint(corners * 256).astype(int).tolist()
        clipper.AddPath(grid, pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
        (ring,) = clipper.Execute(256 * shape.area * unclip_ratio / shape.length)
        rectangle = cv2.minAreaRect((np.array(ring) / 256).astype(np.float32))
        if min(rectangle[1]) >= 5:
            found.append((cv2.boxPoints(rectangle) * scale).clip(0, [480, 400]))
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("unclip_ratio", [1.5, 2.5])
def test_equals_the_step_by_step_decoder(seed: int, unclip_ratio: float) -> None:
    probability = text_map(seed)
    expected = step_by_step(probability, 2.0, 0.5, unclip_ratio)
    found = decode(
        probability, (400, 480), (2.0, 2.0), box_thresh=0.5, unclip_ratio=unclip_ratio
    ).boxes
    assert len(found) == len(expected) > 3
    for box, wanted in zip(found, expected, strict=True):
        a, b = shapely.Polygon(box), shapely.Polygon(wanted)
        # corners are rounded to network pixels: sqrt(1/2) px, of two image pixels each
        assert a.hausdorff_distance(b) <= 2 * 0.5**0.5 + 0.1


@given(
    st.floats(1, 300),
    st.floats(1, 300),
    st.floats(0, np.pi),
    st.lists(st.floats(0.1, 4), min_size=1),
)
def test_unclip_equals_pyclipper(
    width: float, height: float, angle: float, ratios: list[float]
) -> None:
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    half = np.array([[-width, -height], [width, -height], [width, height], [-width, height]]) / 2
    corners = half @ turn
    boxes, short_sides = unclip(corners[None], np.array(ratios))
    for ratio, box, short_side in zip(ratios, boxes[:, 0], short_sides[:, 0], strict=True):
        clipper = pyclipper.PyclipperOffset(2.0, 1.0)
        grid = np.rint(corners * 1024).astype(int).tolist()
        clipper.AddPath(grid, pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
        distance = width * height * ratio / (2 * (width + height))
        ring = np.array(clipper.Execute(distance * 1024)[0]) / 1024
        offset, rectangle = shapely.Polygon(ring), shapely.Polygon(box)
        smallest = shapely.minimum_rotated_rectangle(offset)
        grid_error = 0.1 + 2 * (width + height) / 1024  # the oracle's corners lie on a grid
        assert rectangle.area == pytest.approx(smallest.area, rel=1e-3, abs=grid_error)
        assert rectangle.buffer(0.05).contains(offset)
        assert short_side == pytest.approx(min(width, height) + 2 * distance)


@pytest.mark.parametrize("seed", range(3))
def test_every_box_thresh_is_a_cut(seed: int) -> None:
    probability = text_map(seed)
    found = candidates(probability, (400, 480), (2.0, 2.0), unclip_ratios=RATIOS)
    counts = set()
    for ratio in RATIOS:
        for box_thresh in BOX_THRESHS:
            alone = decode(
                probability, (400, 480), (2.0, 2.0), box_thresh=box_thresh, unclip_ratio=ratio
            )
            cut = found.cut(box_thresh, ratio)
            np.testing.assert_array_equal(cut.boxes, alone.boxes)
            np.testing.assert_array_equal(cut.scores, alone.scores)
            counts.add(len(alone.scores))
    assert len(counts) > 5


def test_a_perfect_map_gives_its_boxes_back() -> None:
    scale = (2.5, 2.5)
    boxes = [
        np.array([[x, y], [x + 240, y], [x + 240, y + 60], [x, y + 60]], float)
        for y in (30, 130, 230)
        for x in (40, 320)
    ]
    perfect = kernel_map([box / scale for box in boxes], [False] * len(boxes), (160, 240))
    found = decode(perfect.astype(np.float32), (400, 600), scale, box_thresh=0.99, unclip_ratio=2.2)
    assert found.scores == pytest.approx([1.0] * len(boxes))
    for box in boxes:
        truth = shapely.Polygon(box)
        shapes = shapely.polygons(found.boxes)
        iou = shapely.area(truth.intersection(shapes)) / shapely.area(truth.union(shapes))
        assert (iou > 0.85).sum() == 1


def bars(*bars: tuple[int, int, int, int, float], size: int = 100) -> NDArray[np.float32]:
    """Axis-aligned blocks (x, y, width, height, probability)."""
    canvas = np.zeros((size, size), np.float32)
    for x, y, width, height, value in bars:
        canvas[y : y + height, x : x + width] = value
    return canvas


def one_ratio(probability: NDArray[np.float32], **kwargs: float) -> Candidates:
    return candidates(probability, (100, 100), (1.0, 1.0), unclip_ratios=[2.0], **kwargs)


def test_scores_and_boxes_by_hand() -> None:
    found = one_ratio(bars((30, 40, 21, 6, 0.75)))
    # the contour runs through pixel centres: 20 x 5, d' = 100 * 2 / 50 = 4
    assert found.scores == pytest.approx([0.75])
    np.testing.assert_allclose(found.boxes[0, 0].min(axis=0), [26, 36])
    np.testing.assert_allclose(found.boxes[0, 0].max(axis=0), [54, 49])
    assert not found.max_candidates_bound


def test_small_regions_are_left_out() -> None:
    found = one_ratio(bars((5, 5, 30, 3, 0.9), (5, 20, 30, 4, 0.9)))  # 2 and 3 px between centres
    assert len(found.scores) == 1
    tiny = candidates(
        bars((5, 20, 4, 4, 0.9)), (100, 100), (1.0, 1.0), unclip_ratios=[1.0, 2.0]
    )  # 3 x 3: 3 + 2 * 0.75 = 4.5 px, 3 + 2 * 1.5 = 6 px
    assert tiny.kept[:, 0].tolist() == [False, True]


def test_threshold_is_strict_and_holes_are_no_text() -> None:
    ring = bars((10, 10, 60, 40, 0.8), (20, 20, 40, 20, 0.3))
    found = one_ratio(ring)
    assert len(found.scores) == 1 and found.scores[0] < 0.8
    inside = one_ratio(ring + bars((30, 25, 20, 8, 0.5)))
    assert len(inside.scores) == 2  # text inside a frame is


def test_padding_is_cut_off_and_axes_have_their_own_scale() -> None:
    probability = bars((10, 30, 30, 8, 0.9), (60, 30, 30, 8, 0.9), (10, 80, 30, 8, 0.9))
    found = candidates(probability, (140, 90), (1.8, 2.0), unclip_ratios=[2.0])  # 50 x 70 px
    assert sorted(found.kept[0].tolist()) == [False, False, True]
    (box,) = found.cut(0.0, 2.0).boxes
    d = 29 * 7 * 2 / (2 * 36)  # 5.64
    low, high = np.rint([10 - d, 30 - d]), np.rint([39 + d, 37 + d])
    np.testing.assert_allclose(box.min(axis=0), low * [1.8, 2.0])
    np.testing.assert_allclose(box.max(axis=0), high * [1.8, 2.0])
    clipped = candidates(bars((0, 0, 40, 9, 0.9)), (30, 30), (1.0, 1.0), unclip_ratios=[2.0])
    assert clipped.boxes.min() == 0 and clipped.boxes[..., 0].max() == 30


def test_max_candidates_keeps_the_largest_whatever_they_score() -> None:
    probability = bars((5, 5, 20, 8, 0.95), (5, 30, 60, 9, 0.4), (5, 60, 40, 8, 0.6))
    everything, few = one_ratio(probability), one_ratio(probability, max_candidates=2)
    assert not everything.max_candidates_bound and few.max_candidates_bound
    assert sorted(few.scores) == pytest.approx([0.4, 0.6])
    order = [s for s in everything.scores if s < 0.9]
    assert few.scores.tolist() == order  # in contour order still
    for most in (1, 2, 3, 4):  # fewer of those that were found are those that would be found
        alone, cut = one_ratio(probability, max_candidates=most), everything.limited(most)
        for name in ("scores", "boxes", "kept", "ranks"):
            np.testing.assert_array_equal(getattr(cut, name), getattr(alone, name))
        assert cut.max_candidates_bound == alone.max_candidates_bound == (most < 3)
    specks = one_ratio(bars((5, 5, 20, 8, 0.9), (5, 60, 2, 2, 0.9)), max_candidates=1)
    assert not specks.max_candidates_bound


@given(st.integers(0, 2**32 - 1), st.sampled_from(RATIOS))
def test_boxes_are_valid_polygons_inside_the_image(seed: int, ratio: float) -> None:
    noise = np.random.default_rng(seed).random((40, 60), np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 2.0)
    blurred = (blurred - blurred.min()) / np.ptp(blurred)
    found = decode(
        blurred, (70, 100), (2.0, 2.0), box_thresh=0.0, unclip_ratio=ratio, thresh=0.5
    )  # network padded by 5 rows and 10 columns
    assert shapely.is_valid(shapely.polygons(found.boxes)).all()
    assert found.boxes.min(initial=0) >= 0
    assert (found.boxes.max(axis=(0, 1), initial=0) <= [100, 70]).all()


def test_an_empty_map_has_nothing() -> None:
    found = candidates(np.zeros((50, 60), np.float32), (50, 60), (1.0, 1.0), unclip_ratios=RATIOS)
    assert found.boxes.shape == (4, 0, 4, 2) and found.scores.shape == (0,)
    assert found.cut(0.0, 1.5).boxes.shape == (0, 4, 2)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"probability": np.zeros((1, 5, 5))}, r"must be \(h, w\), but its shape is \(1, 5, 5\)"),
        ({"original_size": (0, 5)}, r"above 0, but got \(0, 5\)"),
        ({"unclip_ratios": []}, r"some numbers above 0, but got \[\]"),
        ({"unclip_ratios": [0.0]}, r"some numbers above 0, but got \[0.0\]"),
        ({"thresh": 1.0}, "at least 0 and below 1, but got 1.0"),
        ({"max_candidates": 0}, "max_candidates must be at least 1, but got 0"),
    ],
)
def test_errors(kwargs: dict, message: str) -> None:
    arguments = {
        "probability": np.zeros((5, 5)),
        "original_size": (5, 5),
        "scale": (1.0, 1.0),
        "unclip_ratios": [1.5],
    } | kwargs
    with pytest.raises(ValueError, match=message):
        candidates(**arguments)


def test_a_cut_at_an_unknown_ratio_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"unclip_ratio must be one of \(2.0,\), but got 1.5"):
        one_ratio(bars((5, 5, 20, 8, 0.9))).cut(0.5, 1.5)
