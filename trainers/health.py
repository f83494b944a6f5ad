"""When a run ends before its last epoch by itself: patience, and the five alarms of a sick run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from spaces.config import HealthConfig, TrialConfig

ALARMS = ("nonfinite", "diverging", "falling", "dead_class", "exploding")


@dataclass(frozen=True)
class Vitals:
    """What the guard looks at, of one epoch.

    `per_class` holds NaN for classes that the validation split lacks.
    """

    metric: float
    pixel_loss: float
    total_loss: float
    grad_norm: float
    per_class: Sequence[float]


def alarm(history: Sequence[Vitals], limits: HealthConfig, settled_epoch: int) -> str | None:
    """Return the name of the first alarm that rings after the last epoch of `history`, or None.

    Args:
        history: all epochs so far, oldest first.
        limits: 0 switches an alarm off; nonfinite cannot be switched off.
        settled_epoch: epochs until warm-up and ramp are over; dead classes count from there.
    """
    if not history:
        return None
    now = history[-1]
    if not all(map(math.isfinite, (now.metric, now.total_loss, now.pixel_loss, now.grad_norm))):
        return "nonfinite"
    if limits.grad_norm and now.grad_norm > limits.grad_norm:
        return "exploding"
    if limits.diverging and _diverges([v.pixel_loss for v in history], limits.diverging):
        return "diverging"
    if limits.falling_epochs and _falls([v.metric for v in history], limits.falling_epochs):
        return "falling"
    if limits.dead_class_epochs and _dead_class(history[settled_epoch:], limits.dead_class_epochs):
        return "dead_class"
    return None


def patience(config: TrialConfig) -> tuple[int, int]:
    """Return the epochs of patience (0 = endless), and the epoch from which on it is endless.

    A number of the config holds for the whole run. The default is a fifth of the run, at least 3
    epochs; and it ends no run in its last fifth whose learning rate falls to 0 there, for that is
    where such a run is at its best.
    """
    given, epochs = config.train.patience, config.train.epochs
    if given is not None:
        return given, epochs
    falls = config.optim.schedule in ("cosine", "poly")
    return max(3, round(epochs / 5)), epochs - epochs // 5 if falls else epochs


def out_of_patience(
    metrics: Sequence[float], patience: int, endless: int, settled_epoch: int
) -> bool:
    """Tell whether the best epoch lies `patience` epochs back, counted after warm-up and ramp.

    The first epoch after warm-up and ramp counts as a new start: what was reached before it does
    not use up patience.

    Args:
        endless: from this many epochs on, a run goes on whatever its metric does.
    """
    if patience == 0 or not settled_epoch < len(metrics) < endless:
        return False
    best = max(range(len(metrics)), key=lambda epoch: (metrics[epoch], -epoch))
    return len(metrics) - 1 - max(best, settled_epoch) >= patience


def trivial_below(constant: float, margin: float) -> float:
    """Return the score up to which an answer is no better than a constant one.

    Args:
        constant: the best constant answer's score.
        margin: the share of the way from there to 1 that says nothing yet; 0 calls none trivial.
    """
    if margin == 0 or constant == -math.inf:
        return -math.inf
    return constant + margin * (1 - constant)


def _diverges(losses: Sequence[float], factor: float) -> bool:
    """The last two losses are both `factor` times the lowest before them."""
    if len(losses) < 3:
        return False
    lowest = min(losses[:-2])
    return lowest > 0 and min(losses[-2:]) >= factor * lowest


def _falls(metrics: Sequence[float], epochs: int) -> bool:
    """Each of the last `epochs` epochs is below the one before it."""
    tail = metrics[-(epochs + 1) :]
    return len(tail) == epochs + 1 and all(b < a for a, b in itertools.pairwise(tail))


def _dead_class(history: Sequence[Vitals], epochs: int) -> bool:
    if len(history) < epochs:
        return False
    tail = history[-epochs:]
    classes = range(len(tail[-1].per_class))
    return any(all(v.per_class[c] == 0 for v in tail) for c in classes)
