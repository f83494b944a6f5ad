"""What a GPU does with segtune: its figures, beside what a user would write, into one file.

    make gpu-check                       # the tests of tests/gpu/real, then this
    python -m benchmarks.gpu             # writes benchmarks/gpu-<card>.md

Segmentation as in benchmarks/throughput.py, at 256x256 and 512x512. Text detection: DBNet/resnet18
from scratch at 640, batch 8, with the training's own images a second. CamVid and SROIE where
examples/*.yaml name them; where they are absent, drawn streets and receipts.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.report import heading, parser, publish, spread, table
from benchmarks.throughput import measured_report
from search.findings.versions import versions
from search.samples.receipts import write_receipts
from search.samples.streets import write_streets
from spaces.data import TextDetectionDataSpec
from spaces.errors import InputError
from spaces.spec import StudySpec
from spaces.text_detection import TextDetectionConfig
from trainers.devices import device_name, pick_device
from trainers.report import EpochReport
from trainers.tasks import load_data
from trainers.train import train

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Measure and write the report; exit code 2 where there is no GPU to measure."""
    given = parser(__doc__ or "")
    given.add_argument("--resolution", nargs="+", default=["256x256", "512x512"])
    given.add_argument("--text", type=int, default=640, help="longer side of a page (640)")
    given.add_argument("--epochs", type=int, default=7, help="of each loop in a round (7)")
    given.add_argument("--pairs", type=int, default=3, help="rounds, each with its seed (3)")
    options = given.parse_args()
    with tempfile.TemporaryDirectory(prefix="segtune-gpu-") as folder:
        os.environ["SEGTUNE_HOME"] = folder
        try:
            device = pick_device()
            if device.type != "cuda":
                raise InputError("there is no GPU here to measure; see: segtune doctor")
            text = report(options, Path(folder), device)
        except InputError as error:
            print(error, file=sys.stderr)
            sys.exit(2)
    card = re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")
    publish(text, options.to or ROOT / "benchmarks" / f"gpu-{card}.md")


def report(options: argparse.Namespace, folder: Path, device: torch.device) -> str:
    """The Markdown report."""
    found = ", ".join(f"{name} {version}" for name, version in versions().items())
    memory = torch.cuda.get_device_properties(device).total_memory / 2**30
    head = heading(f"segtune on {device_name(device)}", "gpu", gpu=True)
    driver = f"{memory:.0f} GiB; CUDA {torch.version.cuda}; {found}"
    return "\n".join([head, driver, "", segmentation(options, folder), text(options, folder)])


def segmentation(options: argparse.Namespace, folder: Path) -> str:
    """What benchmarks/throughput.py says, as a section."""
    data = None
    if not (ROOT / "../shared/data/camvid").exists():
        data = write_streets(folder / "streets", train=200, val=50)
    given = argparse.Namespace(
        data=data,
        resolution=options.resolution,
        epochs=options.epochs,
        pairs=options.pairs,
        per_gpu=None,
    )
    said = measured_report(given, folder).partition("\n")[2].replace("\n## ", "\n### ")
    return f"## Segmentation{' (drawn streets)' if data else ''}\n{said}"


def text(options: argparse.Namespace, folder: Path) -> str:
    """Images a second and memory of DBNet's training."""
    spec, what = _receipts(folder)
    config = TextDetectionConfig().replace(
        {
            "model.encoder": "resnet18",
            "model.encoder_weights": None,
            "data.resolution": options.text,
            "train.batch_size": 8,
            "train.epochs": options.epochs,
            "optim.encoder_lr_ratio": 1.0,
            "health.trivial": 0.0,
            "health.grad_norm": 0.0,
        }
    )
    epochs: list[EpochReport] = []
    train(config, load_data(spec), folder / "text", epochs.append)
    rest = epochs[1:]  # the first one warms up
    rows = [
        [
            config.train.precision,
            spread([epoch.images_per_s for epoch in rest], 1),
            spread([epoch.seconds for epoch in rest], 2, "s"),
            spread([epoch.peak_memory_mb for epoch in rest], 0, "MiB"),
        ]
    ]
    columns = ["precision", "train images a second", "whole epoch", "peak memory"]
    return f"## Text detection at {options.text} ({what})\n\n{table(columns, rows)}\n"


def _receipts(folder: Path) -> tuple[TextDetectionDataSpec, str]:
    """The data of examples/sroie.yaml, else drawn ones; and what they are."""
    if (ROOT / "../shared/data/sroie").exists():
        spec = StudySpec.load(ROOT / "examples" / "sroie.yaml").data
        assert isinstance(spec, TextDetectionDataSpec)
        return spec, "SROIE"
    drawn = write_receipts(folder / "receipts", train=64, val=16, size=(1280, 720))
    splits = {
        split: {"images": f"{drawn}/{split}/images", "labels": f"{drawn}/{split}/labels"}
        for split in ("train", "val")
    }
    return TextDetectionDataSpec.model_validate(splits), "drawn receipts"


if __name__ == "__main__":
    main()
