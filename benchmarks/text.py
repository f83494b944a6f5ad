"""What photometric augmentation and freer decoding bring to a text detector, over seeds.

    python -m benchmarks.text --to benchmarks/text.md
    python -m benchmarks.text --photometric none strong --seeds 1 --epochs 2

SROIE receipts at 640, DBNet/resnet18 + FPN from scratch, as long as the trials of
examples/sroie.yaml, each seed once with each strength of `data.photometric`. No step depends on how
maps are decoded, so one run serves all ways to: after each epoch val is decoded as it was until
`defaults: 2`, with `decode.unclip_ratio` from 1.0 on, and with `decode.thresh` free, too.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.report import called, heading, parser, publish, spread, table
from spaces.space import Free
from spaces.spec import StudySpec
from spaces.text_detection import TextDetectionConfig
from trainers.dbnet.perfect import perfect_scores
from trainers.tasks import load_data
from trainers.text_data import TextData
from trainers.text_detection import PageOutput, TextDetectionTask
from trainers.train import TrainingRun

SROIE = Path(__file__).resolve().parents[1] / "examples" / "sroie.yaml"
SETTINGS = {
    "data.resolution": 640,
    "data.augment": "light",
    "model.encoder": "resnet18",
    "model.encoder_weights": None,
    "model.decoder": "fpn",
    "model.inner": 64,
    "model.out": 16,
    "train.batch_size": 2,
    "train.patience": 0,
    "optim.lr": 3e-3,
    "optim.encoder_lr_ratio": 1.0,
}
CUTS = Free(0.1, 0.9, 0.05)
BEFORE = {"decode.box_thresh": CUTS, "decode.unclip_ratio": Free(1.5, 3.0, 0.25)}
LOWER = {"decode.box_thresh": CUTS, "decode.unclip_ratio": Free(1.0, 3.0, 0.25)}
WAYS = {
    "unclip from 1.5": BEFORE,
    "unclip from 1.0": LOWER,
    "thresh free, too": {**LOWER, "decode.thresh": Free(0.1, 0.6, 0.1)},
}
"""{name: what is free}; the last one contains the others."""
ORDER = ("thresh", "unclip_ratio", "box_thresh")  # of the axes of counts
RATIOS = [1.0, 1.25, 1.5, 1.75, 2.0, 2.5]  # of the table of perfect targets


@dataclass
class Trained:
    """Of one run: {way: Hmean of each epoch}, where it was decoded best, and how long that took.

    Attributes:
        crossed: as `hmeans`, but each page is scored at the setting that is best for the others of
            two halves of val.
        chosen: {way: {setting: value} of the best epoch}.
    """

    photometric: str
    seed: int
    hmeans: dict[str, list[float]]
    crossed: dict[str, list[float]]
    chosen: dict[str, dict[str, float]]
    decode_seconds: dict[str, list[float]]

    def best(self, way: str) -> float:
        """Hmean of the best epoch."""
        return max(self.hmeans[way])

    def best_crossed(self, way: str) -> float:
        """The crossed Hmean of that epoch."""
        return self.crossed[way][int(np.argmax(self.hmeans[way]))]


def main() -> None:
    """Train, and publish the report."""
    given = parser(__doc__ or "")
    strengths = ("none", "light", "medium", "strong")
    given.add_argument("--photometric", nargs="+", default=strengths, choices=strengths)
    given.add_argument("--seeds", type=int, default=3)
    given.add_argument("--epochs", type=int, default=8)
    given.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="other settings")
    given.add_argument(
        "--runs", type=Path, help="file of ended runs of these settings, to go on where it was"
    )
    options = given.parse_args()
    changes = {
        name: json.loads(value) for name, _, value in (s.partition("=") for s in options.set)
    }
    config = TextDetectionConfig().replace({**SETTINGS, "train.epochs": options.epochs, **changes})
    data = load_data(StudySpec.load(SROIE).data)
    assert isinstance(data, TextData)
    runs: Path = options.runs or Path(os.devnull)
    lines = runs.read_text().splitlines() if runs.exists() else []
    known = [Trained(**json.loads(line)) for line in lines]
    ended = {(run.photometric, run.seed): run for run in known}
    found = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SEGTUNE_HOME"] = f"{folder}/home"
        for seed in range(options.seeds):
            for photometric in options.photometric:
                if (photometric, seed) not in ended:
                    arm = config.replace({"data.photometric": photometric, "train.seed": seed})
                    ended[photometric, seed] = trained(arm, data)
                    with runs.open("a") as file:
                        print(json.dumps(asdict(ended[photometric, seed])), file=file)
                found.append(ended[photometric, seed])
                print(photometric, seed, {way: found[-1].best(way) for way in WAYS}, flush=True)
    publish(report(found, targets(data, config.data.resolution), called("text")), options.to)


def trained(config: TextDetectionConfig, data: TextData) -> Trained:
    """Train to the end, and decode val in all ways after each epoch."""
    names = list(WAYS)
    made = Trained(
        config.data.photometric, config.train.seed, {n: [] for n in names}, {n: [] for n in names},
        {}, {n: [] for n in names},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        run = TrainingRun(config, data, Path(folder), {}).build()
        assert isinstance(run.task, TextDetectionTask)
        for _ in range(config.train.epochs):
            reason = run.train_epoch(lambda: None)
            assert reason is None, reason
            run.finish_epoch()
            outputs = list(run.task.outputs(run.validated, "val"))
            for name, free in WAYS.items():
                _decode(run.task, free, outputs, name, made)
        run.deliver()
    return made


def _decode(
    task: TextDetectionTask,
    free: dict[str, Free],
    outputs: list[tuple[PageOutput, dict[str, float]]],
    name: str,
    made: Trained,
) -> None:
    """Add what an epoch comes to, decoded in one way."""
    fixed, task.free = task.free, free
    began = time.perf_counter()
    pages, grids = [output for output, _ in outputs], task.grids()
    counts = []  # (N, R, T, 1, 3) of each thresh
    for thresh in grids["decode.thresh"]:
        candidates = [task.found(page, grids, thresh) for page in pages]
        tried = task.tried(thresh, candidates, [page.truth for page in pages], grids)
        counts += [one.counts for one in tried.values()]
    made.decode_seconds[name].append(time.perf_counter() - began)
    hmean, where, crossed = chosen_and_crossed(np.stack(counts, axis=1)[..., 0, :])
    if hmean > max(made.hmeans[name], default=-1.0):
        made.chosen[name] = {
            setting: round(grids[f"decode.{setting}"][index], 3)
            for setting, index in zip(ORDER, where, strict=True)
        }
    made.hmeans[name].append(hmean)
    made.crossed[name].append(crossed)
    task.free = fixed


def chosen_and_crossed(counts: np.ndarray) -> tuple[float, tuple[int, ...], float]:
    """The best setting's Hmean, which setting that is, and the Hmean without choosing on itself.

    Args:
        counts: (N, settings..., 3): matches, truths, detections of N pages.

    Returns:
        The highest pooled Hmean; its place among the settings; the pooled Hmean of the pages at odd
        places, at the setting that is best for those at even places, and the other way round.
    """
    hmeans = _hmeans(counts.sum(axis=0))
    place = np.unravel_index(int(hmeans.argmax()), hmeans.shape)
    halves = [counts[::2].sum(axis=0), counts[1::2].sum(axis=0)]
    pooled = sum(
        other[np.unravel_index(int(_hmeans(half).argmax()), hmeans.shape)]
        for half, other in (halves, halves[::-1])
    )
    return float(hmeans.max()), tuple(map(int, place)), float(_hmeans(np.asarray(pooled)))


def _hmeans(counts: np.ndarray) -> np.ndarray:
    matches, truths, detections = np.moveaxis(counts.astype(float), -1, 0)
    return np.asarray(2 * matches / np.maximum(truths + detections, 1))


def targets(data: TextData, resolution: int) -> dict[str, list[float]]:
    """Hmean of val's perfect target maps at each of RATIOS: as they are, and a pixel larger."""
    pages = [(data.sizes[page.image], data.truth(page)) for page in data.split("val")]
    return {
        name: [one.hmean for one in perfect_scores(pages, resolution, RATIOS, grown=grown)]
        for name, grown in (("as they are taught", 0), ("each kernel a pixel larger", 1))
    }


