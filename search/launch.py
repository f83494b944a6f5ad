"""From a study file to a finished study: preflight, create or resume, run, show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from rich.console import Console

from search import team
from search.artifacts import Artifacts
from search.control import stopped
from search.progress import ProgressView, leaderboard
from search.store import Store, study_table
from search.study import Study, create_or_resume
from search.tracked import Tracked
from search.trackers import check_trackers
from search.worker import Interrupt, TooManyFailures, Worker
from spaces.errors import InputError
from spaces.spec import StudySpec
from trainers.data import SegmentationData
from trainers.precision import pick_device, resolve_precision
from trainers.tasks import Data, check_space, load_data
from trainers.text_data import TextData

DONE, FAILED, INTERRUPTED = 0, 1, 130  # exit codes


def preflight(spec: StudySpec, *, trains_here: bool = True) -> SegmentationData | TextData:
    """Check what a study file needs beyond its text: trackers, data, models, precision.

    Args:
        trains_here: what only the training needs must be here too.

    Raises:
        InputError: the first thing that would make a trial fail.
    """
    space = spec.search_space()
    if trains_here:
        check_trackers(spec.trackers)
        for precision in space.values("train.precision"):
            resolve_precision(precision, pick_device())
    data = load_data(spec.data)
    check_space(space, data)
    return data


def launch(
    spec: StudySpec,
    store: Store,
    artifacts: Artifacts,
    console: Console,
    trials: int | None = None,
    crew: Crew | None = None,
) -> int:
    """Create or resume a study and run it to its budget; return the exit code.

    Args:
        trials: total budget, where it differs from the file's.
        crew: workers in processes of their own; None runs the trials from this process.
    """
    data = preflight(spec, trains_here=crew is None or bool(crew.places))
    if crew is not None and not store.postgres:
        raise InputError(
            f"--workers and --detach need Postgres, but the store is {store.shown}, which serves "
            "one worker; leave --store away to use the embedded Postgres"
        )
    store.work_alone()
    study = create_or_resume(store, spec, data.fingerprint, trials)
    _take_trackers(study, spec)
    if reason := stopped(study):
        raise InputError(
            f"study {spec.name} was stopped ({reason}); reopen it with: segtune resume {spec.name}"
        )
    counts = study.budget.counts()
    ended = counts["COMPLETE"] + counts["PRUNED"] + counts["FAILED"]
    verb = "resumed" if ended else "started"
    images = ", ".join(f"{name} {len(data.split(name))}" for name in sorted(data.splits))
    console.print(
        f"study {spec.name} {verb}: {ended} of {sum(counts.values())} trials ended; images: "
        f"{images}; store: {store.shown}",
        highlight=False,
        soft_wrap=True,
    )
    if crew is not None:
        return run_crew(study, crew, artifacts, console)
    return run(study, data, artifacts, console)


@dataclass(frozen=True)
class Crew:
    """How many workers to start, and where.

    Attributes:
        places: CUDA_VISIBLE_DEVICES of each; None on a CPU machine.
        store: the store's URL as the user gave it, if at all.
        detach: leave them running.
    """

    places: Sequence[str | None]
    store: str | None
    detach: bool


def run_crew(study: Study, crew: Crew, artifacts: Artifacts, console: Console) -> int:
    """Start workers for a study's open slots and watch them; return the exit code."""
    name, interrupt = study.spec.name, Interrupt()
    hints = f"watch: segtune status {name}\nstop:  segtune stop {name}"
    if not crew.places:
        console.print(f"left to the workers of this store\n{hints}", highlight=False)
        return DONE
    members = team.start(name, crew.places, artifacts, crew.store, detach=crew.detach)
    console.print(f"{len(members)} workers started; logs: {members[0].log.parent}", soft_wrap=True)
    if crew.detach:
        console.print(hints, highlight=False)
        return DONE
    with interrupt.listen():
        finished = team.follow(study, members, console, interrupt)
    for member in team.failed(members):
        console.print(
            f"a worker ended with code {member.process.returncode}; see {member.log}",
            highlight=False,
            soft_wrap=True,
        )
    if not finished:
        console.print(f"study {name} interrupted; everything is saved. The same command resumes it")
        return INTERRUPTED
    if not team.finished(study):
        return FAILED
    console.print(leaderboard(study))
    console.print(f"next: segtune export {name} --to best/", highlight=False)
    return DONE


def run(study: Study, data: Data, artifacts: Artifacts, console: Console) -> int:
    """Run a study's open slots here; return the exit code."""
    name = study.spec.name
    interrupt = Interrupt()
    try:
        with (
            interrupt.listen(),
            ProgressView(study, console) as view,
            Tracked(study, artifacts, view, console, interrupt) as watcher,
        ):
            finished = Worker(study, data, artifacts, watcher, interrupt).run()
    except TooManyFailures:
        console.print(
            f"study {name} stopped: several trials in a row failed. The reason stands above and "
            "in the trials' logs; mend it and launch again to go on",
            soft_wrap=True,
        )
        return FAILED
    if not finished:
        console.print(f"study {name} interrupted; everything is saved. The same command resumes it")
        return INTERRUPTED
    console.print(leaderboard(study))
    if reason := stopped(study):
        console.print(f"study {name} was stopped ({reason}); reopen it: segtune resume {name}")
    if study.budget.counts()["RUNNING"]:
        console.print(f"study {name}: other workers are still running trials")
    console.print(f"next: segtune export {name} --to best/", highlight=False)
    return DONE


def _take_trackers(study: Study, spec: StudySpec) -> None:
    """Store this launch's trackers with the study, where its workers look for them."""
    if study.spec.trackers == spec.trackers:
        return
    study.spec = study.spec.model_copy(update={"trackers": spec.trackers})
    with study.store.engine.begin() as connection:
        connection.execute(
            sa.update(study_table)
            .where(study_table.c.study_id == study.study_id)
            .values(spec=study.spec.to_json())
        )
