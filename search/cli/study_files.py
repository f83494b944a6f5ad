"""Commands about study files: one to start from, what can be searched, and a check of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from search.cli.options import SpecArgument, StoreOption, closing_store, console, known_task
from spaces.errors import InputError


def init(
    task: Annotated[str, typer.Argument(help="segmentation or text_detection")],
    folder: Annotated[Path, typer.Argument(help="Where to put study.yaml")],
    recipe: Annotated[
        str | None,
        typer.Option(help="Begin with a recipe of the field, such as lanes or hrnet-fpn"),
    ] = None,
) -> None:
    """Write a commented study file to start from."""
    from search.templates import study_file

    known_task(task)
    text = study_file(task, recipe)
    path = folder / "study.yaml"
    if path.exists():
        raise InputError(f"{path} exists; choose another folder or remove it")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from None
    path.write_text(text)
    typer.echo(f"wrote {path}; fill in its data section, then: segtune check {path}")


def spaces(
    task: Annotated[str, typer.Argument(help="segmentation or text_detection")] = "segmentation",
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of study files")
    ] = False,
    epochs: Annotated[int, typer.Option(min=1, help="Length of a trial")] = 50,
) -> None:
    """Show what is searched by default, or the JSON Schema of study files."""
    known_task(task)
    if schema:
        from spaces.schema import study_schema

        typer.echo(json.dumps(study_schema(), indent=1))
        return
    from search.findings.tables import show_space
    from spaces.spec import TASKS

    show_space(TASKS[task].default_space(epochs), console())


def check(spec: SpecArgument, store: StoreOption = None) -> None:
    """Preflight: study file, data, models, device, store. Trains nothing."""
    from search.check import check_study

    with closing_store(store, create=True) as opened:
        check_study(spec, opened, console())
