"""Whether a setting has ended at an end of its range: a better value may then lie beyond it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from spaces.config import TrialConfig
from spaces.space import Choice, Dimension, Float, Space

NEAR = 0.02  # of a range's width, on its own scale, of a number that is drawn without steps
FEWEST = 3  # choices of numbers that have ends worth a word


@dataclass(frozen=True)
class Edge:
    """A setting whose value is at an end of what was offered."""

    name: str
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.name} {self.value:g} ({self.low:g} .. {self.high:g})"


def edges(space: Space, values: Mapping[str, Any]) -> list[Edge]:
    """Return the searched numbers that are at an end of their range, in the order of the space.

    Of a number without steps the last 2 % of its range, on its own scale, are its end; of any other
    its first and last value. Left out are ends that the setting itself cannot go beyond, names, and
    choices of one or two numbers.

    Args:
        values: {dotted name: value} of every setting, as of a trial that has ended.
    """
    found = []
    for name, dim in space.dims.items():
        offered = _offered(dim)
        if len(offered) < 2 or not space.active(name, values):
            continue
        value, low, high = values[name], offered[0], offered[-1]
        least, most = _limits(type(space.base), name)
        near_low, near_high = _near(dim, float(value), low, high)
        if (near_low and low > least) or (near_high and high < most):
            found.append(Edge(name, float(value), low, high))
    return found


def edges_said(found: list[Edge]) -> str | None:
    """Edges in a sentence; None without any."""
    if not found:
        return None
    which = "a setting has" if len(found) == 1 else f"{len(found)} settings have"
    return (
        f"{which} ended at an end of what was offered, beyond which a better value may lie: "
        f"{', '.join(map(str, found))}; offer more there"
    )


def _offered(dim: Dimension) -> list[float]:
    """The numbers of a dimension, at least its ends, rising; empty for one of names."""
    if not isinstance(dim, Choice):
        return [dim.low, dim.high] if dim.low < dim.high else []
    numbers = [c for c in dim.choices if isinstance(c, int | float) and not isinstance(c, bool)]
    few = len(numbers) < FEWEST or len(numbers) < len(dim.choices)
    return [] if few else sorted(map(float, numbers))


def _near(dim: Dimension, value: float, low: float, high: float) -> tuple[bool, bool]:
    """Whether a value is at the low end, and at the high one."""
    if not isinstance(dim, Float) or dim.step is not None:
        last = high
        if not isinstance(dim, Choice) and dim.step:  # the last value may lie below the end
            last = low + math.floor((high - low) / dim.step + 1e-9) * dim.step
        return value <= low + 1e-9, value >= last - 1e-9
    scale = math.log if dim.log else float
    place = (scale(value) - scale(low)) / (scale(high) - scale(low))
    return place <= NEAR, place >= 1 - NEAR


def _limits(config: type[TrialConfig], name: str) -> tuple[float, float]:
    """The smallest and the largest value that a setting may have; infinite where it has none."""
    section: type[BaseModel] = config
    *parents, last = name.split(".")
    for parent in parents:
        section = section.model_fields[parent].annotation  # type: ignore[assignment]
    least, most = -math.inf, math.inf
    for limit in section.model_fields[last].metadata:
        least = float(getattr(limit, "ge", least))
        most = float(getattr(limit, "le", most))
    return least, most
