"""Segmentation losses: pixel and region term, mixed as (1 - share) * pixel + share * region, or
with weights that begin there and are learned.

All of it in fp32 and from logits, whatever the autocast type. Ignored pixels leave numerators and
denominators alike; region terms are pooled over the batch and averaged over the classes that the
batch holds, so that their value does not depend on how many classes are absent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from spaces.loss import LossConfig
from trainers import schedules
from trainers.class_weights import class_weights
from trainers.weighting import Loss, learned_weights

IGNORE = 255  # mask value of ignored pixels inside segtune, whatever the data set uses


class SegmentationLoss(Loss):
    """The loss mix of one run.

    Args:
        config: the loss section of the trial.
        counts: train pixels of each class, (C,); for a binary task [background, foreground].
        binary: one logit a pixel instead of C.
        device: where class weights live.
    """

    def __init__(
        self, config: LossConfig, counts: list[int], *, binary: bool, device: torch.device
    ) -> None:
        self.config = config
        self.counts = counts
        self.binary = binary
        self.device = device
        self.running = {"pixel": torch.zeros((), device=device)}
        self.running["region"] = torch.zeros((), device=device)
        start = {"pixel": 1 - config.region_share, "region": config.region_share}
        self.learned = learned_weights(config.weighting, start, config.gradnorm_alpha, device)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Fix the mix, smoothing and class weights of an epoch (from 0)."""
        self.share = schedules.region_share(epoch, self.config)
        self.smooth = schedules.smooth(epoch, self.config)
        ratio = schedules.max_weight_ratio(epoch, self.config)
        weights = class_weights(self.counts, self.config.class_weights.method, ratio)
        self.weights = None if weights is None else weights.to(self.device)

    def terms(
        self, logits: Tensor, target: Tensor, *, learn: bool = True
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return `pixel` and `region` as they are weighted, normalised by `normalize`, and detached
        as they are.

        Args:
            logits: (B, C, H, W), or (B, 1, H, W) for a binary task; any float type.
            target: (B, H, W) class indices, IGNORE for void.
            learn: update the running means of `normalize: ema` (not in validation).

        A batch of ignored pixels only gives 0, with zero gradients.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.float()
            pixel = self.pixel_sum(logits, target) / self.pixel_weight(target)
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.share > 0):
                region = self.region(logits, target)
            terms = {"pixel": pixel, "region": region}
            parts = {name: term.detach() for name, term in terms.items()}
            if self.config.normalize == "ema":
                scales = {name: self._scale(name, part, learn) for name, part in parts.items()}
                terms = {name: term / scales[name] for name, term in terms.items()}
        return terms, parts

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of the terms: in warm-up of the pixel term alone."""
        if self.share == 0:
            return terms["pixel"]
        if self.learned is None:
            return (1 - self.share) * terms["pixel"] + self.share * terms["region"]
        weights = self.learned.weights()
        ramp = self.share / self.config.region_share
        return weights["pixel"] * terms["pixel"] + ramp * weights["region"] * terms["region"]

    @property
    def separable(self) -> bool:
        """True where the loss is a sum over pixels, so that micro-batches need no pooling."""
        return self.share == 0 and self.config.normalize == "none"

    def pixel_sum(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the weighted sum of the pixel loss over valid pixels, fp32 logits."""
        return PIXEL_LOSSES[self.config.pixel](logits, target, self).sum()

    def pixel_weight(self, target: Tensor) -> Tensor:
        """Return the total weight of valid pixels, at least a tiny positive number."""
        return self.weights_of(target).sum().clamp(min=torch.finfo(torch.float32).tiny)

    def region(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the region term, pooled over the batch, mean over the classes present."""
        probability = logits.sigmoid() if self.binary else logits.softmax(dim=1)
        valid = (target != IGNORE).unsqueeze(1)  # (B, 1, H, W)
        truth = _truth(logits, target, self)  # (B, C, H, W)
        rows = logits.shape[1]
        p = (probability * valid).transpose(0, 1).reshape(rows, -1)  # (C, B*H*W)
        t = (truth & valid).transpose(0, 1).reshape(rows, -1).to(p.dtype)
        losses = REGION_LOSSES[self.config.region](p, t, self)  # (C,)
        present = (t.sum(dim=1) > 0).to(losses.dtype)
        return (losses * present).sum() / present.sum().clamp(min=1)

    def state_dict(self) -> dict[str, Tensor]:
        """The running means of `normalize: ema`, and the learned weights."""
        return self.running | ({} if self.learned is None else self.learned.state_dict())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.running = {name: state[name].to(self.device) for name in self.running}
        if self.learned is not None:
            self.learned.load_state_dict(state)

    def weights_of(self, target: Tensor) -> Tensor:
        """(B, H, W) weight of each pixel: its class's, 0 where ignored."""
        valid = target != IGNORE
        if self.weights is None:
            return valid.float()
        return self.weights[torch.where(valid, target, 0)] * valid

    def _scale(self, name: str, value: Tensor, learn: bool) -> Tensor:
        """The running mean of a term, from its first value on; zeros and overflows do not count."""
        old = self.running[name]
        if learn:
            decay = self.config.ema_decay
            new = torch.where(old > 0, decay * old + (1 - decay) * value, value)
            counts = (value > 0) & value.isfinite()
            self.running[name] = torch.where(counts, new, old)
        current = self.running[name]
        return torch.where(current > 0, current, torch.ones_like(current))


# ------------------------------------- pixel terms -> (B, H, W), weighted, 0 where ignored


def _cross_entropy(logits: Tensor, target: Tensor, loss: SegmentationLoss) -> Tensor:
    """-log softmax, weighted, with label smoothing (Szegedy et al. 2016); one logit: logistic."""
    if loss.binary:
        return _binary_cross_entropy(logits, target, loss)
    return F.cross_entropy(
        logits,
        target,
        weight=loss.weights,
        ignore_index=IGNORE,
        reduction="none",
        label_smoothing=loss.config.label_smoothing,
    )


def _binary_cross_entropy(logits: Tensor, target: Tensor, loss: SegmentationLoss) -> Tensor:
    """The logistic loss of each class against the rest, mean over classes."""
    truth = _truth(logits, target, loss)
    smoothing = loss.config.label_smoothing
    soft = truth.to(logits.dtype) * (1 - smoothing) + smoothing / 2
    values = F.binary_cross_entropy_with_logits(logits, soft, reduction="none").mean(dim=1)
    return values * loss.weights_of(target)


def _focal(logits: Tensor, target: Tensor, loss: SegmentationLoss) -> Tensor:
    """(1 - p_t)^gamma * cross-entropy (Lin et al. 2017, eq. 4); gamma 0 is cross-entropy."""
    cross_entropy = _cross_entropy(logits, target, loss)
    if loss.binary:
        foreground = target == 1
        signed = torch.where(foreground, logits[:, 0], -logits[:, 0])
        factor = (1 - signed.sigmoid()) ** loss.config.focal_gamma
        if loss.config.focal_alpha is not None:
            alpha = loss.config.focal_alpha
            factor = factor * torch.where(foreground, alpha, 1 - alpha)
        return factor * cross_entropy
    index = torch.where(target == IGNORE, 0, target).unsqueeze(1)
    p_true = logits.log_softmax(dim=1).gather(1, index).squeeze(1).exp()
    return (1 - p_true).clamp(min=1e-12) ** loss.config.focal_gamma * cross_entropy


# ---------------------------------------------------------------- region terms (C, N) -> (C,)


def _dice(p: Tensor, t: Tensor, loss: SegmentationLoss) -> Tensor:
    """1 - (2I + s) / (P + T + s); squared sums as in V-Net (Milletari et al. 2016)."""
    s = loss.smooth
    sums = _sums(p, loss) + t.sum(dim=1)
    return 1 - (2 * (p * t).sum(dim=1) + s) / (sums + s).clamp(min=1e-8)


def _jaccard(p: Tensor, t: Tensor, loss: SegmentationLoss) -> Tensor:
    """1 - (I + s) / (P + T - I + s)."""
    s = loss.smooth
    intersection = (p * t).sum(dim=1)
    union = _sums(p, loss) + t.sum(dim=1) - intersection
    return 1 - (intersection + s) / (union + s).clamp(min=1e-8)


def _tversky(p: Tensor, t: Tensor, loss: SegmentationLoss) -> Tensor:
    """1 - (TP + s) / (TP + alpha FP + beta FN + s), Salehi et al. 2017."""
    s = loss.smooth
    true_positive = (p * t).sum(dim=1)
    false_positive = p.sum(dim=1) - true_positive
    false_negative = t.sum(dim=1) - true_positive
    weighted = (
        loss.config.tversky_alpha * false_positive + loss.config.tversky_beta * false_negative
    )
    return 1 - (true_positive + s) / (true_positive + weighted + s).clamp(min=1e-8)


def _lovasz(p: Tensor, t: Tensor, loss: SegmentationLoss) -> Tensor:
    """Lovasz extension of the Jaccard loss (Berman et al. 2018, alg. 1) over all classes at once.

    Ignored pixels have p = t = 0: error 0, sorted last, without effect.
    """
    errors, order = (t - p).abs().sort(dim=1, descending=True)
    truth = t.gather(1, order)
    total = truth.sum(dim=1, keepdim=True)
    intersection = total - truth.cumsum(dim=1)
    union = total + (1 - truth).cumsum(dim=1)
    jaccard = 1 - intersection / union
    gradient = torch.cat([jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]], dim=1)
    return (errors * gradient).sum(dim=1)


def _sums(p: Tensor, loss: SegmentationLoss) -> Tensor:
    return (p * p if loss.config.squared else p).sum(dim=1)


def _truth(logits: Tensor, target: Tensor, loss: SegmentationLoss) -> Tensor:
    """(B, H, W) -> (B, C, H, W) bool, one row a logit; an ignored pixel is in no class."""
    if loss.binary:
        return (target == 1).unsqueeze(1)
    index = torch.arange(logits.shape[1], device=target.device).view(1, -1, 1, 1)
    return target.unsqueeze(1) == index


PIXEL_LOSSES: dict[str, Callable[[Tensor, Tensor, SegmentationLoss], Tensor]] = {
    "ce": _cross_entropy,
    "focal": _focal,
    "bce": _binary_cross_entropy,
}

REGION_LOSSES: dict[str, Callable[[Tensor, Tensor, SegmentationLoss], Tensor]] = {
    "dice": _dice,
    "tversky": _tversky,
    "jaccard": _jaccard,
    "lovasz": _lovasz,
}
