"""Which defaults a study has: those that it began with, fitted to the rest of its space.

The default space is code, and a study that goes on must find the space that it began with: Optuna
refuses other choices under the name of a parameter, and trials would not be comparable. So a study
keeps the number of its defaults (`StudySpec.defaults`); whoever changes a default adds a number.

Those of `pruner` are older words there (spaces/sections.py).

A config has no such number: it names all its settings. One that an older version has written lacks
the newer settings, and their defaults in spaces/config.py must mean what was done before they came.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from spaces.entries import drop_inactive
from spaces.space import Choice, Dimension, Float, Free, Scalar, Space

FIRST, LATEST = 1, 4

SETTINGS: dict[int, dict[str, Any]] = {
    1: {"train.patience": 3, "optim.step_epochs": 10},
    2: {},
    3: {},
    4: {},
}
"""{number: settings that it has instead of those of the default spaces}."""

DIMENSIONS: dict[int, dict[str, Dimension]] = {
    1: {"decode.unclip_ratio": Free(1.5, 3.0, 0.25)},
    2: {"decode.unclip_ratio": Free(1.5, 3.0, 0.25)},
    3: {},
    4: {},
}
"""{number: dimensions that it has instead of those of the default spaces}."""

SCRATCH_ENCODER_RATIO = 0.3
"""Lowest `optim.encoder_lr_ratio` of an encoder without pretrained weights, which must learn."""


def of_version(default: Space, number: int) -> Space:
    """Return the default space with the fixed settings and the dimensions of these defaults."""
    own = {name: dim for name, dim in DIMENSIONS[number].items() if name in default.dims}
    base = default.base.replace(SETTINGS[number])
    return replace(default, dims={**default.dims, **own}, base=base)


def fitted(
    space: Space, named: Collection[str], left_out: Mapping[str, Collection[Scalar]]
) -> Space:
    """Take out of the default dimensions what cannot help beside the rest of the space.

    A rate of the encoder that leaves it as it was drawn, where it may begin without pretrained
    weights; and `schedule: step` where the first step lies behind the run.

    Args:
        space: the whole space.
        named: dimensions of the user's, which stay as they are.
        left_out: {dotted name: choices} to take out too.
    """
    dims = dict(space.dims)
    ratio = dims.get("optim.encoder_lr_ratio")
    scratch = None in space.values("model.init") and None in space.values("model.encoder_weights")
    if isinstance(ratio, Float) and scratch and "optim.encoder_lr_ratio" not in named:
        low = min(max(ratio.low, SCRATCH_ENCODER_RATIO), ratio.high)
        dims["optim.encoder_lr_ratio"] = replace(ratio, low=low)
    space = replace(space, dims=dims)
    without = {name: set(values) for name, values in left_out.items()}
    if not _can_step(space):
        without.setdefault("optim.schedule", set()).add("step")
    for name, values in without.items():
        if name not in named:
            space = _without(space, name, values)
    return drop_inactive(space, set())


def _can_step(space: Space) -> bool:
    """Whether the first step can lie before the end of the run; by default it does, at 40 %."""
    epochs = space.base.train.epochs
    return epochs > 1 and any(e is None or e < epochs for e in space.values("optim.step_epochs"))


def _without(space: Space, name: str, values: Collection[Scalar]) -> Space:
    """Take choices out of a dimension; the last one that is left is fixed."""
    dim = space.dims.get(name)
    if not isinstance(dim, Choice):
        return space
    kept = tuple(choice for choice in dim.choices if choice not in values)
    if not kept or kept == dim.choices:
        return space
    dims = dict(space.dims)
    if len(kept) > 1:
        dims[name] = Choice(kept)
        return replace(space, dims=dims)
    del dims[name]
    return replace(space, dims=dims, base=space.base.replace({name: kept[0]}))
