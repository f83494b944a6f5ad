"""Class weights by hand, and on real streets."""

from __future__ import annotations

from pathlib import Path

import pytest

from spaces.data import SegmentationDataSpec
from trainers.class_weights import METHODS, class_weights, near_twins
from trainers.tasks import load_data


@pytest.mark.parametrize(
    ("method", "counts", "max_ratio", "expected"),
    [
        # frequencies .9, .1 -> 1.1111, 10 -> mean 5.5556 -> 0.2, 1.8
        ("inverse_freq", [90, 10], 100.0, [0.2, 1.8]),
        # sqrt: 1.05409, 3.16228 -> mean 2.10819 -> 0.5, 1.5
        ("sqrt_inv_freq", [90, 10], 100.0, [0.5, 1.5]),
        # 0.2, 1.8 clipped to [2/3, 1.5] -> mean 1.08333 -> 0.615385, 1.384615
        ("inverse_freq", [90, 10], 1.5, [0.615385, 1.384615]),
        # an absent class takes the largest weight: 0.5, 1.5, 2 -> mean 1.33333
        ("sqrt_inv_freq", [90, 10, 0], 2.0, [0.375, 1.125, 1.5]),
        # (1-b)/(1-b^n), b = 0.9999, n = 9000 and 1000: 1e-4/0.593449, 1e-4/0.095167
        # = 1.68506e-4, 1.050784e-3 -> mean 6.09645e-4 -> 0.276400, 1.723600
        ("effective_number", [90, 10], 100.0, [0.276400, 1.723600]),
        ("inverse_freq", [5, 5, 5], 10.0, [1, 1, 1]),
    ],
)
def test_by_hand(method: str, counts: list[int], max_ratio: float, expected: list[float]) -> None:
    weights = class_weights(counts, method, max_ratio)
    assert weights is not None
    assert weights.tolist() == pytest.approx(expected, rel=1e-4)
    assert weights.mean().item() == pytest.approx(1)


def test_none_is_no_weights() -> None:
    assert class_weights([1, 2], "none", 10.0) is None


@pytest.mark.parametrize(
    ("counts", "max_ratio", "twins"),
    [
        # effective numbers are inverse frequencies but for classes of a large share
        ([30, 25, 20, 15, 6, 3, 1], 50.0, ["effective_number"]),
        ([90, 10], 50.0, []),  # 0.2 and 0.276
        ([90, 10], 1.5, ["sqrt_inv_freq", "effective_number"]),  # all are clipped
        ([52, 48], 50.0, ["inverse_freq", "sqrt_inv_freq", "effective_number"]),  # none does it
        ([90, 10, 0], 50.0, []),
    ],
)
def test_near_twins(counts: list[int], max_ratio: float, twins: list[str]) -> None:
    assert near_twins(counts, ("none", *METHODS), max_ratio) == twins


def test_no_pixels_is_an_error() -> None:
    with pytest.raises(ValueError, match="no class has a pixel"):
        class_weights([0, 0], "inverse_freq", 10.0)


def test_camvid_spans_what_the_field_measured(camvid: Path) -> None:
    """Raw inverse frequencies span 108.5, their roots 10.4; the mask values are the real ones."""
    import json

    known = json.loads((camvid / "classes.json").read_text())
    splits = {
        split: {"images": str(camvid / split / "images"), "masks": str(camvid / split / "masks")}
        for split in ("train", "val")
    }
    counts = load_data(SegmentationDataSpec.model_validate({**splits, **known})).counts
    for method, span in (("inverse_freq", 108.5), ("sqrt_inv_freq", 10.4)):
        weights = class_weights(counts, method, 1e6)
        assert weights is not None
        assert (weights.max() / weights.min()).item() == pytest.approx(span, rel=0.06)
