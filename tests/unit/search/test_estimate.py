"""What a study is said to take before it begins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from search.work.estimate import Estimate, Extreme, _extremes, _measured
from spaces.config import SegmentationConfig
from spaces.data import FoldsSpec
from spaces.spec import StudySpec
from tests.scripted import make_spec
from trainers.data import SegmentationData
from trainers.speed import Speed

SMALL = Speed(step=0.5, image=0.1, steps=10, images=20, parameters=10_000_000)
LARGE = Speed(step=2.0, image=0.5, steps=5, images=20, parameters=25_000_000)


def said(spec: StudySpec, small: Speed | None, large: Speed | None, workers: int = 1) -> list[str]:
    config = spec.search_space().base
    ends = [Extreme(config, speed, "out of memory") for speed in (small, large)]
    return list(Estimate(spec, 60, "cpu", workers, *ends, cache=5 * 10**8).lines())


def test_the_range_is_that_of_all_trials_alike(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, "estimated", trials=60)
    smallest, largest, time, disk = said(spec, SMALL, LARGE)
    assert smallest.startswith("smallest: ") and largest.startswith("largest: ")
    assert "0.5 s a step on cpu, 10 steps and 20 val images an epoch: 7 s" in smallest
    # 60 trials of 30 epochs of 7 s, and of 20 s
    assert time.startswith("time: 3 h 30 min to 10 h 00 min on 1 worker, if all 60 trials of 30 ")
    assert "105 min" not in time and "spares is not counted" in time
    # AdamW: weights, two moments, the best epoch's weights; nothing waits
    assert "160 MB to 400 MB for the checkpoint of each trial that runs;" in disk
    assert disk.startswith("disk: 500 MB of decoded images") and "at most 1.2 GB" in disk
    _, _, shared, _ = said(spec, SMALL, LARGE, workers=4)
    assert shared.startswith("time: 52 min 30 s to 2 h 30 min on 4 workers")


def test_what_waits_and_folds_take_their_room(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, "estimated", trials=60, pruner="quantile")
    data = spec.data.model_copy(update={"val": None, "folds": FoldsSpec(count=3)})
    spec = StudySpec.from_json(spec.model_copy(update={"data": data}).to_json())
    *_, time, disk = said(spec, SMALL, LARGE)
    assert "10 h 30 min to 30 h 00 min" in time and "trials of 90 epochs" in time
    assert "of each that waits, 54 of them at most; 40 MB to 100 MB for each of 9 models" in disk


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    lines = said(make_spec(tmp_path, "estimated", trials=60), SMALL, None)
    assert lines[1].endswith(": out of memory") and not any("time:" in line for line in lines)


def test_the_ends_of_the_space_are_measured(tmp_path: Path) -> None:
    tree = make_spec(tmp_path, "ends", trials=1).model_dump(mode="json")
    tree["space"] = {
        "model.arch": ["FPN", "Unet"],
        "model.encoder": ["resnet34", "resnet18"],
        "data.resolution": ["256x256", "64x96", "128x96"],
        "train.batch_size": [8, 2, 16],
    }
    known: Any = SegmentationData(make_spec(tmp_path, "x", trials=1).data, {}, [1], [1], [1.0], "f")
    space = StudySpec.of(tree).search_space()
    small, large = (c.flat() for c in _extremes(space, known, None))
    names = ("model.arch", "model.encoder", "data.resolution", "train.batch_size")
    assert [small[name] for name in names] == ["FPN", "resnet18", "64x96", 2]
    assert [large[name] for name in names] == ["Unet", "resnet34", "256x256", 16]
    _, within = (c.flat() for c in _extremes(space, known, 20_000_000))
    assert [within[name] for name in names] == ["Unet", "resnet18", "256x256", 16]


class Dies:
    """Data that end the process that they are sent to."""

    def __reduce__(self) -> Any:
        return os._exit, (9,)


@pytest.mark.slow
def test_a_process_that_dies_is_said() -> None:
    data: Any = Dies()
    found = _measured(SegmentationConfig(), data)
    assert found.speed is None and "its process died" in found.problem
    nothing: Any = None
    found = _measured(SegmentationConfig(), nothing)
    assert found.speed is None and "could not be measured: AttributeError" in found.problem
