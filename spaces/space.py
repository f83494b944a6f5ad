"""A search space: named dimensions, conditions and pins, and how a trial's config is drawn from it.

Nothing here knows Optuna: `sample` asks an object with Optuna's three `suggest_*` methods, so a
trial can be drawn by Optuna, rebuilt from stored parameters, or drawn by a test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from spaces.config import SegmentationConfig, TrialConfig
from spaces.errors import InputError
from spaces.models import incompatibility

Scalar = str | int | float | bool | None


class Suggest(Protocol):
    """The part of `optuna.Trial` that a space needs."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(frozen=True)
class Prior:
    """Where in its range a number is expected: the first trials draw it from there.

    A normal distribution, cut to the range; on a log range, of the logarithm.

    Attributes:
        center: its middle, in the range.
        spread: its standard deviation: a factor above 1 on a log range, else in the range's units.
    """

    center: float
    spread: float


@dataclass(frozen=True)
class Float:
    """A real number in [low, high], on a log scale where the field measures it so."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    prior: Prior | None = None


@dataclass(frozen=True)
class Int:
    """A whole number in [low, high]."""

    low: int
    high: int
    log: bool = False
    step: int = 1
    prior: Prior | None = None


@dataclass(frozen=True)
class Choice:
    """One of a list."""

    choices: tuple[Scalar, ...]


@dataclass(frozen=True)
class Free:
    """A decode-time number, swept exactly inside every trial: it costs no training."""

    low: float
    high: float
    step: float

    def values(self) -> list[float]:
        """low, low + step, ..., the last one at most `high`."""
        steps = math.floor((self.high - self.low) / self.step + 1e-9)
        return [round(self.low + i * self.step, 9) for i in range(steps + 1)]


Dimension = Float | Int | Choice | Free


@dataclass(frozen=True)
class Space:
    """What a study may try.

    Attributes:
        dims: {dotted name: dimension}, in the order in which they are drawn.
        when: {dotted name: {other name: values}}; the dimension is drawn only where each other
            name has one of the values, and else keeps its value of `base`.
        base: every setting that is not searched.
    """

    dims: Mapping[str, Dimension]
    when: Mapping[str, Mapping[str, tuple[Scalar, ...]]] = field(default_factory=dict)
    base: TrialConfig = field(default_factory=SegmentationConfig)

    def sample(self, suggest: Suggest) -> TrialConfig:
        """Draw one config; each drawn name is a parameter of the trial."""
        return self.base.replace(self.draw(suggest))

    def draw(self, suggest: Suggest) -> dict[str, Any]:
        """Draw {dotted name: value} of the settings in which a config differs from `base`."""
        fixed = self.base.flat()
        drawn: dict[str, Any] = {}
        for name in self.order():
            dim = self.dims[name]
            if isinstance(dim, Free) or not self.active(name, fixed | drawn):
                continue
            if name == "model.encoder" and self.has_archs:
                param, choice = self.encoder_choice(str((fixed | drawn)["model.arch"]))
                one = len(choice.choices) == 1
                drawn[name] = choice.choices[0] if one else _draw(suggest, param, choice)
            else:
                drawn[name] = _draw(suggest, name, dim)
        return drawn

    def config(self, params: Mapping[str, Any]) -> TrialConfig:
        """Rebuild the config of a trial from its stored parameters.

        Raises:
            KeyError: a parameter that this space would draw is missing.
        """
        return self.sample(_Stored(params))

    def free(self) -> dict[str, Free]:
        """The dimensions that are swept inside a trial."""
        return {name: dim for name, dim in self.dims.items() if isinstance(dim, Free)}

    def priors(self) -> dict[str, Prior]:
        """The priors of the dimensions that have one."""
        ranges = {name: dim for name, dim in self.dims.items() if isinstance(dim, Float | Int)}
        return {name: dim.prior for name, dim in ranges.items() if dim.prior is not None}

    def model_pairs(self) -> list[tuple[str, str]]:
        """Every (arch, encoder) that can be drawn, of a task that has architectures."""
        archs, encoders = self.names("model.arch"), self.names("model.encoder")
        return [(a, e) for a in archs for e in encoders if incompatibility(a, e) is None]

    def values(self, name: str) -> list[Any]:
        """The choices of a searched dimension, the ends of a range, or the one fixed value."""
        dim = self.dims.get(name)
        if isinstance(dim, Choice):
            return list(dim.choices)
        if isinstance(dim, Float | Int | Free):
            return [dim.low, dim.high]
        return [self.base.flat()[name]]

    def names(self, setting: str) -> list[str]:
        """The values of a setting that holds a name."""
        return [str(value) for value in self.values(setting)]

    @property
    def has_archs(self) -> bool:
        """Whether the task has architectures that not every encoder goes with."""
        return "model.arch" in self.base.flat()

    def encoder_choice(self, arch: str) -> tuple[str, Choice]:
        """Return the encoder parameter of an architecture: its name, and the encoders it takes.

        A distribution must be the same whenever its name appears, so an architecture that takes
        only some encoders has a parameter of its own, `model.encoder[DeepLabV3Plus]`.
        """
        dim = self.dims["model.encoder"]
        assert isinstance(dim, Choice)
        valid = tuple(c for c in dim.choices if incompatibility(arch, str(c)) is None)
        shared = len(valid) == len(dim.choices)
        return ("model.encoder" if shared else f"model.encoder[{arch}]"), Choice(valid)

    def order(self) -> list[str]:
        """Dimension names, each after the ones that its condition and its encoder list need."""
        order: list[str] = []
        waiting = list(self.dims)
        while waiting:
            ready = [
                name
                for name in waiting
                if not (set(self.when.get(name, ())) & set(waiting))
                and not (name == "model.encoder" and "model.arch" in waiting)
            ]
            if not ready:
                raise EntryError(
                    (waiting[0], "when"), f"the conditions of {', '.join(waiting)} form a circle"
                )
            order += ready
            waiting = [name for name in waiting if name not in ready]
        return order

    def active(self, name: str, values: Mapping[str, Any]) -> bool:
        """Whether the condition holds under which a dimension is drawn."""
        return all(values[other] in allowed for other, allowed in self.when.get(name, {}).items())


def parameter_path(param: str) -> str:
    """`model.encoder[DeepLabV3Plus]` -> `model.encoder`."""
    return param.split("[", 1)[0]


class EntryError(InputError):
    """A wrong entry; `key` is its path below `space:`."""

    def __init__(self, key: tuple[str | int, ...], message: str) -> None:
        super().__init__(f"{key[0]}: {message}")
        self.key = key


class _Stored:
    """Answers suggestions with stored values."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params = params

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self.params[name])

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return int(self.params[name])

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.params[name]


def _draw(suggest: Suggest, name: str, dim: Dimension) -> Any:
    if isinstance(dim, Float):
        return suggest.suggest_float(name, dim.low, dim.high, step=dim.step, log=dim.log)
    if isinstance(dim, Int):
        return suggest.suggest_int(name, dim.low, dim.high, step=dim.step, log=dim.log)
    assert isinstance(dim, Choice)
    return suggest.suggest_categorical(name, list(dim.choices))
