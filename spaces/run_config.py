"""An exported `config.yaml`: the task, the data set and one trial's config."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from spaces.config import TrialConfig, unflatten
from spaces.data import AnyDataSpec
from spaces.errors import InputError, did_you_mean
from spaces.initial_weights import INIT, absolute
from spaces.metric import check_metric
from spaces.sources import resolve_paths
from spaces.spec import TASKS, input_error, task_of
from spaces.yamlfile import dump_yaml, mapping, read_yaml


def load_run_config(path: Path, *, splits: bool = True) -> tuple[AnyDataSpec, TrialConfig]:
    """Read an exported `config.yaml`: sections `task`, `data` (the data set) and `trial`.

    Args:
        splits: whether the images that it was trained on will be read; else they may be gone.

    Raises:
        InputError: with file and line.
    """
    document = read_yaml(path)
    data = mapping(document)
    if "trial" not in data and ("name" in data or "space" in data):
        raise InputError(f"{document.source} is a study file; give it to `segtune launch`")
    for key in data:
        if key not in ("task", "data", "trial"):
            hint = did_you_mean(key, ("task", "data", "trial"))
            raise InputError(f"{key}: unknown key{hint} ({document.where((key,))})")
    for key in ("task", "data", "trial"):
        if key not in data:
            raise InputError(f"{document.source}: {key} is missing; it must be an exported config")
    task = TASKS[task_of(data, document)]
    resolve_paths(data, document, path.resolve().parent, splits=splits)
    try:
        data_spec = task.data.model_validate(data["data"])
    except ValidationError as error:
        raise input_error(error, document, ("data",), task.data) from None
    try:
        config = task.config.model_validate(data["trial"])
    except ValidationError as error:
        raise input_error(error, document, ("trial",), task.config) from None
    try:
        check_metric(config.metric, data_spec)
    except ValueError as error:
        raise InputError(f"trial.{error} ({document.where(('trial', 'metric'))})") from None
    init = config.flat()[INIT]
    return data_spec, config.replace({INIT: absolute(init, path.resolve().parent)})


def dump_run_config(data: AnyDataSpec, config: TrialConfig) -> str:
    """Return the text of an exported `config.yaml`."""
    tree = {
        "task": config.task,
        "data": data.model_dump(mode="json", exclude_none=True),
        "trial": unflatten(config.flat()),
    }
    return dump_yaml(tree)
