"""The `space:` entries of a study file, read into a Space."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_origin

from pydantic import ValidationError

from spaces.config import TrialConfig, parameter_types
from spaces.errors import did_you_mean, pydantic_message, shown
from spaces.models import incompatibility, unknown_model
from spaces.settings import plain_types
from spaces.space import Choice, Dimension, EntryError, Float, Free, Int, Prior, Scalar, Space

FACTOR = re.compile(r"(\d+(?:\.\d*)?|\.\d+)x")  # 3x: the spread of a prior on a log range


def build_space(default: Space, entries: Mapping[str, Any]) -> Space:
    """Apply the `space:` entries of a study file to a default space.

    An entry is a scalar (pin), a list (choice), or a mapping: `{low, high, log, step}` a range,
    with `prior: {center, spread}` where its first draws are wanted elsewhere than all over it,
    `{choices: [...]}`, `{free: true, low, high, step}` a sweep inside each trial; `when:
    {name: value or list}` makes it conditional.

    Raises:
        EntryError: an entry is wrong; it carries the key of the culprit.
    """
    dims, when, pins = dict(default.dims), dict(default.when), dict[str, Any]()
    types_ = parameter_types(type(default.base))
    for name, entry in entries.items():
        if name.partition(".")[0] == "metric":
            raise EntryError(
                (name,),
                "trials are compared by it, so it is no setting of a trial; write "
                "`metric:` beside `space:`",
            )
        if name not in types_:
            inner = entry if isinstance(entry, dict) else {}
            nested = next((f"{name}.{key}" for key in inner if f"{name}.{key}" in types_), None)
            hint = f"; write {nested} as one key" if nested else did_you_mean(name, types_)
            raise EntryError((name,), f"unknown parameter{hint}")
        if name == "train.epochs" and isinstance(entry, list | dict):
            raise EntryError((name,), "must be one number: trials are compared epoch by epoch")
        dims.pop(name, None)
        if isinstance(entry, dict) and "when" in entry:
            when[name] = _condition(default, name, entry.pop("when"), types_)
        parsed = _entry(name, entry, types_[name], default)
        if isinstance(parsed, Float | Int | Choice | Free):
            dims[name] = parsed
        else:
            pins[name] = parsed.value
    base = _pinned(default.base, pins)
    space = Space(dims, when, base)
    _check_ends(space)
    space.order()  # raises where conditions form a circle
    _check_models(space)
    return drop_inactive(_drop_impossible_archs(space, set(entries)), set(entries))


@dataclass(frozen=True)
class _Pin:
    value: Any


def _entry(name: str, entry: Any, annotation: Any, default: Space) -> Dimension | _Pin:
    if isinstance(entry, dict) and get_origin(annotation) is not dict:
        return _mapping_entry(name, dict(entry), annotation, default)
    if isinstance(entry, list):
        return _choice(default, name, entry, (name,))
    return _Pin(_value(default, name, entry))


def _mapping_entry(
    name: str, entry: dict[str, Any], annotation: Any, default: Space
) -> Dimension | _Pin:
    known = {"low", "high", "log", "step", "choices", "free", "prior"}
    for key in entry:
        if key not in known:
            raise EntryError((name, key), f"unknown key {key}{did_you_mean(key, known)}")
    if "choices" in entry:
        if len(entry) > 1:
            raise EntryError((name,), "choices stands alone, without low, high, log, step or prior")
        return _choice(default, name, entry["choices"], (name, "choices"))
    numeric = {kind for kind in (int, float) if kind in plain_types(annotation)}
    if not numeric:
        raise EntryError((name,), "takes a list of choices, not a range")
    whole = float not in numeric
    low, high = (_bound(name, entry, side, whole) for side in ("low", "high"))
    if low > high:
        raise EntryError((name, "low"), f"low must be <= high, but got low={low}, high={high}")
    old = default.dims.get(name)
    log = entry.get("log", isinstance(old, Float | Int) and old.log and "step" not in entry)
    if not isinstance(log, bool):
        raise EntryError((name, "log"), f"log must be true or false, but got {shown(log)}")
    if log and low <= 0:
        if "log" not in entry:
            log = False  # the default is a log range; a low end of 0 can only mean a linear one
        else:
            raise EntryError((name, "low"), f"a log range needs low > 0, but got low={low}")
    step = entry.get("step")
    if step is not None:
        _check_step(name, step, whole, high - low)
        if log:
            raise EntryError((name, "step"), "a log range has no step; drop log or step")
    if entry.get("free"):
        if name not in default.base.free_names:
            raise EntryError(
                (name, "free"),
                f"only {', '.join(default.base.free_names)} can be free (searched inside a trial)",
            )
        if "prior" in entry:
            raise EntryError(
                (name, "prior"), "what is free is not drawn but tried at every value; drop prior"
            )
        return Free(float(low), float(high), float(step or (1 if whole else 0.01)))
    prior = _prior(name, entry["prior"], low, high, log) if "prior" in entry else None
    if low == high:
        return _Pin(_value(default, name, low))
    if whole:
        return Int(int(low), int(high), log, int(step or 1), prior)
    return Float(float(low), float(high), log, float(step) if step else None, prior)


def _prior(name: str, given: Any, low: float, high: float, log: bool) -> Prior:
    keys = ("center", "spread")
    example = "3x" if log else f"{(high - low) / 5:g}"
    if not isinstance(given, dict):
        center = math.sqrt(low * high) if log else (low + high) / 2
        raise EntryError(
            (name, "prior"),
            f"prior must be a mapping, as in {{center: {center:g}, spread: {example}}}, but got "
            f"{shown(given)}",
        )
    for key in given:
        if key not in keys:
            hint = did_you_mean(key, keys) or "; known keys: center, spread"
            raise EntryError((name, "prior", key), f"unknown key prior.{key}{hint}")
    for key in keys:
        if key not in given:
            raise EntryError((name, "prior"), f"a prior needs center and spread; {key} is missing")
    center, spread = given["center"], given["spread"]
    if not _is_number(center) or not low <= center <= high:
        raise EntryError(
            (name, "prior", "center"),
            f"the prior's center must be a number from low={low:g} to high={high:g}, but got "
            f"{shown(center)}",
        )
    factor = FACTOR.fullmatch(spread) if isinstance(spread, str) else None
    if log and not (factor and 1 < float(factor[1]) < math.inf):
        raise EntryError(
            (name, "prior", "spread"),
            f"of a log range the prior's spread must be a factor above 1, as in {example}, but got "
            f"{shown(spread)}",
        )
    if not log and not (_is_number(spread) and spread > 0):
        raise EntryError(
            (name, "prior", "spread"),
            "of a range that is not log the prior's spread must be a number > 0 in its units, as "
            f"in {example}, but got {shown(spread)}",
        )
    return Prior(float(center), float(factor[1]) if factor else float(spread))


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _bound(name: str, entry: dict[str, Any], side: str, whole: bool) -> float:
    if side not in entry:
        raise EntryError((name,), f"a range needs low and high, but {side} is missing")
    value = entry[side]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise EntryError((name, side), f"{side} must be a number, but got {shown(value)}")
    if not math.isfinite(value):
        raise EntryError((name, side), f"{side} must be finite, but got {value}")
    if whole and float(value) != int(value):
        raise EntryError((name, side), f"{side} must be a whole number, but got {value}")
    return int(value) if whole else float(value)


def _check_step(name: str, step: Any, whole: bool, span: float) -> None:
    if not _is_number(step) or step <= 0:
        raise EntryError((name, "step"), f"step must be a number > 0, but got {shown(step)}")
    if whole and float(step) != int(step):
        raise EntryError((name, "step"), f"step must be a whole number, but got {step}")
    if step > span:
        raise EntryError((name, "step"), f"step must be <= high - low = {span:g}, but got {step}")


def _choice(default: Space, name: str, given: Any, key: tuple[str | int, ...]) -> Dimension | _Pin:
    if not isinstance(given, list):
        raise EntryError(key, f"choices must be a list, but got {shown(given)}")
    if not given:
        raise EntryError(key, "the list of choices is empty; give at least one")
    if len({isinstance(item, bool) for item in given}) > 1:
        listed = ", ".join(map(shown, given))
        raise EntryError(key, f"choices mix true/false with other values: [{listed}]")
    values = []
    for index, item in enumerate(given):
        pair = isinstance(item, list) and name == "data.resolution"
        if isinstance(item, list | dict) and not pair:
            raise EntryError((*key, index), f"a choice must be a single value, but got {item}")
        values.append(_value(default, name, item, (*key, index)))
    twice = [value for i, value in enumerate(values) if value in values[:i]]
    if twice:
        raise EntryError(key, f"the choice {twice[0]} stands twice; keep one")
    return Choice(tuple(values)) if len(values) > 1 else _Pin(values[0])


def _value(space: Space, name: str, value: Any, key: tuple[str | int, ...] | None = None) -> Any:
    """Check one value against the setting's type and limits; return it in canonical form."""
    if isinstance(value, float) and not math.isfinite(value):
        raise EntryError(key or (name,), f"must be finite, but got {value}")
    try:
        return type(space.base)().replace({name: value}).flat()[name]
    except ValidationError as error:
        raise EntryError(key or (name,), pydantic_message(error.errors()[0])) from None


