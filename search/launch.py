"""From a study file to a finished study: preflight, create or resume, run, show."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from search.progress import ProgressView, leaderboard
from search.store import Store
from search.study import Study, create_or_resume
from search.worker import Interrupt, TooManyFailures, Worker
from spaces.config import DataConfig, ModelConfig
from spaces.errors import InputError
from spaces.models import ENCODERS, min_batch, min_side
from spaces.space import Space
from spaces.spec import StudySpec
from trainers.data import SegmentationData, load_data
from trainers.models import check_model
from trainers.precision import pick_device, resolve_precision

DONE, FAILED, INTERRUPTED = 0, 1, 130  # exit codes


def preflight(spec: StudySpec) -> SegmentationData:
    """Check what a study file needs beyond its text: data, models, precision.

    Raises:
        InputError: the first thing that would make a trial fail.
    """
    space = spec.search_space()
    check_sizes(space)
    for precision in space.values("train.precision"):
        resolve_precision(precision, pick_device())
    data = load_data(spec.data)
    logits = 1 if spec.data.binary else data.classes
    for arch, encoder in space.model_pairs():
        for weights in space.values("model.encoder_weights"):
            # smp's own pairs are known to run; pretrained weights and timm models must be tried
            if weights is not None or encoder not in ENCODERS:
                model = ModelConfig(arch=arch, encoder=encoder, encoder_weights=weights)
                check_model(model, smallest_size(space), logits)
    return data


def check_sizes(space: Space) -> None:
    """Refuse batches and resolutions that an architecture of the space cannot train on."""
    for arch in {arch for arch, _ in space.model_pairs()}:
        batch = min(space.values("train.batch_size"))
        if batch < min_batch(arch):
            raise InputError(
                f"train.batch_size: {arch} needs at least {min_batch(arch)} images at once in "
                f"training (pooled batch norm), but the space has {batch}"
            )
        side = min(min(size) for size in sizes(space))
        if side < min_side(arch):
            raise InputError(
                f"data.resolution: {arch} needs sides of at least {min_side(arch)} pixels, but "
                f"the space has {side}"
            )


def smallest_size(space: Space) -> tuple[int, int]:
    """(height, width) of the resolution of the smallest area in the space."""
    return min(sizes(space), key=lambda size: size[0] * size[1])


def sizes(space: Space) -> list[tuple[int, int]]:
    """(height, width) of every resolution in the space."""
    return [DataConfig(resolution=value).size for value in space.values("data.resolution")]


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
    images = ", ".join(f"{name} {len(samples)}" for name, samples in sorted(data.splits.items()))
    console.print(
        f"study {spec.name} {verb}: {ended} of {sum(counts.values())} trials ended; images: "
        f"{images}; store: {store.shown}",
        highlight=False,
        soft_wrap=True,
    )
    return run(study, data, artifacts, console)


def run(study: Study, data: SegmentationData, artifacts: Path, console: Console) -> int:
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
