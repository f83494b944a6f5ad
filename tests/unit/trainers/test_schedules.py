"""Tables of schedule values, alarms and patience."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from spaces.config import HealthConfig, OptimConfig, SegmentationConfig
from spaces.errors import InputError
from spaces.loss import LossConfig
from trainers.health import ALARMS, Vitals, alarm, out_of_patience, patience
from trainers.optim import build_optimizer, memory_order, set_lr
from trainers.precision import resolve_precision
from trainers.schedules import lr_factor, max_weight_ratio, region_share, smooth, step_epochs


@pytest.mark.parametrize(
    ("schedule", "step", "factor"),
    [
        ("constant", 0, 1 / 21),  # warm-up of 2 epochs of 10 steps
        ("constant", 19, 20 / 21),
        ("constant", 20, 1),
        ("constant", 99, 1),
        ("cosine", 20, 1),
        ("cosine", 60, 0.5),
        ("cosine", 100, 0),
        ("poly", 60, 0.5**0.9),
        ("step", 29, 1),
        ("step", 30, 0.1),
        ("step", 60, 0.01),
    ],
)
def test_learning_rate(schedule: Any, step: int, factor: float) -> None:
    optim = OptimConfig(schedule=schedule, warmup_epochs=2, step_epochs=3)
    assert lr_factor(step, 10, 10, optim) == pytest.approx(factor, abs=1e-9)


@pytest.mark.parametrize(
    ("epochs", "every"), [(1, 1), (2, 1), (8, 3), (15, 6), (50, 20), (100, 40), (101, 40)]
)
def test_steps_come_in_proportion_to_the_run(epochs: int, every: int) -> None:
    """At 40 % and at 80 %; a number of the config is obeyed."""
    assert step_epochs(OptimConfig(), epochs) == every
    assert step_epochs(OptimConfig(step_epochs=7), epochs) == 7
    optim = OptimConfig(schedule="step", warmup_epochs=0)
    factors = {lr_factor(epoch, 1, epochs, optim) for epoch in range(epochs)}
    assert len(factors) == min(3, epochs)


@pytest.mark.parametrize(
    ("epoch", "share"), [(0, 0), (4, 0), (5, 0.04), (9, 0.2), (14, 0.4), (40, 0.4)]
)
def test_region_share_of_the_field(epoch: int, share: float) -> None:
    loss = LossConfig(warmup_epochs=5, ramp_epochs=10, region_share=0.4)
    assert region_share(epoch, loss) == pytest.approx(share)


def test_without_ramp_the_share_is_there_at_once() -> None:
    assert region_share(0, LossConfig(warmup_epochs=0, ramp_epochs=0, region_share=0.4)) == 0.4


@pytest.mark.parametrize(("epoch", "value"), [(0, 10), (9, 10), (10, 5), (19, 5), (20, 1)])
def test_smoothing_by_epoch(epoch: int, value: float) -> None:
    assert smooth(epoch, LossConfig()) == value
    assert smooth(epoch, LossConfig(smooth=5.0)) == 5


def test_clipping_in_two_stages_of_the_field() -> None:
    loss = LossConfig.model_validate(
        {"class_weights": {"max_ratio": 5, "stage_epochs": 20, "stage_max_ratio": 2}}
    )
    assert [max_weight_ratio(epoch, loss) for epoch in (0, 19, 20)] == [2, 2, 5]


def vitals(
    metric: float = 0.5,
    pixel: float = 1.0,
    norm: float = 1.0,
    per_class: tuple[float, ...] = (0.5, 0.5),
) -> Vitals:
    return Vitals(metric, pixel, pixel, norm, per_class)


@pytest.mark.parametrize(
    ("history", "rings"),
    [
        ([vitals()] * 40, None),
        ([vitals(pixel=math.nan)], "nonfinite"),
        ([vitals(norm=math.inf)], "nonfinite"),
        ([vitals(norm=1000)], None),
        ([vitals(norm=1001)], "exploding"),
        ([vitals(), vitals(pixel=3), vitals(pixel=3)], "diverging"),
        ([vitals(), vitals(pixel=3), vitals(pixel=2.9)], None),
        ([vitals(), vitals(pixel=9), vitals(), vitals(pixel=9)], None),
        ([vitals(metric=0.9 - 0.1 * i) for i in range(6)], "falling"),
        ([vitals(metric=0.9 - 0.1 * i) for i in range(5)], None),
        ([vitals(per_class=(0.5, 0.0))] * 35, "dead_class"),
        ([vitals(per_class=(0.5, 0.0))] * 34, None),  # 30 epochs after the settled 5
        ([vitals(per_class=(0.5, math.nan))] * 40, None),  # the split lacks the class
    ],
)
def test_alarms(history: list[Vitals], rings: str | None) -> None:
    assert rings is None or rings in ALARMS
    assert alarm(history, HealthConfig(), settled_epoch=5) == rings


def test_alarms_can_be_switched_off_but_for_nonfinite() -> None:
    off = HealthConfig(grad_norm=0, diverging=0, falling_epochs=0, dead_class_epochs=0)
    sick = [
        vitals(metric=0.9 - 0.01 * i, pixel=1 + i, norm=1e6, per_class=(0.0,)) for i in range(60)
    ]
    assert alarm(sick, off, 0) is None
    assert alarm([*sick, vitals(pixel=math.nan)], off, 0) == "nonfinite"


@pytest.mark.parametrize(
    ("metrics", "patience", "settled", "ends"),
    [
        ([0.5, 0.4, 0.4], 3, 0, False),
        ([0.5, 0.4, 0.4, 0.4], 3, 0, True),
        ([0.5, 0.4, 0.4, 0.4], 0, 0, False),
        ([0.5, 0.4, 0.4, 0.4], 3, 4, False),  # still warming up
        ([0.5] + [0.4] * 6, 3, 4, False),  # settled at epoch 4: two epochs since
        ([0.5] + [0.4] * 7, 3, 4, True),
        ([0.1, 0.2, 0.3, 0.3, 0.3, 0.3], 3, 0, True),  # an equal value is no new best
    ],
)
def test_out_of_patience(metrics: list[float], patience: int, settled: int, ends: bool) -> None:
    assert out_of_patience(metrics, patience, 99, settled) is ends


@pytest.mark.parametrize(
    ("epochs", "schedule", "given", "expected"),
    [
        (50, "constant", None, (10, 50)),
        (50, "step", None, (10, 50)),
        (50, "cosine", None, (10, 40)),
        (8, "poly", None, (3, 7)),  # 7 of 8 epochs are more than four fifths
        (3, "cosine", None, (3, 3)),
        (100, "cosine", 3, (3, 100)),  # as told, to the end
        (100, "cosine", 0, (0, 100)),
    ],
)
def test_patience_agrees_with_run_and_schedule(
    epochs: int, schedule: str, given: int | None, expected: tuple[int, int]
) -> None:
    changes = {"train.epochs": epochs, "optim.schedule": schedule, "train.patience": given}
    assert patience(SegmentationConfig().replace(changes)) == expected


def test_patience_is_endless_in_the_last_fifth() -> None:
    assert out_of_patience([0.5] + [0.4] * 38, 10, 40, 0)
    assert not out_of_patience([0.5] + [0.4] * 39, 10, 40, 0)
    assert not out_of_patience([0.5] + [0.4] * 48, 10, 40, 0)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 2, 1)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_encoder_has_its_own_rate_and_norms_no_decay(name: Any) -> None:
    model = Net()
    config = OptimConfig(name=name, lr=0.1, encoder_lr_ratio=0.1, weight_decay=0.01)
    optimizer = build_optimizer(model, config)
    found = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert found[id(model.encoder[0].weight)] == pytest.approx((0.01, 0.01))
    assert found[id(model.encoder[0].bias)] == pytest.approx((0.01, 0.0))
    assert found[id(model.encoder[1].weight)] == pytest.approx((0.01, 0.0))
    assert found[id(model.head.weight)] == pytest.approx((0.1, 0.01))
    set_lr(optimizer, 0.5)
    assert sorted({round(g["lr"], 6) for g in optimizer.param_groups}) == [0.005, 0.05]


def test_ratio_0_freezes_the_encoder() -> None:
    model = Net()
    build_optimizer(model, OptimConfig(encoder_lr_ratio=0))
    assert not any(p.requires_grad for p in model.encoder.parameters())
    assert all(p.requires_grad for p in model.head.parameters())


def channels_last_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, shown: AbstractContextManager[None]
) -> int:
    """Take one step; return how often it copied what belongs to a convolution's weights."""
    torch.manual_seed(0)
    optimizer.zero_grad()
    images = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    model(images).square().mean().backward()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found, shown:
        optimizer.step()
    events = [event for event in found.events() or () if event.name == "aten::copy_"]
    return sum(len(event.input_shapes[0]) == 4 for event in events)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_step_in_memory_order_copies_nothing_and_comes_to_the_same(name: Any) -> None:
    def trained(in_order: bool) -> tuple[nn.Module, torch.optim.Optimizer, int]:
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3, groups=2))
        model = layers.to(memory_format=torch.channels_last)
        optimizer = build_optimizer(model, OptimConfig(name=name, lr=0.01, momentum=0.9))
        for _ in range(3):
            shown = memory_order(optimizer) if in_order else nullcontext()
            copies = channels_last_step(model, optimizer, shown)
        return model, optimizer, copies

    (ours, own, copies), (plain, reference, avoided) = trained(True), trained(False)
    assert copies == 0
    assert avoided > 0  # else torch has learnt it, and memory_order is to be deleted
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one.stride() == other.stride()
        assert one.grad is not None and other.grad is not None
        assert one.grad.stride() == other.grad.stride()
        kept, known = own.state[one], reference.state[other]
        assert kept.keys() == known.keys()
        for key, value in known.items():
            assert torch.equal(kept[key], value)
            assert kept[key].stride() == value.stride()


def test_memory_order_ends_where_a_step_fails() -> None:
    model = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, OptimConfig())
    model(torch.randn(1, 3, 8, 8)).sum().backward()
    with pytest.raises(RuntimeError, match="halfway"), memory_order(optimizer):
        assert model.weight.shape == (8, 3, 3, 3)
        assert model.weight.is_contiguous()
        raise RuntimeError("halfway")
    assert model.weight.shape == (8, 3, 3, 3)
    assert model.weight.is_contiguous(memory_format=torch.channels_last)
    assert model.weight.grad is not None


def test_precision() -> None:
    cpu = torch.device("cpu")
    assert resolve_precision("auto", cpu) in ("bf16", "fp32")
    assert resolve_precision("fp32", cpu) == "fp32"
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        resolve_precision("fp16", cpu)
