"""Steps that are measured before a study begins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from spaces.config import SegmentationConfig
from trainers import speed as speed_module
from trainers.data import SegmentationData
from trainers.speed import measure_speed, operations
from trainers.train import few_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def small(**changes: Any) -> SegmentationConfig:
    settings = {
        "model.encoder": "resnet18",
        "data.resolution": "32x32",
        "train.batch_size": 4,
        "train.precision": "fp32",
    }
    return SegmentationConfig().replace({**settings, **changes})


def test_steps_are_of_the_config_and_the_data_are_left_alone(
    data: SegmentationData, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """9 images in batches of 4: two steps, of which the last has the odd one, too."""
    found = measure_speed(small(), data)
    assert found is not None
    assert (found.steps, found.images, found.parameters) == (2, 4, 14_329_224)
    assert found.epoch == found.steps * found.step + 4 * found.image
    monkeypatch.setattr(speed_module, "SECONDS", 0.0)  # as where a whole batch would take longer
    fewer = measure_speed(small(**{"train.batch_size": 9}), data)
    assert fewer is not None and fewer.steps == 1
    assert found.step > 0 and 0 < fewer.image < fewer.epoch
    assert len(built) == 4


def test_few_samples_of_a_fold_are_kept_under_a_name_of_their_own(data: SegmentationData) -> None:
    """All folds share what is kept of the whole data set: that must not become the few."""
    fold = replace(data, fold=1)
    few = few_of(fold, data.split("train")[:2], data.split("val")[:1], "few")
    assert fold.kept("train").name == "folds" and few.kept("train").name == "train"
    assert few.kept("train").fingerprint == f"{data.fingerprint}/few"


def test_out_of_memory_is_said(data: SegmentationData, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr("trainers.segmentation.SegmentationTask.run", full)
    assert measure_speed(small(), data) is None


def test_operations_follow_the_network() -> None:
    one, more = (
        operations(small(**{"model.encoder": name}), 8) for name in ("resnet18", "resnet34")
    )
    assert 1e9 < one < more < 1e10
