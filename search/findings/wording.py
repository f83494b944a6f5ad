"""Settings, numbers and durations in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from typing import Any

from spaces.space import Choice, Float, Free, Int, parameter_path
from trainers.report import EpochReport

FIRST = (
    "optim.lr",
    "data.resolution",
    "model.arch",
    "model.encoder",
    "model.decoder",
    "train.batch_size",
    "data.mode",
    "data.augment",
    "optim.encoder_lr_ratio",
    "optim.schedule",
    "loss.pixel",
    "loss.region",
    "loss.region_share",
    "loss.class_weights.method",
)
"""Settings that matter most in most studies; the order where nothing has been measured."""


def describe(params: Mapping[str, Any]) -> str:
    """`optim.lr=0.00123 data.resolution=384x384 ...`, those of FIRST first."""
    named = {parameter_path(name): value for name, value in params.items()}
    return " ".join(f"{name}={short(named[name])}" for name in first_settings(named))


def first_settings(names: Iterable[str]) -> list[str]:
    """Dotted names, those of FIRST first; else in the order in which they are given."""
    return sorted(names, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))


def short(value: Any) -> str:
    """Numbers to four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def clock(seconds: float) -> str:
    """`1 h 02 min`, `3 min 10 s` or `12 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    if whole >= 60:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole} s"


def clock_span(least: float, most: float) -> str:
    """`12 s to 3 min 10 s`; one of them where both are said alike."""
    shown = clock(least), clock(most)
    return shown[0] if shown[0] == shown[1] else " to ".join(shown)


def epoch_named(report: EpochReport, epochs: int) -> str:
    """`epoch 4/12`, or `fold 2, epoch 4/12`.

    Args:
        epochs: of a run in full, `train.epochs`.
    """
    if report.fold is None:
        return f"epoch {report.epoch}/{epochs}"
    return f"fold {report.fold}, epoch {report.epoch - (report.fold - 1) * epochs}/{epochs}"


def begins_said(counts: Mapping[str, int]) -> str:
    """`begins with 18 trials of A, 3 trials of B`: what earlier studies have told this one."""
    named = (f"{n} trial{'s' * (n != 1)} of {name}" for name, n in counts.items())
    return f"begins with {', '.join(named)}"


def splits_named(splits: Mapping[str, Sized], folds: int) -> str:
    """`train 96, val 32`, or of a data set with folds `train 30 in 5 folds, test 8`."""
    sizes = {name: len(samples) for name, samples in sorted(splits.items())}
    if folds == 1:
        return ", ".join(f"{name} {size}" for name, size in sizes.items())
    test = f", test {sizes['test']}" if "test" in sizes else ""
    return f"train {sizes['train']} in {folds} folds{test}"


def listed(values: Iterable[float]) -> str:
    """`0.5123, 0.4987`."""
    return ", ".join(f"{value:.4f}" for value in values)


def dimension_text(dim: Choice | Float | Int | Free) -> str:
    """A dimension in words."""
    if isinstance(dim, Choice):
        return ", ".join(map(str, dim.choices))
    text = f"{dim.low:g} .. {dim.high:g}"
    if isinstance(dim, Free):
        return f"{text}, step {dim.step:g}, swept inside each trial"
    text = f"{text}, log" if dim.log else text
    if dim.prior is None:
        return text
    spread = f"{dim.prior.spread:g}{'x' if dim.log else ''}"
    return f"{text}, first around {dim.prior.center:g}, spread {spread}"
