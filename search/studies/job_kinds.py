"""What a job may run: a table of kinds, each with the few settings that it takes.

Whoever writes into the store may ask for these commands, and for nothing else.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from spaces.errors import InputError, did_you_mean, pydantic_message, shown
from spaces.spec import check_study_name
from spaces.yamlfile import mapping, parse_yaml
from trainers.pairs import SUFFIXES

T = TypeVar("T", bound=BaseModel)

FILE = "study.yaml"  # how a study file is called while its job runs
FILE_LENGTH = 64 * 1024  # characters of it
MOST_TRIALS = 100_000  # that a study may be given here
IMAGE_NAME = rf"[A-Za-z0-9_][A-Za-z0-9_-]{{0,59}}({'|'.join(map(re.escape, SUFFIXES))})"

Trial = Annotated[int, Field(ge=0, le=999_999_999)]


class Kind(BaseModel):
    """A command and its settings.

    Attributes:
        makes: it writes a folder, which is the job's result.
        takes_image: an image is sent along.
        of_study: it is about a study, which is or shall be there.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    makes: ClassVar[bool] = False
    takes_image: ClassVar[bool] = False
    of_study: ClassVar[bool] = True

    @property
    def options(self) -> list[str]:
        """As the command line takes them."""
        return []

    @property
    def words(self) -> list[str]:
        """What a list shows of them."""
        return self.options

    def subject(self, study: str, folder: str) -> list[str]:
        """What the command is about: a study, or what lies in the job's folder."""
        return [study]

    def made(self, to: str) -> list[str]:
        """Where what it makes shall lie: the folder `to`."""
        return ["--to", to] if self.makes else []

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

    trial: Trial | None = None
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
        trial = _trial(self.trial)
        flags = {"--no-test": not self.test, "--onnx": self.onnx, "--config-only": self.config_only}
        return [*trial, *(flag for flag, given in flags.items() if given)]


class Predict(Kind):
    """`segtune predict` of an image that was sent along, by a trial of a study.

    Attributes:
        image: how its file is called while the job runs.
        trial: None: the best one.
    """

    makes = True
    takes_image = True

    image: Annotated[str, Field(pattern=f"^{IMAGE_NAME}$")]
    trial: Trial | None = None

    @property
    def options(self) -> list[str]:
        return _trial(self.trial)

    @property
    def fixed(self) -> list[str]:
        return ["--overlay"]

    @property
    def words(self) -> list[str]:
        return [self.image, *self.options]

    def subject(self, study: str, folder: str) -> list[str]:
        return [f"study:{study}", f"{folder}/{self.image}"]


class Init(Kind):
    """`segtune init` for a data set, which is in a folder of the runner's.

    Attributes:
        folder: absolute.
    """

    makes = True
    of_study = False

    folder: Annotated[str, Field(pattern=r"^/[^\x00-\x1f\x7f]*$", max_length=4096)]

    @property
    def options(self) -> list[str]:
        return ["--from", self.folder]

    def subject(self, study: str, folder: str) -> list[str]:
        return []

    def made(self, to: str) -> list[str]:
        return ["--to", f"{to}/{FILE}"]


class OnFile(Kind):
    """A command on a study file.

    Attributes:
        file: the file's text.
    """

    file: Annotated[str, Field(min_length=1, max_length=FILE_LENGTH)]

    def subject(self, study: str, folder: str) -> list[str]:
        return [f"{folder}/{FILE}"]


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


def _trial(number: int | None) -> list[str]:
    return [] if number is None else ["--trial", str(number)]


KINDS: dict[str, type[Kind]] = {
    "export": Export,
    "predict": Predict,
    "init": Init,
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
        folder: where FILE lies, or the image, for a command on one.
        to: the folder of what it makes.

    Raises:
        InputError: it is none of KINDS, or the study's name is none.
    """
    settings = parsed(kind, arguments)
    if settings.of_study != (study is not None):
        raise InputError(f"{kind} must name {'a' if settings.of_study else 'no'} study")
    try:
        if study is not None:
            check_study_name(study)
    except ValueError as error:
        raise InputError(f"study: {error}") from None
    what = settings.subject(study or "", folder)
    return [kind, *what, *settings.made(to), *settings.fixed, *settings.options]


def image_name(given: str) -> str:
    """Reduce a file's name, as a browser sends it, to one that a job takes.

    Raises:
        InputError: it ends in nothing that images end in.
    """
    path = PurePosixPath(given.replace("\\", "/"))
    if (suffix := path.suffix.lower()) not in SUFFIXES:
        raise InputError(
            f"an image's file must end in {', '.join(SUFFIXES)}, but got {path.name[-40:]!r}"
        )
    stem = re.sub("[^A-Za-z0-9_-]+", "_", path.stem).strip("_-")[:60]
    return f"{stem or 'image'}{suffix}"


def described(kind: str, arguments: str) -> str:
    """A job in a few words; what is none of KINDS has its kind alone."""
    try:
        return " ".join([kind, *parsed(kind, arguments).words])
    except InputError:
        return kind
