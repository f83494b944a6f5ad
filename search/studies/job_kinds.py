"""What a job may run: a table of kinds, each with the few settings that it takes.

Whoever writes into the store may ask for these commands, and for nothing else.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from spaces.errors import InputError, did_you_mean, pydantic_message
from spaces.spec import check_study_name


class Export(BaseModel):
    """`segtune export` of a study.

    Attributes:
        trial: None: the best one.
        test: score it on the study's test split, where it has one; the look is recorded.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    trial: Annotated[int, Field(ge=0, le=999_999_999)] | None = None
    test: bool = True
    onnx: bool = False
    config_only: bool = False

    @model_validator(mode="after")
    def _check(self) -> Export:
        if self.onnx and self.config_only:
            raise ValueError("onnx and config_only exclude each other; leave one of them out")
        return self

    @property
    def options(self) -> list[str]:
        """As the command line takes them."""
        trial = [] if self.trial is None else ["--trial", str(self.trial)]
        flags = {"--no-test": not self.test, "--onnx": self.onnx, "--config-only": self.config_only}
        return [*trial, *(flag for flag, given in flags.items() if given)]


KINDS = {"export": Export}


def parsed(kind: str, arguments: str) -> Export:
    """Return a job's settings.

    Args:
        arguments: JSON.

    Raises:
        InputError: there is no such kind, or it takes no such settings.
    """
    if kind not in KINDS:
        raise InputError(
            f"a job must be one of {', '.join(KINDS)}, but got {kind[:40]!r}"
            f"{did_you_mean(kind, KINDS)}"
        )
    try:
        return KINDS[kind].model_validate_json(arguments)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or kind
        raise InputError(f"{where}: {pydantic_message(first)}") from None


def command(kind: str, arguments: str, study: str | None, to: str) -> list[str]:
    """Return the words of the command line behind `segtune`.

    Args:
        to: the folder of what it makes.

    Raises:
        InputError: it is none of KINDS, or the study's name is none.
    """
    options = parsed(kind, arguments).options
    if study is None:
        raise InputError(f"{kind} must name a study")
    try:
        check_study_name(study)
    except ValueError as error:
        raise InputError(f"study: {error}") from None
    return [kind, study, "--to", to, *options]


def described(kind: str, arguments: str) -> str:
    """A job in a few words; what is none of KINDS has its kind alone."""
    try:
        return " ".join([kind, *parsed(kind, arguments).options])
    except InputError:
        return kind
