"""Optimisers with a learning rate of their own for the encoder, and without decay on norms."""

from __future__ import annotations

import torch
from torch import nn

from spaces.config import OptimConfig


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Return AdamW or SGD over encoder and rest, each split into decayed and undecayed weights.

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
    settings = [
        {"params": parameters, "lr": lr, "peak_lr": lr, "weight_decay": decay}
        for (lr, decay), parameters in groups.items()
    ]
    if config.name == "sgd":
        return torch.optim.SGD(
            settings,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov and config.momentum > 0,
            fused=True,
        )
    assert config.name == "adamw", config.name
    return torch.optim.AdamW(settings, lr=config.lr, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to `factor` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
