"""How much a score varies with the draw of images, against drawing them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spaces.config import SegmentationMetric
from spaces.data import SegmentationDataSpec
from trainers import noise
from trainers.data import SegmentationData, effective_images
from trainers.noise import visible_difference


@pytest.mark.parametrize("sizes", [[10] * 25, [1, 2, 3, 4] * 10, [100, *[3] * 40]])
def test_effective_images_give_the_deviation_of_a_pooled_score(sizes: list[int]) -> None:
    """Images of these sizes whose own scores have a deviation of 0.2, drawn 20,000 times."""
    rng, weights = np.random.default_rng(0), np.array(sizes, float)
    own = rng.beta(2.0, 2.0, (20_000, len(sizes)))
    own = 0.5 + (own - 0.5) * 0.2 / own.std()
    pooled = (own * weights).sum(1) / weights.sum()
    expected = 0.2 / math.sqrt(float(effective_images(np.array(sizes))))
    assert pooled.std() == pytest.approx(expected, rel=0.03)


def test_images_are_worth_what_they_are_where_all_are_of_one_size() -> None:
    assert effective_images(np.full((7, 2), 5)).tolist() == [7.0, 7.0]
    assert effective_images(np.array([[0, 3], [0, 0]])).tolist() == [0.0, 1.0]
    assert effective_images(np.array([9, 1])) == pytest.approx(100 / 82)


def data(images: list[float]) -> SegmentationData:
    names = [f"c{index}" for index in range(len(images))]
    split = {"list": "never read"}
    spec = SegmentationDataSpec.model_validate({"train": split, "val": split, "classes": names})
    return SegmentationData(spec, {}, [1] * len(images), [1] * len(images), images, "f")


def test_a_mean_over_classes_varies_less_than_one_class() -> None:
    one = visible_difference(SegmentationMetric(classes=["c0"]), data([25.0, 25.0]))
    two = visible_difference(SegmentationMetric(), data([25.0, 25.0]))
    assert two == pytest.approx(one / math.sqrt(2))
    s, r = noise.SD_OF_A_CLASS, noise.SAME_IMAGES_ARE_HARD
    assert one == pytest.approx(1.96 * s / 5 * math.sqrt(2 * (1 - r)))
    assert visible_difference(SegmentationMetric(), data([25.0, 2.0])) > two
    assert visible_difference(SegmentationMetric(), data([25.0, 25.0, 0.0])) == two
    four = visible_difference(SegmentationMetric(), data([100.0, 100.0]))
    assert four == pytest.approx(two / 2)
