"""Commands that set up and examine what a study runs on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli.options import StoreOption, closing_store
from spaces.errors import InputError
from spaces.textfile import only_line


def migrate(
    roles: Annotated[
        bool, typer.Option("--roles", help="Print the SQL of the roles of a shared store; no more")
    ] = False,
    password_file: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=FILE",
            help="Set the roles up too, and give ROLE the password in FILE, one line (repeatable)",
        ),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Create a store's tables, or bring them up to date.

    Any other command does it too, where its role may: the owner of the tables."""
    from search.database.migrations import SCHEMA_VERSION
    from search.database.roles import roles_sql, set_up_roles

    if roles and password_file:
        raise InputError("--roles only prints, and --password-file runs it; leave one of them out")
    if roles:
        typer.echo(roles_sql(), nl=False)
        return
    passwords = _passwords(password_file or [])
    with closing_store(store, create=True) as opened:
        if passwords:
            set_up_roles(opened, passwords)
        given = f"; roles with their passwords: {', '.join(passwords)}" if passwords else ""
        typer.echo(f"{opened.shown}: schema {SCHEMA_VERSION}{given}")


def _passwords(given: list[str]) -> dict[str, str]:
    """{role: password} of ROLE=FILE."""
    from search.database.roles import ROLES

    found = {}
    for each in given:
        role, _, file = each.partition("=")
        if role not in ROLES or not file:
            raise InputError(
                f"--password-file must be ROLE=FILE, with a ROLE of {', '.join(ROLES)}, but got "
                f"{each}"
            )
        found[role] = only_line(Path(file), f"--password-file {role}")
        if not found[role] or "\0" in found[role]:
            raise InputError(
                f"--password-file {role}: {file} holds no password; write one line of text into it"
            )
    return found


def doctor(store: StoreOption = None) -> None:
    """Examine this machine: packages, devices, disk, store."""
    from search.doctor import examine

    findings = examine(store)
    for finding in findings:
        typer.echo(f"{'ok ' if finding.ok else 'BAD'} {finding.topic}: {finding.text}")
    raise typer.Exit(0 if all(finding.ok for finding in findings) else 1)
