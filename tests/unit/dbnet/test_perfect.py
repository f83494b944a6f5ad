"""What perfect maps decode to: the reference receipts' table, and text that is large enough."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainers.dbnet.icdar import TextAnnotation, read_icdar
from trainers.dbnet.perfect import perfect_scores

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[3]
SROIE = REPOSITORY / os.environ.get("SEGTUNE_DATA", "../shared/data") / "sroie"

# Hmean of decoded target maps of SROIE receipts: long side -> {unclip_ratio: Hmean}
TABLE = {
    640: {1.5: 0.795, 2.0: 0.833},
    1024: {1.5: 0.888, 2.0: 0.951, 2.5: 0.950},
    1536: {1.5: 0.907, 2.0: 0.985, 2.5: 0.990},
}


@pytest.fixture(scope="module")
def receipts() -> list[tuple[tuple[int, int], TextAnnotation]]:
    if not SROIE.is_dir():
        message = f"no receipts in {SROIE}; set SEGTUNE_DATA to the folder that holds sroie/"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    images = []
    for label in sorted(SROIE.glob("*/labels/gt_*.txt")):
        image = label.parents[1] / "images" / f"{label.stem.removeprefix('gt_')}.jpg"
        with Image.open(image) as picture:
            width, height = picture.size
        images.append(((height, width), read_icdar(label)))
    assert len(images) == 126
    return images


@pytest.mark.parametrize("long_side", sorted(TABLE))
def test_perfect_maps_of_receipts(
    long_side: int, receipts: list[tuple[tuple[int, int], TextAnnotation]]
) -> None:
    expected = TABLE[long_side]
    found = perfect_scores(receipts, long_side, list(expected))
    assert [scores.hmean for scores in found] == pytest.approx(list(expected.values()), abs=0.01)
    finer = perfect_scores(receipts, long_side, list(expected), subpixel=True)
    assert all(a.hmean > b.hmean for a, b in zip(finer, found, strict=True))


def test_perfect_maps_are_no_bound(
    receipts: list[tuple[tuple[int, int], TextAnnotation]],
) -> None:
    """Kernels that are a pixel larger than they were taught score higher, at a lower ratio."""
    perfect = [scores.hmean for scores in perfect_scores(receipts, 640, [1.0, 1.5, 2.0, 2.5])]
    grown = perfect_scores(receipts, 640, [1.0], grown=1)[0].hmean
    assert (max(perfect), grown) == pytest.approx((0.826, 0.967), abs=0.001)


def page(height: int) -> TextAnnotation:
    """Lines of text of a height, in an image of 1000 x 1000."""
    lines = [
        np.array(
            [[100, y], [100 + 8 * height, y], [100 + 8 * height, y + height], [100, y + height]]
        )
        for y in range(20, 900, 3 * height)
    ]
    return TextAnnotation(
        [line.astype(float) for line in lines], np.zeros(len(lines), bool), [""] * len(lines)
    )


def test_large_text_can_be_found_and_small_text_cannot() -> None:
    size = (1000, 1000)
    assert perfect_scores([(size, page(60))], 1000, [2.0])[0].hmean == 1.0
    assert perfect_scores([(size, page(60))], 100, [2.0])[0].hmean == 0.0
    mixed = [(size, page(60)), (size, page(10))]
    assert 0 < perfect_scores(iter(mixed), 640, [2.0])[0].recall < 1


def test_dont_care_text_neither_helps_nor_hurts() -> None:
    known = page(60)
    flagged = TextAnnotation(known.polygons, np.arange(len(known.ignore)) == 0, known.texts)
    scores = perfect_scores([((1000, 1000), flagged)], 1000, [2.0])[0]
    assert (scores.hmean, scores.truths) == (1.0, len(known.polygons) - 1)


def arc(radius: float, height: float, corners: int = 12) -> np.ndarray:
    """(2 * corners, 2): a line of text along half a circle round (500, 600)."""
    angles = np.linspace(np.pi, 2 * np.pi, corners)
    along = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    outside, inside = along * (radius + height / 2), along[::-1] * (radius - height / 2)
    return np.concatenate([outside, inside]) + np.array([500, 600])


def test_arcs_are_found_as_polygons_and_lost_as_rectangles() -> None:
    curved = TextAnnotation([arc(400, 60), arc(250, 50)], np.zeros(2, bool), ["", ""])
    pages = [((1000, 1000), curved)]
    ratios = [1.0, 1.5, 2.0]
    rectangles = [s.hmean for s in perfect_scores(pages, 640, ratios)]
    polygons = [s.hmean for s in perfect_scores(pages, 640, ratios, output="polygon")]
    assert max(rectangles) == 0.0 and polygons[2] == 1.0
    straight = [((1000, 1000), page(60))]
    assert perfect_scores(straight, 640, [2.0], output="polygon")[0].hmean == 1.0
