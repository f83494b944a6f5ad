"""The command that makes room."""

from __future__ import annotations

from typing import Annotated

import typer

from search.cli.options import ArtifactsOption, StoreOption, somebody_is_there
from spaces.errors import InputError


def clean(
    yes: Annotated[bool, typer.Option("--yes", help="Remove it without asking")] = False,
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
) -> None:
    """Say what nothing needs any more on this machine, and remove it: cache, checkpoints of ended
    trials, files of studies that are gone, old logs. Models and what runs are left alone."""
    from search.clean import checkpoints_needed, leftovers
    from search.database.store import has_store, open_store
    from search.files.artifacts import open_artifacts
    from search.files.sizes import shown_bytes

    kept = open_artifacts(artifacts)
    opened = open_store(store) if has_store(store) else None
    try:
        found = leftovers(kept, opened)
        for kind in dict.fromkeys(one.kind for one in found):
            of_kind = [one for one in found if one.kind == kind]
            size = shown_bytes(sum(one.size for one in of_kind))
            typer.echo(f"{size:>9}  {kind}: {len(of_kind)}, as {of_kind[0].path}")
        held = [] if opened is None else checkpoints_needed(kept, opened)
        if held:
            typer.echo(
                f"{shown_bytes(sum(held)):>9}  checkpoints that stay: {len(held)}, of trials that "
                "go on from them; segtune delete STUDY removes a study's"
            )
        if not found:
            typer.echo("nothing to remove")
            return
        if not yes and not somebody_is_there():
            raise InputError("nothing was removed: without a terminal, clean needs --yes")
        if not yes and not typer.confirm("remove them?"):
            typer.echo("nothing was removed")
            raise typer.Exit(1)
        removed = [one for one in found if one.remove()]
    finally:
        if opened is not None:
            opened.close()
    typer.echo(f"removed {shown_bytes(sum(one.size for one in removed))}")
    if len(removed) < len(found):
        typer.echo(f"{len(found) - len(removed)} are in use by now, and stay")
