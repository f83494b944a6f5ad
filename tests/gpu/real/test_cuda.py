"""What only a GPU can show: CUDA AMP in each precision, out of memory, resident data, waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from search.samples.streets import CLASSES, write_streets
from spaces.config import SegmentationConfig
from spaces.data import SegmentationDataSpec
from trainers import samples
from trainers.cache import load_arrays
from trainers.data import SegmentationData
from trainers.samples import Loaded, Resident, open_samples
from trainers.segmentation import SegmentationTask
from trainers.tasks import load_data
from trainers.to_host import FiniteWatch
from trainers.train import TrainingRun, TrialResult, probe_memory, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> SegmentationDataSpec:
    folder = write_streets(tmp_path_factory.mktemp("streets"), train=32, val=8)
    splits = {
        split: {"images": f"{folder}/{split}/images", "masks": f"{folder}/{split}/masks"}
        for split in ("train", "val")
    }
    return SegmentationDataSpec.model_validate(
        {**splits, "classes": list(CLASSES), "ignore_index": 255}
    )


@pytest.fixture
def data(streets: SegmentationDataSpec) -> SegmentationData:
    return load_data(streets)


def make_config(**changes: Any) -> SegmentationConfig:
    settings = {
        "model.encoder": "resnet18",
        "model.encoder_weights": None,
        "data.resolution": "96x128",
        "train.epochs": 4,
        "train.workers": 0,
        "train.ema": 0.1,
        "optim.encoder_lr_ratio": 1.0,
        "loss.warmup_epochs": 1,
        "loss.ramp_epochs": 1,
    }
    return SegmentationConfig().replace({**settings, **changes})


def run(data: SegmentationData, workdir: Path, **changes: Any) -> TrialResult:
    return train(make_config(**changes), data, workdir, lambda report: None)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_each_precision_learns(precision: str, data: SegmentationData, tmp_path: Path) -> None:
    result = run(data, tmp_path, **{"train.precision": precision})
    losses = [report.train.pixel for report in result.history]
    assert result.reason in ("completed", "health:trivial")
    assert result.hardware["precision"] == precision
    assert losses[-1] < 0.8 * losses[0]
    assert all(report.peak_memory_mb > 0 for report in result.history)


def test_loader_processes_change_nothing(data: SegmentationData, tmp_path: Path) -> None:
    """A sample is a function of seed, epoch and index, whoever loads it."""
    alone = run(data, tmp_path / "0", **{"train.precision": "fp32", "train.epochs": 1})
    helped = run(
        data, tmp_path / "2", **{"train.precision": "fp32", "train.epochs": 1, "train.workers": 2}
    )
    first, second = (result.history[0].train.total for result in (alone, helped))
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
    assert result.reason in ("completed", "health:trivial")
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
    last, expected = resumed.history[-1].train.pixel, whole.history[-1].train.pixel
    assert last == pytest.approx(expected, rel=0.1)  # cuDNN's sums are not bit-reproducible


GPU, CPU = torch.device("cuda"), torch.device("cpu")


def test_a_split_lives_on_the_gpu_where_it_fits_and_is_carried_there_where_not(
    data: SegmentationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    size = config.data.size
    resident = open_samples(data, "val", config.data, config.train, GPU)
    assert isinstance(resident, Resident) and resident.images.is_cuda
    monkeypatch.setattr(samples, "DEVICE_SHARE", 0.0)
    carried = open_samples(data, "val", config.data, config.train, GPU)
    assert isinstance(carried, Loaded)
    arrays = load_arrays(data, "val", size)
    assert arrays is not None
    batches = [[3, 1, 6], [0, 2]]
    for one, other, expected in zip(
        resident.batches(batches),
        carried.batches(batches),
        Resident(arrays, CPU).batches(batches),
        strict=True,
    ):
        for batch in (one, other):
            assert batch.images.is_cuda and torch.equal(batch.images.cpu(), expected.images)
            assert torch.equal(batch.masks.cpu(), expected.masks)
            pairs = zip(batch.originals, expected.originals, strict=True)
            assert all(torch.equal(mask.cpu(), same) for mask, same in pairs)


@pytest.mark.parametrize("strength", ["none", "light", "medium", "strong"])
def test_augmentation_is_the_cpus(strength: str, data: SegmentationData) -> None:
    config = make_config(**{"data.augment": strength})
    tasks = [SegmentationTask(config, data, device, "fp32", {}) for device in (GPU, CPU)]
    pairs = list(zip(*(task.batches(1) for task in tasks), strict=True))
    for (images, target), (others, truth) in pairs:
        assert images.is_cuda and target.is_cuda
        # a place between two pixels may be rounded to either
        assert (target.cpu() != truth).float().mean() < 1e-3
        assert ((images.cpu() - others).abs() > 1e-2).float().mean() < 1e-3


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"train.micro_batch": 4}, {"data.augment": "strong", "data.photometric": "strong"}],
)
def test_no_step_waits_for_the_gpu(
    precision: str, changes: dict[str, Any], data: SegmentationData, tmp_path: Path
) -> None:
    """torch raises at every wait between the first step and the last."""
    config = make_config(**{"train.precision": precision, **changes})
    run = TrainingRun(config, data, tmp_path, {}).build()
    steps = 0

    def after_step() -> None:
        nonlocal steps
        steps += 1
        done = steps == run.task.steps_per_epoch
        torch.cuda.set_sync_debug_mode("default" if done else "error")

    try:
        assert run.train_epoch(after_step) is None
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert steps == run.task.steps_per_epoch > 1


def test_a_sum_that_is_not_finite_is_noticed_one_look_late() -> None:
    watch = FiniteWatch()
    sick = torch.tensor(float("nan"), device=GPU)
    assert watch.look(torch.ones((), device=GPU))
    torch.cuda.synchronize()
    assert watch.look(sick)
    torch.cuda.synchronize()
    assert not watch.look(sick)


def test_a_streamed_run_is_the_resident_one(
    data: SegmentationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"train.precision": "fp32", "train.epochs": 1, "train.workers": 2}
    resident = run(data, tmp_path / "resident", **changes)
    monkeypatch.setenv("SEGTUNE_CACHE_BYTES", "10")
    monkeypatch.setenv("SEGTUNE_HOME", str(tmp_path / "home"))
    streamed = run(data, tmp_path / "streamed", **changes)
    first, second = (result.history[0].train.total for result in (resident, streamed))
    assert first == pytest.approx(second, rel=1e-3)


def test_a_compiled_run_learns(data: SegmentationData, tmp_path: Path) -> None:
    plain = run(data, tmp_path / "plain", **{"train.precision": "fp32", "train.epochs": 2})
    changes = {"train.precision": "fp32", "train.epochs": 2, "train.compile": True}
    compiled = run(data, tmp_path / "compiled", **changes)
    for one, other in zip(plain.history, compiled.history, strict=True):
        assert one.train.total == pytest.approx(other.train.total, rel=0.02)
