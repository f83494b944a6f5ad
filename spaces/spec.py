"""The study file: what a user writes, as a StudySpec, with file and line in every error."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from spaces import sections, segmentation, text_detection
from spaces.config import (
    MetricConfig,
    SegmentationConfig,
    SegmentationMetric,
    TrialConfig,
    parameter_types,
)
from spaces.data import AnyDataSpec, SegmentationDataSpec, TextDetectionDataSpec, fold_count
from spaces.defaults import FIRST, LATEST, fitted, of_version
from spaces.entries import build_space
from spaces.errors import InputError, did_you_mean, known_keys, own_path, pydantic_message, shown
from spaces.initial_weights import resolve_entry, settle
from spaces.limits import LimitsSpec
from spaces.metric import check_metric, classes_of_a_mean, metric_name
from spaces.sections import BudgetSpec, ConfirmSpec, PrunerSpec, SamplerSpec, WorkersSpec
from spaces.settings import Section
from spaces.sources import resolve_paths, without_class_file
from spaces.space import EntryError, Space
from spaces.starting import StartingPoint
from spaces.text_detection import TextDetectionConfig, TextMetric
from spaces.yamlfile import Document, Key, mapping, parse_yaml, read_yaml

TEXT = "study.yaml"  # what messages call a text that is no file
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
CONFIRM, FINISH = BESIDE = (":confirm", ":finish")
"""What the names of a study's confirmation, and of its stopped trials that were trained to their
ends for a replay, have behind the study's own."""


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _none(value: Any) -> Any:
    return None if value == "none" else value


class StudySpec(Section):
    """A study file; each task has a subclass with its own `data` and `metric`."""

    name: str
    task: str
    data: AnyDataSpec
    metric: MetricConfig
    """What trials are scored by, and compared by."""
    space: dict[str, Any] = Field(default_factory=dict)
    """{dotted name: pin, list of choices, or range}; what is not named keeps its default."""
    use_default_space: bool = True
    """false: only what `space` names is searched."""
    defaults: int = Field(LATEST, ge=FIRST, le=LATEST)
    """What stands in for settings that the file lacks: 4, or 1 to 3 as in older versions."""
    left_out: SkipJsonSchema[dict[str, list[str]]] = Field(default_factory=dict)
    """Choices of the default space that are not drawn; found in the data, and in no study file."""
    init_sha256: SkipJsonSchema[dict[str, str]] = Field(default_factory=dict)
    """{path: SHA-256} of the weights that `model.init` names; found there, and in no study file."""
    use_starting_points: bool = True
    """Try the recipes of the field first."""
    from_studies: list[str] = Field(default_factory=list, json_schema_extra={"uniqueItems": True})
    """Earlier studies of the same store: what they have found is known from the start."""
    budget: BudgetSpec = BudgetSpec()
    sampler: Annotated[SamplerSpec, BeforeValidator(_named)] = SamplerSpec()
    pruner: Annotated[PrunerSpec, BeforeValidator(_named)] = PrunerSpec()
    confirm: Annotated[ConfirmSpec | None, BeforeValidator(_none)] = ConfirmSpec()
    """none: the best value of one seed is all that is known. Changes no trial of the search."""
    limits: LimitsSpec = LimitsSpec()
    """What a config may cost; one outside is not trained."""
    seed: int = Field(0, ge=0, lt=2**32)
    ensemble: sections.EnsembleSpec | None = None
    """Made with `segtune ensemble`, of the best trials; null = none is planned."""
    keep_models: int = Field(3, ge=1)
    """Weights of this many best trials are kept on disk; where an ensemble is planned, 2 * size."""
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(
        default_factory=list, json_schema_extra={"uniqueItems": True}
    )
    """Where the epochs of all trials are logged too; each needs the extra of its name."""
    workers: WorkersSpec = WorkersSpec()
    """Where the trials run; changes no result."""

    @field_validator("trackers", "from_studies")
    @classmethod
    def _check_once(cls, names: list[str]) -> list[str]:
        twice = [name for i, name in enumerate(names) if name in names[:i]]
        if twice:
            raise ValueError(f"{twice[0]} stands twice")
        return names

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        check_study_name(name.removesuffix(CONFIRM).removesuffix(FINISH))
        return name

    @model_validator(mode="after")
    def _check_earlier(self) -> Self:
        if self.name in self.from_studies:
            raise ValueError(f"from_studies: {self.name} is this study's own name; name others")
        return self

    @model_validator(mode="after")
    def _check_metric(self) -> Self:
        check_metric(self.metric, self.data)
        return self

    @property
    def metric_name(self) -> str:
        """The metric's name for tables and graphs, as in mIoU."""
        return metric_name(self.metric, self.data)

    @property
    def beside(self) -> str | None:
        """The study whose trials this one runs again; None for a search."""
        own = (self.name.removesuffix(suffix) for suffix in BESIDE if self.name.endswith(suffix))
        return next(own, None)

    @property
    def confirms(self) -> str | None:
        """The study whose best trials this one runs again; None for a search."""
        return self.name.removesuffix(CONFIRM) if self.name.endswith(CONFIRM) else None

    _complete = model_validator(mode="before")(sections.completed)

    @classmethod
    def load(cls, path: Path) -> StudySpec:
        """Read and check a study file; relative paths become absolute, class files are read.

        Raises:
            InputError: with file and line.
        """
        return _from_document(read_yaml(path), path.resolve().parent)

    @classmethod
    def of_text(cls, text: str) -> StudySpec:
        """Check a study file's text alone: nothing that it names is looked at.

        Raises:
            InputError: with the line, of a file TEXT.
        """
        return _from_document(parse_yaml(text, TEXT), None)

    @classmethod
    def from_json(cls, text: str) -> StudySpec:
        """Read back `to_json`, of any version: studies were not confirmed before they could be."""
        return cls.of({"confirm": None, "defaults": FIRST, **json.loads(text)})

    @classmethod
    def of(cls, tree: dict[str, Any]) -> StudySpec:
        """Check the content of a study file whose paths are absolute and whose task is known.

        Raises:
            pydantic.ValidationError: a key or value that is wrong.
        """
        return TASKS[tree["task"]].study.model_validate(tree)

    def to_json(self) -> str:
        """The canonical form that is stored with a study."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True)

    def search_space(self) -> Space:
        """Return the space, built at the first call; raises EntryError for a wrong entry."""
        return self._space

    @cached_property
    def _space(self) -> Space:
        default = self.default_space(self._epochs())
        default = replace(default, base=default.base.model_copy(update={"metric": self.metric}))
        if not self.use_default_space:
            default = Space({}, {}, default.base)
        default = of_version(default, self.defaults)
        space = settle(build_space(default, json.loads(json.dumps(self.space))), self.space)
        _check_priors(space, self.sampler)
        return space if self.defaults == FIRST else fitted(space, self.space.keys(), self.left_out)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        copy = super().model_copy(update=update, deep=deep)
        if _SHAPES_SPACE & (update or {}).keys():
            copy.__dict__.pop("_space", None)  # pydantic copies what is cached too
        return copy

    def default_space(self, epochs: int) -> Space:
        """Return what is searched where the file names nothing."""
        raise NotImplementedError

    @property
    def starting_points(self) -> tuple[StartingPoint, ...]:
        """Recipes of the field, tried first."""
        raise NotImplementedError

    @property
    def full_epochs(self) -> int:
        """Epochs of a trial in full, those of all its folds together."""
        return self._epochs() * fold_count(self.data)

    def _epochs(self) -> int:
        """Length of a trial; 1 where the file's is wrong, which `build_space` will say."""
        epochs = self.space.get("train.epochs", SegmentationConfig().train.epochs)
        whole = isinstance(epochs, int) and not isinstance(epochs, bool) and epochs >= 1
        return epochs if whole else 1


