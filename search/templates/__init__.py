"""Pages and the study files to start from; the one environment that makes HTML."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

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


def render(template: str, /, **values: Any) -> str:
    """Return the HTML of a template of this folder.

    Values are escaped where they stand, unless the template says `safe`: grep finds those.

    Raises:
        jinja2.UndefinedError: the template uses a value that was not given.
    """
    return _ENVIRONMENT.get_template(template).render(values)
