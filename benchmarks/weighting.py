"""What learned weights of a loss's terms gain (`loss.weighting`), and label smoothing and alpha.

    python -m benchmarks.weighting --to benchmarks/weighting.md

Trains CamVid (U-Net/resnet18) and SROIE (DBNet/resnet18) from scratch at small sizes, to the end,
the same seeds in every arm. A run that is named in `--runs FILE`, one line of JSON each, is not
trained again.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.noise import CAMVID as CAMVID_NOISE
from benchmarks.noise import EXAMPLES, signed
from benchmarks.noise import SROIE as SROIE_NOISE
from benchmarks.report import called, heading, parser, publish, table
from spaces.spec import StudySpec
from trainers.tasks import load_data
from trainers.train import train

QUIET = {
    "train.patience": 0,
    "health.grad_norm": 0,
    "health.falling_epochs": 0,
    "health.dead_class_epochs": 0,
    "health.diverging": 0,
}
SETUPS: dict[str, tuple[str, dict[str, Any]]] = {
    "CamVid": ("camvid", {**CAMVID_NOISE, **QUIET, "train.epochs": 10}),
    "SROIE": ("sroie", {**SROIE_NOISE, **QUIET, "train.epochs": 7}),
}
"""{name: (example that names the data, settings)}."""
FIXED = "fixed"
WEIGHTING: dict[str, dict[str, Any]] = {
    FIXED: {},
    "uncertainty": {"loss.weighting": "uncertainty"},
    "gradnorm": {"loss.weighting": "gradnorm"},
}
FOCAL = "focal"
OTHERS: dict[str, dict[str, dict[str, Any]]] = {
    "CamVid": {
        "region_share 0.8": {"loss.region_share": 0.8},  # about what gradnorm comes to
        "label_smoothing 0.1": {"loss.label_smoothing": 0.1},
    },
    "SROIE": {
        "label_smoothing 0.1": {"loss.label_smoothing": 0.1},
        FOCAL: {"loss.pixel": "focal"},
        "focal, alpha 0.25": {"loss.pixel": "focal", "loss.focal_alpha": 0.25},
    },
}
"""{set-up: arms}; `focal_alpha` is for two classes, and CamVid has eleven."""


def main() -> None:
    """Measure and publish the report."""
    given = parser(__doc__ or "")
    given.add_argument("--seeds", type=int, default=3, help="runs of each arm")
    given.add_argument("--others", action="store_true", help="also label smoothing and alpha")
    given.add_argument("--runs", type=Path, help="keep each run in this file, and read it first")
    options = given.parse_args()
    kept: Path | None = options.runs
    found: list[dict[str, Any]] = []
    if kept is not None and kept.exists():
        found = [json.loads(line) for line in kept.read_text().splitlines()]
    known = {(run["setup"], run["arm"], run["seed"]) for run in found}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SEGTUNE_HOME"] = f"{folder}/home"
        for setup, arm, settings, seed in wanted(options.seeds, options.others):
            if (setup, arm, seed) in known:
                continue
            run = {"setup": setup, "arm": arm, "seed": seed, **measured(setup, settings, seed)}
            found.append(run)
            print(json.dumps(run), flush=True)
            if kept is not None:
                with kept.open("a") as file:
                    file.write(json.dumps(run) + "\n")
    publish(report(found, called("weighting")), options.to)


def wanted(seeds: int, others: bool) -> list[tuple[str, str, dict[str, Any], int]]:
    """(set-up, arm, its settings, seed) of each run: all arms of a seed before the next seed."""
    runs = []
    for arms in [dict.fromkeys(SETUPS, WEIGHTING), *([OTHERS] if others else [])]:
        for seed in range(seeds):
            for setup, of_setup in arms.items():
                runs += [(setup, arm, settings, seed) for arm, settings in of_setup.items()]
    return runs


def measured(setup: str, settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Train one run to its end: the metric of each epoch, the last weights, and seconds."""
    example, base = SETUPS[setup]
    spec = StudySpec.load(EXAMPLES / f"{example}.yaml")
    space = spec.search_space()
    config = type(space.base)().replace({**base, **settings, "train.seed": seed})
    data = load_data(spec.data)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = train(config, data, Path(folder), lambda report: None, free=space.free())
    assert result.reason in ("completed", "health:trivial"), result.reason
    weights = result.history[-1].loss_weights or {}
    return {
        "metrics": [report.metric for report in result.history],
        "weights": {name: round(weight, 3) for name, weight in weights.items()},
        "seconds": round(time.perf_counter() - began),
    }


def best_by_seed(runs: Sequence[Mapping[str, Any]], setup: str, arm: str) -> dict[int, float]:
    """{seed: the best epoch's metric}."""
    own = [run for run in runs if (run["setup"], run["arm"]) == (setup, arm)]
    return {run["seed"]: max(run["metrics"]) for run in own}


def report(runs: Sequence[Mapping[str, Any]], command: str) -> str:
    """The Markdown report."""
    means, seeds = [], []
    for setup, arm in dict.fromkeys((run["setup"], run["arm"]) for run in runs):
        own = [run for run in runs if (run["setup"], run["arm"]) == (setup, arm)]
        best = best_by_seed(runs, setup, arm)
        beside = FOCAL if arm.startswith(f"{FOCAL},") else FIXED
        base = best_by_seed(runs, setup, beside)
        gains = [best[seed] - base[seed] for seed in best if seed in base]
        gained = "" if arm == beside or not gains else f"{signed(gains)} over {beside}"
        ends = statistics.fmean(run["metrics"][-1] for run in own)
        means.append([setup, arm, f"{statistics.fmean(best.values()):.4f}", f"{ends:.4f}", gained])
        for run in own:
            weights = ", ".join(f"{name} {value:g}" for name, value in run["weights"].items())
            shown = [f"{max(run['metrics']):.4f}", f"{run['metrics'][-1]:.4f}", weights]
            seeds.append([setup, arm, str(run["seed"]), *shown])
    sizes = "; ".join(
        f"{name}: {base['train.epochs']} epochs at {base['data.resolution']}, batch "
        f"{base['train.batch_size']}, lr {base['optim.lr']}"
        for name, (_, base) in SETUPS.items()
    )
    return "\n".join(
        [
            heading("Learned weights of a loss's terms, label smoothing and focal alpha", command),
            f"From scratch, to the end, at small sizes ({sizes}); val mIoU and val Hmean of the "
            "best epoch. *fixed* is every setting's default; each other arm differs in what it is "
            "named by.\n",
            "Means over seeds, and the gain seed by seed, mean (worst to best):\n",
            table(["", "arm", "best", "last", "gain"], means),
            "\nEach seed, with the learned weights after the last epoch (fixed: CamVid pixel 0.6, "
            "region 0.4; SROIE pixel 5, threshold 10, dice 1):\n",
            table(["", "arm", "seed", "best", "last", "weights"], seeds),
            "",
        ]
    )


if __name__ == "__main__":
    main()
