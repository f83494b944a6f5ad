"""Commands that set up and examine what a study runs on."""

from __future__ import annotations

from typing import Annotated

import typer

from search.cli.options import StoreOption, closing_store


def migrate(
    roles: Annotated[
        bool, typer.Option("--roles", help="Print the SQL of the roles of a shared store; no more")
    ] = False,
    store: StoreOption = None,
) -> None:
    """Create a store's tables, or bring them up to date.

    Any other command does it too, where its role may: the owner of the tables."""
    from search.database.migrations import SCHEMA_VERSION
    from search.database.roles import roles_sql

    if roles:
        typer.echo(roles_sql(), nl=False)
        return
    with closing_store(store, create=True) as opened:
        typer.echo(f"{opened.shown}: schema {SCHEMA_VERSION}")


def doctor(store: StoreOption = None) -> None:
    """Examine this machine: packages, devices, disk, store."""
    from search.doctor import examine

    findings = examine(store)
    for finding in findings:
        typer.echo(f"{'ok ' if finding.ok else 'BAD'} {finding.topic}: {finding.text}")
    raise typer.Exit(0 if all(finding.ok for finding in findings) else 1)
