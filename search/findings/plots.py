"""Pictures of a run: loss parts and metric by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from spaces.config import TrialConfig
from trainers.report import CurvePoint, EpochReport


def plot_curves(
    history: Sequence[EpochReport],
    config: TrialConfig,
    metric: str,
    title: str,
    path: Path,
    ended: str | None = None,
) -> None:
    """Write a PNG of train and validation losses beside the metric and its best epoch.

    Args:
        history: epoch reports, first epoch first; at least one.
        metric: the metric's name, for the axis.
        ended: the reason code where the run ended before its last epoch, marked there.
    """
    from matplotlib.figure import Figure

    epochs = [report.epoch for report in history]
    values = [report.metric for report in history]
    best = max(range(len(values)), key=lambda i: (values[i], -i))
    detection = history[best].detection
    learned = [report.loss_weights or {} for report in history]
    panels = 2 + bool(detection) + any(learned)
    figure = Figure(figsize=(5.5 * panels - 0.5 * (panels > 2), 4.2), layout="constrained")
    losses, scores, *rest = figure.subplots(1, panels)
    train = [report.train.parts() for report in history]
    val = [report.val.parts() for report in history]
    for index, part in enumerate(sorted(val[0], key=lambda name: name != "total")):
        colour = f"C{index}"
        losses.plot(epochs, [parts[part] for parts in train], colour, label=f"train {part}")
        losses.plot(epochs, [parts[part] for parts in val], f"{colour}--", label=f"val {part}")
    losses.set(xlabel="epoch", ylabel="loss", title="loss parts")
    losses.set_ylim(bottom=0)
    scores.plot(epochs, values, "C3", label=f"val {metric}")
    scores.plot(
        epochs[best], values[best], "C3o", label=f"best {values[best]:.4f} (epoch {epochs[best]})"
    )
    scores.set(xlabel="epoch", ylabel=metric, title=f"validation {metric}, at original image size")
    scores.set_ylim(bottom=0)
    warmup = min(config.loss_warmup[0], epochs[-1])
    if any(learned):
        for name in learned[0]:
            rest[-1].plot(epochs, [weights.get(name) for weights in learned], label=name)
        rest[-1].set(xlabel="epoch", yscale="log", title="learned weights of the loss's terms")
    for axes in (losses, scores):
        if warmup:
            axes.axvspan(0.5, warmup + 0.5, color="0.9", zorder=0, label="pixel loss alone")
        if ended:
            axes.axvline(epochs[-1], color="C6", linestyle="-.", label=f"ended: {ended}")
        axes.set_xlim(0.5, epochs[-1] + 0.5)
        for before, after in pairwise(history):
            if before.fold != after.fold:
                axes.axvline(after.epoch - 0.5, color="0.7", linewidth=0.8)
        if history[0].fold is not None:
            axes.set_xlabel("epoch, one fold after another")
        axes.xaxis.get_major_locator().set_params(integer=True)
    if detection:
        _plot_thresholds(rest[0], detection.curve, config.flat()["decode.box_thresh"])
    for axes in (losses, scores, *rest):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def _plot_thresholds(axes: Any, curve: Sequence[CurvePoint], chosen: float) -> None:
    """Precision, recall and Hmean over box_thresh, and the setting that was chosen."""
    at = [point.box_thresh for point in curve]
    marker = "." if len(curve) == 1 else ""
    axes.plot(at, [point.precision for point in curve], "C1", marker=marker, label="precision")
    axes.plot(at, [point.recall for point in curve], "C2", marker=marker, label="recall")
    axes.plot(at, [point.hmean for point in curve], "C3", marker=marker, label="Hmean")
    axes.axvline(chosen, color="0.4", linestyle=":", label=f"chosen: {chosen:g}")
    axes.set(xlabel="decode.box_thresh", title="validation, best epoch")
    axes.set_ylim(0, 1)


def plot_per_class(
    names: Sequence[str], ious: Sequence[float | None], title: str, path: Path
) -> None:
    """Write a PNG of each class's IoU, best first; None is a class that the split lacks."""
    from matplotlib.figure import Figure

    known = sorted(
        ((name, iou) for name, iou in zip(names, ious, strict=True) if iou is not None),
        key=lambda pair: pair[1],
    )
    figure = Figure(figsize=(8, 1.4 + 0.32 * len(known)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([name for name, _ in known], [iou for _, iou in known], color="C0")
    axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=8)
    axes.set(xlabel="validation IoU, at original image size", title=title)
    axes.set_xlim(0, 1.08)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)
