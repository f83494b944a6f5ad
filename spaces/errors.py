"""The one exception that means: the input was wrong, nothing was started; and all exit codes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # no command's help waits for it
    from pydantic import BaseModel

DONE, FAILED, INTERRUPTED = 0, 1, 130  # exit codes; wrong input is 2


class InputError(ValueError):
    """Bad input from the user; its message is complete and is shown without a traceback."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` for the nearest of the known names, or an empty string.

    A dotted name also matches by its last part: `learning_rate` is near to nothing, but
    `train.lr` is near to `optim.lr`.
    """
    names = sorted(set(known))
    alias = _ALIASES.get(given.rsplit(".", 1)[-1].lower())
    near = [alias] if alias in names else difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    if not near:
        last = given.rsplit(".", 1)[-1]
        by_last = {name.rsplit(".", 1)[-1]: name for name in reversed(names)}
        hits = difflib.get_close_matches(last, by_last, n=1, cutoff=0.7)
        near = [by_last[hit] for hit in hits]
    return f"; did you mean {near[0]}?" if near else ""


def pydantic_message(problem: Mapping[str, Any]) -> str:
    """Say in our words what pydantic found: `must be a whole number, but got 2.5`.

    Args:
        problem: one of `ValidationError.errors()`.
    """
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "value_error":  # ours
        return message if "but got" in message else _with_given(message, problem["input"])
    message = _WORDS.get(problem["type"], message.replace("Input should be", "must be"))
    message = _with_given(message, problem["input"])
    if problem["type"] == "literal_error":
        known = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        message += did_you_mean(str(problem["input"]), known)
    return message


def shown(value: Any) -> str:
    """Return a value as it stands in a study file: `true`, `null`, `0.5`, `'text'`."""
    return {None: "null", True: "true", False: "false"}[value] if _is_word(value) else repr(value)


def own_path(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Leave out what pydantic adds to a path: validators, members of a union."""
    return tuple(p for p in loc if isinstance(p, int) or not re.search(r"[\[(]|^str$", p))


def known_keys(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    from pydantic import BaseModel

    for part in loc:
        annotation = (
            model.model_fields[str(part)].annotation if part in model.model_fields else None
        )
        options = [annotation, *getattr(annotation, "__args__", ())]
        nested = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        if not nested:
            return []
        model = nested[0]
    own = [name for name in model.model_fields if name in model.__annotations__]
    return [*own, *(name for name in model.model_fields if name not in own)]  # bases last


def _is_word(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _with_given(message: str, given: Any) -> str:
    text = shown(given)
    return message if isinstance(given, dict) or len(text) > 80 else f"{message}, but got {text}"


# pydantic's kinds of errors whose own words speak of Python.
_WORDS = {
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be finite",
    "string_type": "must be text",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "too_short": "must have at least one item",
    "dict_type": "must hold `key: value` lines",
    "model_type": "must hold `key: value` lines",
    "model_attributes_type": "must hold `key: value` lines",
}

# What people type by habit from other tools, and our dotted name for it.
_ALIASES = {
    "learning_rate": "optim.lr",
    "image_size": "data.resolution",
    "img_size": "data.resolution",
    "input_size": "data.resolution",
    "backbone": "model.encoder",
    "architecture": "model.arch",
    "dice_weight": "loss.region_share",
    "max_weight_ratio": "loss.class_weights.max_ratio",
    "optimizer": "optim.name",
    "n_trials": "trials",
    "max_trials": "trials",
    "num_trials": "trials",
}
