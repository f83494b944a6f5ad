"""The command line. Imports stay inside the commands, so that `segtune --help` needs no torch."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from spaces.errors import InputError

if TYPE_CHECKING:
    from pydantic import ValidationError
    from rich.console import Console

    from search.database.store import Store
    from spaces.config import BaseTrialConfig
    from spaces.spec import StudySpec


class _Group(TyperGroup):
    """Ends bad input with one line and code 2, a store that goes away with 1, Ctrl-C with 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            typer.echo(f"segtune: {error}", err=True)
            raise typer.Exit(2) from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            typer.echo(f"segtune: the disk is full: {error}; make room and try again", err=True)
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

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="Study store: postgresql://user:password@host/database or sqlite:///file.db "
        "[default: $SEGTUNE_STORE, else the embedded Postgres]",
    ),
]
ArtifactsOption = Annotated[
    str | None,
    typer.Option(
        "--artifacts",
        help="Folder of trial files, or s3://bucket/prefix "
        "[default: $SEGTUNE_ARTIFACTS, else in $SEGTUNE_HOME]",
    ),
]
SpecArgument = Annotated[Path, typer.Argument(help="Study file (YAML)", show_default=False)]
StudyArgument = Annotated[str, typer.Argument(help="Name of a study", show_default=False)]


@app.command()
def demo(
    task: Annotated[str, typer.Option(help="segmentation or text_detection")] = "segmentation",
    to: Annotated[Path, typer.Option(help="Folder for data and results")] = Path("segtune-demo"),
    trials: Annotated[int, typer.Option(min=1, help="Trials to run")] = 12,
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
) -> None:
    """Draw sample data, run a small study, show its leaderboard, export the best config."""
    _known_task(task)

    from search.demo import run_demo
    from search.files.artifacts import open_artifacts

    if to.exists() and not to.is_dir():
        raise InputError(f"--to {to} is a file; name a folder")
    kept = open_artifacts(artifacts)
    with _open(store, create=True) as opened:
        raise typer.Exit(run_demo(task, to, trials, opened, kept, _console()))


@app.command()
def init(
    task: Annotated[str, typer.Argument(help="segmentation or text_detection")],
    folder: Annotated[Path, typer.Argument(help="Where to put study.yaml")],
) -> None:
    """Write a commented study file to start from."""
    from importlib.resources import files

    _known_task(task)
    path = folder / "study.yaml"
    if path.exists():
        raise InputError(f"{path} exists; choose another folder or remove it")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from None
    path.write_text((files("search") / "templates" / f"{task}.yaml").read_text())
    typer.echo(f"wrote {path}; fill in its data section, then: segtune check {path}")


@app.command()
def check(spec: SpecArgument, store: StoreOption = None) -> None:
    """Preflight: study file, data, models, device, store. Trains nothing."""
    from search.check import check_study

    with _open(store, create=True) as opened:
        check_study(spec, opened, _console())


@app.command()
def launch(
    spec: SpecArgument,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Total trials, in place of the file's budget")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Workers [default: the file's, else this process; with GPUs one each]; 0 leaves "
            "the study to the workers that serve the store",
        ),
    ] = None,
    per_gpu: Annotated[
        int | None, typer.Option(min=1, help="Workers that share a GPU [default: the file's, or 1]")
    ] = None,
    on: Annotated[
        str | None, typer.Option(help="Who runs the workers: local, slurm or ray")
    ] = None,
    worker_option: Annotated[
        list[str] | None,
        typer.Option(help="Another setting of `workers:`, as in partition=gpu (repeatable)"),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Leave the workers running")] = False,
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
) -> None:
    """Create a study or resume it, and run it to its budget. Ctrl-C saves; repeat to resume."""
    from spaces.spec import StudySpec

    study_spec = StudySpec.load(spec)  # before anything slow or lasting
    given = {"on": on, "count": workers, "per_gpu": per_gpu}
    study_spec = _with_workers(study_spec, given, worker_option or [])

    from search.files.artifacts import open_artifacts
    from search.launch import launch as run_study
    from search.launchers.engine import Order
    from search.work.forkserver import warm_up
    from trainers.precision import gpu_count

    kept = open_artifacts(artifacts)
    options = study_spec.workers
    elsewhere = options.on != "local" or options.count is not None or detach
    order = None
    if elsewhere or gpu_count() * options.per_gpu > 1:
        order = Order(study_spec.name, kept, store, options, detach)
    else:
        warm_up()
    with _open(store, create=True) as opened:
        raise typer.Exit(run_study(study_spec, opened, kept, _console(), trials, order))


