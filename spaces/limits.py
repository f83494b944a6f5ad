"""What a user can afford to run: the limits of a study file, and the cost that is held to them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from spaces.settings import Section

_POWERS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}


def parse_count(value: Any) -> Any:
    """Read `30M`, `1.5k` or a number as a whole number; pydantic judges what is left.

    Raises:
        ValueError: a text that is no count.
    """
    if not isinstance(value, str):
        return int(value) if isinstance(value, float) and value.is_integer() else value
    match = re.fullmatch(r"\s*([0-9]{1,12}(?:\.[0-9]{1,9})?)\s*([kKmMgG]?)\s*", value)
    if match is None:
        raise ValueError("must be a count, as in 30M, 1.5k or 25000000")
    return round(float(match[1]) * _POWERS[match[2].lower()])


def shown_count(count: float) -> str:
    """24436369 -> 24.4M."""
    for name, power in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= power:
            return f"{count / power:.3g}{name}"
    return f"{count:g}"


@dataclass(frozen=True)
class Cost:
    """What a config takes, as far as it is known.

    Attributes:
        parameters: of its network.
        latency_ms: from an image that is read and resized to the network's answer, one at a time.
        memory_mb: MiB of GPU memory at the peak of a training step.
        seconds_per_epoch: validation included.
    """

    parameters: int | None = None
    latency_ms: float | None = None
    memory_mb: float | None = None
    seconds_per_epoch: float | None = None

    def filled(self, other: Cost) -> Cost:
        """This cost, with what only the other knows."""
        mine, more = vars(self), vars(other)
        return replace(self, **{k: more[k] for k in mine if mine[k] is None})


class LimitsSpec(Section):
    """What a config may cost; one outside of them ends as `limit`, before its first epoch where
    that can be known."""

    parameters: Annotated[int | None, BeforeValidator(parse_count)] = Field(None, ge=1)
    """Of the network, as in 30M."""
    latency_ms: float | None = Field(None, gt=0)
    """Of one image in milliseconds, on the device that trains."""
    memory_mb: float | None = Field(None, gt=0)
    """MiB of GPU memory that a training step needs at most; on a CPU it is not measured."""
    seconds_per_epoch: float | None = Field(None, gt=0)
    """Validation included; judged by the faster one of a trial's first two epochs."""

    @property
    def given(self) -> bool:
        """Whether there is one."""
        return any(value is not None for value in self._each().values())

    def outside(self, cost: Cost) -> str | None:
        """Say which limit a cost is above; None where it is within, as far as it is known."""
        for name, share in self.constraints(cost).items():
            if share > 0:
                have, most = getattr(cost, name), getattr(self, name)
                if name == "parameters":
                    return f"{name} {shown_count(have)}, above {shown_count(most)}"
                return f"{name} {have:.3g}, above {most:g}"
        return None

    def constraints(self, cost: Cost) -> dict[str, float]:
        """{limit: how far above it, as a share}, as samplers are told; what is not known is 0."""
        found = {}
        for name, most in self._each().items():
            if most is not None:
                have = getattr(cost, name)
                found[name] = 0.0 if have is None else have / most - 1
        return found

    def _each(self) -> dict[str, float | None]:
        return {known.name: getattr(self, known.name) for known in fields(Cost)}


@dataclass(frozen=True)
class Probe:
    """What a trial measures before it trains.

    Attributes:
        known: what was measured of such a config before, and need not be again.
    """

    limits: LimitsSpec = field(default_factory=LimitsSpec)
    known: Cost = field(default_factory=Cost)
