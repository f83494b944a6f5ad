"""Record real learning curves: random configs of the default space, trained in full by our trainer.

    python research/early-stopping/record.py --table camvid    # 90 minutes on two cores

There are three tables: of streets that drive (CamVid), of drawn streets, and of receipts (SROIE,
text detection). Each line of a table is one config: its drawn parameters, the epoch at which its
warm-up ended, and for every epoch the validation metric at original image size and the CPU seconds
that it took in a process of one thread (so that what else the machine did does not count). Config i
is the draw of seed i, and its weights and batches have seed i too. A run that is ended goes on
where it was: configs that the table holds are not trained again.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import argparse
import fcntl
import json
import math
import multiprocessing
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import yaml

from search.samples.streets import write_streets
from spaces.space import Space
from spaces.spec import StudySpec
from trainers.report import EpochReport

HERE = Path(__file__).resolve().parent
TABLES = {"camvid": 100, "streets": 100, "receipts": 60}
"""{table: its configs}; NAME.yaml says what is trained, NAME.jsonl is the table."""
DRAWN = HERE / "drawn-streets"  # images of `streets`, made here


def main() -> None:
    """Train what the table lacks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", choices=TABLES, default="camvid")
    parser.add_argument("--configs", type=int, help="of the table; by default as many as it has")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if args.table == "streets" and not DRAWN.exists():
        write_streets(DRAWN)
    wanted = range(args.configs or TABLES[args.table])
    missing = sorted(set(wanted) - {row["config"] for row in _rows(args.table)})
    context = multiprocessing.get_context("spawn")
    with context.Pool(args.workers, maxtasksperchild=4) as pool:
        for row in pool.imap_unordered(partial(record, args.table), missing):
            best = max((value for value in row["metric"] if value is not None), default=math.nan)
            print(f"config {row['config']}: best {best:.4f}", flush=True)


def record(table: str, number: int) -> dict[str, Any]:
    """Train config `number` and append its row to a table."""
    import torch

    from search.stopping.rules import warmup_end
    from trainers.tasks import load_data
    from trainers.train import train

    torch.set_num_threads(1)
    spec = StudySpec.load(HERE / f"{table}.yaml")
    space = spec.search_space()
    params, config = draw(space, number)
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        data = load_data(spec.data)
        result = train(config, data, Path(folder), clock.epoch, free=space.free())
    row = {
        "config": number,
        "params": params,
        "warmup": warmup_end(config),
        "reason": result.reason,
        "metric": [_finite(report.metric) for report in result.history],
        "cpu_seconds": clock.seconds,
    }
    with open(HERE / f"{table}.jsonl", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(row) + "\n")
    return row


def draw(space: Space, number: int) -> tuple[dict[str, Any], Any]:
    """Return the parameters and the whole config of a random draw."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=number))
    trial = study.ask()
    config = space.sample(trial)
    return dict(trial.params), config.replace({"train.seed": number})


def space(table: str = "camvid") -> Space:
    """Return what a table's configs are drawn from; it asks for no images, as no replay does."""
    return StudySpec.of(yaml.safe_load((HERE / f"{table}.yaml").read_text())).search_space()


def read_table(table: str = "camvid") -> list[dict[str, Any]]:
    """The rows of a table, by config."""
    return [row for row in _rows(table) if row["config"] < TABLES[table]]


def _rows(table: str) -> list[dict[str, Any]]:
    path = HERE / f"{table}.jsonl"
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted(rows, key=lambda row: int(row["config"]))


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


class _Clock:
    """CPU seconds of this process, epoch by epoch."""

    def __init__(self) -> None:
        self.last = time.process_time()
        self.seconds: list[float] = []

    def epoch(self, report: EpochReport) -> None:
        now = time.process_time()
        self.seconds.append(round(now - self.last, 2))
        self.last = now


if __name__ == "__main__":
    main()
