"""How much quieter a run is with the average of its weights (`train.ema`), and what that costs.

    python -m benchmarks.noise --to benchmarks/noise.md
    python -m benchmarks.noise --seeds 6 --first-seed 10 --ema 0.05

Trains CamVid (U-Net/resnet18) and SROIE (DBNet/resnet18) from scratch at small sizes, each seed
with and without the average, to the end. The average changes no step, so both runs of a seed take
the same way, up to rounding; what differs is which weights are scored after each epoch.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.report import heading, parser, publish, table
from spaces.config import EMA, TrialConfig
from spaces.spec import StudySpec
from trainers.average import WeightAverage
from trainers.tasks import Data, load_data, make_task
from trainers.train import train

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TO_THE_END = {
    "train.patience": 0,
    "health.grad_norm": 0,
    "health.diverging": 0,
    "health.falling_epochs": 0,
    "health.dead_class_epochs": 0,
}
SCRATCH = {
    "data.augment": "light",
    "model.encoder": "resnet18",
    "model.encoder_weights": None,
    "optim.encoder_lr_ratio": 1.0,
}
CAMVID = {
    **SCRATCH,
    "data.resolution": "64x96",
    "train.epochs": 15,
    "train.batch_size": 8,
    "loss.warmup_epochs": 1,
    "loss.ramp_epochs": 1,
    "optim.lr": 2e-3,
}
SROIE = {
    **SCRATCH,
    "data.resolution": 320,
    "train.epochs": 10,
    "train.batch_size": 4,
    "model.inner": 64,
    "model.out": 16,
    "optim.lr": 3e-3,
}
SETUPS: dict[str, tuple[str, dict[str, Any]]] = {
    "CamVid, cosine": ("camvid", {**CAMVID, "optim.schedule": "cosine"}),
    "CamVid, constant": ("camvid", {**CAMVID, "optim.schedule": "constant"}),
    "SROIE, cosine": ("sroie", {**SROIE, "optim.schedule": "cosine"}),
    "SROIE, constant": ("sroie", {**SROIE, "optim.schedule": "constant"}),
}
"""{name: (example that names the data, settings)}."""


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


def figures(metrics: Sequence[float]) -> Figures:
    """Return the figures of a curve of six epochs or more."""
    steps = [b - a for a, b in pairwise(metrics[len(metrics) // 2 :])]
    best = max(metrics)
    return Figures(
        best, metrics[-1], statistics.stdev(steps), best - statistics.fmean(metrics[-3:])
    )


@dataclass(frozen=True)
class Measured:
    """Of a set-up: (without, with) of each seed, ms of a step, ms of an update of the average."""

    pairs: Mapping[int, tuple[Figures, Figures]]
    step_ms: float
    update_ms: float


def main() -> None:
    """Measure and publish the report."""
    given = parser(__doc__ or "")
    given.add_argument("--seeds", type=int, default=3, help="runs of each set-up, twice each")
    given.add_argument("--first-seed", type=int, default=0)
    given.add_argument("--ema", type=float, default=EMA, help="train.ema")
    options = given.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SEGTUNE_HOME"] = f"{folder}/home"
        found = {name: measure(*setup, seeds, options.ema) for name, setup in SETUPS.items()}
    command = f"noise --seeds {len(seeds)} --first-seed {seeds.start} --ema {options.ema:g}"
    publish(report(found, command), options.to)


def measure(example: str, settings: dict[str, Any], seeds: Sequence[int], ema: float) -> Measured:
    """Train each seed with and without the average."""
    spec = StudySpec.load(EXAMPLES / f"{example}.yaml")
    data, base = load_data(spec.data), spec.search_space().base
    plain = type(base)().replace({**settings, **TO_THE_END})
    pairs, milliseconds = {}, []
    for seed in seeds:
        curves = []
        for share in (None, ema):
            config = plain.replace({"train.seed": seed, "train.ema": share})
            metrics, taken = run(config, data, spec)
            curves.append(figures(metrics))
            if share is None:
                milliseconds.append(taken)
            print(example, settings["optim.schedule"], seed, share, [round(m, 4) for m in metrics])
        pairs[seed] = curves[0], curves[1]
    return Measured(pairs, statistics.median(milliseconds), update_ms(plain, data))


def run(config: TrialConfig, data: Data, spec: StudySpec) -> tuple[list[float], float]:
    """Return the metric of each epoch, and milliseconds a step (median of the epochs)."""
    with tempfile.TemporaryDirectory() as folder:
        free = spec.search_space().free()
        result = train(config, data, Path(folder), lambda report: None, free=free)
    assert result.reason == "completed", result.reason
    rates = [report.images_per_s for report in result.history[1:]]
    milliseconds = 1000 * config.train.batch_size / statistics.median(rates)
    return [report.metric for report in result.history], milliseconds


def update_ms(config: TrialConfig, data: Data, rounds: int = 20) -> float:
    """Milliseconds of an update of the average, on the CPU (median)."""
    import torch

    task = make_task(config, data, torch.device("cpu"), "fp32", {})
    model = task.build_model().to(memory_format=task.memory_format)
    average = WeightAverage(model, 0.1)
    seconds = []
    for step in range(1, rounds + 1):
        began = time.perf_counter()
        average.update(step)
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds)


def report(found: Mapping[str, Measured], command: str) -> str:
    """The Markdown report."""
    rows, seeds = [], []
    for name, measured in found.items():
        for which, label in enumerate(("last weights", "average")):
            runs = [pair[which] for pair in measured.pairs.values()]
            means = [
                f"{statistics.fmean(getattr(run, part) for run in runs):.4f}"
                for part in ("best", "last", "jitter", "drop")
            ]
            rows.append([name if which == 0 else "", label, *means])
        for seed, (without, with_) in measured.pairs.items():
            changes = [
                f"{getattr(without, part):.4f} -> {getattr(with_, part):.4f}"
                for part in ("best", "last", "jitter", "drop")
            ]
            seeds.append([name, str(seed), *changes])
    gains = {
        name: [with_.best - without.best for without, with_ in measured.pairs.values()]
        for name, measured in found.items()
    }
    noisier = sum(
        with_.jitter > without.jitter
        for measured in found.values()
        for without, with_ in measured.pairs.values()
    )
    everything = [gain for of in gains.values() for gain in of]
    costs = [
        [name, f"{m.step_ms:.0f}", f"{m.update_ms:.1f}", f"{m.update_ms / m.step_ms:.1%}"]
        for name, m in found.items()
    ]
    parts = ("best", "last", "jitter", "best - last three")
    return "\n".join(
        [
            heading("Less noise at the source: the average of the weights", command),
            "Each seed is trained twice, from scratch and to the end. *best* and *last*: the "
            "metric (val mIoU, val Hmean) of the best and of the last epoch. *jitter*: standard "
            "deviation of the differences between neighbouring epochs, in the last half of the "
            "run. *best - last three*: the best epoch above the mean of the last three. Means over "
            "seeds:\n",
            table(["", "scored", *parts], rows),
            f"\nThe best epoch of the average, beside that of the last weights: "
            f"{statistics.fmean(everything):+.4f} on average; in the worst of {len(everything)} "
            f"pairs {min(everything):+.4f}, in the best {max(everything):+.4f}. The average's "
            f"jitter was the larger one in {noisier} pairs.\n",
            table(["", "seed", *parts], seeds),
            "\nWhat it costs in time (medians; and in memory: the weights once more):\n",
            table(["", "a step, ms", "an update, ms", "of the step"], costs),
            "",
        ]
    )


if __name__ == "__main__":
    main()
