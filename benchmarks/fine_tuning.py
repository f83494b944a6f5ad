"""How soon a run that begins with an exported model is where one from scratch is later.

    python -m benchmarks.fine_tuning --to benchmarks/fine_tuning.md

CamVid, U-Net/resnet18 at 64x96. A model is trained and exported, and runs of 3 epochs begin with it
(`model.init`), beside runs from scratch. Once all of them train on the same images; and once the
exported model has seen the first half of them (by name: other drives), and the runs train on the
second.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.report import called, heading, parser, publish, table
from search.retrain import retrain
from spaces.config import SegmentationConfig
from spaces.data import SegmentationDataSpec
from spaces.spec import StudySpec
from trainers.data import SegmentationData
from trainers.tasks import load_data
from trainers.train import train

CAMVID = Path(__file__).resolve().parents[1] / "examples" / "camvid.yaml"
EPOCHS, TUNED = 12, 3
EXPORT_SEED = 100  # of no run beside it
SETTINGS = {
    "model.arch": "Unet",
    "model.encoder": "resnet18",
    "model.encoder_weights": None,
    "data.resolution": "64x96",
    "data.augment": "light",
    "train.batch_size": 8,
    "train.patience": 0,
    "optim.lr": 2e-3,
    "optim.encoder_lr_ratio": 1.0,
    "loss.warmup_epochs": 1,
    "loss.ramp_epochs": 1,
}


@dataclass(frozen=True)
class Pair:
    """The metric of each epoch of a seed's two runs."""

    scratch: Sequence[float]
    tuned: Sequence[float]

    @property
    def reached(self) -> int | None:
        """The first epoch from scratch that is as good as the first one of fine-tuning."""
        good = (n for n, value in enumerate(self.scratch, 1) if value >= self.tuned[0])
        return next(good, None)


def main() -> None:
    """Measure and publish the report."""
    given = parser(__doc__ or "")
    given.add_argument("--seeds", type=int, default=3, help="pairs of runs")
    options = given.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["SEGTUNE_HOME"] = f"{folder}/home"
        spec = StudySpec.load(CAMVID).data
        assert isinstance(spec, SegmentationDataSpec)
        first, second = halves(spec, folder)
        for title, exported, trained in (
            ("the same images", spec, spec),
            ("the other half of the images", first, second),
        ):
            found[title] = measure(exported, trained, folder / title, range(options.seeds))
    publish(report(found, called("fine_tuning")), options.to)


def halves(spec: SegmentationDataSpec, folder: Path) -> list[SegmentationDataSpec]:
    """The data set with the first half of the train images, by name, and with the second."""
    data = load_data(spec)
    assert isinstance(data, SegmentationData)
    samples = data.split("train")
    found = []
    for number, part in enumerate((samples[: len(samples) // 2], samples[len(samples) // 2 :])):
        listed = folder / f"half-{number}.txt"
        listed.write_text("".join(f"{one.image}\t{one.mask}\n" for one in part))
        found.append(
            SegmentationDataSpec.model_validate(
                spec.model_dump() | {"train": {"list": str(listed)}}
            )
        )
    return found


def measure(
    exported: SegmentationDataSpec, trained: SegmentationDataSpec, to: Path, seeds: Sequence[int]
) -> list[Pair]:
    """Export a model of one data set, then train each seed on the other, twice."""
    base = SegmentationConfig().replace({**SETTINGS, "train.epochs": EPOCHS})
    quiet = Console(quiet=True)
    assert retrain(exported, base.replace({"train.seed": EXPORT_SEED}), to, quiet) == 0
    found = []
    for seed in seeds:
        scratch = base.replace({"train.seed": seed})
        tuned = scratch.replace({"train.epochs": TUNED, "model.init": str(to)})
        found.append(Pair(curve(trained, scratch), curve(trained, tuned)))
        print(to.name, seed, found[-1], flush=True)
    return found


def curve(spec: SegmentationDataSpec, config: SegmentationConfig) -> list[float]:
    """Train to the end; return the metric of each epoch."""
    metrics: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        result = train(config, load_data(spec), Path(folder), lambda r: metrics.append(r.metric))
    assert result.reason == "completed", result.reason
    return metrics


def report(found: dict[str, list[Pair]], command: str) -> str:
    """The Markdown report."""
    rows, curves = [], []
    for title, pairs in found.items():
        reached = [pair.reached for pair in pairs]
        known = [epoch for epoch in reached if epoch is not None]
        rows.append(
            [
                title,
                str(min(known)) if known else f"never in {EPOCHS}",
                ", ".join(f"never in {EPOCHS}" if one is None else str(one) for one in reached),
                f"{statistics.fmean(max(pair.tuned) for pair in pairs):.4f}",
                f"{statistics.fmean(max(pair.scratch) for pair in pairs):.4f}",
            ]
        )
        for seed, pair in enumerate(pairs):
            for name, metrics in (("fine-tuned", pair.tuned), ("scratch", pair.scratch)):
                shown = [f"{value:.3f}" for value in metrics]
                curves.append([title, str(seed), name, *shown, *[""] * (EPOCHS - len(shown))])
    return "\n".join(
        [
            heading("Fine-tuning beside training from scratch", command),
            f"CamVid, val mIoU; U-Net/resnet18 at 64x96 without pretrained weights. The exported "
            f"model was trained for {EPOCHS} epochs with another seed. A run from scratch takes "
            f"{EPOCHS} epochs, one that begins with it (`model.init`) {TUNED}.\n",
            "The first epoch from scratch that is as good as the first one of fine-tuning; and the "
            "best epochs, means over seeds:\n",
            table(
                ["trained on", "worst case", "each seed", "best, fine-tuned", "best, scratch"], rows
            ),
            "\nEach epoch:\n",
            table(
                ["trained on", "seed", "run", *(str(n) for n in range(1, EPOCHS + 1))],
                curves,
            ),
            "",
        ]
    )


if __name__ == "__main__":
    main()