@app.command()
def worker(
    study: Annotated[str | None, typer.Option(help="Serve this study only")] = None,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="End when no trial is open or running any more")
    ] = False,
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
) -> None:
    """Serve the open studies of a store until told to stop. Ctrl-C saves and returns the trial."""
    from search.files.artifacts import open_artifacts
    from search.work.service import serve

    kept = open_artifacts(artifacts)
    with _open(store) as opened:
        raise typer.Exit(serve(opened, kept, _console(), study, until_idle))


@app.command()
def stop(
    study: StudyArgument,
    now: Annotated[
        bool, typer.Option("--now", help="Also return the trials that run, to be resumed")
    ] = False,
    store: StoreOption = None,
) -> None:
    """Let no new trial of a study begin; running ones end as they would."""
    from search.database.tables import AFTER, NOW
    from search.launchers import cancel_waiting
    from search.studies.limits import close
    from search.studies.study import open_study

    with _open(store) as opened:
        found = open_study(opened, study)
        close(opened, found.study_id, NOW if now else AFTER)
        for problem in cancel_waiting(found):
            typer.echo(f"jobs that wait could not be taken back: {problem}", err=True)
    typer.echo(f"study {study} stopped; reopen it with: segtune resume {study}")


@app.command()
def resume(study: StudyArgument, store: StoreOption = None) -> None:
    """Reopen a stopped study; its workers go on, and its hours count anew."""
    from search.studies.limits import reopen
    from search.studies.study import open_study

    with _open(store) as opened:
        reopen(opened, open_study(opened, study).study_id)
    typer.echo(f"study {study} is open; workers serve it, or start one: segtune worker")


@app.command()
def status(
    study: Annotated[str | None, typer.Argument(help="Name of a study; all when left out")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs")] = False,
    store: StoreOption = None,
) -> None:
    """Show studies: slots, best value, and why trials ended."""
    from search.findings.facts import summary
    from search.findings.tables import show_studies, show_study, show_workers
    from search.studies.heartbeats import workers
    from search.studies.study import open_study, study_names

    with _open(store) as opened:
        names = study_names(opened) if study is None else [study]
        summaries = [summary(open_study(opened, name)) for name in names]
        crew = workers(opened)
    if as_json:
        found = {"studies": summaries, "workers": crew} if study is None else summaries[0]
        typer.echo(json.dumps(found, indent=1))
        return
    if study is None:
        show_studies(summaries, _console())
    else:
        show_study(summaries[0], _console())
        crew = [worker for worker in crew if worker["study"] == study]
    show_workers(crew, _console())


@app.command()
def spaces(
    task: Annotated[str, typer.Argument(help="segmentation or text_detection")] = "segmentation",
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of study files")
    ] = False,
    epochs: Annotated[int, typer.Option(min=1, help="Length of a trial")] = 50,
) -> None:
    """Show what is searched by default, or the JSON Schema of study files."""
    _known_task(task)
    if schema:
        from spaces.spec import study_schema

        typer.echo(json.dumps(study_schema(), indent=1))
        return
    from search.findings.tables import show_space
    from spaces.spec import TASKS

    show_space(TASKS[task].default_space(epochs), _console())


@app.command()
def dashboard(
    host: Annotated[str, typer.Option(help="Address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one")] = 8080,
    allow_writes: Annotated[
        bool, typer.Option("--allow-writes", help="Let readers edit, rename and delete studies")
    ] = False,
    password_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the password in one line [default: $SEGTUNE_DASHBOARD_PASSWORD_FILE, "
            "else $SEGTUNE_DASHBOARD_PASSWORD, else none]"
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name under which others reach it (repeatable)"),
    ] = None,
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
) -> None:
    """Show the studies in a browser, until stopped. Read-only, and for this machine, by default."""
    from search.dashboard.server import Access, listen, read_password, serve
    from search.files.artifacts import open_artifacts

    kept = open_artifacts(artifacts, write=allow_writes)
    access = Access(host, tuple(allow_host or ()), read_password(password_file), allow_writes)
    with listen(host, port) as listener, _open(store) as opened:
        raise typer.Exit(serve(opened, kept, _console(), listener, access))


