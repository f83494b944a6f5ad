"""The DBNet loss (Liao et al. 2020, section 3.5), from logits and in fp32 whatever the autocast.

Total = w_p * pixel(P) + aux_scale * (w_t * regression(T) + w_d * Dice(B)), where P and T are the
sigmoids of the two logit maps and B = sigmoid(k (P - T)) is the differentiable binarisation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

K = 50.0  # steepness of the differentiable binarisation
# Focal sums are divided by the text pixels, as Lin et al. 2017 do, but at least by this share of
# all valid pixels: a batch almost free of text would have a gradient beyond all others.
FOCAL_FLOOR = 0.01


class TargetMaps(NamedTuple):
    """`targets.Targets` of a batch, each (B, H, W); any number type."""

    kernel: Tensor
    kernel_mask: Tensor
    threshold: Tensor
    threshold_mask: Tensor


class DBLoss:
    """The loss mix of one run.

    Args:
        pixel: `bce`, the logistic loss over text pixels and the hardest others, or `focal`.
        regression: `l1`, `huber` or `log_cosh`, of the threshold map.
        pixel_weight, threshold_weight, dice_weight: factors of the three terms, >= 0.
        negative_ratio: hard negatives a text pixel (Shrivastava et al. 2016), of `bce`.
        focal_gamma: focusing exponent, >= 0, of `focal`.
        focal_alpha: weight of text pixels, in 0..1, of `focal`; None for no weighting.
        label_smoothing: e in 0..1 of the pixel term: kernels are trained towards 1 - e / 2, the
            rest towards e / 2 (Szegedy et al. 2016).
        huber_delta: where `huber` turns from square to linear, in units of the threshold map.

    Raises:
        ValueError: an unknown name, or a number out of range.
    """

    def __init__(
        self,
        pixel: str = "bce",
        regression: str = "l1",
        *,
        pixel_weight: float = 5.0,
        threshold_weight: float = 10.0,
        dice_weight: float = 1.0,
        negative_ratio: float = 3.0,
        focal_gamma: float = 2.0,
        focal_alpha: float | None = None,
        label_smoothing: float = 0.0,
        huber_delta: float = 0.1,
    ) -> None:
        if pixel not in PIXEL_LOSSES:
            raise ValueError(f"pixel must be one of {sorted(PIXEL_LOSSES)}, but got {pixel!r}")
        if regression not in REGRESSIONS:
            raise ValueError(
                f"regression must be one of {sorted(REGRESSIONS)}, but got {regression!r}"
            )
        weights = (pixel_weight, threshold_weight, dice_weight)
        if min(weights) < 0:
            raise ValueError(f"loss weights must be at least 0, but got {weights}")
        if negative_ratio <= 0 or huber_delta <= 0 or focal_gamma < 0:
            raise ValueError(
                "negative_ratio and huber_delta must be above 0 and focal_gamma at least 0, but "
                f"got {negative_ratio}, {huber_delta} and {focal_gamma}"
            )
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in 0..1, but got {label_smoothing}")
        self.pixel = PIXEL_LOSSES[pixel]
        self.regression = REGRESSIONS[regression]
        self.pixel_weight, self.threshold_weight, self.dice_weight = weights
        self.negative_ratio = negative_ratio
        self.focal_gamma = focal_gamma
        self.focal_alpha = focal_alpha
        self.label_smoothing = label_smoothing
        self.huber_delta = huber_delta

    def __call__(
        self,
        probability: Tensor,
        threshold: Tensor,
        maps: TargetMaps,
        *,
        aux_scale: float = 1.0,
        negatives: int | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total and its parts: `pixel`, `threshold`, `dice`, `total`, detached.

        The first three are without their weights; arguments as of `terms` and `total`.
        """
        terms = self.terms(probability, threshold, maps, negatives=negatives)
        parts = {**terms, "total": self.total(terms, aux_scale)}
        return parts["total"], {name: value.detach() for name, value in parts.items()}

    def terms(
        self,
        probability: Tensor,
        threshold: Tensor,
        maps: TargetMaps,
        *,
        negatives: int | None = None,
    ) -> dict[str, Tensor]:
        """Return `pixel`, `threshold` and `dice` without their weights, () each.

        A batch without text gives 0 for `bce`, `threshold` and `dice`, with zero gradients.

        Args:
            probability: (B, 1, H, W) logits of P, any float type.
            threshold: (B, 1, H, W) logits of T, any float type.
            maps: the targets, (B, H, W) each, on the same device.
            negatives: what `hard_negatives` counts for these maps; None counts here, which on a
                GPU waits for the device.

        Raises:
            ValueError: shapes that do not fit.
        """
        _check(probability, threshold, maps)
        with torch.autocast(probability.device.type, enabled=False):
            p_logits = probability.float().squeeze(1)  # (B, H, W)
            t = threshold.float().squeeze(1).sigmoid()
            kernel, mask = maps.kernel.float(), maps.kernel_mask.float()
            if negatives is None:
                negatives = hard_negatives(maps.kernel, maps.kernel_mask, self.negative_ratio)
            pixel = self.pixel(p_logits, kernel, mask, negatives, self)
            error = self.regression(t - maps.threshold.float(), self)
            border = _masked_mean(error, maps.threshold_mask.float())
            dice = _dice(torch.sigmoid(K * (p_logits.sigmoid() - t)), kernel, mask)
        return {"pixel": pixel, "threshold": border, "dice": dice}

    def total(self, terms: Mapping[str, Tensor], aux_scale: float = 1.0) -> Tensor:
        """Return the weighted sum.

        Args:
            aux_scale: factor 0..1 of the threshold and Dice terms, for warm-up.

        Raises:
            ValueError: aux_scale out of range.
        """
        if not 0 <= aux_scale <= 1:
            raise ValueError(f"aux_scale must be in 0..1, but got {aux_scale}")
        border, dice = self.threshold_weight * terms["threshold"], self.dice_weight * terms["dice"]
        return self.pixel_weight * terms["pixel"] + aux_scale * (border + dice)


