"""Commands that set up and examine what a study runs on."""

from __future__ import annotations

import typer

from search.cli.options import StoreOption, closing_store


def migrate(store: StoreOption = None) -> None:
    """Create a store's tables, or bring them up to date; any other command does it too."""
    from search.database.migrations import SCHEMA_VERSION

    with closing_store(store, create=True) as opened:
        typer.echo(f"{opened.shown}: schema {SCHEMA_VERSION}")


def doctor(store: StoreOption = None) -> None:
    """Examine this machine: packages, devices, disk, store."""
    from search.doctor import examine

    findings = examine(store)
    for finding in findings:
        typer.echo(f"{'ok ' if finding.ok else 'BAD'} {finding.topic}: {finding.text}")
    raise typer.Exit(0 if all(finding.ok for finding in findings) else 1)
