"""The command line. Imports stay inside the commands, so that `segtune --help` needs no torch."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from search.cli.cleaning import clean
from search.cli.kept import delete, studies
from search.cli.launching import confirm, demo, jobs, launch, resume, stop, worker
from search.cli.machine import doctor, migrate
from search.cli.models import evaluate, predict, train
from search.cli.people import users
from search.cli.results import compare, dashboard, ensemble, export, replay, report, status
from search.cli.study_files import check, init, spaces
from spaces.errors import InputError

COMMANDS = (  # in the order of `segtune --help`
    demo,
    init,
    check,
    launch,
    confirm,
    worker,
    jobs,
    stop,
    resume,
    status,
    studies,
    delete,
    spaces,
    dashboard,
    export,
    ensemble,
    report,
    compare,
    replay,
    train,
    evaluate,
    predict,
    migrate,
    doctor,
    clean,
)


class _Group(TyperGroup):
    """Ends bad input with one line and code 2, a store that goes away with 1, Ctrl-C with 130.

    With --server the commands are those of `remote`.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if ctx.params.get("server") is None:
            return super().resolve_command(ctx, args)
        from search.cli.remote import app as remote

        there: Any = typer.main.get_command(remote)
        if args[0] in self.commands and args[0] not in there.commands:
            known = ", ".join(name for name in self.commands if name in there.commands)
            raise InputError(f"{args[0]} does not go over --server; there: {known}")
        return there.resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            typer.echo(f"segtune: {error}", err=True)
            raise typer.Exit(2) from None
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                said = f"the disk is full: {error}; make room and try again"
            elif error.errno in (errno.EMFILE, errno.ENFILE):
                said = f"too many files are open: {error}; raise the limit, see ulimit -n"
            else:
                raise
            typer.echo(f"segtune: {said}", err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            typer.echo("segtune: interrupted", err=True)
            raise typer.Exit(130) from None
        except Exception as error:
            if "sqlalchemy" not in sys.modules:  # no store was opened
                raise
            from search.database.retry import is_away
            from search.database.url import drivers_words

            if not is_away(error):
                raise
            typer.echo(
                f"segtune: the store does not answer any more: {drivers_words(error)}; what it has "
                "taken is kept, run the command again when it is back",
                err=True,
            )
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Group,
    help="Hyperparameter search for semantic segmentation and text detection: write one YAML file, "
    "launch a study, take away the best config and model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _options(
    context: typer.Context,
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            help="Address of a dashboard that does the command, as in https://dash.example.org: "
            "check, launch, confirm, stop, resume, status, studies, export",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            help="With --server: file with a token of `segtune users token` [default: "
            "$SEGTUNE_TOKEN]",
        ),
    ] = None,
) -> None:
    if server is not None:
        from search.cli.remote import connect

        context.obj = connect(server, token_file)
    elif token_file is not None:
        raise InputError("--token-file goes with --server")


for _command in COMMANDS:
    app.command()(_command)
app.add_typer(users)


def main() -> None:
    """Entry point of the `segtune` script."""
    app()
