"""`segtune --server URL COMMAND`: the commands that a dashboard does for who has a token.

They are called as those that work on a store, and take what makes sense from afar.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from typer.core import TyperCommand

from search.cli.api_client import Server, checked_address, printable, read_token, unpack
from search.cli.options import (
    ConfigOnlyOption,
    NoTestOption,
    NowOption,
    OnnxOption,
    SeedsOption,
    SpecArgument,
    StudyArgument,
    TopOption,
    TotalOption,
    console,
)
from spaces.errors import FAILED, InputError
from spaces.textfile import read_bytes

MOST_FILE = 64 * 1024  # bytes of a study file
OVERLAP = 20  # lines by which it is found what is new


class _Command(TyperCommand):
    """Says in one line that an answer lacks something."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyError as error:
            server = ctx.find_object(Server)
            raise InputError(
                f"--server {server.address}: its answer has no {error}; is it a dashboard of "
                "segtune, and of this version?"
            ) from None


app = typer.Typer(add_completion=False, rich_markup_mode=None)


def connect(url: str, token_file: Path | None) -> Server:
    """The dashboard that `--server` names."""
    return Server(checked_address(url), read_token(token_file))


@app.command(cls=_Command)
def check(context: typer.Context, spec: SpecArgument) -> None:
    """Preflight of a study file where the data are; its paths are those of that machine."""
    server = _server(context)
    _end(_followed(server, _asked(server, "/check", spec)))


@app.command(cls=_Command)
def launch(context: typer.Context, spec: SpecArgument) -> None:
    """Create a study, for the workers that serve the store; its paths are those of that machine."""
    server = _server(context)
    _end(_followed(server, _asked(server, "/studies", spec)))


@app.command(cls=_Command)
def confirm(
    context: typer.Context,
    study: StudyArgument,
    top: TopOption = None,
    seeds: SeedsOption = None,
) -> None:
    """Run the best trials of an ended study again on fresh seeds, by the store's workers."""
    server = _server(context)
    given = {"top": top, "seeds": seeds}
    _end(_followed(server, _posted(server, f"{_path(study)}/confirm", given)["job"]))


@app.command(cls=_Command)
def stop(
    context: typer.Context,
    study: StudyArgument,
    now: NowOption = False,
) -> None:
    """Let no new trial of a study begin; running ones end as they would."""
    _posted(_server(context), f"{_path(study)}/stop", {"now": now})
    typer.echo(f"study {study} stopped; reopen it with: segtune --server URL resume {study}")


@app.command(cls=_Command)
def resume(
    context: typer.Context,
    study: StudyArgument,
    trials: TotalOption = None,
) -> None:
    """Reopen a stopped study; its workers go on, and its hours count anew."""
    server = _server(context)
    answer = _posted(server, f"{_path(study)}/resume", {"trials": trials})
    if trials is not None:
        return _end(_followed(server, answer["job"]))
    return typer.echo(f"study {study} is open; workers serve it")


@app.command(cls=_Command)
def status(
    context: typer.Context,
    study: Annotated[str | None, typer.Argument(help="Name of a study; all when left out")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs")] = False,
) -> None:
    """Show studies: trials, best value, and why trials ended."""
    if study is None:
        return studies(context, as_json)
    found = _read(_server(context), _path(study))
    if as_json:
        return typer.echo(json.dumps(found["summary"], indent=1))
    _show_rows([found])
    for line in found["summary"]["says"]:
        _say(line)
    reasons = ", ".join(f"{n} {reason}" for reason, n in found["summary"]["reasons"].items())
    return _say(f"trials: {reasons or 'none was begun yet'}")


@app.command(cls=_Command)
def studies(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="For programs")] = False,
) -> None:
    """List the studies of the store: state, trials, best value, workers."""
    found = _read(_server(context), "/studies")
    if as_json:
        return typer.echo(json.dumps(found, indent=1))
    return _show_rows(found["studies"])


