"""What a job may run: a table of kinds, each with the few settings that it takes.

Whoever writes into the store may ask for these commands, and for nothing else.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from spaces.errors import InputError, did_you_mean, pydantic_message, shown
from spaces.spec import check_study_name
from spaces.yamlfile import mapping, parse_yaml

T = TypeVar("T", bound=BaseModel)

FILE = "study.yaml"  # how a study file is called while its job runs
FILE_LENGTH = 64 * 1024  # characters of it
MOST_TRIALS = 100_000  # that a study may be given here


class Kind(BaseModel):
    """A command and its settings.

    Attributes:
        makes: it writes a folder, which is the job's result.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    makes: ClassVar[bool] = False

    @property
    def options(self) -> list[str]:
        """As the command line takes them."""
        return []

    @property
    def fixed(self) -> list[str]:
        """Options that every job of this kind has."""
        return []


class Export(Kind):
    """`segtune export` of a study.

    Attributes:
        trial: None: the best one.
        test: score it on the study's test split, where it has one; the look is recorded.
    """

    makes = True

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
        trial = [] if self.trial is None else ["--trial", str(self.trial)]
        flags = {"--no-test": not self.test, "--onnx": self.onnx, "--config-only": self.config_only}
        return [*trial, *(flag for flag, given in flags.items() if given)]


class OnFile(Kind):
    """A command on a study file.

    Attributes:
        file: the file's text.
    """

    file: Annotated[str, Field(min_length=1, max_length=FILE_LENGTH)]


class Check(OnFile):
    """`segtune check` of a study file."""


class Launch(OnFile):
    """`segtune launch` of a new study, for the workers that serve the store."""

    @property
    def fixed(self) -> list[str]:
        return ["--new", "--on", "local", "--workers", "0"]


class Confirm(Kind):
    """`segtune confirm` of a study, for the workers that serve the store.

    Attributes:
        top, seeds: None: as the study has them.
    """

    top: Annotated[int, Field(ge=1, le=20)] | None = None
    seeds: Annotated[int, Field(ge=1, le=20)] | None = None

    @property
    def options(self) -> list[str]:
        given = {"--top": self.top, "--seeds": self.seeds}
        return [word for name, n in given.items() if n is not None for word in (name, str(n))]

    @property
    def fixed(self) -> list[str]:
        return ["--leave"]


class Resume(Kind):
    """`segtune resume` of a study that is to have more trials.

    Attributes:
        trials: in all.
    """

    trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)]

    @property
    def options(self) -> list[str]:
        return ["--trials", str(self.trials)]


class Delete(Kind):
    """`segtune delete` of a study."""

    @property
    def fixed(self) -> list[str]:
        return ["--yes"]


KINDS: dict[str, type[Kind]] = {
    "export": Export,
    "check": Check,
    "launch": Launch,
    "confirm": Confirm,
    "resume": Resume,
    "delete": Delete,
}


def parsed(kind: str, arguments: str) -> Kind:
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
    return checked(KINDS[kind], arguments, kind)


def checked(model: type[T], text: str | bytes, what: str) -> T:
    """Return the settings that a JSON text holds.

    Args:
        what: it is, for messages.

    Raises:
        InputError: it is no JSON, or the model takes no such settings.
    """
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or what
        raise InputError(f"{where}: {pydantic_message(first)}") from None


def named_in(file: str) -> str:
    """Return the name of the study that a study file describes; the rest of it is not looked at.

    Raises:
        InputError: it is no YAML, or names none.
    """
    document = parse_yaml(file, FILE)
    name = mapping(document).get("name")
    where = document.where(("name",))
    if not isinstance(name, str):
        raise InputError(f"name: must be text, but got {shown(name)} ({where})")
    try:
        check_study_name(name)
    except ValueError as error:
        raise InputError(f"name: {error} ({where})") from None
    return name


def command(kind: str, arguments: str, study: str | None, folder: str, to: str) -> list[str]:
    """Return the words of the command line behind `segtune`.

    Args:
        folder: where FILE lies, for a command on one.
        to: the folder of what it makes.

    Raises:
        InputError: it is none of KINDS, or the study's name is none.
    """
    settings = parsed(kind, arguments)
    if study is None:
        raise InputError(f"{kind} must name a study")
    try:
        check_study_name(study)
    except ValueError as error:
        raise InputError(f"study: {error}") from None
    what = f"{folder}/{FILE}" if isinstance(settings, OnFile) else study
    made = ["--to", to] if settings.makes else []
    return [kind, what, *made, *settings.fixed, *settings.options]


def described(kind: str, arguments: str) -> str:
    """A job in a few words; what is none of KINDS has its kind alone."""
    try:
        return " ".join([kind, *parsed(kind, arguments).options])
    except InputError:
        return kind
