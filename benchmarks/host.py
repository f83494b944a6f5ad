"""What the host does for a training step on a GPU, apart from the network: loading, batches, loss.

    python -m benchmarks.host --to benchmarks/host.md
    python -m benchmarks.host --beside ../before         # and that tree's, in turns
    python -m benchmarks.host --pages ../shared/data/sroie   # real receipts, not drawn ones

On the GPU that computes nothing (tests/gpu/nop): kernels cost nothing there, so what is left is the
host's. One thread, no loader processes; the network is a stub whose logits cost nothing. Streets at
256x256 and receipts at 640, batch 8, are drawn unless given. Needs a C compiler.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.report import called, heading, parser, publish, spread, table

HERE = Path(__file__).resolve().parents[1]
TURNS, EPOCHS, BATCH = 5, 3, 8
STREETS, PAGES = 32, 16


def main() -> None:
    """Measure each tree in turn, and write the report."""
    given = parser(__doc__ or "")
    given.add_argument("--beside", type=Path, help="another tree of this project")
    given.add_argument("--pages", type=Path, help="a folder with train/ and val/ of receipts")
    options = given.parse_args()
    trees = {"this": HERE}
    if options.beside is not None:
        trees = {"before": options.beside.resolve(), **trees}
    with tempfile.TemporaryDirectory(prefix="segtune-host-") as folder:
        if options.pages is not None:
            (Path(folder) / "receipts").symlink_to(options.pages.resolve())
        found = measure(trees, Path(folder))
    publish(report(found, called("host")), options.to)


def measure(trees: dict[str, Path], folder: Path) -> dict[str, list[dict[str, float]]]:
    """{tree: what each turn took}."""
    from tests.gpu.nop.device.build import SOURCES, environment

    env = {**os.environ, **environment(folder), "SEGTUNE_HOME": str(folder / "home")}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    for _ in range(TURNS):
        for name, tree in trees.items():
            said = subprocess.run(
                [sys.executable, __file__, str(folder)],
                cwd=tree,
                env={**env, "PYTHONPATH": f"{SOURCES}{os.pathsep}{tree}"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert said.returncode == 0, said.stderr
            found[name].append(json.loads(said.stdout.splitlines()[-1]))
    return found


def report(found: dict[str, list[dict[str, float]]], command: str) -> str:
    """The Markdown report: medians with ranges, and ratios turn by turn."""
    names = list(found)
    rows = []
    for what in found[names[0]][0]:
        each = [[turn[what] for turn in found[name]] for name in names]
        row = [what, *(spread(values, 2, "ms") for values in each)]
        if len(names) > 1:
            ratios = [old / new if new else float("inf") for old, new in zip(*each, strict=True)]
            row.append(spread(ratios, 1))
        rows.append(row)
    columns = ["what", *names, *(["times as fast"] if len(names) > 1 else [])]
    return (
        heading("Host work of a training step", command)
        + f"\nMedians with ranges of {TURNS} turns; one thread, batch {BATCH}, on the GPU that "
        "computes nothing. *A step*: everything but the network and the optimiser, whose weights "
        "have no gradient here; *batches*: until a batch is on its way to the device.\n\n"
        + table(columns, rows)
        + "\n"
    )


# ---------------------------------------------------------------- in a tree's own process


def _inner(folder: Path) -> None:
    """Print what this tree's code takes, as JSON."""
    import cv2
    import torch

    from search.samples.receipts import write_receipts
    from search.samples.streets import CLASSES, write_streets
    from spaces.config import SegmentationConfig
    from spaces.data import SegmentationDataSpec, TextDetectionDataSpec
    from spaces.text_detection import TextDetectionConfig

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    streets, receipts = folder / "streets", folder / "receipts"
    if not streets.exists():
        write_streets(streets, train=STREETS, val=8)
    if not receipts.exists():
        write_receipts(receipts, train=PAGES, val=2, size=(1280, 800))
    common = {
        "model.encoder": "resnet18",
        "model.encoder_weights": None,
        "train.batch_size": BATCH,
        "train.workers": 0,
        "train.precision": "bf16",
    }
    text = {**common, "data.resolution": 640, "data.augment": "medium"}
    found = {
        **_times(
            "segmentation",
            SegmentationConfig().replace({**common, "data.resolution": "256x256"}),
            SegmentationDataSpec.model_validate(
                {**_splits(streets, "masks"), "classes": list(CLASSES), "ignore_index": 255}
            ),
            len(CLASSES),
        ),
        **_times(
            "text",
            TextDetectionConfig().replace(text),
            TextDetectionDataSpec.model_validate(_splits(receipts, "labels")),
            2,
        ),
    }
    print(json.dumps(found))


def _splits(folder: Path, truth: str) -> dict[str, Any]:
    return {
        split: {"images": f"{folder}/{split}/images", truth: f"{folder}/{split}/{truth}"}
        for split in ("train", "val")
    }


def _times(name: str, config: Any, spec: Any, channels: int) -> dict[str, float]:
    """Milliseconds a step."""
    from trainers.tasks import load_data
    from trainers.train import TrainingRun

    run: Any = TrainingRun(config, load_data(spec), Path(tempfile.mkdtemp()), {})
    if hasattr(run, "build"):  # an older tree does it at once
        run.build()
    weight = next(value for value in run.model.parameters() if value.ndim == 1)
    run.task.run = lambda model, images: (
        weight[:1].view(1, 1, 1, 1).expand(len(images), channels, *images.shape[-2:])
    )
    run.optimizer.step = lambda *given, **named: None
    steps = run.task.steps_per_epoch

    def batches() -> None:
        for _ in run.task.batches(0):
            pass

    def epoch() -> None:
        run.history.clear()
        run.train_epoch(lambda: None)

    return {
        f"{name}, batches": _best(batches) / steps,
        f"{name}, a step": _best(epoch) / steps,
    }


def _best(work: Callable[[], None]) -> float:
    """Milliseconds, the median of some calls after a first one."""
    work()
    times = []
    for _ in range(EPOCHS):
        began = time.perf_counter()
        work()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


if __name__ == "__main__":
    if len(sys.argv) == 2 and Path(sys.argv[1]).is_dir():
        _inner(Path(sys.argv[1]))
    else:
        main()