def report(found: Sequence[Trained], perfect: dict[str, list[float]], command: str) -> str:
    """The Markdown report."""
    strengths = list(dict.fromkeys(run.photometric for run in found))
    first, plain = strengths[0], next(iter(WAYS))
    by = {(run.photometric, run.seed): run for run in found}
    seeds = sorted({run.seed for run in found})
    hmeans, crossed, gains, every = [], [], [], []
    for strength in strengths:
        runs = [by[strength, seed] for seed in seeds]
        hmeans.append([strength, *(spread([r.best(way) for r in runs], 4) for way in WAYS)])
        crossed.append([strength, *(spread([r.best_crossed(w) for r in runs], 4) for w in WAYS)])
        for way in WAYS:
            if (strength, way) != (first, plain):
                against = [by[first, seed].best(plain) for seed in seeds]
                steps = [run.best(way) - b for run, b in zip(runs, against, strict=True)]
                gains.append([strength, way, *map("{:+.4f}".format, steps), signed(steps)])
        for run in runs:
            for way in WAYS:
                at = ", ".join(f"{name} {value:g}" for name, value in run.chosen[way].items())
                curve = " ".join(f"{value:.3f}" for value in run.hmeans[way])
                every.append([strength, str(run.seed), way, curve, at])
    cost = ", ".join(
        f"{spread([s for run in found for s in run.decode_seconds[way]], 1)} s ({way})"
        for way in WAYS
    )
    kernels = [[name, *(f"{hmean:.3f}" for hmean in of)] for name, of in perfect.items()]
    epochs = len(found[0].hmeans[plain])
    columns = ["data.photometric", *WAYS]
    return f"""\
{heading("Text detection: photometric augmentation and freer decoding", command, gpu=True)}
SROIE receipts, longer side 640, DBNet/resnet18 + FPN from scratch, `data.augment: light`, batch 2,
{epochs} epochs, {len(seeds)} seeds; val has 25 pages, and with so few a difference below about 0.08
cannot be told from the draw of pages. Nothing but the named settings differs between the runs of a
seed. *unclip from 1.5*: `box_thresh` and `unclip_ratio` swept as until `defaults: 2`, `thresh` 0.3;
*unclip from 1.0*: as by default now; *thresh free, too*: 0.1 to 0.6 by 0.1.

Val Hmean of the best epoch, median (lowest to highest) over seeds:

{table(columns, hmeans)}

The same epochs, but every page scored at the setting that is best for the other half of val, so
that no page chooses for itself:

{table(columns, crossed)}

Seed by seed, less {first} with {plain}; mean (lowest to highest):

{table(["data.photometric", "decoded", *(f"seed {seed}" for seed in seeds), "mean"], gains)}

## What it costs

Of an image: benchmarks/augment.md. Decoding the 25 pages of val after an epoch: {cost}.

## Perfect targets

What the target maps of val decode to, by `decode.unclip_ratio`. It is no bound on a model: kernels
that are a pixel larger than they are taught decode better, and models draw such kernels. It says
how small text is at this size.

{table(["kernels", *map("{:g}".format, RATIOS)], kernels)}

## Each run

Hmean of each epoch, and the setting of the best one.

{table(["data.photometric", "seed", "decoded", "epochs", "at"], every)}
"""


def signed(differences: Sequence[float]) -> str:
    """Return `mean (lowest to highest)`."""
    low, mean, high = min(differences), statistics.fmean(differences), max(differences)
    return f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"


if __name__ == "__main__":
    main()
