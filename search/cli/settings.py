"""What the command line sets, put into a study file or an exported config, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from spaces.errors import InputError

if TYPE_CHECKING:
    from pydantic import ValidationError

    from spaces.config import TrialConfig
    from spaces.spec import StudySpec


def with_workers(spec: StudySpec, given: dict[str, Any], settings: list[str]) -> StudySpec:
    """Put what the command line says of workers in place of what the file says."""
    from pydantic import ValidationError

    from spaces.errors import did_you_mean
    from spaces.sections import WorkersSpec
    from spaces.yamlfile import parse_yaml

    changes = {name: value for name, value in given.items() if value is not None}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in WorkersSpec.model_fields:
            hint = did_you_mean(name, WorkersSpec.model_fields)
            known = hint or f"; known: {', '.join(WorkersSpec.model_fields)}"
            raise InputError(f"--worker-option {setting}: must be name=value{known}")
        changes[name] = parse_yaml(value, f"--worker-option {setting}").data
    before = spec.workers.model_dump(exclude_defaults=True)
    if changes.get("on", spec.workers.on) != spec.workers.on:
        before = {"count": spec.workers.count}  # the rest is another engine's
    try:
        workers = WorkersSpec.model_validate(before | changes)
    except ValidationError as error:
        raise InputError(_first_problem(error, "workers")) from None
    return spec.model_copy(update={"workers": workers})


def with_confirm(spec: StudySpec, given: dict[str, Any]) -> StudySpec:
    """Put what the command line says of a confirmation in place of what the study says."""
    from pydantic import ValidationError

    from spaces.sections import ConfirmSpec

    before = {} if spec.confirm is None else spec.confirm.model_dump()
    before["share"] = 10  # whoever asks for runs gets them
    changes = {name: value for name, value in given.items() if value is not None}
    try:
        confirm = ConfirmSpec.model_validate(before | changes)
    except ValidationError as error:
        raise InputError(f"--{_first_problem(error)}") from None
    return spec.model_copy(update={"confirm": confirm})


def with_settings(config: TrialConfig, settings: list[str], within: str = "decode.") -> TrialConfig:
    """Apply `--set name=value`.

    Args:
        within: how the names begin that may be changed; by default what acts after the network.
    """
    from pydantic import ValidationError

    from spaces.errors import did_you_mean
    from spaces.initial_weights import INIT, absolute
    from spaces.yamlfile import parse_yaml

    changes: dict[str, Any] = {}
    known = [name for name in config.flat() if name.startswith(within)]
    kind = f"{within.rstrip('.')} setting".lstrip()
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"--set {setting}: must be name=value, as in {known[0]}=0.5")
        if name not in known:
            hint = did_you_mean(name, known) or f"; known: {', '.join(known)}"
            raise InputError(f"--set {setting}: {name} is no {kind}{hint}")
        changes[name] = parse_yaml(value, f"--set {setting}").data
        if name == INIT:
            changes[name] = absolute(changes[name], Path.cwd())
    try:
        return config.replace(changes)
    except ValidationError as error:
        raise InputError(f"--set {_first_problem(error)}") from None


def _first_problem(error: ValidationError, *within: str) -> str:
    """The first thing that pydantic found, as `name: what must hold, but got this`."""
    from spaces.errors import pydantic_message

    first = error.errors()[0]
    return f"{'.'.join(map(str, (*within, *first['loc'])))}: {pydantic_message(first)}"
