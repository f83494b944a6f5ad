"""Class weights of the pixel loss, from pixel counts of the train split.

Order matters: method -> normalise to mean 1 -> clip to [1/ratio, ratio] -> normalise again. Raw
inverse frequencies span a factor of 100 on street scenes, and such weights are the commonest
reason why the loss falls while mIoU falls too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

EFFECTIVE_BETA_SAMPLES = 10_000.0  # pixels; see _effective_number
TWIN = 1.25  # weights that differ by no larger factor train alike


def class_weights(counts: Sequence[int], method: str, max_ratio: float) -> Tensor | None:
    """Return one weight a class, or None for method `none`.

    Args:
        counts: valid pixels of each class in the train split, (C,); a class without pixels gets
            the largest clipped weight (it cannot act on the loss).
        method: a key of METHODS, or `none`.
        max_ratio: weights are clipped to [1/max_ratio, max_ratio] around their mean of 1; >= 1.

    Shape:
        (C,) float32, mean 1.
    """
    if method == "none":
        return None
    if method not in METHODS:
        raise ValueError(f"method must be none or one of {', '.join(METHODS)}, but got {method!r}")
    seen = torch.tensor([max(int(count), 0) for count in counts], dtype=torch.float64)
    if not bool((seen > 0).any()):
        raise ValueError("no class has a pixel in the train split")
    present = seen > 0
    raw = METHODS[method](seen.clamp(min=1) / seen.sum())
    weights = raw / raw[present].mean()
    weights = torch.where(present, weights, torch.full_like(weights, max_ratio))
    weights = weights.clamp(1 / max_ratio, max_ratio)
    return (weights / weights.mean()).float()


def near_twins(counts: Sequence[int], methods: Sequence[str], max_ratio: float) -> list[str]:
    """Return the methods whose weights are nearly those of one before them.

    `none` weighs every class with 1.

    Args:
        counts, max_ratio: as of `class_weights`.
        methods: keys of METHODS, or `none`.
    """
    kept: list[Tensor] = []
    twins: list[str] = []
    for method in methods:
        weights = class_weights(counts, method, max_ratio)
        logs = torch.zeros(len(counts)) if weights is None else weights.log()
        if any((logs - other).abs().max() <= math.log(TWIN) for other in kept):
            twins.append(method)
        else:
            kept.append(logs)
    return twins


def _inverse_freq(frequency: Tensor) -> Tensor:
    return 1 / frequency


def _sqrt_inv_freq(frequency: Tensor) -> Tensor:
    return frequency.rsqrt()


def _effective_number(frequency: Tensor) -> Tensor:
    """(1 - beta) / (1 - beta^n), Cui et al. 2019, eq. 5.

    Their n counts samples. Pixels of one object are not independent, and beta^n is 0 for any
    real pixel count, so n is the class's share of EFFECTIVE_BETA_SAMPLES samples.
    """
    samples = frequency * EFFECTIVE_BETA_SAMPLES
    beta = 1 - 1 / EFFECTIVE_BETA_SAMPLES
    return (1 - beta) / -torch.expm1(samples * torch.log(torch.tensor(beta).to(samples)))


METHODS: dict[str, Callable[[Tensor], Tensor]] = {
    "inverse_freq": _inverse_freq,
    "sqrt_inv_freq": _sqrt_inv_freq,
    "effective_number": _effective_number,
}
