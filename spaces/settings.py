"""What every group of settings is: typed, bounded, immutable, without unknown names."""

from __future__ import annotations

import types
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Section(BaseModel):
    """A group of settings: immutable, and unknown names are errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        strict=False,
        use_attribute_docstrings=True,  # as descriptions of the JSON Schema
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        """`true` where a number is due would silently become 1."""
        if isinstance(value, bool):
            kinds = plain_types(cls.model_fields[str(info.field_name)].annotation)
            if kinds & {int, float} and bool not in kinds:
                raise ValueError("must be a number")
        return value


def plain_types(annotation: Any) -> set[Any]:
    """Return the types of an annotation's members: `float | None` -> {float, NoneType}."""
    if get_origin(annotation) in (Union, types.UnionType):
        return set().union(*(plain_types(part) for part in get_args(annotation)))
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)}
    return {annotation}
