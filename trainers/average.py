"""`train.ema`: the running average of a network's weights, which is scored and kept in their place.

After n steps the weights of step i count (i^k - (i - 1)^k) / n^k, the newer the more: a power
function average (Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion
Models", section 3.1). Their mean age is 1 / (k + 1) of the steps so far. So one number means the
same in a run of 100 steps and of 100,000, and it needs no warm-up of its own: after the first step
the average is the weights, and nothing of the untrained network stays in it.
"""

from __future__ import annotations

from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """The average of a network over its steps.

    Statistics of batch norm are averaged as the weights are: those of the last batches belong to
    weights that are newer than the average, and to measure them anew is a pass over the data. Its
    counters of batches are copied.

    Not torch's AveragedModel: that one keeps its count on the host and copies it to the device at
    each update, which waits for the GPU; and it averages counters, rounded.

    Args:
        model: the network in its first state, on its device, not compiled.
        share: mean age of what is averaged, as a share of the steps so far, in (0, 0.5]; 0.5 weighs
            all steps alike.

    Attributes:
        model: the averaged network, in evaluation mode.
    """

    def __init__(self, model: nn.Module, share: float) -> None:
        self.share = share
        self.model = deepcopy(model).requires_grad_(False).eval()
        pairs = list(zip(_tensors(self.model), _tensors(model), strict=True))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._averages: list[Tensor] = [own for own, _ in floats]
        self._weights: list[Tensor] = [new for _, new in floats]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int, taken: Tensor | None = None) -> None:
        """Take in the weights after a step.

        Args:
            step: steps that have been taken, this one included, >= 1.
            taken: () bool, on the device, where the step may have been skipped (fp16); then the
                average stays as it is. No look at it: that would wait for the device.
        """
        keep = decay(step, self.share)
        if taken is None:
            get_ema_multi_avg_fn(keep)(self._averages, self._weights, step)
        else:
            part = torch.where(taken, 1 - keep, 0.0)
            for average, weight in zip(self._averages, self._weights, strict=True):
                average.lerp_(weight, part)
        for counter, new in self._counters:
            counter.copy_(new)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights and statistics; the step is the caller's to keep."""
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state)


def decay(step: int, share: float) -> float:
    """Return what stays of the average at a step (from 1): (1 - 1 / step)^k, k = 1 / share - 1."""
    return float((1 - 1 / step) ** (1 / share - 1))


def _tensors(model: nn.Module) -> chain[Tensor]:
    return chain(model.parameters(), model.buffers())
