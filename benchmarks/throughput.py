"""Images a second of our training beside what a user would write, and beside the limit.

    python -m benchmarks.throughput --to benchmarks/throughput.md
    python -m benchmarks.throughput --resolution 256x256 512x512       # the default on a GPU
    python -m benchmarks.throughput --per-gpu 2                        # trials that share a GPU

U-Net/resnet18 from scratch on CamVid (or --data FOLDER, laid out as the demo's), batch 8, light
augmentation. All loops (benchmarks/loops.py) are alive at once and train an epoch in turn, in an
order that rotates. Each round has fresh processes and a seed of its own; its first epoch, in which
processes warm up, does not count. The figures need a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from benchmarks import sharing
from benchmarks.loops import (
    AMP,
    DECODING,
    FP32,
    LIGHTNING,
    LIMIT,
    OURS,
    amp_precision,
    installed,
    run,
)
from benchmarks.plain import BATCH, Setup
from benchmarks.report import heading, parser, publish, spread, table
from benchmarks.turns import Crew, Epoch, rotated
from spaces.config import parse_resolution
from spaces.data import SegmentationDataSpec
from spaces.errors import InputError
from spaces.spec import StudySpec
from spaces.yamlfile import dump_yaml
from trainers.data import SegmentationData
from trainers.tasks import load_data

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "camvid.yaml"
STRIDE = 32  # the plain loops do not pad
AIMS = {"cpu": {LIMIT: 0.95, FP32: 1.8}, "cuda": {LIMIT: 0.9, AMP: 2.0}}

Round = dict[str, list[Epoch]]
"""Of each loop, its epochs."""


@dataclass(frozen=True)
class Measured:
    """All rounds at one resolution."""

    setup: Setup
    rounds: list[Round]
    workers: dict[str, int]
    """Loader processes that each decoding loop was quickest with."""
    tried: list[int]
    cold: float
    """Seconds of our first epoch that also built the cache."""


def main() -> None:
    """Measure, print, and write the report where asked."""
    command = parser(__doc__ or "")
    command.add_argument("--data", type=Path, help="{train,val}/{images,masks} and classes.json")
    command.add_argument("--resolution", nargs="+", help="96x128; on a GPU 256x256 512x512")
    command.add_argument("--epochs", type=int, default=7, help="of each loop in a round (7)")
    command.add_argument("--pairs", type=int, default=6, help="rounds, each with its seed (6)")
    command.add_argument("--per-gpu", type=int, help="K of ours on one GPU at once, against one")
    given = command.parse_args()
    with tempfile.TemporaryDirectory(prefix="segtune-throughput-") as folder:
        os.environ["SEGTUNE_HOME"] = folder  # so that the cache is cold when it should be
        try:
            text = measured_report(given, Path(folder))
        except InputError as error:
            print(error, file=sys.stderr)
            sys.exit(2)
    publish(text, given.to)


def measured_report(given: argparse.Namespace, home: Path) -> str:
    """Check the arguments, measure, and return the report; raises InputError."""
    gpu = torch.cuda.is_available()
    if given.epochs < 2:
        raise InputError(f"--epochs must be at least 2 (the first is dropped), not {given.epochs}")
    if given.pairs < 1:
        raise InputError(f"--pairs must be at least 1, but got {given.pairs}")
    if given.per_gpu is not None and given.per_gpu < 2:
        raise InputError(f"--per-gpu must be at least 2, but got {given.per_gpu}")
    if given.per_gpu is not None and not gpu:
        raise InputError("--per-gpu measures trials that share a GPU, but none is visible here")
    resolutions = [_size(size) for size in given.resolution or _default_sizes(gpu)]
    spec = study_spec(given.data, home)
    began = time.perf_counter()
    data = load_data(spec)
    seconds = time.perf_counter() - began
    assert isinstance(data, SegmentationData)
    threads = torch.get_num_threads()
    setups = [Setup(data, size, given.epochs, 0, 0, threads) for size in resolutions]
    if given.per_gpu is not None:
        found = [sharing.measure(setup, given.per_gpu) for setup in setups]
        return sharing.report(found, setups, given.per_gpu)
    return report([measure(setup, given.pairs) for setup in setups], seconds)


def study_spec(folder: Path | None, home: Path) -> SegmentationDataSpec:
    """The data set of examples/camvid.yaml, or of a folder as samples/streets.py lays it out.

    Args:
        home: a study file that names the folder is written here.
    """
    path = EXAMPLE
    if folder is not None:
        root = folder.resolve()
        splits = {
            split: {"images": str(root / split / "images"), "masks": str(root / split / "masks")}
            for split in ("train", "val")
        }
        tree = {"data": {**splits, "classes": str(root / "classes.json")}}
        path = home / "study.yaml"
        path.write_text(dump_yaml({"name": "throughput", "task": "segmentation", **tree}))
    spec = StudySpec.load(path).data
    assert isinstance(spec, SegmentationDataSpec)
    if spec.binary or spec.palette is not None:
        raise InputError("the plain loops read masks of class indices with two or more classes")
    return spec


# ---------------------------------------------------------------- measuring


def measure(setup: Setup, pairs: int) -> Measured:
    """Build the cache, choose the loaders' processes, then take the rounds."""
    with Crew({OURS: partial(run, OURS, replace(setup, epochs=1))}) as crew:
        cold = crew.turn([OURS])[OURS].seconds
    names = installed()
    tried = _worker_counts(torch.cuda.is_available())
    workers = choose_workers(setup, [name for name in names if name in DECODING], tried)
    rounds = [
        take_round(
            {
                name: (name, replace(setup, seed=number, workers=workers.get(name, 0)))
                for name in names
            },
            number,
        )
        for number in range(pairs)
    ]
    return Measured(setup, rounds, workers, tried, cold)


