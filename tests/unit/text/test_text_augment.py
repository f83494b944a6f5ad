"""Pixels and polygons take the same way."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from spaces.text_detection import TextDataConfig
from trainers.text_augment import augment_page, resize_page


def _page(height: int = 300, width: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """A grey page with one white quadrilateral."""
    quad = np.array([[60, 90], [150, 100], [145, 180], [55, 170]], float)
    image = np.full((height, width, 3), 60, np.uint8)
    cv2.fillPoly(image, [quad.astype(np.int32)], (255, 255, 255))
    return image, quad


def _config(strength: str, resolution: int = 256, **more: Any) -> TextDataConfig:
    return TextDataConfig.model_validate({"augment": strength, "resolution": resolution, **more})


@pytest.mark.parametrize("turns", [0.0, 1.0])
@pytest.mark.parametrize("strength", ["none", "light", "medium", "strong"])
@pytest.mark.parametrize("index", range(12))
def test_the_polygon_stays_on_its_pixels(strength: str, index: int, turns: float) -> None:
    image, quad = _page()
    config = _config(strength, quarter_turns=turns)
    page, [moved] = augment_page(image, [quad], config, (1, 2, index))
    assert page.dtype == np.uint8 and max(page.shape[:2]) <= 256
    expected = np.zeros(page.shape[:2], np.uint8)
    cv2.fillPoly(expected, [np.rint(moved).astype(np.int32)], 1)
    seen = (page.mean(axis=2) > 158).astype(np.uint8)
    union = (expected | seen).sum()
    # the polygon's outline is drawn as part of it, and resizing blurs it: a pixel all round
    outline = cv2.arcLength(np.rint(moved).astype(np.int32), True)
    assert (expected ^ seen).sum() <= max(1.2 * outline, 4), (union, outline)


def test_none_is_the_resized_page() -> None:
    image, quad = _page()
    page, [moved] = augment_page(image, [quad], _config("none", 150), (0, 0, 0))
    resized, (x_scale, y_scale) = resize_page(image, 150)
    assert page.shape == (150, 100, 3) and np.array_equal(page, resized)
    assert np.allclose(moved * (x_scale, y_scale), quad)


@pytest.mark.parametrize("photometric", ["none", "strong"])
def test_a_sample_is_a_function_of_its_key(photometric: str) -> None:
    image, quad = _page()
    config = _config("strong", photometric=photometric, quarter_turns=0.5)
    one, two, other = (
        augment_page(image, [quad], config, key) for key in ((1, 2, 3), (1, 2, 3), (1, 3, 3))
    )
    assert np.array_equal(one[0], two[0]) and np.array_equal(one[1][0], two[1][0])
    assert one[0].shape != other[0].shape or not np.array_equal(one[0], other[0])


def test_strengths_reach_their_ranges() -> None:
    """light only mirrors; strong shrinks to a half and enlarges until the window cuts."""
    image, quad = _page()
    areas = {}
    for strength in ("light", "strong"):
        moved = [augment_page(image, [quad], _config(strength), (0, 0, i))[1][0] for i in range(60)]
        areas[strength] = [abs(cv2.contourArea(m.astype(np.float32))) for m in moved]
    plain = cv2.contourArea((quad / (300 / 256)).astype(np.float32))
    assert np.allclose(areas["light"], plain, rtol=0.02)
    scales = np.sqrt(np.array(areas["strong"]) / plain)
    assert 0.48 < scales.min() < 0.7 and 2.3 < scales.max() < 3.05


@pytest.mark.parametrize("strength", ["light", "medium", "strong"])
def test_colours_change_and_the_page_stays_where_it_is(strength: str) -> None:
    """Whatever `photometric` draws, geometry draws the same numbers."""
    image, quad = _page()
    bright = []
    for index in range(40):
        key = (3, 1, index)
        plain, [there] = augment_page(image, [quad], _config("medium"), key)
        page, [moved] = augment_page(image, [quad], _config("medium", photometric=strength), key)
        assert page.shape == plain.shape and np.array_equal(moved, there)
        bright.append(page.mean() / plain.mean())
    assert min(bright) < 0.95 and max(bright) > 1.05


def test_quarter_turns_are_turns_of_the_page_and_as_frequent_as_asked() -> None:
    """Without a flip the page is one of the three that OpenCV and numpy turn alike."""
    image, quad = _page()
    image[:40, :40] = (255, 0, 0)  # no two turns look alike
    plain, [there] = augment_page(image, [quad], _config("none"), (0, 0, 0))
    found = []
    for index in range(200):
        config = _config("none", quarter_turns=0.5)
        page, [moved] = augment_page(image, [quad], config, (0, 0, index))
        turns = [k for k in range(4) if np.array_equal(page, np.rot90(plain, -k))]
        assert len(turns) == 1
        found += turns
        x, y = there[0]
        height, width = plain.shape[:2]
        corner = [(x, y), (height - 1 - y, x), (width - 1 - x, height - 1 - y), (y, width - 1 - x)]
        assert np.allclose(moved[0], corner[turns[0]])
    counts = np.bincount(found, minlength=4)
    assert 80 < counts[0] < 120 and counts[1:].min() > 18