@app.command(cls=_Command)
def export(
    context: typer.Context,
    study: StudyArgument,
    to: Annotated[Path, typer.Option("--to", help="Folder to write", show_default=False)],
    trial: Annotated[
        int | None, typer.Option(min=0, help="This trial instead of the best one")
    ] = None,
    no_test: NoTestOption = False,
    config_only: ConfigOnlyOption = False,
    onnx: OnnxOption = False,
) -> None:
    """Write the best config, the weights of its median seed, their provenance and curves."""
    target = to.resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"--to {to} is not empty; name a new or empty folder")
    server = _server(context)
    given = {"trial": trial, "test": not no_test, "config_only": config_only, "onnx": onnx}
    number = _posted(server, f"{_path(study)}/export", given)["job"]
    job = _followed(server, number)
    if job["state"] != "ended":
        _end(job)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".segtune-", dir=target.parent) as folder:
        archive, made = Path(folder) / "result.zip", Path(folder) / "made"
        server.download(f"/jobs/{number}/result", archive)
        count = unpack(archive, made)
        made.rename(target)
    typer.echo(f"wrote {to}: {count} files")


def _server(context: typer.Context) -> Server:
    server = context.find_object(Server)
    assert server is not None
    return server


def _path(study: str) -> str:
    return f"/studies/{quote(study, safe='')}"


def _asked(server: Server, path: str, file: Path) -> int:
    """The number of the job on a study file."""
    try:
        body = read_bytes(file, MOST_FILE)
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    return int(server.post(path, body, "application/yaml")["job"])


def _posted(server: Server, path: str, given: dict[str, Any]) -> Any:
    return server.post(path, json.dumps(given).encode())


def _read(server: Server, path: str) -> Any:
    found = server.get(path)
    assert found is not None  # no tag was sent
    return found[0]


def _followed(server: Server, number: int) -> dict[str, Any]:
    """A job at its end; what its command prints is printed as it comes."""
    typer.echo(f"job {number}: {server.address}/jobs/{number}", err=True)
    heard: list[str] = []
    told = False

    def hear(job: dict[str, Any]) -> None:
        nonlocal told
        if job["state"] == "waiting" and not job["served"] and not told:
            told = True
            typer.echo("it waits: no runner serves the store now (segtune jobs)", err=True)
        lines = job["lines"].split("\n") if job["lines"] else []
        for line in news(heard, lines):
            _say(line)
        heard[:] = lines

    job = server.follow(number, hear)
    if job["state"] != "ended":
        typer.echo(f"segtune: job {number}: {printable(str(job['state']))}", err=True)
    return job


def news(before: list[str], now: list[str]) -> list[str]:
    """The lines of `now` behind those of `before`; of a long output the middle is left out."""
    if now[: len(before)] == before:
        return now[len(before) :]
    last = before[-OVERLAP:]
    for start in range(len(now) - len(last), -1, -1):
        if now[start : start + len(last)] == last:
            return now[start + len(last) :]
    return ["...", *now[-OVERLAP:]]


def _end(job: dict[str, Any]) -> None:
    """End with the exit code of a job's command, unless it is 0."""
    if job["state"] != "ended":
        code = job["code"]
        raise typer.Exit(code if isinstance(code, int) and 0 < code < 256 else FAILED)


def _say(line: str) -> None:
    typer.echo(printable(line))


def _show_rows(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return typer.echo("no study yet; start one with: segtune --server URL launch STUDY.yaml")
    table = Table()
    for column in ("study", "state", "ended", "best", "on fresh seeds", "workers", "launched by"):
        table.add_column(column)
    for row in rows:
        best, fresh = row["best"], row["fresh"]
        cells = (
            row["name"],
            f"{row['state']} {row['why']}".strip(),
            f"{row['ended']}/{row['trials']}",
            "-" if best is None else f"{row['metric']} {best['value']:.4f} (trial {best['trial']})",
            "-" if fresh is None else f"{fresh['mean']:.4f} ({fresh['seeds']})",
            str(row["workers"]),
            row["launched_by"] or "-",
        )
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return console().print(table)
