"""What it costs to begin: `segtune --help`, a worker, a trial in its own process, the next trial.

    python -m benchmarks.start [--trials 8] [--to FILE]

A worker is ready when it has claimed its first trial; `segtune worker` is started for that as a
user would, beside a Postgres that runs. A trial's start is the time from the supervisor's call to
the end of the first training step: fork, model, optimiser, data; the first one also imports torch
and decodes the images. The gap between two trials is what a GPU would idle: from the message that
one has ended to the first step of the next, with result, tidying, claim and sampling in between,
while pictures and notes of the one before are made beside it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.home import own_home
from benchmarks.report import heading, parser, publish, spread, table

SEGTUNE = str(Path(sys.executable).with_name("segtune"))
STUDY = """\
name: {name}
task: segmentation
data:
  train: {{images: {data}/train/images, masks: {data}/train/masks}}
  val: {{images: {data}/val/images, masks: {data}/val/masks}}
  classes: {data}/classes.json
space:
  train.epochs: {epochs}
  train.patience: 0
  health.grad_norm: 0
  data.resolution: 64x96
  model.arch: Unet
  model.encoder: resnet18
  model.encoder_weights: null
  optim.lr: {{low: 1e-4, high: 1e-2, log: true}}
  optim.weight_decay: {{low: 1e-5, high: 1e-1, log: true}}
use_default_space: false
use_starting_points: false
budget: {{trials: {trials}}}
pruner: none
confirm: none
"""


def main() -> None:
    """Print every figure: median (minimum to maximum)."""
    options = parser(__doc__)
    options.add_argument("--trials", type=int, default=8)
    given = options.parse_args()
    with own_home() as folder:
        from search.database.store import open_store
        from search.samples.streets import write_streets

        write_streets(folder / "data", train=16, val=4)
        helps = _help_seconds(7)
        first, *later = _start_seconds(folder, given.trials)
        store = open_store()  # keeps the server up
        ready = _ready_seconds(store, folder, 5)
        gaps = _gap_seconds(store, folder, given.trials)
        store.close()
    rows = [
        ["`segtune --help`", spread(helps, unit="s")],
        ["a worker is ready", spread(ready, unit="s")],
        ["the first trial's first step", f"{first:.2f} s"],
        ["a later trial's first step", spread(later, unit="s")],
        ["the gap between two trials", spread(gaps, unit="s")],
    ]
    text = (
        heading("What it costs to begin", "start")
        + f"\nU-Net/resnet18 at 64x96, 16 images; median (smallest to largest); {given.trials} "
        + f"trials.\n\n{table(['what', 'time'], rows)}\n"
    )
    publish(text, given.to)


def _help_seconds(runs: int) -> list[float]:
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run([SEGTUNE, "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    return seconds


def _start_seconds(folder: Path, trials: int) -> list[float]:
    """Wall time until each trial has taken one step; told to stop, it ends there."""
    from search.work.child import Alive, Done, Resumed, TrialProcess

    data, config = _data_and_config(folder)
    seconds = []
    for number in range(trials):
        began = time.perf_counter()
        child = TrialProcess(config, data, folder / f"trial-{number}", {})
        child.stop("started")
        message = child.receive(60)
        while isinstance(message, Resumed):  # it begins; its first step follows
            message = child.receive(60)
        seconds.append(time.perf_counter() - began)
        assert isinstance(message, Alive), message
        while not isinstance(message, Done):
            message = child.receive(60)
        assert message.result.reason == "started"
        child.join()
    return seconds


def _ready_seconds(store: Any, folder: Path, runs: int) -> list[float]:
    """Wall time until `segtune worker` says that its first trial has started."""
    seconds = []
    for run in range(runs):
        name = _create(store, folder, f"ready-{run}", trials=1, epochs=1)[0].spec.name
        began = time.perf_counter()
        with subprocess.Popen(
            [SEGTUNE, "worker", "--study", name, "--until-idle", "--artifacts", str(folder / "a")],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        ) as worker:
            assert worker.stdout is not None
            for line in worker.stdout:
                if "trial 0 started" in line:
                    seconds.append(time.perf_counter() - began)
        assert worker.returncode == 0 and len(seconds) == run + 1, (worker.returncode, seconds)
    return seconds


def _gap_seconds(store: Any, folder: Path, trials: int) -> list[float]:
    """From the end of each trial to the first step of the next, in the worker's own loop."""
    from search.files.artifacts import Artifacts
    from search.work.child import Alive, Done, TrialProcess
    from search.work.service import new_worker
    from search.work.watchers import Interrupt
    from tests.scripted import Quiet

    times: list[tuple[str, float]] = []

    class Timed(TrialProcess):
        def receive(self, timeout: float) -> Any:
            message = super().receive(timeout)
            if isinstance(message, Alive | Done):
                times.append((type(message).__name__, time.perf_counter()))
            return message

    study, data = _create(store, folder, "gaps", trials=trials + 1, epochs=3)
    artifacts = Artifacts(folder / "a")
    assert new_worker(study, data, artifacts, Quiet(), Interrupt(), make_child=Timed).run()
    assert [kind for kind, _ in times] == ["Alive", "Done"] * (trials + 1), times
    ends, steps = times[1:-1:2], times[2::2]
    return [step - end for (_, end), (_, step) in zip(ends, steps, strict=True)]


def _create(store: Any, folder: Path, name: str, *, trials: int, epochs: int) -> tuple[Any, Any]:
    """(a new study, its data)."""
    from search.studies.study import create_or_resume
    from spaces.spec import StudySpec
    from trainers.tasks import load_data

    path = folder / f"{name}.yaml"
    path.write_text(STUDY.format(name=name, data=folder / "data", trials=trials, epochs=epochs))
    spec = StudySpec.load(path)
    data = load_data(spec.data)
    return create_or_resume(store, spec, data.fingerprint, None), data


def _data_and_config(folder: Path) -> tuple[Any, Any]:
    from spaces.spec import StudySpec
    from trainers.tasks import load_data

    path = folder / "start.yaml"
    path.write_text(STUDY.format(name="start", data=folder / "data", trials=1, epochs=1))
    spec = StudySpec.load(path)
    return load_data(spec.data), spec.search_space().base


if __name__ == "__main__":
    main()
