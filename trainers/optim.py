"""Optimisers with a learning rate of their own for the encoder, and without decay on norms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from spaces.config import OptimConfig
from trainers.weighting import LR, LearnedWeights


def build_optimizer(
    model: nn.Module, config: OptimConfig, learned: LearnedWeights | None = None
) -> torch.optim.Optimizer:
    """Return AdamW or SGD over encoder and rest, each split into decayed and undecayed weights.

    What a loss learns of the weights of its terms is a group of its own, the last one, with a rate
    of its own and without decay.

    Parameters under `encoder.` train at `lr * encoder_lr_ratio` (0 freezes them). Each group
    keeps its peak rate as `peak_lr`; `set_lr` moves `lr` from there.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        lr = config.lr * (config.encoder_lr_ratio if name.startswith("encoder.") else 1.0)
        if lr == 0:
            parameter.requires_grad_(False)
            continue
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((lr, decay), []).append(parameter)
    settings: list[dict[str, Any]] = [
        {"params": parameters, "lr": lr, "peak_lr": lr, "weight_decay": decay}
        for (lr, decay), parameters in groups.items()
    ]
    if learned is not None:
        logs = list(learned.logs.values())
        settings.append({"params": logs, "lr": LR, "peak_lr": LR, "weight_decay": 0.0})
    if config.name == "sgd":
        sgd = torch.optim.SGD(
            settings,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov and config.momentum > 0,
            fused=True,
        )
        if config.momentum > 0:
            # torch's fused kernel makes these without filling them, and where a gradient scaler
            # skips the first step they stay so; from zero the first step is the same
            for parameter in (p for group in sgd.param_groups for p in group["params"]):
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    assert config.name == "adamw", config.name
    return torch.optim.AdamW(settings, lr=config.lr, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to `factor` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


@contextmanager
def memory_order(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Show channels_last weights to a step on the CPU in the order in which they lie in memory.

    Torch's fused kernels there walk through contiguous memory, and copy weights, gradients and
    moments there and back at each step where they are in another order. Here they see views, with
    nothing to copy, and come to the same numbers.
    """
    turned = [
        parameter
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
        and parameter.device.type == "cpu"
        and parameter.ndim == 4
        and not parameter.is_contiguous()
    ]
    _permute(optimizer, turned, (0, 2, 3, 1))
    try:
        yield
    finally:
        _permute(optimizer, turned, (0, 3, 1, 2))


def _permute(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], order: tuple[int, ...]
) -> None:
    """Permute the weights, their gradients, and what the optimiser keeps of them, as views."""
    for parameter in parameters:
        gradient, parameter.grad = parameter.grad, None  # a gradient must have its weight's shape
        parameter.data = parameter.data.permute(order)
        assert gradient is not None
        parameter.grad = gradient.permute(order)
        state = optimizer.state[parameter]
        for name, value in state.items():
            if isinstance(value, Tensor) and value.ndim == 4:
                state[name] = value.permute(order)
