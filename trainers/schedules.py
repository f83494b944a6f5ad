"""Everything that changes with the epoch or the step: learning rate, loss mix, smoothing, clipping.

Epochs count from 0 here; an epoch's mix is constant, the learning rate moves with every step.
"""

from __future__ import annotations

import math

from spaces.config import OptimConfig
from spaces.loss import LossConfig


def lr_factor(step: int, steps_per_epoch: int, epochs: int, optim: OptimConfig) -> float:
    """Return the factor on the peak learning rate at an optimiser step (from 0).

    Linear warm-up over `optim.warmup_epochs`, then the schedule over what is left of the run:
    cosine (Loshchilov & Hutter 2017, without restarts), poly ((1 - t)^power, Chen et al. 2017),
    step (gamma every `step_epochs`, counted from the start), or constant.
    """
    warm = optim.warmup_epochs * steps_per_epoch
    if step < warm:
        return (step + 1) / (warm + 1)
    total = epochs * steps_per_epoch
    progress = min(1.0, (step - warm) / max(1, total - warm))
    if optim.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if optim.schedule == "poly":
        return float((1 - progress) ** optim.poly_power)
    if optim.schedule == "step":
        every = steps_per_epoch * step_epochs(optim, epochs)
        return float(optim.step_gamma ** (step // every))
    assert optim.schedule == "constant", optim.schedule
    return 1.0


def step_epochs(optim: OptimConfig, epochs: int) -> int:
    """Return the epochs between two steps: the config's, or two fifths of the run.

    So there are two steps, at 40 % and at 80 %, both after the longest warm-up that the default
    space has (a third).
    """
    return optim.step_epochs or max(1, round(0.4 * epochs))


def region_share(epoch: int, loss: LossConfig) -> float:
    """Return the share of the region term: 0 in warm-up, then a linear ramp to `region_share`."""
    return loss.region_share * ramp(epoch, loss.warmup_epochs, loss.ramp_epochs)


def ramp(epoch: int, warmup_epochs: int, ramp_epochs: int) -> float:
    """Return 0 in warm-up, then a linear ramp that reaches 1 in its last epoch (epochs from 0)."""
    if epoch < warmup_epochs:
        return 0.0
    return min(1.0, (epoch - warmup_epochs + 1) / max(1, ramp_epochs))


def smooth(epoch: int, loss: LossConfig) -> float:
    """Return the smoothing term: fixed, or 10, from epoch 10 on 5, from epoch 20 on 1."""
    if loss.smooth != "schedule":
        return float(loss.smooth)
    return 10.0 if epoch < 10 else 5.0 if epoch < 20 else 1.0


def max_weight_ratio(epoch: int, loss: LossConfig) -> float:
    """Return the clipping ratio of the class weights: tighter in the first stage."""
    weights = loss.class_weights
    first_stage = epoch < weights.stage_epochs
    return min(weights.stage_max_ratio, weights.max_ratio) if first_stage else weights.max_ratio