@app.command()
def export(
    study: StudyArgument,
    to: Annotated[Path, typer.Option("--to", help="Folder to write", show_default=False)],
    trial: Annotated[int | None, typer.Option(help="This trial instead of the best one")] = None,
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
) -> None:
    """Write the best config, its weights, its provenance and its curves."""
    from search.files.artifacts import open_artifacts
    from search.findings.export import check_target, export_study
    from search.studies.study import open_study

    check_target(to)
    with _open(store) as opened:
        export_study(open_study(opened, study), open_artifacts(artifacts), to, trial)
    facts = json.loads((to / "provenance.json").read_text())
    typer.echo(
        f"wrote {to}: trial {facts['trial']}, {facts['metric']} {facts['value']:.4f}\n"
        f"next: segtune evaluate {to} --data val, or segtune train {to / 'config.yaml'} --to DIR"
    )


@app.command()
def report(
    study: StudyArgument,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="File to write; - prints Markdown [default: STUDY-report.html]"),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", help="html or md [default: by the ending of --to]"),
    ] = None,
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
) -> None:
    """Write what a study has found into one file: HTML that opens offline, or Markdown."""
    from search.files.artifacts import open_artifacts
    from search.findings.report import check_target, report_text, write_report
    from search.studies.study import open_study

    target = to or Path(f"{study}-report.{form or 'html'}")
    form = check_target(target, form)
    kept = open_artifacts(artifacts)
    with _open(store) as opened:
        found = open_study(opened, study)
        if str(target) == "-":
            typer.echo(report_text(found, form, kept), nl=False)
            return
        size = write_report(found, target, form, kept)
    typer.echo(f"wrote {target} ({size / 1e6:.2f} MB)")


@app.command()
def replay(
    study: StudyArgument,
    store: StoreOption = None,
    orders: Annotated[
        int, typer.Option(min=1, max=10_000, help="Random orders of the study's trials")
    ] = 50,
    workers: Annotated[
        int, typer.Option(min=1, max=10_000, help="Workers that train at once, simulated")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="For programs")] = False,
) -> None:
    """Show what each stopping rule would have saved of a study, and lost; trains nothing."""
    import optuna

    from search.findings.savings import as_json as to_json
    from search.findings.savings import compare, read_curves, show
    from search.studies.study import open_study

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with _open(store) as opened:
        opened_study = open_study(opened, study)
        curves = read_curves(opened_study)
        rows = compare(opened_study, curves, orders, workers)
        if as_json:
            typer.echo(to_json(curves, rows))
        else:
            show(opened_study, curves, rows, orders, _console())


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="An exported config.yaml", show_default=False)],
    to: Annotated[Path, typer.Option("--to", help="Folder to write", show_default=False)],
) -> None:
    """Train an exported config in full. Ctrl-C saves; the same line resumes."""
    from spaces.spec import load_run_config

    data_spec, trial_config = load_run_config(config)

    from search.retrain import retrain

    raise typer.Exit(retrain(data_spec, trial_config, to, _console()))


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="An exported folder", show_default=False)],
    data: Annotated[str, typer.Option("--data", help="Split: train, val or test")] = "val",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Another decode setting: decode.box_thresh=0.4 (repeatable)"),
    ] = None,
    cleval: Annotated[
        bool, typer.Option("--cleval", help="Text detection: also the CLEval scores")
    ] = False,
) -> None:
    """Score an exported model on a split; draw its five best and five worst images."""
    from spaces.spec import load_run_config

    data_spec, trial_config = load_run_config(folder / "config.yaml")
    trial_config = _with_settings(trial_config, settings or [])
    for name in ("config.json", "model.safetensors"):  # else the name is looked up on a hub
        if not (folder / "model" / name).is_file():
            raise InputError(f"{folder} has no model/{name}; give a folder that export wrote")

    from search.findings.tables import show_scores
    from trainers.tasks import evaluate as run_evaluation
    from trainers.tasks import load_data

    checked = load_data(data_spec)
    checked.split(data)
    pictures = folder / f"evaluation-{data}"
    found = run_evaluation(folder / "model", trial_config, checked, data, pictures, cleval=cleval)
    show_scores(found, data, _console())
    typer.echo(f"pictures of the best and worst images: {pictures}")


