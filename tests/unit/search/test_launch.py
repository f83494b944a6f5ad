"""The preflight's look at the space: sizes, batches and precisions of all its choices."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from search.work.preflight import preflight, settled
from spaces.config import SegmentationConfig
from spaces.data import SegmentationDataSpec
from spaces.entries import build_space
from spaces.errors import InputError
from spaces.segmentation import default_space
from spaces.space import Space
from spaces.spec import StudySpec
from trainers.data import SegmentationData
from trainers.segmentation import check_sizes, smallest_size


def space(**entries: Any) -> Space:
    fixed = {"model.arch": "Unet", "model.encoder": "resnet18", "train.batch_size": 4}
    return build_space(default_space(10, binary=False), {**fixed, **entries})


def test_smallest_is_by_area_and_the_shortest_side_counts() -> None:
    """128x128 has the smaller area, 64x512 the shorter side."""
    shapes = space(**{"data.resolution": ["64x512", "128x128"]})
    assert smallest_size(shapes) == (128, 128)
    check_sizes(shapes)
    with pytest.raises(InputError, match=r"PAN needs sides of at least 128 pixels.* has 64"):
        check_sizes(space(**{"model.arch": "PAN", "data.resolution": ["64x512", "128x128"]}))


def test_the_smallest_batch_counts() -> None:
    check_sizes(space(**{"train.batch_size": [1, 4]}))
    with pytest.raises(InputError, match="DeepLabV3Plus needs at least 2 images at once"):
        check_sizes(space(**{"model.arch": "DeepLabV3Plus", "train.batch_size": [4, 1]}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU trains in fp16")
def test_every_precision_of_the_space_is_checked() -> None:
    split = {"list": "never read"}
    spec = StudySpec.of(
        {
            "name": "x",
            "task": "segmentation",
            "data": {"train": split, "val": split, "classes": ["a", "b"]},
            "space": {"train.precision": ["fp32", "fp16"]},
        }
    )
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        preflight(spec)


def test_near_twins_on_these_data_are_left_out() -> None:
    split = {"list": "never read"}
    data = {"train": split, "val": split, "classes": ["a", "b", "c"]}
    tree = {"name": "x", "task": "segmentation", "data": data}
    method = "loss.class_weights.method"

    def left_out(counts: list[int], **more: Any) -> dict[str, list[str]]:
        read = SegmentationData(
            SegmentationDataSpec.model_validate(data), {}, counts, counts, [], "f"
        )
        return settled(StudySpec.of({**tree, **more}), read).left_out

    assert left_out([45, 40, 15]) == {method: ["effective_number"]}
    assert left_out([90, 9, 1]) == {}
    assert left_out([0, 0, 0]) == {}  # the trainer will say that every pixel is ignored
    assert left_out([45, 40, 15], space={method: ["inverse_freq", "effective_number"]}) == {}
    assert left_out([45, 40, 15], defaults=1) == {}


def test_default_space_can_train_anywhere() -> None:
    check_sizes(default_space(50, binary=True))
    assert SegmentationConfig().data.size == (512, 512)