def _condition(
    default: Space, name: str, given: Any, known: Mapping[str, Any]
) -> dict[str, tuple[Scalar, ...]]:
    if not isinstance(given, dict) or not given:
        raise EntryError((name, "when"), "when must be {parameter: value or list of values}")
    result = {}
    for other, values in given.items():
        if other not in known:
            raise EntryError(
                (name, "when", other),
                f"when: unknown parameter {other}{did_you_mean(other, known)}",
            )
        listed = values if isinstance(values, list) else [values]
        result[other] = tuple(
            _value(default, other, value, (name, "when", other)) for value in listed
        )
    return result


def _pinned(base: TrialConfig, pins: dict[str, Any]) -> TrialConfig:
    try:
        return base.replace(pins)
    except ValidationError as error:
        message = pydantic_message(error.errors()[0])
        name = next((pin for pin in pins if pin.rsplit(".", 1)[-1] in message), next(iter(pins)))
        raise EntryError((name,), message) from None


def _check_ends(space: Space) -> None:
    """Both ends of every range must be settings that the trainer accepts, and so must be the
    smallest numbers of all together."""
    lowest: dict[str, Any] = {}
    for name, dim in space.dims.items():
        if isinstance(dim, Float | Int | Free):
            for side, value in (("low", dim.low), ("high", dim.high)):
                _value(space, name, value, (name, side))
            lowest[name] = dim.low
        elif all(isinstance(c, int | float) and not isinstance(c, bool) for c in dim.choices):
            lowest[name] = min(dim.choices)  # type: ignore[type-var]
    _pinned(space.base, lowest)