def _check_priors(space: Space, sampler: SamplerSpec) -> None:
    """Refuse priors that no trial would be drawn from."""
    for name in space.priors():
        if sampler.name == "qmc":
            raise EntryError(
                (name, "prior"),
                "qmc covers every range evenly, so it has no use for a prior; drop prior, or write "
                "sampler: tpe",
            )
        if sampler.startup_trials == 0:
            raise EntryError(
                (name, "prior"),
                "the first sampler.startup_trials trials are drawn from a prior, but that is 0; "
                "drop prior, or write startup_trials: 10",
            )


_SHAPES_SPACE = {"data", "metric", "space", "use_default_space", "defaults", "left_out"}


class SegmentationStudySpec(StudySpec):
    """A study of semantic segmentation."""

    task: Literal["segmentation"]
    data: SegmentationDataSpec
    metric: Annotated[SegmentationMetric, BeforeValidator(_named)] = SegmentationMetric()

    @model_validator(mode="before")
    @classmethod
    def _mean_of_two(cls, tree: Any) -> Any:
        """mIoU of a binary task is the mean of background and foreground; its IoU is not."""
        if isinstance(tree, dict) and (both := classes_of_a_mean(tree)) is not None:
            return tree | {"metric": _named(tree["metric"]) | {"classes": both}}
        return tree

    def search_space(self) -> Space:
        for name in segmentation.BINARY_ONLY:
            if name in self.space and not self.data.binary:
                raise EntryError((name,), "counts in binary tasks only (one class); remove it")
        return super().search_space()

    def default_space(self, epochs: int) -> Space:
        return segmentation.default_space(epochs, binary=self.data.binary)

    @property
    def starting_points(self) -> tuple[StartingPoint, ...]:
        return segmentation.STARTING_POINTS


