"""Studies, workers, store, export and the command line; in a notebook, `search.open_study`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search.notebook import NotebookStudy, open_study

__all__ = ["NotebookStudy", "open_study"]


def __getattr__(name: str) -> object:
    """Import what a notebook needs when it is asked for: the command line needs none of it."""
    if name in __all__:
        from search import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
