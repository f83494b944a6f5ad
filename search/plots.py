"""Pictures of a run: loss parts and metric by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spaces.config import TrialConfig


def plot_curves(
    history: Sequence[dict[str, Any]], config: TrialConfig, metric: str, title: str, path: Path
) -> None:
    """Write a PNG of train and validation losses beside the metric and its best epoch.

    Args:
        history: epoch reports, first epoch first; at least one.
        metric: the metric's name, for the axis.
    """
    from matplotlib.figure import Figure

    epochs = [report["epoch"] for report in history]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for part, colour in (("total", "C0"), ("pixel", "C1"), ("region", "C2")):
        losses.plot(epochs, [r["train"][part] for r in history], colour, label=f"train {part}")
        losses.plot(epochs, [r["val"][part] for r in history], f"{colour}--", label=f"val {part}")
    losses.set(xlabel="epoch", ylabel="loss", title="loss parts")
    losses.set_ylim(bottom=0)
    values = [report["metric"] for report in history]
    best = max(range(len(values)), key=lambda i: (values[i], -i))
    scores.plot(epochs, values, "C3", label=f"val {metric}")
    scores.plot(
        epochs[best], values[best], "C3o", label=f"best {values[best]:.4f} (epoch {epochs[best]})"
    )
    scores.set(xlabel="epoch", ylabel=metric, title=f"validation {metric}, at original image size")
    scores.set_ylim(bottom=0)
    warmup = min(config.loss.warmup_epochs, epochs[-1])
    for axes in (losses, scores):
        if warmup:
            axes.axvspan(0.5, warmup + 0.5, color="0.9", zorder=0, label="pixel loss alone")
        axes.set_xlim(0.5, epochs[-1] + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
