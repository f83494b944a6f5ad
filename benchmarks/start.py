"""What it costs to begin: `segtune --help`, and a trial's start in its own process.

    python -m benchmarks.start

A trial's start is the time from the supervisor's call to the end of the first training step: fork,
model, optimiser, data. The first one also imports torch and decodes the images.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Print both figures: median (minimum to maximum)."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SEGTUNE_HOME"] = folder
        print("segtune --help       ", _spread(_help_seconds(7)))
        first, *later = _start_seconds(Path(folder), 8)
        print(f"first trial's start   {first:.2f} s")
        print("later trials' starts ", _spread(later))


def _help_seconds(runs: int) -> list[float]:
    script = str(Path(sys.executable).with_name("segtune"))
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run([script, "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    return seconds


def _start_seconds(folder: Path, trials: int) -> list[float]:
    """Wall time until each trial has taken one step; told to stop, it ends there."""
    from search.sample_data import write_streets
    from search.trial_process import Done, TrialProcess
    from spaces.config import TrialConfig
    from spaces.data import DataSpec
    from trainers.tasks import load_data

    write_streets(folder / "data", train=16, val=4)
    splits = {
        split: {"images": f"{folder}/data/{split}/images", "masks": f"{folder}/data/{split}/masks"}
        for split in ("train", "val")
    }
    names = ["sky", "building", "road", "pavement", "tree", "car", "pole", "person"]
    data = load_data(DataSpec.model_validate({**splits, "classes": names, "ignore_index": 255}))
    config = TrialConfig().replace(
        {
            "model.encoder": "resnet18",
            "model.encoder_weights": None,
            "data.resolution": "64x96",
            "train.epochs": 1,
        }
    )
    seconds = []
    for number in range(trials):
        began = time.perf_counter()
        child = TrialProcess(config, data, folder / f"trial-{number}", {})
        child.stop("started")
        message = None
        while not isinstance(message, Done):
            message = child.receive(0.01)
        seconds.append(time.perf_counter() - began)
        assert message.result.reason == "started"
        child.join()
    return seconds


def _spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


if __name__ == "__main__":
    main()