class TextDetectionStudySpec(StudySpec):
    """A study of DBNet text detection."""

    task: Literal["text_detection"]
    data: TextDetectionDataSpec
    metric: Annotated[TextMetric, BeforeValidator(_named)] = TextMetric()

    def default_space(self, epochs: int) -> Space:
        return text_detection.default_space(epochs)

    @property
    def starting_points(self) -> tuple[StartingPoint, ...]:
        return text_detection.STARTING_POINTS


@dataclass(frozen=True)
class Task:
    """The models of a task's study files and configs."""

    study: type[StudySpec]
    data: type[SegmentationDataSpec] | type[TextDetectionDataSpec]
    config: type[TrialConfig]
    default_space: Callable[[int], Space]
    """Epochs -> what is searched where a file names nothing (segmentation: many classes)."""


TASKS = {
    "segmentation": Task(
        SegmentationStudySpec,
        SegmentationDataSpec,
        SegmentationConfig,
        partial(segmentation.default_space, binary=False),
    ),
    "text_detection": Task(
        TextDetectionStudySpec,
        TextDetectionDataSpec,
        TextDetectionConfig,
        text_detection.default_space,
    ),
}


def check_study_name(name: str) -> None:
    """Raise ValueError unless the name is fit for a file, a URL and a shell."""
    if not NAME.fullmatch(name):
        given = name if len(name) <= 40 else f"{name[:40]}... ({len(name)} characters)"
        raise ValueError(
            "must be 1 to 100 letters, digits, '.', '_' or '-', starting with a letter or digit, "
            f"but got {given!r}"
        )


# ---------------------------------------------------------------- from YAML to a checked spec


def _from_document(document: Document, folder: Path | None) -> StudySpec:
    data = mapping(document)
    if "trial" in data and "name" not in data:
        raise InputError(f"{document.source} is an exported config; give it to `segtune train`")
    for key in {"left_out", "init_sha256"} & data.keys():
        raise InputError(f"{key}: unknown key ({document.where((key,))})")
    if folder is None:
        data = without_class_file(data)
    else:
        resolve_paths(data, document, folder)
        resolve_entry(data.get("space"), document, folder)
    study = TASKS[task_of(data, document)].study if "task" in data else SegmentationStudySpec
    try:
        spec = study.model_validate(data)
    except ValidationError as error:
        raise input_error(error, document, (), study) from None
    if spec.beside is not None:
        raise InputError(
            f"name: {spec.name.removeprefix(spec.beside)} is for segtune's own studies; leave it "
            f"out ({document.where(('name',))})"
        )
    try:
        spec.search_space()
    except EntryError as error:
        raise InputError(f"{error} ({document.where(('space', *error.key))})") from None
    return spec


def task_of(data: dict[str, Any], document: Document) -> str:
    """The task's name; raises InputError, with the line, for an unknown one."""
    name = data["task"]
    if not isinstance(name, str) or name not in TASKS:
        raise InputError(
            f"task: must be {' or '.join(TASKS)}, but got {shown(name)}"
            f"{did_you_mean(str(name), TASKS)} ({document.where(('task',))})"
        )
    return name


def input_error(
    error: ValidationError, document: Document, prefix: Key, root: type[BaseModel]
) -> InputError:
    """Say the first thing that pydantic found, in our words, with the line."""
    problems = error.errors()
    first = problems[0]
    loc = own_path(first["loc"])
    known = known_keys(root, loc[:-1])
    message = pydantic_message(first)
    if first["type"] == "extra_forbidden":
        message = f"unknown key{did_you_mean(str(loc[-1]), known)}"
        if len(loc) == 1 and not prefix and "mean" not in message:
            task = TASKS.get(str(document.data.get("task")), TASKS["segmentation"])
            hint = did_you_mean(str(loc[-1]), parameter_types(task.config))
            message += hint.replace("?", ", under `space:`?")
    elif first["type"] == "missing" and isinstance(loc[-1], int):
        message, loc = f"needs {loc[-1] + 1} values, but got {first['input']}", loc[:-1]
    elif first["type"] == "missing":
        message = "is missing"
    elif first["type"].startswith("model_") and (below := known_keys(root, loc)):
        message += f"; known keys: {', '.join(below)}"
    elif first["type"] == "value_error":  # ours may name the key below: `palette: has ...`
        place, colon, rest = message.partition(": ")
        field, *below = place.split(".")
        if colon and field in known_keys(root, loc):
            parts = (int(part) if part.isdecimal() else part for part in below)
            loc, message = (*loc, field, *parts), rest
    key: Key = (*prefix, *loc)
    missing_at_top = message == "is missing" and len(key) == 1
    where = document.source if missing_at_top else document.where(key)
    others = len({own_path(problem["loc"]) for problem in problems}) - 1
    more = f" (and {others} more)" if others else ""
    return InputError(f"{'.'.join(map(str, key)) or 'the file'}: {message} ({where}){more}")
