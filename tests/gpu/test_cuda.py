"""What only a GPU can show: CUDA AMP in each precision, real out-of-memory, micro-batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from search.sample_data import CLASSES, write_streets
from spaces.config import TrialConfig
from spaces.data import DataSpec
from trainers.data import SegmentationData
from trainers.tasks import load_data
from trainers.train import TrialResult, probe_memory, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> DataSpec:
    folder = write_streets(tmp_path_factory.mktemp("streets"), train=32, val=8)
    splits = {
        split: {"images": f"{folder}/{split}/images", "masks": f"{folder}/{split}/masks"}
        for split in ("train", "val")
    }
    return DataSpec.model_validate({**splits, "classes": list(CLASSES), "ignore_index": 255})


@pytest.fixture
def data(streets: DataSpec) -> SegmentationData:
    return load_data(streets)


def make_config(**changes: Any) -> TrialConfig:
    settings = {
        "model.encoder": "resnet18",
        "model.encoder_weights": None,
        "data.resolution": "96x128",
        "train.epochs": 4,
        "train.workers": 0,
        "optim.encoder_lr_ratio": 1.0,
        "loss.warmup_epochs": 1,
        "loss.ramp_epochs": 1,
    }
    return TrialConfig().replace({**settings, **changes})


def run(data: SegmentationData, workdir: Path, **changes: Any) -> TrialResult:
    return train(make_config(**changes), data, workdir, lambda report: None)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_each_precision_learns(precision: str, data: SegmentationData, tmp_path: Path) -> None:
    result = run(data, tmp_path, **{"train.precision": precision})
    losses = [report["train"]["pixel"] for report in result.history]
    assert result.reason == "completed"
    assert result.hardware["precision"] == precision
    assert losses[-1] < 0.8 * losses[0]
    assert all(report["peak_memory_mb"] > 0 for report in result.history)


def test_loader_processes_change_nothing(data: SegmentationData, tmp_path: Path) -> None:
    """A sample is a function of seed, epoch and index, whoever loads it."""
    alone = run(data, tmp_path / "0", **{"train.precision": "fp32", "train.epochs": 1})
    helped = run(
        data, tmp_path / "2", **{"train.precision": "fp32", "train.epochs": 1, "train.workers": 2}
    )
    first, second = (result.history[0]["train"]["total"] for result in (alone, helped))
    assert first == pytest.approx(second, rel=1e-3)


def test_real_out_of_memory_becomes_a_smaller_micro_batch(
    data: SegmentationData, tmp_path: Path
) -> None:
    """Memory is limited to what half of the batch needs; the trial goes on and remembers."""
    changes = {"train.epochs": 1, "train.batch_size": 32, "data.resolution": "384x512"}
    needed, whole = probe_memory(make_config(**changes), data)
    assert whole >= 32
    total = torch.cuda.get_device_properties(0).total_memory / 2**20
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.6 * needed / total)
    try:
        result = run(data, tmp_path, **changes)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert result.reason == "completed"
    assert result.hardware["micro_batch"] < 32


def test_a_resumed_run_goes_on(data: SegmentationData, tmp_path: Path) -> None:
    whole = run(data, tmp_path / "whole", **{"train.precision": "fp32"})
    config_epochs = len(whole.history)
    count = 0

    def stop() -> str | None:
        nonlocal count
        count += 1
        return "preempted" if count > 6 else None  # in the second epoch of four steps

    config = make_config(**{"train.precision": "fp32"})
    first = train(config, data, tmp_path / "part", lambda report: None, stop)
    assert first.reason == "preempted" and len(first.history) == 1
    resumed = train(config, data, tmp_path / "part", lambda report: None)
    assert len(resumed.history) == config_epochs
    last, expected = resumed.history[-1]["train"]["pixel"], whole.history[-1]["train"]["pixel"]
    assert last == pytest.approx(expected, rel=0.1)  # cuDNN's sums are not bit-reproducible
