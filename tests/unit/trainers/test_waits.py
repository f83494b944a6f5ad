"""Within an epoch's steps the host never waits for the device: nothing on it is read back.

On a CPU nobody waits, but the same operators read a tensor's value into Python.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from spaces.config import SegmentationConfig
from trainers import train as module
from trainers.data import SegmentationData
from trainers.train import TrainingRun, train

pytestmark = pytest.mark.slow

READS = ("aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal",
         "aten::nonzero", "aten::masked_select", "aten::unique_dim", "aten::_unique2")  # fmt: skip


class Reads(TorchDispatchMode):
    """Lists the operators that a GPU's host would wait in."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split(".")[0]
        indexed = name.startswith("aten::index") and any(
            isinstance(part, torch.Tensor) and part.dtype in (torch.bool, torch.uint8)
            for part in (args[1] if isinstance(args[1], list | tuple) else ())
        )
        if name in READS or indexed:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def small(**changes: Any) -> SegmentationConfig:
    settings = {
        "model.encoder": "resnet18",
        "model.encoder_weights": None,
        "data.resolution": "32x32",
        "data.augment": "strong",
        "train.batch_size": 2,
        "train.epochs": 2,
        "train.precision": "fp32",
        "loss.warmup_epochs": 0,
        "loss.ramp_epochs": 0,
        "health.grad_norm": 0,
    }
    return SegmentationConfig().replace({**settings, **changes})


def test_the_counter_counts() -> None:
    with Reads() as reads:
        value = torch.ones(3)
        float(value.sum())
        bool(value.isfinite().all())
        value[value > 0]
        value.nonzero()
    assert len(reads.found) == 4


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optim.name": "sgd", "optim.clip_norm": 0.0},
        {"train.micro_batch": 1, "data.resolution": "64x64", "loss.warmup_epochs": 2},
        {"train.micro_batch": 1, "data.resolution": "64x64", "loss.normalize": "ema"},
        {
            "loss.pixel": "focal",
            "loss.region": "lovasz",
            "loss.class_weights.method": "sqrt_inv_freq",
        },
        {"loss.region": "tversky", "loss.label_smoothing": 0.1, "train.ema": 0.1},
        {"data.mode": "crop", "data.crops": "balanced"},
    ],
)
def test_no_step_of_an_epoch_reads_from_the_device(
    changes: dict[str, Any],
    data: SegmentationData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two epochs: batches, augmentation, steps, schedule; before them class weights are counted
    out on the host, after them the sums are read."""
    run = TrainingRun(small(**changes), data, tmp_path, {}).build()
    set_epoch = run.task.loss.set_epoch
    for _ in range(2):
        seen: list[int] = []
        with Reads() as reads:

            def prepare(epoch: int, reads: Reads = reads) -> None:
                set_epoch(epoch)
                reads.found.clear()

            def after_step(reads: Reads = reads, seen: list[int] = seen) -> None:
                seen.append(len(reads.found))

            monkeypatch.setattr(run.task.loss, "set_epoch", prepare)
            assert run.train_epoch(after_step) is None
        assert seen == [0, 0, 0, 0]
        run.finish_epoch()


def test_the_finite_check_reads_seldom_and_ends_the_epoch(
    data: SegmentationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FINITE_CHECK_STEPS", 2)
    run = TrainingRun(small(), data, tmp_path / "fine", {}).build()
    with Reads() as reads:
        assert run.train_epoch(lambda: None) is None
    assert len(reads.found) == 3  # twice in four steps, and at the end
    steps = 0

    def stop() -> None:
        nonlocal steps
        steps += 1

    run = TrainingRun(small(), data, tmp_path / "sick", {}).build()
    next(run.model.parameters()).data.fill_(float("nan"))
    assert run.train_epoch(stop) == "nonfinite" and steps == 1


def test_a_skipped_step_does_not_move_the_schedule(
    data: SegmentationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss scaler that overflows once: the norm of that step is infinite, and not counted."""
    run = TrainingRun(small(**{"train.ema": 0.1}), data, tmp_path, {}).build()
    assert run.average is not None
    averages: list[torch.Tensor] = []
    monkeypatch.setattr(run.scaler, "is_enabled", lambda: True)
    monkeypatch.setattr(run.scaler, "get_scale", lambda: 1024.0)
    original: Callable[..., Any] = run._update
    taken = 0

    def overflow() -> Any:
        nonlocal taken
        taken += 1
        norm = original()
        return torch.tensor(torch.inf) if taken == 2 else norm

    monkeypatch.setattr(run, "_update", overflow)
    first = next(run.average.model.parameters())
    assert run.train_epoch(lambda: averages.append(first.clone())) is None
    assert [torch.equal(one, other) for one, other in pairwise(averages)] == [True, False, False]
    assert (taken, run.step, len(run.sums.norms)) == (4, 3, 3)
    report = run.finish_epoch()
    assert report.grad_norm < float("inf")


def test_every_step_has_its_own_learning_rate(
    data: SegmentationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    factors: list[float] = []
    original = module.set_lr

    def watched(optimizer: Any, factor: float) -> None:
        factors.append(factor)
        original(optimizer, factor)

    monkeypatch.setattr(module, "set_lr", watched)
    config = small()
    train(config, data, tmp_path, lambda report: None)
    expected = [module.schedules.lr_factor(step, 4, 2, config.optim) for step in range(8)]
    assert factors == expected and len(set(factors)) == 8
