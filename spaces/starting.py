"""Recipes of the field as first trials of a study, moved into the user's space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spaces.space import Choice, Float, Free, Int, Space


@dataclass(frozen=True)
class StartingPoint:
    """A recipe from the field, in the words of its source; epochs as of a run of `epochs`."""

    name: str
    epochs: int
    settings: Mapping[str, Any]
    lr_factor: float
    """Where its rate is outside of the space: this times the geometric middle of the range."""


def starting_params(space: Space, point: StartingPoint) -> dict[str, Any]:
    """Return the recipe as trial parameters inside `space`.

    Epoch counts shrink or grow with the run's length; a number outside of its range moves to the
    nearest end (the learning rate: see `lr_factor`), a number among choices to the nearest
    choice, a resolution to the one nearest in area; a name that is not among the choices is left
    for the sampler to draw. Conditional parameters stay only where their condition holds.
    """
    params: dict[str, Any] = {}
    scale = space.base.train.epochs / point.epochs
    same_optimiser = point.settings.get("optim.name", "adamw") == space.base.optim.name
    for name, value in point.settings.items():
        dim = space.dims.get(name)
        if dim is None or isinstance(dim, Free):
            continue
        if name.endswith("_epochs"):
            value = round(value * scale)
        if isinstance(dim, Choice):
            value = _nearest_choice(name, value, dim.choices)
            if value is None:
                continue
        elif name == "optim.lr" and not (same_optimiser and dim.low <= value <= dim.high):
            middle = math.sqrt(dim.low * dim.high)
            value = min(max(point.lr_factor * middle, dim.low), dim.high)
        else:
            value = min(max(value, dim.low), dim.high)
        if isinstance(dim, Int) or (isinstance(dim, Float) and dim.step):
            value = dim.low + round((value - dim.low) / dim.step) * dim.step
        params[name] = value
    return _consistent(space, params)


def origin(space: Space, point: StartingPoint, params: Mapping[str, Any]) -> str:
    """What a starting point is called: by its recipe where it is that, else as an adaptation.

    Args:
        params: as `starting_params` has made them.
    """
    values = {**space.base.flat(), **params}
    encoders = [value for name, value in params.items() if name.startswith("model.encoder")]
    for name, value in point.settings.items():
        dim = space.dims.get(name)
        if isinstance(dim, Free) or name.endswith("_epochs"):
            continue  # tried at every value; epochs are a share of the run
        drawn = dim is not None and name not in params  # for the sampler to draw
        if name == "model.encoder" and drawn:
            drawn = value not in encoders
        elif not drawn and values[name] != value and (name, value) != ("loss.pixel", "ce"):
            return f"{point.name}, adapted"
        if drawn:
            return f"{point.name}, adapted"
    return point.name


def _nearest_choice(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    if value in choices:
        return value
    if (name, value) == ("loss.pixel", "ce") and "bce" in choices:
        return "bce"  # the same loss, for one logit
    if name == "data.resolution" and isinstance(value, str):
        area = _area(value)
        return min(choices, key=lambda choice: abs(math.log(_area(choice) / area)))
    if all(isinstance(c, int | float) and not isinstance(c, bool) for c in (*choices, value)):
        return min(choices, key=lambda choice: abs(choice - value))
    return None


def _area(resolution: str) -> int:
    height, width = resolution.split("x")
    return int(height) * int(width)


def _consistent(space: Space, params: dict[str, Any]) -> dict[str, Any]:
    """Drop parameters whose condition does not hold, and rename the encoder's where needed."""
    fixed = space.base.flat()
    for name in list(params):
        for other, allowed in space.when.get(name, {}).items():
            if (fixed | params)[other] not in allowed:
                params.pop(name, None)
    if "model.encoder" in params and space.has_archs:
        encoder = params.pop("model.encoder")
        if "model.arch" in params or "model.arch" not in space.dims:
            name, choice = space.encoder_choice((fixed | params)["model.arch"])
            if encoder in choice.choices and len(choice.choices) > 1:
                params[name] = encoder
    return params