def take_round(runs: dict[str, tuple[str, Setup]], number: int) -> Round:
    """Train all runs {name: (loop, setup)} of equal length in turns, in fresh processes."""
    found: Round = {name: [] for name in runs}
    (epochs,) = {setup.epochs for _, setup in runs.values()}
    with Crew({name: partial(run, *given) for name, given in runs.items()}) as crew:
        for epoch in range(epochs):
            for name in rotated(list(runs), number + epoch):
                found[name].append(crew.turn([name])[name])
    return found


def choose_workers(setup: Setup, names: Sequence[str], tried: Sequence[int]) -> dict[str, int]:
    """Loader processes with which each loop's second epoch was quickest."""
    short = replace(setup, epochs=2)
    runs = {
        f"{name}, {count}": (name, replace(short, workers=count))
        for name in names
        for count in tried
    }
    found = take_round(runs, 0)
    return {
        name: min(tried, key=lambda count: found[f"{name}, {count}"][-1].seconds) for name in names
    }


def _worker_counts(gpu: bool) -> list[int]:
    cores = len(os.sched_getaffinity(0))
    return sorted({min(4, cores), min(16, cores)} if gpu else {0, min(4, cores)})


def _default_sizes(gpu: bool) -> list[str]:
    return ["256x256", "512x512"] if gpu else ["96x128"]


def _size(given: str) -> str:
    try:
        size = parse_resolution(given)
    except ValueError as error:
        raise InputError(f"--resolution: {error}, but got {given}") from None
    if any(int(side) % STRIDE for side in size.split("x")):
        raise InputError(f"--resolution: sides must be multiples of {STRIDE}, but got {given}")
    return size


# ---------------------------------------------------------------- arithmetic


def kept(rounds: Sequence[Round], name: str) -> list[Epoch]:
    """A loop's epochs of all rounds, without the first of each."""
    return [epoch for found in rounds for epoch in found[name][1:]]


def ratios(rounds: Sequence[Round], other: str, *, training: bool) -> list[float]:
    """How many times as fast as another loop ours was, in each turn that both had.

    Args:
        training: compare the training steps alone, else whole epochs with validation.
    """
    pairs = zip(kept(rounds, OURS), kept(rounds, other), strict=True)
    if training:
        return [theirs.train_seconds / own.train_seconds for own, theirs in pairs]
    return [theirs.seconds / own.seconds for own, theirs in pairs]


def last_scores(rounds: Sequence[Round], name: str) -> list[float]:
    """The mIoU after the last epoch, seed by seed."""
    return [found[name][-1].metric for found in rounds]


def seed_noise(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Difference of two means over seeds, and its standard error (Welch's); needs two seeds."""
    error = (statistics.variance(a) / len(a) + statistics.variance(b) / len(b)) ** 0.5
    return statistics.mean(a) - statistics.mean(b), error


# ---------------------------------------------------------------- the report


def report(all_measured: Sequence[Measured], check_seconds: float) -> str:
    """The figures as Markdown."""
    first = all_measured[0]
    samples = {name: len(first.setup.data.split(name)) for name in ("train", "val")}
    epochs, seeds = first.setup.epochs, len(first.rounds)
    absent = "" if LIGHTNING in first.rounds[0] else " Lightning is not installed here: no row."
    text = heading("Training throughput", "throughput", gpu=True)
    text += f"""
U-Net/resnet18 from scratch, batch {BATCH}, light augmentation; {samples["train"]} train and
{samples["val"]} val images; {first.setup.threads} threads; AMP is {amp_precision()}. {seeds} rounds
of {epochs} epochs, each with a seed and fresh processes; all loops train an epoch in turn; first
epochs do not count. Medians with ranges. Ours runs on a warm cache, augments, and saves a
checkpoint each epoch; the plain loops save nothing; the limit does not augment. Checking the data
set, once: {check_seconds:.1f} s.{absent}
"""
    return text + "".join(_section(measured) for measured in all_measured)


def _section(measured: Measured) -> str:
    rounds, samples = measured.rounds, len(measured.setup.data.split("train"))
    warm = statistics.median(found[OURS][0].seconds for found in rounds)
    chosen = ", ".join(f"{count} for {name}" for name, count in measured.workers.items())
    speeds = [
        [
            name,
            spread([samples / epoch.train_seconds for epoch in kept(rounds, name)], 1),
            spread([epoch.seconds for epoch in kept(rounds, name)], 2, "s"),
            spread(last_scores(rounds, name), 4),
            _difference(rounds, name),
        ]
        for name in rounds[0]
    ]
    aims = AIMS["cuda" if torch.cuda.is_available() else "cpu"]
    beside = [
        [
            name,
            spread(ratios(rounds, name, training=True), 2),
            spread(ratios(rounds, name, training=False), 2),
            f"at least {aims[name]}" if name in aims else "",
        ]
        for name in rounds[0]
        if name != OURS
    ]
    return f"""
## {measured.setup.resolution}

{table(["loop", "train images a second", "whole epoch", "last val mIoU", "ours minus it"], speeds)}

How many times as fast ours was, turn by turn:

{table(["beside", "train images a second", "whole epoch", "aim (images a second)"], beside)}

A whole epoch has its validation. Building the cache, once for all trials:
{measured.cold - warm:.1f} s (first epoch {measured.cold:.1f} s cold, {warm:.1f} s warm). Loader
processes, the quickest of {measured.tried}: {chosen}.
"""


def _difference(rounds: Sequence[Round], name: str) -> str:
    if name == OURS or len(rounds) < 2:
        return ""
    difference, error = seed_noise(last_scores(rounds, OURS), last_scores(rounds, name))
    return f"{difference:+.4f} ± {error:.4f}"


if __name__ == "__main__":
    main()
