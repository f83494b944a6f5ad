"""Commands about what a store keeps: its studies with their sizes, and the end of one."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from search.cli.options import (
    ArtifactsOption,
    StoreOption,
    StudyArgument,
    closing_store,
    console,
    somebody_is_there,
)
from spaces.errors import InputError


def studies(
    as_json: Annotated[bool, typer.Option("--json", help="For programs")] = False,
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
) -> None:
    """List the studies of a store: slots, best value, the size of their trials' files; workers."""
    from search.files.artifacts import open_artifacts
    from search.files.removal import files_size
    from search.findings.facts import summary
    from search.findings.tables import show_studies, show_workers
    from search.studies.finishing import with_all_beside
    from search.studies.heartbeats import workers
    from search.studies.study import open_study, study_names

    kept = open_artifacts(artifacts, write=False)
    with closing_store(store) as opened:
        found = []
        for name in study_names(opened):
            study = open_study(opened, name)
            size = sum(files_size(kept, one) for one in with_all_beside(study))
            found.append(summary(study) | {"bytes": size})
        crew = workers(opened)
    if as_json:
        typer.echo(json.dumps({"studies": found, "workers": crew}, indent=1))
        return
    show_studies(found, console())
    show_workers(crew, console())


def delete(
    study: StudyArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False,
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
) -> None:
    """Delete a study: its trials, reports, models and pictures, in the store and in --artifacts.

    Asks before it does. Decoded images in the cache stay: other studies share them.
    """
    from search.delete import delete_study, said_of
    from search.files.artifacts import open_artifacts
    from search.studies.study import open_study

    kept = open_artifacts(artifacts)
    with closing_store(store) as opened:
        found = open_study(opened, study)
        what = said_of(found, kept)
        if not yes:
            if not somebody_is_there():
                raise InputError(f"delete asks first, and nobody is there; with --yes goes {what}")
            typer.confirm(f"delete {what}?", abort=True)
        left = delete_study(found, kept)
    typer.echo(f"deleted {what}")
    for problem in left:
        typer.echo(f"could not be removed: {problem}", err=True)
    raise typer.Exit(1 if left else 0)
