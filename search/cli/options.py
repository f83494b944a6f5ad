"""What several commands share: options and arguments, the open store, the terminal."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spaces.errors import InputError
from spaces.paths import ROOTS

if TYPE_CHECKING:
    from rich.console import Console

    from search.database.store import Store


def _without_password(url: str | None) -> str | None:
    from search.database.url import refuse_password

    return refuse_password(url) if url else url


StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="Study store: postgresql://user@host/database or sqlite:///file.db; a password "
        "belongs into $SEGTUNE_STORE, $PGPASSWORD or ~/.pgpass "
        "[default: $SEGTUNE_STORE, else the embedded Postgres]",
        callback=_without_password,
    ),
]
ArtifactsOption = Annotated[
    str | None,
    typer.Option(
        "--artifacts",
        help="Folder of trial files, or s3://bucket/prefix "
        "[default: $SEGTUNE_ARTIFACTS, else in $SEGTUNE_HOME]",
    ),
]
RootsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--data-root",
        envvar=ROOTS,
        exists=True,
        file_okay=False,
        resolve_path=True,
        help="Folder whose data people in a browser may look at, and study files from there name "
        "(repeatable)",
    ),
]
TopOption = Annotated[
    int | None, typer.Option(min=1, max=20, help="Best trials to run again [default: 2]")
]
SeedsOption = Annotated[
    int | None, typer.Option(min=1, max=20, help="Fresh seeds of each [default: 2]")
]
NowOption = Annotated[
    bool, typer.Option("--now", help="Also return the trials that run, to be resumed")
]
TotalOption = Annotated[
    int | None, typer.Option(min=1, help="Total trials from now on; they can only grow")
]
NoTestOption = Annotated[
    bool, typer.Option("--no-test", help="Leave the test split of the study unread")
]
ConfigOnlyOption = Annotated[
    bool, typer.Option("--config-only", help="Leave the weights out; test stays unread")
]
OnnxOption = Annotated[
    bool, typer.Option("--onnx", help="Also model.onnx, if it scores as the weights on val")
]
SpecArgument = Annotated[Path, typer.Argument(help="Study file (YAML)", show_default=False)]
StudyArgument = Annotated[str, typer.Argument(help="Name of a study", show_default=False)]


def closing_store(url: str | None, *, create: bool = False) -> closing[Store]:
    """Open a store, to be closed after a `with` block."""
    from search.database.store import open_store

    return closing(open_store(url, create=create))


def console() -> Console:
    """Return where tables are printed."""
    from rich.console import Console

    # pipes and files get whole lines; a terminal gets its own width
    return Console() if sys.stdout.isatty() else Console(width=160)


def known_task(task: str) -> None:
    """Refuse, with InputError, a task that there is none of."""
    from spaces.errors import did_you_mean
    from spaces.spec import TASKS

    if task not in TASKS:
        hint = did_you_mean(task, TASKS) or f"; known: {', '.join(TASKS)}"
        raise InputError(f"unknown task {task}{hint}")


def somebody_is_there() -> bool:
    """Whether a question would be read by a person."""
    return sys.stdin.isatty()
