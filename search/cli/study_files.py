"""Commands about study files: one to start from, what can be searched, and a check of one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from search.cli.options import SpecArgument, StoreOption, closing_store, console, known_task
from spaces.errors import InputError
from spaces.paths import ROOTS


def init(
    task: Annotated[str | None, typer.Argument(help="segmentation or text_detection")] = None,
    folder: Annotated[Path, typer.Argument(help="Where to put study.yaml")] = Path(),
    recipe: Annotated[
        str | None,
        typer.Option(help="Begin with a recipe of the field, such as lanes or hrnet-fpn"),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--from", help="A data set, whose layout is looked at; tells the task too"),
    ] = None,
    to: Annotated[Path, typer.Option(help="The file that --from writes")] = Path("study.yaml"),
) -> None:
    """Write a commented study file to start from; with --from one for a data set."""
    from search.templates import study_file

    if data is not None:
        if task is not None:
            raise InputError(f"--from finds the task and writes to --to; leave {task} out")
        from search.layouts import check_links, recognise, study_of
        from spaces.sources import existing

        _new_file(to)
        if os.environ.get(ROOTS):  # somebody in a browser names the folder
            data = existing(Path(), str(data), "--from", "segtune init")
            check_links(data)
        layout = recognise(data)
        template = study_file(layout.task, recipe)
        _write(to, study_of(layout, template, to.resolve().parent, data.resolve().name))
        if recipe is not None:
            _check_fits(recipe, to)
        typer.echo(f"{data} looks like {layout.name}; wrote {to}. Next: segtune check {to}")
        _say_labels(to)
        return
    if task is None:
        raise InputError("init needs a task, or --from with the folder of a data set")
    known_task(task)
    text = study_file(task, recipe)
    path = folder / "study.yaml"
    _new_file(path)
    _write(path, text)
    typer.echo(f"wrote {path}; fill in its data section, then: segtune check {path}")


def _new_file(path: Path) -> None:
    """Refuse a file that exists, and a folder that is none."""
    if path.exists():
        raise InputError(f"{path} exists; choose another folder or remove it")
    if path.parent.exists() and not path.parent.is_dir():
        raise InputError(f"{path.parent} is a file; name a folder")


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {path.parent}: {error.strerror}") from None
    path.write_text(text, encoding="utf-8")


def _check_fits(recipe: str, written: Path) -> None:
    """Take back a study file whose recipe is for other data, such as one class alone."""
    from spaces.spec import StudySpec

    try:
        StudySpec.load(written)
    except InputError as error:
        written.unlink()
        raise InputError(f"--recipe {recipe} does not fit this data set: {error}") from None


def _say_labels(written: Path) -> None:
    """Say what some labels hold, or what is wrong with them; the file stays, to be mended."""
    from search.label_shares import say_sample
    from spaces.spec import StudySpec

    try:
        say_sample(StudySpec.load(written), console())
    except InputError as error:
        typer.echo(f"what its labels hold is not known, and segtune check will refuse it: {error}")


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
