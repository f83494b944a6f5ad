"""Target maps against shapely's own buffers and distances."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainers.dbnet.targets import fit_long_side, kernel_map, make_targets

SIZE = (120, 160)
BOX = np.array([[20.0, 30], [120, 30], [120, 50], [20, 50]])  # 100 x 20: d = 2000 * 0.84 / 240 = 7


def moved(polygon: NDArray[np.float64], x: float, y: float) -> NDArray[np.float64]:
    return polygon + np.array([x, y])


@st.composite
def rotated_boxes(draw: st.DrawFn) -> NDArray[np.float64]:
    """A rectangle of any angle, well inside the canvas, with corners between the pixels."""
    width, height = draw(st.floats(20, 80)), draw(st.floats(12, 30))
    angle = draw(st.floats(0, np.pi))
    cos, sin = np.cos(angle), np.sin(angle)
    half = np.array([[-width, -height], [width, -height], [width, height], [-width, height]]) / 2
    centre = np.array([draw(st.floats(70, 90)), draw(st.floats(55, 65))])
    return half @ np.array([[cos, sin], [-sin, cos]]) + centre


def pixel_grid() -> NDArray[np.object_]:
    ys, xs = np.mgrid[: SIZE[0], : SIZE[1]]
    return shapely.points(xs, ys)


def offset(shape: shapely.Polygon) -> float:
    return float(shape.area * (1 - 0.4**2) / shape.length)


def test_axis_aligned_box_is_shrunk_by_the_papers_offset() -> None:
    kernel = make_targets([BOX], [False], SIZE).kernel
    rows, columns = np.nonzero(kernel)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (37, 43, 27, 113)
    assert kernel.sum() == 7 * 87


@given(rotated_boxes())
def test_kernel_is_the_shrunk_polygon(box: NDArray[np.float64]) -> None:
    shape = shapely.Polygon(box)
    shrunk = shape.buffer(-offset(shape))
    kernel = make_targets([box], [False], SIZE, subpixel=True).kernel
    inside = shapely.contains(shrunk, pixel_grid())
    distance = shapely.distance(shrunk.exterior, pixel_grid())
    # vertices are rounded to pixels (0.71 px), and outlines belong to the fill (0.5 px)
    assert kernel[inside & (distance > 1.3)].all()
    assert not kernel[~inside & (distance > 1.3)].any()


@given(rotated_boxes(), st.booleans())
def test_threshold_map_is_the_distance_to_the_outline(
    box: NDArray[np.float64], subpixel: bool
) -> None:
    shape = shapely.Polygon(box if subpixel else np.rint(box))
    d = offset(shape)
    distance = shapely.distance(shape.exterior, pixel_grid())
    expected = 0.3 + 0.4 * (1 - np.clip(distance / d, 0, 1))
    targets = make_targets([box], [False], SIZE, subpixel=subpixel)
    np.testing.assert_allclose(targets.threshold, expected, atol=1e-4)
    edge = shapely.distance(shape.buffer(d).exterior, pixel_grid())
    inside = shapely.contains(shape.buffer(d), pixel_grid())
    assert targets.threshold_mask[inside & (edge > 1.3)].all()
    assert not targets.threshold_mask[~inside & (edge > 1.3)].any()


def test_a_curved_polygon_has_a_band_along_every_edge() -> None:
    angles = np.linspace(0, np.pi, 7)
    arc = np.stack([np.cos(angles), -np.sin(angles)], axis=1)
    ring = moved(np.concatenate([55 * arc, 30 * arc[::-1]]), 80, 80)  # 14 corners
    shape = shapely.Polygon(np.rint(ring))
    distance = shapely.distance(shape.exterior, pixel_grid())
    expected = 0.3 + 0.4 * (1 - np.clip(distance / offset(shape), 0, 1))
    targets = make_targets([ring], [False], SIZE)
    np.testing.assert_allclose(targets.threshold, expected, atol=1e-4)
    overlap = shapely.contains(shape, shapely.points(*np.nonzero(targets.kernel)[::-1]))
    assert overlap.all() and targets.kernel.sum() > 100


def test_neighbours_keep_the_higher_threshold() -> None:
    below = moved(BOX, 0, 24)
    both = make_targets([BOX, below], [False, False], SIZE)
    alone = [make_targets([polygon], [False], SIZE) for polygon in (BOX, below)]
    np.testing.assert_array_equal(
        both.threshold, np.maximum(alone[0].threshold, alone[1].threshold)
    )
    np.testing.assert_array_equal(both.kernel, alone[0].kernel | alone[1].kernel)


BOW_TIE = np.array([[20.0, 30], [120, 60], [120, 30], [20, 40]])  # its area is not 0
FLAT = np.array([[20.0, 30], [120, 30], [120, 30.2], [20, 30.2]])
LOW = np.array([[20.0, 30], [120, 30], [120, 37], [20, 37]])  # 7 px


@pytest.mark.parametrize(
    ("polygon", "ignore", "kernel_drawn"),
    [(BOX, True, False), (LOW, False, True), (BOW_TIE, False, False), (FLAT, False, False)],
    ids=["dont-care", "low", "bow-tie", "flat"],
)
@pytest.mark.parametrize("subpixel", [False, True])
def test_unusable_text_is_masked(
    polygon: NDArray[np.float64], ignore: bool, kernel_drawn: bool, subpixel: bool
) -> None:
    targets = make_targets([polygon], [ignore], SIZE, subpixel=subpixel)
    x, y = np.rint(polygon.mean(axis=0)).astype(int)
    assert targets.kernel_mask[y, x] == 0
    assert targets.kernel_mask[100:].all()
    assert bool(targets.kernel.any()) is (kernel_drawn or (polygon is FLAT and subpixel))
    assert not (targets.kernel & targets.kernel_mask).any()
    assert not targets.threshold_mask.any()
    np.testing.assert_allclose(targets.threshold, 0.3)


def test_eight_pixels_are_enough_at_any_angle() -> None:
    angle = np.radians(30)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    strip = np.array([[0.0, 0], [60, 0], [60, 1], [0, 1]])
    for height, masked in ((7.8, True), (8.2, False)):
        box = (strip * [1, height]) @ turn + [40, 40]  # bounding box far higher than 8
        targets = make_targets([box], [False], SIZE)
        assert bool((targets.kernel_mask == 0).any()) is masked


def test_parts_outside_are_cut_off() -> None:
    wide = np.zeros((SIZE[0], SIZE[1] + 200), np.uint8)
    inside = make_targets([moved(BOX, 100, 0)], [False], wide.shape)
    across = make_targets([moved(BOX, -50, 0)], [False], SIZE)
    for whole, part in zip(inside, across, strict=True):
        np.testing.assert_array_equal(whole[:, 150 : 150 + 110], part[:, :110])
    outside = make_targets([moved(BOX, -500, 0), moved(BOX, 500, 500)], [False, True], SIZE)
    assert not outside.kernel.any() and outside.kernel_mask.all()
    assert not outside.threshold_mask.any()


def test_no_text_and_types() -> None:
    targets = make_targets([], [], SIZE)
    assert [m.dtype for m in targets] == [np.uint8, np.uint8, np.float32, np.uint8]
    assert [m.shape for m in targets] == [SIZE] * 4
    assert not targets.kernel.any() and targets.kernel_mask.all()


def test_kernel_map_draws_low_text_too() -> None:
    polygons = [BOX, moved(LOW, 0, 40)]
    targets = make_targets(polygons, [False, False], SIZE)
    np.testing.assert_array_equal(kernel_map(polygons, [False, False], SIZE), targets.kernel)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"ignore": []}, "one ignore flag a polygon, but got 1 polygons and 0 flags"),
        ({"polygons": [np.zeros((2, 2))]}, r"polygon 0 must be \(K, 2\).*\(2, 2\)"),
        ({"polygons": [BOX * np.nan]}, "polygon 0 must be finite"),
        ({"size": (0, 5)}, r"at least 1x1 px, but got \(0, 5\)"),
        ({"shrink_ratio": 1.0}, "shrink_ratio must be between 0 and 1, but got 1.0"),
    ],
)
def test_errors(kwargs: dict, message: str) -> None:
    arguments = {"polygons": [BOX], "ignore": [False], "size": SIZE} | kwargs
    with pytest.raises(ValueError, match=message):
        make_targets(**arguments)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(32, 2048))
def test_fit_long_side(height: int, width: int, long_side: int) -> None:
    (h, w), (x_scale, y_scale) = fit_long_side((height, width), long_side)
    assert max(h, w) == long_side and min(h, w) >= 1
    assert (w * x_scale, h * y_scale) == pytest.approx((width, height))
    # whole pixels bend the aspect by half a pixel at most
    assert abs(min(h, w) - min(height, width) * long_side / max(height, width)) <= 0.5 or 1 in (
        h,
        w,
    )
