"""Commands that run studies: the demo, a launch, workers, and the end of all that."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli.options import (
    ArtifactsOption,
    NowOption,
    RootsOption,
    SeedsOption,
    SpecArgument,
    StoreOption,
    StudyArgument,
    TopOption,
    TotalOption,
    closing_store,
    console,
    known_task,
)
from search.cli.settings import with_workers
from spaces.errors import InputError


def demo(
    task: Annotated[str, typer.Option(help="segmentation or text_detection")] = "segmentation",
    to: Annotated[Path, typer.Option(help="Folder for data and results")] = Path("segtune-demo"),
    trials: Annotated[int, typer.Option(min=1, help="Trials to run")] = 12,
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
) -> None:
    """Draw sample data, run a small study, show its leaderboard, export the best config."""
    known_task(task)

    from search.demo import run_demo
    from search.files.artifacts import open_artifacts

    if to.exists() and not to.is_dir():
        raise InputError(f"--to {to} is a file; name a folder")
    kept = open_artifacts(artifacts)
    with closing_store(store, create=True) as opened:
        raise typer.Exit(run_demo(task, to, trials, opened, kept, console()))


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
    new: Annotated[bool, typer.Option("--new", help="Refuse a study that is there")] = False,
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
) -> None:
    """Create a study or resume it, and run it to its budget. Ctrl-C saves; repeat to resume."""
    from spaces.spec import StudySpec

    study_spec = StudySpec.load(spec)  # before anything slow or lasting
    given = {"on": on, "count": workers, "per_gpu": per_gpu}
    study_spec = with_workers(study_spec, given, worker_option or [])

    from search.files.artifacts import open_artifacts
    from search.findings.beginning import earlier_studies
    from search.launch import launch as run_study
    from search.launchers.engine import Order
    from search.studies.study import study_names
    from search.work.forkserver import warm_up
    from trainers.devices import visible_gpus

    kept = open_artifacts(artifacts)
    options = study_spec.workers
    elsewhere = options.on != "local" or options.count is not None or detach
    order = None
    if elsewhere or len(visible_gpus()) * options.per_gpu > 1:
        order = Order(study_spec.name, kept, store, options, detach)
    if options.on == "local" and options.count != 0:
        warm_up()  # trains here, or measures a few steps
    with closing_store(store, create=True) as opened:
        is_there = study_spec.name in study_names(opened)
        if new and is_there:
            raise InputError(
                f"study {study_spec.name} is in {opened.shown} already; give this one another "
                f"name, or have more trials of it: segtune resume {study_spec.name} --trials N"
            )
        if study_spec.from_studies and not is_there:
            earlier_studies(opened, study_spec, spec)  # before the data are read
        raise typer.Exit(
            run_study(study_spec, opened, kept, console(), trials, order, measure=True)
        )


def confirm(
    study: StudyArgument,
    top: TopOption = None,
    seeds: SeedsOption = None,
    share: Annotated[
        float | None,
        typer.Option(help="Most epochs of it, as a share of the study's [default: 10]"),
    ] = None,
    leave: Annotated[
        bool, typer.Option("--leave", help="To the workers that serve the store; run nothing here")
    ] = False,
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
) -> None:
    """Run the best trials of an ended study again on fresh seeds. Ctrl-C saves; repeat to resume.

    Settings that are left out are those of the study, where it has some."""
    from search.cli.settings import with_confirm
    from search.confirm import confirm_study
    from search.files.artifacts import open_artifacts
    from search.studies.study import open_study
    from search.work.forkserver import warm_up

    kept = open_artifacts(artifacts)
    given = {"top": top, "seeds": seeds, "share": share}
    if not leave:
        warm_up()
    with closing_store(store) as opened:
        found = open_study(opened, study)
        spec = with_confirm(found.spec, given)
        raise typer.Exit(confirm_study(found, spec, kept, console(), here=not leave))


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
    from search.work.worker_log import worker_console

    kept = open_artifacts(artifacts)
    with closing_store(store) as opened:
        raise typer.Exit(serve(opened, kept, worker_console(console()), study, until_idle))


def jobs(
    data_root: RootsOption = None,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="End when no job waits any more")
    ] = False,
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
) -> None:
    """Run what people ask for in the dashboard, until told to stop; such a job then waits again."""
    from search.files.artifacts import open_artifacts
    from search.work.job_runner import serve_jobs

    kept = open_artifacts(artifacts)
    with closing_store(store) as opened:
        raise typer.Exit(serve_jobs(opened, kept, console(), store, data_root or (), until_idle))


def stop(
    study: StudyArgument,
    now: NowOption = False,
    store: StoreOption = None,
) -> None:
    """Let no new trial of a study begin; running ones end as they would."""
    from search.database.tables import AFTER, NOW
    from search.launchers import cancel_waiting
    from search.studies.finishing import close_all
    from search.studies.study import open_study

    with closing_store(store) as opened:
        found = open_study(opened, study)
        close_all(found, NOW if now else AFTER)
        for problem in cancel_waiting(found):
            typer.echo(f"jobs that wait could not be taken back: {problem}", err=True)
    typer.echo(f"study {study} stopped; reopen it with: segtune resume {study}")


def resume(
    study: StudyArgument,
    trials: TotalOption = None,
    store: StoreOption = None,
) -> None:
    """Reopen a stopped study; its workers go on, and its hours count anew."""
    from search.studies.finishing import reopen_all
    from search.studies.study import open_study

    with closing_store(store) as opened:
        found = open_study(opened, study)
        if trials is not None:
            have = sum(found.slots.counts().values())
            if trials < have:
                raise InputError(
                    f"--trials {trials}: study {study} has {have} already, and a budget only "
                    f"grows; to end it where it is: segtune stop {study}"
                )
            found.slots.extend(trials)
        reopen_all(found)
    typer.echo(f"study {study} is open; workers serve it, or start one: segtune worker")
