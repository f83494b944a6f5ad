"""Pages and the study files to start from; the one environment that makes HTML."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from spaces.errors import InputError, did_you_mean

_ENVIRONMENT = Environment(
    loader=PackageLoader("search"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def asset(name: str) -> str:
    """Return a file of this folder as it is."""
    return (files("search") / "templates" / name).read_text(encoding="utf-8")


def recipes(task: str) -> list[str]:
    """Return the names of the study files of a task that have settings of the field."""
    folder = files("search") / "templates" / "recipes" / task
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir())


def study_file(task: str, recipe: str | None = None) -> str:
    """Return a commented study file of a task, with the settings of a recipe.

    Raises:
        InputError: the task has no recipe of this name.
    """
    if recipe is None:
        return asset(f"{task}.yaml")
    known = recipes(task)
    if recipe not in known:
        raise InputError(
            f"--recipe: {task} has no recipe {recipe!r}; known: {', '.join(known)}"
            f"{did_you_mean(recipe, known)}"
        )
    return asset(f"recipes/{task}/{recipe}.yaml")


def render(template: str, /, **values: Any) -> str:
    """Return the HTML of a template of this folder.

    Values are escaped where they stand, unless the template says `safe`: grep finds those.

    Raises:
        jinja2.UndefinedError: the template uses a value that was not given.
    """
    return _ENVIRONMENT.get_template(template).render(values)
