"""How much each term of a loss counts, where `loss.weighting` says that it is learned.

The weights are parameters of the run's optimiser, as logarithms, so that none becomes negative:
without weight decay, and saved with the loss. Nothing is learned in the warm-up, in which the pixel
term is alone. A term of weight 0 is left out for good.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

LR = 0.025  # of the logarithms: a step of AdamW changes a weight by about 2.5 %


class LearnedWeights:
    """Weights of the terms of one run's loss.

    Args:
        method: `uncertainty` minimises sum(e^-s L + s / 2), s = log sigma^2 of each term (Kendall
            et al. 2018, eq. 10, each term as a likelihood): a weight is e^-s, and settles at
            1 / (2 L). `gradnorm` minimises sum(|G - mean(G) r^alpha|), G the norm of a weighted
            term's gradient at the last shared weights, r its relative inverse training rate (Chen
            et al. 2018, eq. 2 and alg. 1); the sum of the weights stays what it is.
        start: {term: its weight at first}, >= 0; those of 0 are left out.
        alpha: of gradnorm, >= 0.
    """

    def __init__(
        self,
        method: Literal["uncertainty", "gradnorm"],
        start: Mapping[str, float],
        alpha: float,
        device: torch.device,
    ) -> None:
        self.method = method
        self.alpha = alpha
        self.sum = sum(start.values())
        self.logs = {
            name: nn.Parameter(torch.tensor(math.log(weight), device=device))
            for name, weight in start.items()
            if weight > 0
        }
        self.first = {name: torch.zeros((), device=device) for name in self.logs}

    @property
    def by_gradients(self) -> bool:
        """Whether `learn` needs the norms of gradients."""
        return self.method == "gradnorm"

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """{term: its weight, ()}."""
        if not self.by_gradients:
            return {name: log.exp() for name, log in self.logs.items()}
        shares = torch.stack(list(self.logs.values())).softmax(dim=0)  # the sum is kept
        return dict(zip(self.logs, self.sum * shares, strict=True))

    def learn(
        self,
        values: Mapping[str, Tensor],
        scale: Callable[[Tensor], Tensor],
        norms: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Give the logarithms their gradients; none from a batch that has nothing of a term.

        Args:
            values: {term: its value, ()}, as it is weighted.
            scale: the gradient scaler's `scale`.
            norms: of `gradnorm`: {term: norm of its gradient without its weight}, not scaled.
        """
        weights = self.weights()
        value = torch.stack([values[name].detach() for name in self.logs])
        weight = torch.stack([weights[name] for name in self.logs])
        if norms is None:
            gradient = torch.where(value > 0, weight * value - 0.5, 0.0)
        else:
            gradient = self._balance(value, weight * torch.stack([norms[n] for n in self.logs]))
        for log, one in zip(self.logs.values(), scale(gradient), strict=True):
            log.grad = one.clone()

    def _balance(self, value: Tensor, norm: Tensor) -> Tensor:
        """The gradient of GradNorm's loss by the logarithms, in units of the mean norm.

        Its target is a constant, as in the paper; so is the mean.

        Args:
            value, norm: (T,), of each term; the norm with its weight.
        """
        usable = ((value > 0) & (norm > 0) & value.isfinite() & norm.isfinite()).all()
        for name, now in zip(self.first, value, strict=True):
            old = self.first[name]
            self.first[name] = torch.where((old == 0) & usable, now, old)
        first = torch.stack(list(self.first.values()))
        rate = value / first
        norm = norm / norm.mean()
        target = (rate / rate.mean()) ** self.alpha
        return torch.where(usable, (norm - target).sign() * norm, 0.0)

    def state_dict(self) -> dict[str, Tensor]:
        """The logarithms, and the first values that rates are measured by."""
        logs = {f"log_weight.{name}": log.detach() for name, log in self.logs.items()}
        return logs | {f"first.{name}": value for name, value in self.first.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, log in self.logs.items():
            log.copy_(state[f"log_weight.{name}"])
            self.first[name] = state[f"first.{name}"].to(log.device)


def learned_weights(
    method: Literal["fixed", "uncertainty", "gradnorm"],
    start: Mapping[str, float],
    alpha: float,
    device: torch.device,
) -> LearnedWeights | None:
    """Return the weights to learn; None where they are fixed, or only one term counts."""
    if method == "fixed" or sum(weight > 0 for weight in start.values()) < 2:
        return None
    return LearnedWeights(method, start, alpha, device)


class Loss(ABC):
    """A loss mix that changes with the epoch.

    Attributes:
        share: of the terms that warm up, in this epoch.
        learned: the weights that are learned, if any.
    """

    share: float
    learned: LearnedWeights | None

    def __call__(
        self, logits: Tensor, target: Any, *, learn: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total and its detached parts, `total` and `pixel` among them.

        Args:
            learn: update what the loss keeps of its batches (not in validation).
        """
        terms, parts = self.terms(logits, target, learn=learn)
        total = self.total(terms)
        return total, parts | {"total": total.detach()}

    @abstractmethod
    def terms(
        self, logits: Tensor, target: Any, *, learn: bool = True
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the terms as they are weighted, and their detached values as they are shown."""

    @abstractmethod
    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of the terms in this epoch."""

    @abstractmethod
    def set_epoch(self, epoch: int) -> None:
        """Fix the mix of an epoch (from 0)."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]: ...

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...