def hard_negatives(kernel: Tensor, mask: Tensor, ratio: float = 3.0) -> int:
    """Count the hard negatives of a batch: `ratio` a text pixel, or all valid ones if fewer.

    Call it on the CPU, before the maps go to the GPU, and nobody waits.

    Args:
        kernel, mask: (B, H, W) of 0 and 1.
    """
    valid = mask > 0
    return negatives_of(int(((kernel > 0) & valid).sum()), int(valid.sum()), ratio)


def negatives_of(text: int, valid: int, ratio: float = 3.0) -> int:
    """The hard negatives of a batch that has so many text pixels among its valid ones."""
    return min(int(ratio * text), valid - text)


# ---------------------------------------------------------------- pixel terms


def _hard_negative_bce(
    logits: Tensor, kernel: Tensor, mask: Tensor, negatives: int, loss: DBLoss
) -> Tensor:
    """The logistic loss, mean over text pixels and the `negatives` costliest others."""
    soft = _smoothed(kernel, loss)
    values = F.binary_cross_entropy_with_logits(logits, soft, reduction="none") * mask
    positive = (values * kernel).sum()
    negative = (values * (1 - kernel)).flatten().topk(negatives, sorted=False).values.sum()
    count = (kernel * mask).sum() + negatives
    return (positive + negative) / count.clamp(min=1)


def _focal(logits: Tensor, kernel: Tensor, mask: Tensor, negatives: int, loss: DBLoss) -> Tensor:
    """(1 - p_t)^gamma * cross-entropy (Lin et al. 2017, eq. 5), summed, a text pixel."""
    soft = _smoothed(kernel, loss)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, soft, reduction="none")
    wrong = torch.where(kernel > 0, -logits, logits).sigmoid()  # 1 - p_t, exact near 0
    values = wrong.clamp(min=1e-12) ** loss.focal_gamma * cross_entropy
    if loss.focal_alpha is not None:
        values = values * torch.where(kernel > 0, loss.focal_alpha, 1 - loss.focal_alpha)
    count = torch.maximum((kernel * mask).sum(), FOCAL_FLOOR * mask.sum())
    return (values * mask).sum() / count.clamp(min=1)


def _smoothed(kernel: Tensor, loss: DBLoss) -> Tensor:
    smoothing = loss.label_smoothing
    return kernel * (1 - smoothing) + smoothing / 2 if smoothing else kernel


# ---------------------------------------------------------------- threshold terms, of errors


def _l1(error: Tensor, loss: DBLoss) -> Tensor:
    return error.abs()


def _huber(error: Tensor, loss: DBLoss) -> Tensor:
    """error^2 / 2 up to delta, then delta (|error| - delta / 2)."""
    return F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=loss.huber_delta)


def _log_cosh(error: Tensor, loss: DBLoss) -> Tensor:
    """log cosh(error); |e| + softplus(-2|e|) - log 2 does not overflow."""
    size = error.abs()
    return size + F.softplus(-2 * size) - F.softplus(torch.zeros_like(size))


# ---------------------------------------------------------------- shared


def _dice(binary: Tensor, kernel: Tensor, mask: Tensor) -> Tensor:
    """1 - 2I / (B + G), pooled over the batch; 0 where there is no text to overlap."""
    text = (kernel * mask).sum()
    overlap = (binary * kernel * mask).sum()
    dice = 1 - 2 * overlap / ((binary * mask).sum() + text).clamp(min=1e-6)
    return dice * (text > 0)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)


def _check(probability: Tensor, threshold: Tensor, maps: TargetMaps) -> None:
    batch, height, width = maps.kernel.shape
    for name, logits in (("probability", probability), ("threshold", threshold)):
        if logits.shape != (batch, 1, height, width):
            raise ValueError(
                f"{name} logits must be {(batch, 1, height, width)} to fit the targets, but are "
                f"{tuple(logits.shape)}"
            )


PIXEL_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, int, DBLoss], Tensor]] = {
    "bce": _hard_negative_bce,
    "focal": _focal,
}

REGRESSIONS: dict[str, Callable[[Tensor, DBLoss], Tensor]] = {
    "l1": _l1,
    "huber": _huber,
    "log_cosh": _log_cosh,
}
