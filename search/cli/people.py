"""`segtune users`: who may sign in to the dashboard, and as what."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from search.cli.options import StoreOption, closing_store, console, somebody_is_there
from spaces.errors import InputError

users = typer.Typer(
    name="users",
    help="Who may sign in to the dashboard by name, with which role.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

NameArgument = Annotated[str, typer.Argument(help="The user's name", show_default=False)]
PasswordFile = Annotated[
    Path | None,
    typer.Option(help="File with the password in one line [default: asked for, twice]"),
]


@users.command()
def add(
    name: NameArgument,
    role: Annotated[
        str,
        typer.Option(help="reader: looks; member: writes notes, and more; owner: all"),
    ] = "reader",
    password_file: PasswordFile = None,
    without_password: Annotated[
        bool, typer.Option("--without-password", help="For whom a proxy or a token signs in")
    ] = False,
    store: StoreOption = None,
) -> None:
    """Add a user. From the first one on, the dashboard asks for name and password."""
    from search.database.people import add_user, checked_name, checked_role, has_users

    if without_password and password_file:
        raise InputError("--without-password and --password-file: leave one of them out")
    checked_name(name), checked_role(role)
    password = None if without_password else _password(name, password_file)
    with closing_store(store, create=True) as opened:
        first = not has_users(opened)
        add_user(opened, name, role, password, _by())
        typer.echo(f"{name} may sign in as {role}")
        if first:
            typer.echo("start the dashboard again: it asks for names from now on")


@users.command()
def remove(name: NameArgument, store: StoreOption = None) -> None:
    """Remove a user, with their sessions and tokens. The only owner goes last."""
    from search.database.people import remove_user

    with closing_store(store) as opened:
        remove_user(opened, name, _by())
    typer.echo(f"{name} is removed; all their sessions and tokens have ended")


@users.command("list")
def list_users(
    as_json: Annotated[bool, typer.Option("--json", help="For programs")] = False,
    store: StoreOption = None,
) -> None:
    """List the users: role, open sessions, tokens."""
    from rich.table import Table

    from search.database.people import users as all_users

    with closing_store(store) as opened:
        found = all_users(opened)
    if as_json:
        typer.echo(json.dumps([asdict(user) for user in found], indent=1))
        return
    if not found:
        typer.echo("nobody has a name yet: segtune users add NAME --role owner")
        return
    table = Table("user", "role", "password", "sessions", "tokens")
    for user in found:
        has = "yes" if user.password else "none"
        table.add_row(user.name, user.role, has, str(user.sessions), ", ".join(user.tokens))
    console().print(table)


@users.command()
def role(
    name: NameArgument,
    role: Annotated[str, typer.Argument(help="reader, member or owner", show_default=False)],
    store: StoreOption = None,
) -> None:
    """Give a user another role, from their next request on."""
    from search.database.people import set_role

    with closing_store(store) as opened:
        set_role(opened, name, role, _by())
    typer.echo(f"{name} is {role} now")


@users.command()
def password(
    name: NameArgument, password_file: PasswordFile = None, store: StoreOption = None
) -> None:
    """Give a user another password. It ends their sessions and tokens."""
    from search.database.people import set_password

    given = _password(name, password_file)
    with closing_store(store) as opened:
        set_password(opened, name, given, _by())
    typer.echo(f"{name} has a new password; all their sessions and tokens have ended")


@users.command()
def token(
    name: NameArgument,
    label: Annotated[str, typer.Option(help="What it is for, as in ci", show_default=False)],
    remove: Annotated[bool, typer.Option("--remove", help="End the token of this label")] = False,
    store: StoreOption = None,
) -> None:
    """Print a new token for a program of a user's; it takes the place of one of the same label.

    A program sends it as `Authorization: Bearer TOKEN`. It is shown this once.
    """
    from search.database.sessions import end_token, new_token

    with closing_store(store) as opened:
        if remove:
            end_token(opened, name, label, _by())
            typer.echo(f"the token {label} of {name} has ended")
        else:
            typer.echo(new_token(opened, name, label, _by()))


def _password(name: str, file: Path | None) -> str:
    """The password in a file, or as it is typed."""
    from search.database.passwords import check_password
    from spaces.textfile import only_line

    if file is not None:
        source = "--password-file"
        return check_password(only_line(file, source), f"{source} {file}: the password")
    if not somebody_is_there():
        raise InputError(
            "nobody is there to type the password; put it into a file, in one line, and name the "
            "file with --password-file"
        )
    typed = typer.prompt(f"password of {name}", hide_input=True, confirmation_prompt=True)
    return check_password(str(typed), "the password")


def _by() -> str:
    """Who runs this command, for the audit; a user's name holds no space."""
    from search.studies.owners import user

    return f"system user {user()}"
