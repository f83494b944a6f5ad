"""fp16 with its gradient scaler, on a CPU that stands in for a GPU: the numbers are real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spaces.config import SegmentationConfig
from spaces.errors import InputError
from trainers import train as loop
from trainers.data import SegmentationData
from trainers.train import TrainingRun, train


def small(**changes: Any) -> SegmentationConfig:
    settings = {
        "model.encoder": "resnet18",
        "model.encoder_weights": None,
        "data.resolution": "32x32",
        "train.epochs": 3,
        "train.batch_size": 4,
        "train.precision": "auto",
        "train.patience": 0,
        "optim.encoder_lr_ratio": 1.0,
        "loss.warmup_epochs": 1,
        "loss.ramp_epochs": 1,
        "health.grad_norm": 0,
    }
    return SegmentationConfig().replace({**settings, **changes})


@pytest.fixture
def in_precision(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make `auto` mean this one, on any device."""

    def choose(precision: str) -> None:
        monkeypatch.setattr(
            loop, "resolve_precision", lambda asked, device: precision if asked == "auto" else asked
        )

    return choose


def overflow(run: TrainingRun, monkeypatch: pytest.MonkeyPatch, steps: Any) -> None:
    """Let the network's output overflow in these steps (from 1), and with it every activation."""
    forward, count = run.task.run, 0

    def call(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += model.training
        if model.training and count in steps:
            images = images * float("inf")
        logits: torch.Tensor = forward(model, images)
        return logits

    monkeypatch.setattr(run.task, "run", call)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_a_scaler_may_skip_the_first_step_of_sgd(
    momentum: float,
    data: SegmentationData,
    tmp_path: Path,
    in_precision: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch's fused SGD makes momentum buffers without filling them, also in a step it skips."""
    in_precision("fp16")
    config = small(**{"optim.name": "sgd", "optim.lr": 0.01, "optim.momentum": momentum})
    torch.use_deterministic_algorithms(True, warn_only=True)  # memory is made with NaN in it
    try:
        run = TrainingRun(config, data, tmp_path, {}).build()
        overflow(run, monkeypatch, {1})
        assert run.train_epoch(lambda: None) is None
    finally:
        torch.use_deterministic_algorithms(False)
    assert len(run.sums.norms) == run.task.steps_per_epoch - 1
    assert all(bool(weight.isfinite().all()) for weight in run.model.state_dict().values())


def test_the_first_step_of_sgd_is_torchs(data: SegmentationData, tmp_path: Path) -> None:
    """Momentum that begins at zero is the gradient after one step, as torch's is."""
    weights = [torch.ones(3, requires_grad=True) for _ in range(2)]
    ours = torch.nn.Module()
    ours.weight = torch.nn.Parameter(weights[0].detach().clone())
    config = small(**{"optim.name": "sgd", "optim.lr": 0.1, "optim.weight_decay": 0.01}).optim
    optimizers = [
        loop.build_optimizer(ours, config),
        torch.optim.SGD([weights[1]], lr=0.1, momentum=config.momentum, nesterov=config.nesterov),
    ]
    for step in range(3):
        ours.weight.grad = torch.full((3,), 0.5 + step)
        weights[1].grad = torch.full((3,), 0.5 + step)
        for optimizer in optimizers:
            optimizer.step()
    assert torch.allclose(ours.weight.detach(), weights[1].detach())


def test_a_step_that_overflows_leaves_nothing_behind(
    data: SegmentationData,
    tmp_path: Path,
    in_precision: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not in the epoch's losses, the batch-norm statistics, or the running means of the loss."""
    in_precision("fp16")
    config = small(
        **{
            "loss.normalize": "ema",
            "loss.weighting": "gradnorm",
            "loss.warmup_epochs": 0,
            "train.ema": 0.1,
        }
    )
    run = TrainingRun(config, data, tmp_path, {}).build()
    overflow(run, monkeypatch, {2})
    assert run.train_epoch(lambda: None) is None
    report = run.finish_epoch()
    values = [report.train.total, report.train.pixel, report.train.region, report.grad_norm_max]
    assert all(0 < value < 1000 for value in values)
    assert report.loss_weights is not None and report.loss_weights["pixel"] != 0.6  # it learns
    kept = [*run.model.state_dict().values(), *run.task.loss.state_dict().values()]
    assert run.average is not None
    kept += run.average.model.state_dict().values()
    assert all(bool(tensor.isfinite().all()) for tensor in kept)
    assert run.step == run.task.steps_per_epoch - 1


def test_a_run_whose_every_step_overflows_ends(
    data: SegmentationData,
    tmp_path: Path,
    in_precision: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_precision("fp16")
    monkeypatch.setattr(loop, "FINITE_CHECK_STEPS", 2)
    run = TrainingRun(small(), data, tmp_path, {}).build()
    overflow(run, monkeypatch, range(1, 100))
    asked = 0

    def stop() -> None:
        nonlocal asked
        asked += 1

    assert run.train_epoch(stop) == "nonfinite"
    assert asked == 1  # at the first look, after two steps


def test_a_scale_at_its_floor_ends_the_run(
    data: SegmentationData, tmp_path: Path, in_precision: Callable[[str], None]
) -> None:
    in_precision("fp16")
    run = TrainingRun(small(), data, tmp_path, {}).build()
    run.scaler = torch.amp.GradScaler("cpu", init_scale=0.5)
    assert run.train_epoch(lambda: None) == "nonfinite"


@pytest.mark.parametrize(("began", "now"), [("fp32", "fp16"), ("fp16", "fp32"), ("bf16", "fp16")])
@pytest.mark.parametrize("able", [True, False])
def test_a_trial_resumed_on_another_device_keeps_its_precision_where_it_can(
    began: str,
    now: str,
    able: bool,
    data: SegmentationData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def resolve(asked: str, device: torch.device, usual: str = began) -> str:
        if asked not in ("auto", usual) and not able:
            raise InputError(f"train.precision: {asked} is not to be had here")
        return usual if asked == "auto" else asked

    monkeypatch.setattr(loop, "resolve_precision", resolve)
    asked = 0

    def stop() -> str | None:
        nonlocal asked
        asked += 1
        return "preempted" if asked > 3 else None

    assert train(small(), data, tmp_path, lambda report: None, stop).reason == "preempted"
    monkeypatch.setattr(
        loop, "resolve_precision", lambda asked, device: resolve(asked, device, now)
    )
    result = train(small(), data, tmp_path, lambda report: None)
    assert result.reason in ("completed", "patience", "health:trivial")
    assert result.hardware["precision"] == (began if able else now)
    said = capsys.readouterr().out
    assert (f"begun in {began}, goes on in {now}" in said) != able
