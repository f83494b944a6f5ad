"""What constant answers score, against predictions of one class counted as any other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from spaces.config import SegmentationMetric
from spaces.data import SegmentationDataSpec
from trainers.boundary import BoundaryCounts
from trainers.data import SegmentationData
from trainers.health import trivial_below
from trainers.image_counts import score_of
from trainers.masks import decode_mask
from trainers.metrics import ClassCounts
from trainers.tasks import load_data
from trainers.trivial import best_constant, constants

CPU = torch.device("cpu")


@pytest.fixture
def binary(tmp_path: Path) -> SegmentationData:
    """3 + 3 images of 20 x 24, foreground in a corner, a quarter of the pixels."""
    for name in ("train", "val"):
        for index in range(3):
            rng = np.random.default_rng(index + 9 * (name == "val"))
            image = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            mask = np.zeros((20, 24), np.uint8)
            mask[:10, :12] = 1
            for kind, values in (("images", image), ("masks", mask)):
                (tmp_path / name / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(tmp_path / name / kind / f"{index}.png")
    splits = {
        split: {"images": f"{tmp_path}/{split}/images", "masks": f"{tmp_path}/{split}/masks"}
        for split in ("train", "val")
    }
    data = load_data(SegmentationDataSpec.model_validate({**splits, "classes": ["cell"]}))
    assert isinstance(data, SegmentationData)
    return data


@pytest.mark.parametrize(
    "metric",
    [
        {},
        {"name": "dice"},
        {"name": "boundary_iou"},
        {"classes": ["road", "sky"], "weights": {"sky": 3}},
        {"name": "boundary_iou", "classes": ["car", "road"]},
    ],
)
def test_scores_are_those_of_painting_one_class(
    metric: dict[str, Any], data: SegmentationData
) -> None:
    chosen = SegmentationMetric.model_validate(metric)
    counter: Callable[..., Any] = ClassCounts
    if chosen.name == "boundary_iou":
        counter = BoundaryCounts
    expected = {}
    for index, name in enumerate(data.spec.names):
        counts = counter(data.classes, CPU)
        for sample in data.split("val"):
            truth = torch.from_numpy(decode_mask(sample.mask, data.spec)).long()[None]
            counts.update(torch.full_like(truth, index), truth)
        pooled = counts.images().numpy().sum(0)
        expected[f"all {name}"] = float(score_of(chosen, data.spec)(pooled))
    found = constants(chosen, data)
    assert {constant.name: constant.score for constant in found} == pytest.approx(expected)
    assert [c.score for c in found] == sorted(expected.values(), reverse=True)
    assert best_constant(chosen, data) == found[0].score


def test_all_foreground_is_its_share_and_all_background_nothing(binary: SegmentationData) -> None:
    found = {c.name: c.score for c in constants(SegmentationMetric(), binary)}
    assert found == {"all foreground": 0.25, "all background": 0.0}
    f1 = constants(SegmentationMetric(name="f1"), binary)
    assert (f1[0].name, f1[0].score) == ("all foreground", pytest.approx(0.4))


def test_an_ignored_class_is_no_answer(data: SegmentationData) -> None:
    first = constants(SegmentationMetric(), data)[0].name.removeprefix("all ")
    spec = data.spec.model_copy(update={"ignore_classes": [first]})
    names = {
        constant.name for constant in constants(SegmentationMetric(), replace(data, spec=spec))
    }
    assert names == {f"all {name}" for name in data.spec.names if name != first}


def test_the_bar_is_a_share_of_the_way_to_1() -> None:
    assert trivial_below(0.25, 1e-3) == pytest.approx(0.25075)
    assert trivial_below(0.9995, 1e-3) < 0.99951  # a perfect answer is not trivial there
    assert trivial_below(0.25, 0) == trivial_below(-math.inf, 1e-3) == -math.inf
