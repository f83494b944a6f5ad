"""The command line. Imports stay inside the commands, so that `segtune --help` needs no torch."""

from __future__ import annotations

import errno
import sys
from typing import Any

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
    """Ends bad input with one line and code 2, a store that goes away with 1, Ctrl-C with 130."""

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
for _command in COMMANDS:
    app.command()(_command)
app.add_typer(users)


def main() -> None:
    """Entry point of the `segtune` script."""
    app()
