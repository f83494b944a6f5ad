"""A config of another study, seen from this space: whether it lies in it, else what is nearest."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from spaces.space import Choice, Dimension, Float, Scalar, Space, parameter_path
from spaces.starting import StartingPoint, starting_params

HOW = (
    "train.seed",
    "train.micro_batch",
    "train.precision",
    "train.channels_last",
    "train.compile",
    "train.workers",
    "train.patience",
)
"""Settings that say how a run is computed, or when it ends early, not what is trained."""

Conditions = Mapping[str, Mapping[str, Collection[Scalar]]]


class Outside(Exception):
    """A config does not lie in a space, for the value of its `setting`."""

    def __init__(self, setting: str) -> None:
        super().__init__(setting)
        self.setting = setting


def params_in(space: Space, settings: Mapping[str, Any], meaning: Conditions) -> dict[str, Any]:
    """Return the parameters that a trial of these settings has in a space.

    A setting that is searched here must have a value that can be drawn here, and any other one the
    value that it has here. HOW and `health` may differ, and so may what is swept inside a trial.

    Args:
        settings: all of the config, by dotted name.
        meaning: {setting: {other: values}}; elsewhere the setting is never looked at.

    Raises:
        Outside: the first setting for which it is not so.
    """
    told = _Told(settings)
    here = {**space.base.flat(), **space.draw(told)}
    for name in _trained(space, settings, meaning):
        if here[name] != settings[name]:
            raise Outside(name)
    return told.params


def moved_params(space: Space, settings: Mapping[str, Any], meaning: Conditions) -> dict[str, Any]:
    """Return the parameters nearest to a config, as `starting_params` finds them.

    A learning rate outside of its range moves to the nearest end; that of an optimiser which this
    space does not have is left for the sampler to draw.
    """
    trained = _trained(space, settings, meaning)
    wanted = {name: settings[name] for name in trained if settings[name] is not None}
    factor, lr = 1.0, space.dims.get("optim.lr")
    if settings["optim.name"] not in space.values("optim.name"):
        wanted.pop("optim.lr", None)
    elif isinstance(lr, Float):
        factor = settings["optim.lr"] / math.sqrt(lr.low * lr.high)  # so it stays what it is
    point = StartingPoint("", settings["train.epochs"], wanted, factor)
    return starting_params(space, point)


def uncovered(space: Space, earlier: Sequence[Space]) -> list[str]:
    """Return the searched settings with values that no trial of any of the earlier spaces had."""
    swept = space.free()
    return [
        name
        for name, dim in space.dims.items()
        if name not in swept and not any(_covers(other, name, dim) for other in earlier)
    ]


def _covers(earlier: Space, name: str, dim: Dimension) -> bool:
    """Whether a setting could have each of the values there."""
    before = earlier.dims.get(name)
    if isinstance(dim, Choice):
        known = (
            earlier.values(name) if before is None else [c for c in dim.choices if _has(before, c)]
        )
        return set(dim.choices) <= set(known)
    if before is None or isinstance(before, Choice):
        return False
    return before.low <= dim.low and dim.high <= before.high


def _trained(space: Space, settings: Mapping[str, Any], meaning: Conditions) -> list[str]:
    """The settings that shape what a config trains, and how it predicts."""
    left_out = {*HOW, *space.free()}
    return [
        name
        for name in settings
        if name not in left_out
        and not name.startswith(("health.", "metric."))
        and all(settings[other] in allowed for other, allowed in meaning.get(name, {}).items())
    ]


class _Told:
    """Answers suggestions with the settings of a config, which it checks; keeps the answers."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.params: dict[str, Any] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self._answer(name, Float(low, high, log, step)))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return int(self._answer(name, Float(low, high, log, step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._answer(name, Choice(tuple(choices)))

    def _answer(self, name: str, dim: Dimension) -> Any:
        setting = parameter_path(name)
        value = self.settings[setting]
        if not _has(dim, value):
            raise Outside(setting)
        self.params[name] = value
        return value


def _has(dim: Dimension, value: Any) -> bool:
    """Whether a dimension can be drawn as a value."""
    if isinstance(dim, Choice):
        return value in dim.choices
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if not dim.low <= value <= dim.high:
        return False
    steps = 0.0 if dim.step is None else (value - dim.low) / dim.step
    return abs(steps - round(steps)) < 1e-6