@app.command()
def migrate(store: StoreOption = None) -> None:
    """Create a store's tables, or bring them up to date; any other command does it too."""
    from search.database.migrations import SCHEMA_VERSION

    with _open(store, create=True) as opened:
        typer.echo(f"{opened.shown}: schema {SCHEMA_VERSION}")


@app.command()
def doctor(store: StoreOption = None) -> None:
    """Examine this machine: packages, devices, disk, store."""
    from search.doctor import examine

    findings = examine(store)
    for finding in findings:
        typer.echo(f"{'ok ' if finding.ok else 'BAD'} {finding.topic}: {finding.text}")
    raise typer.Exit(0 if all(finding.ok for finding in findings) else 1)


def main() -> None:
    """Entry point of the `segtune` script."""
    app()


def _known_task(task: str) -> None:
    from spaces.errors import did_you_mean
    from spaces.spec import TASKS

    if task not in TASKS:
        hint = did_you_mean(task, TASKS) or f"; known: {', '.join(TASKS)}"
        raise InputError(f"unknown task {task}{hint}")


def _with_settings(config: BaseTrialConfig, settings: list[str]) -> BaseTrialConfig:
    """Apply `--set decode.name=value`; only what acts after the network may be changed."""
    from pydantic import ValidationError

    from spaces.errors import did_you_mean

    changes: dict[str, Any] = {}
    known = [name for name in config.flat() if name.startswith("decode.")]
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"--set {setting}: must be name=value, as in {known[0]}=0.5")
        if name not in known:
            hint = did_you_mean(name, known) or f"; known: {', '.join(known)}"
            raise InputError(f"--set {setting}: {name} is no decode setting{hint}")
        changes[name] = value
    try:
        return config.replace(changes)
    except ValidationError as error:
        raise InputError(f"--set {_first_problem(error)}") from None


def _first_problem(error: ValidationError, *within: str) -> str:
    """The first thing that pydantic found, as `name: what must hold, but got this`."""
    from spaces.errors import pydantic_message

    first = error.errors()[0]
    return f"{'.'.join(map(str, (*within, *first['loc'])))}: {pydantic_message(first)}"


def _with_workers(spec: StudySpec, given: dict[str, Any], settings: list[str]) -> StudySpec:
    """Put what the command line says of workers in place of what the file says."""
    from pydantic import ValidationError

    from spaces.errors import did_you_mean
    from spaces.spec import WorkersSpec
    from spaces.yamlfile import parse_yaml

    changes = {name: value for name, value in given.items() if value is not None}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in WorkersSpec.model_fields:
            hint = did_you_mean(name, WorkersSpec.model_fields)
            known = hint or f"; known: {', '.join(WorkersSpec.model_fields)}"
            raise InputError(f"--worker-option {setting}: must be name=value{known}")
        changes[name] = parse_yaml(value, f"--worker-option {setting}").data
    before = spec.workers.model_dump(exclude_defaults=True)
    if changes.get("on", spec.workers.on) != spec.workers.on:
        before = {"count": spec.workers.count}  # the rest is another engine's
    try:
        workers = WorkersSpec.model_validate(before | changes)
    except ValidationError as error:
        raise InputError(_first_problem(error, "workers")) from None
    return spec.model_copy(update={"workers": workers})


class _open:
    """Open the store for a `with` block and close it after."""

    def __init__(self, url: str | None, *, create: bool = False) -> None:
        from search.database.store import open_store

        self.store = open_store(url, create=create)

    def __enter__(self) -> Store:
        return self.store

    def __exit__(self, *error: object) -> None:
        self.store.close()


def _console() -> Console:
    from rich.console import Console

    # pipes and files get whole lines; a terminal gets its own width
    return Console() if sys.stdout.isatty() else Console(width=160)


if __name__ == "__main__":
    main()
