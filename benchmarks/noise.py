"""How much quieter a run is with the average of its weights (`train.ema`), and what that costs.

    python -m benchmarks.noise --to benchmarks/noise.md
    python -m benchmarks.noise --only camvid --seeds 6 --first-seed 10 --ema 0.02

Trains CamVid (U-Net/resnet18) and SROIE (DBNet/resnet18) from scratch at small sizes, to the end.
No step depends on the average, so one run serves both: after each epoch the last weights are
scored, and an average of each share.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.report import called, heading, parser, publish, table
from spaces.spec import StudySpec
from trainers.average import WeightAverage
from trainers.tasks import load_data
from trainers.train import TrainingRun

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SCRATCH = {
    "data.augment": "light",
    "model.encoder": "resnet18",
    "model.encoder_weights": None,
    "optim.encoder_lr_ratio": 1.0,
}
CAMVID = {
    **SCRATCH,
    "data.resolution": "48x64",
    "train.epochs": 12,
    "train.batch_size": 8,
    "loss.warmup_epochs": 1,
    "loss.ramp_epochs": 1,
    "optim.lr": 2e-3,
}
SROIE = {
    **SCRATCH,
    "data.resolution": 320,
    "train.epochs": 8,
    "train.batch_size": 4,
    "model.inner": 64,
    "model.out": 16,
    "optim.lr": 3e-3,
}
SETUPS: dict[str, tuple[str, dict[str, Any]]] = {
    "CamVid, cosine": ("camvid", {**CAMVID, "optim.schedule": "cosine"}),
    "SROIE, cosine": ("sroie", {**SROIE, "optim.schedule": "cosine"}),
}
"""{name: (example that names the data, settings)}."""
LAST = "last weights"
SHARES = [0.05, 0.1]  # of `train.ema`

Curves = dict[str, list[float]]
"""{what was scored: the metric of each epoch}; one of them is LAST."""


@dataclass(frozen=True)
class Figures:
    """What a curve of the metric says of its noise.

    Attributes:
        jitter: standard deviation of the differences between neighbouring epochs, last half.
        drop: the best epoch above the mean of the last three.
    """

    best: float
    last: float
    jitter: float
    drop: float


PARTS = ("best", "last", "jitter", "drop")


def figures(metrics: Sequence[float]) -> Figures:
    """Return the figures of a curve of six epochs or more."""
    steps = [b - a for a, b in pairwise(metrics[len(metrics) // 2 :])]
    best, end = max(metrics), statistics.fmean(metrics[-3:])
    return Figures(best, metrics[-1], statistics.stdev(steps), best - end)


@dataclass(frozen=True)
class Measured:
    """Of a set-up: {seed: its curves}; milliseconds of a step, by epochs, and of each update."""

    curves: dict[int, Curves]
    step_ms: list[float]
    update_ms: list[float]


def main() -> None:
    """Measure and publish the report."""
    given = parser(__doc__ or "")
    given.add_argument("--only", choices=("camvid", "sroie"), help="one of the data sets")
    given.add_argument("--seeds", type=int, default=3, help="runs of each set-up")
    given.add_argument("--first-seed", type=int, default=0)
    given.add_argument("--ema", type=float, nargs="+", default=SHARES, help="shares to score")
    options = given.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SEGTUNE_HOME"] = f"{folder}/home"
        for name, (example, settings) in SETUPS.items():
            if options.only in (None, example):
                found[name] = measure(name, example, settings, seeds, options.ema)
    publish(report(found, called("noise")), options.to)


def measure(
    name: str, example: str, settings: dict[str, Any], seeds: Sequence[int], shares: Sequence[float]
) -> Measured:
    """Train each seed, and print its curves as one line of JSON."""
    spec = StudySpec.load(EXAMPLES / f"{example}.yaml")
    space, data = spec.search_space(), load_data(spec.data)
    found = Measured({}, [], [])
    for seed in seeds:
        config = type(space.base)().replace({**settings, "train.seed": seed})
        with tempfile.TemporaryDirectory() as folder:
            run = TrainingRun(config, data, Path(folder), space.free()).build()
            found.curves[seed] = train_and_score(run, shares, found)
        print(json.dumps({"setup": name, "seed": seed, **found.curves[seed]}), flush=True)
    return found


def train_and_score(run: TrainingRun, shares: Sequence[float], found: Measured) -> Curves:
    """Train to the end; add to the times of `found`."""
    averages = {label(share): WeightAverage(run.model, share) for share in shares}
    curves: Curves = {name: [] for name in (LAST, *averages)}
    taken = 0

    def after_step() -> None:
        nonlocal taken
        taken += 1
        for average in averages.values():
            began = time.perf_counter()
            average.update(taken)
            found.update_ms.append(1000 * (time.perf_counter() - began))

    for _ in range(run.config.train.epochs):
        began, updates = time.perf_counter(), len(found.update_ms)
        reason = run.train_epoch(after_step)
        assert reason is None, reason
        spent = 1000 * (time.perf_counter() - began) - sum(found.update_ms[updates:])
        found.step_ms.append(spent / run.task.steps_per_epoch)
        curves[LAST].append(run.finish_epoch().metric)
        for name, average in averages.items():
            curves[name].append(run.task.validate(average.model)[0].metric)
    return curves


def label(share: float) -> str:
    """What an average is called in the report."""
    return f"average, {share:g}"


def signed(differences: Sequence[float]) -> str:
    """Return `mean (worst to best)`."""
    low, mean, high = min(differences), statistics.fmean(differences), max(differences)
    return f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"


def report(found: Mapping[str, Measured], command: str) -> str:
    """The Markdown report."""
    means, seeds, gains, costs = [], [], [], []
    for name, measured in found.items():
        by_seed = {
            seed: {scored: figures(metrics) for scored, metrics in curves.items()}
            for seed, curves in measured.curves.items()
        }
        for scored in next(iter(by_seed.values())):
            runs = [of[scored] for of in by_seed.values()]
            row = [statistics.fmean(getattr(run, part) for run in runs) for part in PARTS]
            means.append([name, scored, *(f"{value:.4f}" for value in row)])
            for seed, of in by_seed.items():
                values = [getattr(of[scored], part) for part in PARTS]
                seeds.append([name, str(seed), scored, *(f"{value:.4f}" for value in values)])
            if scored == LAST:
                continue
            best = [of[scored].best - of[LAST].best for of in by_seed.values()]
            end = [of[scored].last - of[LAST].last for of in by_seed.values()]
            louder = sum(of[scored].jitter > of[LAST].jitter for of in by_seed.values())
            gains.append([name, scored, signed(best), signed(end), f"{louder} of {len(by_seed)}"])
        step, update = statistics.median(measured.step_ms), statistics.median(measured.update_ms)
        costs.append([name, f"{step:.0f}", f"{update:.1f}", f"{update / step:.1%}"])
    columns = ("best", "last", "jitter", "best - last three")
    return "\n".join(
        [
            heading("Less noise at the source: the average of the weights", command),
            "From scratch, to the end, at small sizes. After each epoch the last weights of a run "
            "are scored, and the average of its weights (`train.ema`). *best* and *last*: the "
            "metric (val mIoU, val Hmean) of the best and of the last epoch. *jitter*: standard "
            "deviation of the differences between neighbouring epochs, in the last half of the "
            "run. *best - last three*: the best epoch above the mean of the last three.\n",
            "Means over seeds:\n",
            table(["", "scored", *columns], means),
            "\nThe average less the last weights, seed by seed: mean (worst to best), and in how "
            "many seeds its jitter was the larger one:\n",
            table(["", "scored", "best", "last", "more jitter"], gains),
            "\nWhat it costs in time (medians; in memory: the weights once more):\n",
            table(["", "a step, ms", "an update, ms", "of the step"], costs),
            "\nEach seed:\n",
            table(["", "seed", "scored", *columns], seeds),
            "",
        ]
    )


if __name__ == "__main__":
    main()
