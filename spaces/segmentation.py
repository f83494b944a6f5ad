"""The default search space of semantic segmentation, and the starting points that practitioners
recommend (docs/decisions/0003-starting-points.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spaces.config import TrialConfig
from spaces.space import Choice, Float, Free, Int, Space

BINARY_ONLY = ("decode.threshold", "loss.focal_alpha")


def default_space(epochs: int, *, binary: bool) -> Space:
    """Return what is worth searching in a run of this many epochs.

    Warm-ups and ramps reach up to a third of the run. `binary` adds the free decode threshold.
    """
    third = max(1, epochs // 3)
    dims: dict[str, Any] = {
        "model.arch": Choice(("Unet", "FPN", "DeepLabV3Plus")),
        "model.encoder": Choice(("resnet18", "resnet34", "resnet50", "efficientnet-b0")),
        "data.resolution": Choice(("256x256", "384x384", "512x512")),
        "train.batch_size": Choice((4, 8, 16)),
        "loss.pixel": Choice(("bce", "focal") if binary else ("ce", "focal")),
        "loss.region": Choice(("dice", "tversky", "jaccard", "lovasz")),
        "loss.region_share": Float(0.0, 0.9),
        "loss.warmup_epochs": Int(0, third),
        "loss.ramp_epochs": Int(0, third),
        "loss.tversky_alpha": Float(0.1, 0.7),
        "loss.focal_gamma": Float(0.5, 4.0),
        "loss.class_weights.method": Choice(
            ("none", "inverse_freq", "sqrt_inv_freq", "effective_number")
        ),
        "loss.class_weights.max_ratio": Float(1.5, 50.0, log=True),
        "optim.lr": Float(1e-4, 1e-2, log=True),
        "optim.encoder_lr_ratio": Float(0.05, 1.0, log=True),
        "optim.schedule": Choice(("constant", "cosine", "poly", "step")),
        "optim.warmup_epochs": Int(0, third),
        "optim.clip_norm": Float(0.5, 12.0, log=True),
        "optim.weight_decay": Float(1e-6, 1e-1, log=True),
    }
    when: dict[str, dict[str, tuple[Any, ...]]] = {
        "loss.tversky_alpha": {"loss.region": ("tversky",)},
        "loss.focal_gamma": {"loss.pixel": ("focal",)},
        "loss.class_weights.max_ratio": {
            "loss.class_weights.method": ("inverse_freq", "sqrt_inv_freq", "effective_number")
        },
    }
    changes: dict[str, Any] = {"train.epochs": epochs}
    if binary:
        dims["decode.threshold"] = Free(0.01, 0.99, 0.01)
        changes["loss.pixel"] = "bce"
    return Space(dims, when, TrialConfig().replace(changes))


@dataclass(frozen=True)
class StartingPoint:
    """A recipe from the field, in the words of its source; epochs as of a run of `epochs`."""

    name: str
    epochs: int
    settings: Mapping[str, Any]
    lr_factor: float
    """Where its rate is outside of the space: this times the geometric middle of the range."""


STARTING_POINTS = (
    StartingPoint(
        "safe preset (field note A)",
        50,
        {
            "loss.pixel": "ce",
            "loss.region": "dice",
            "loss.region_share": 0.3,
            "loss.warmup_epochs": 5,
            "loss.ramp_epochs": 10,
            "loss.smooth": 5.0,
            "loss.squared": True,
            "loss.class_weights.method": "sqrt_inv_freq",
            "loss.class_weights.max_ratio": 10.0,
            "optim.name": "sgd",
            "optim.lr": 3e-6,
            "optim.warmup_epochs": 5,
            "optim.clip_norm": 1.0,
        },
        lr_factor=0.4,
    ),
    StartingPoint(
        "optimised recipe (field note D)",
        100,
        {
            "model.arch": "DeepLabV3Plus",
            "model.encoder": "resnet101",
            "data.resolution": "384x384",
            "train.batch_size": 12,
            "optim.lr": 1e-4,
            "optim.encoder_lr_ratio": 0.1,
        },
        lr_factor=1.0,
    ),
)


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


def _nearest_choice(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    if value in choices:
        return value
    if (name, value) == ("loss.pixel", "ce") and "bce" in choices:
        return "bce"  # the same loss, for one logit
    if name == "data.resolution":
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
    if "model.encoder" in params:
        encoder = params.pop("model.encoder")
        if "model.arch" in params or "model.arch" not in space.dims:
            name, choice = space.encoder_choice((fixed | params)["model.arch"])
            if encoder in choice.choices and len(choice.choices) > 1:
                params[name] = encoder
    return params