def _check_models(space: Space) -> None:
    """Refuse names that no architecture and no encoder has."""
    for setting in ("model.arch", "model.encoder") if space.has_archs else ("model.encoder",):
        for index, value in enumerate(space.values(setting)):
            if message := unknown_model(setting, value):
                raise EntryError((setting, index), message)


def _drop_impossible_archs(space: Space, named: set[str]) -> Space:
    """Take out architectures that go with none of the encoders; refuse if the user named them."""
    if not space.has_archs:
        return space
    archs = space.names("model.arch")
    possible = {arch for arch, _ in space.model_pairs()}
    usable = {encoder for _, encoder in space.model_pairs()}
    for arch in archs:
        if arch not in possible and (named & {"model.arch"} or not possible):
            encoders = space.names("model.encoder")
            reason = incompatibility(arch, encoders[0])
            key = "model.arch" if "model.arch" in named else "model.encoder"
            raise EntryError((key,), f"{arch} goes with none of {', '.join(encoders)}: {reason}")
    for index, encoder in enumerate(space.values("model.encoder")):
        if encoder not in usable and "model.encoder" in named:
            reason = incompatibility(archs[0], encoder)
            raise EntryError(
                ("model.encoder", index),
                f"{encoder} goes with none of {', '.join(archs)}: {reason}",
            )
    kept = tuple(arch for arch in archs if arch in possible)
    if len(kept) == len(archs):
        return space
    dims = dict(space.dims)
    if len(kept) > 1:
        dims["model.arch"] = Choice(kept)
        return replace(space, dims=dims)
    dims.pop("model.arch")
    return replace(space, dims=dims, base=space.base.replace({"model.arch": kept[0]}))


def drop_inactive(space: Space, named: set[str]) -> Space:
    """Take out dimensions whose condition no value of the space can meet."""
    dims = dict(space.dims)
    for name, condition in space.when.items():
        if name not in dims:
            continue
        for other, allowed in condition.items():
            reachable = space.values(other)
            if isinstance(space.dims.get(other), Float | Int):
                raise EntryError((name,), f"when: {other} is a range; a condition needs choices")
            if not set(reachable) & set(allowed):
                if name in named:
                    raise EntryError(
                        (name,),
                        f"never used: it counts only where {other} is "
                        f"{' or '.join(map(str, allowed))}, but {other} is "
                        f"{' or '.join(map(str, reachable))}; remove it",
                    )
                dims.pop(name, None)
    return replace(space, dims=dims)
