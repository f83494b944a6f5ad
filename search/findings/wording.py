"""Settings, numbers and durations in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spaces.space import Choice, Float, Free, Int


def describe(params: Mapping[str, Any]) -> str:
    """`optim.lr=0.00123 loss.region=dice ...`, in the order of the sections."""
    return " ".join(f"{name}={short(value)}" for name, value in params.items())


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


def dimension_text(dim: Choice | Float | Int | Free) -> str:
    """A dimension in words."""
    if isinstance(dim, Choice):
        return ", ".join(map(str, dim.choices))
    text = f"{dim.low:g} .. {dim.high:g}"
    if isinstance(dim, Free):
        return f"{text}, step {dim.step:g}, swept inside each trial"
    return f"{text}, log" if dim.log else text
