"""From a study file to a finished study: preflight, create or resume, run, show."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from search.progress import ProgressView, leaderboard
from search.store import Store
from search.study import Study, create_or_resume
from search.worker import Interrupt, TooManyFailures, Worker
from spaces.spec import StudySpec
from trainers.data import SegmentationData
from trainers.precision import pick_device, resolve_precision
from trainers.tasks import Data, check_space, load_data
from trainers.text_data import TextData

DONE, FAILED, INTERRUPTED = 0, 1, 130  # exit codes


def preflight(spec: StudySpec) -> SegmentationData | TextData:
    """Check what a study file needs beyond its text: data, models, precision.

    Raises:
        InputError: the first thing that would make a trial fail.
    """
    space = spec.search_space()
    for precision in space.values("train.precision"):
        resolve_precision(precision, pick_device())
    data = load_data(spec.data)
    check_space(space, data)
    return data


def launch(
    spec: StudySpec, store: Store, artifacts: Path, console: Console, trials: int | None = None
) -> int:
    """Create or resume a study and run it to its budget; return the exit code."""
    data = preflight(spec)
    store.work_alone()
    study = create_or_resume(store, spec, data.fingerprint, trials)
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
    return run(study, data, artifacts, console)


def run(study: Study, data: Data, artifacts: Path, console: Console) -> int:
    """Run a study's open slots here; return the exit code."""
    name = study.spec.name
    interrupt = Interrupt()
    try:
        with interrupt.listen(), ProgressView(study, console) as view:
            finished = Worker(study, data, artifacts, view, interrupt).run()
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
    if study.budget.counts()["RUNNING"]:
        console.print(f"study {name}: other workers are still running trials")
    console.print(f"next: segtune export {name} --to best/", highlight=False)
    return DONE
