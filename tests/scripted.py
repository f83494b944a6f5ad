"""Trials that train nothing: everything but the training is real.

For tests and for benchmarks of the store: what one holds, the other measures.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.files.artifacts import Artifacts
from search.studies.study import Study
from search.work.service import new_worker as worker_of
from search.work.supervision import Timing
from search.work.watchers import Interrupt
from search.work.worker import Worker
from spaces.spec import StudySpec
from tests.fake_child import FakeChild
from trainers.report import EpochReport

EPOCHS, PARAMETERS = 30, 10
SPACE = {
    "optim.lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "optim.weight_decay": {"low": 1e-5, "high": 1e-1, "log": True},
    "optim.encoder_lr_ratio": {"low": 0.05, "high": 1.0, "log": True},
    "optim.warmup_epochs": {"low": 0, "high": 3},
    "loss.warmup_epochs": {"low": 0, "high": 5},
    "loss.region_share": {"low": 0.0, "high": 0.8},
    "loss.label_smoothing": {"low": 0.0, "high": 0.1},
    "loss.region": ["dice", "tversky", "jaccard"],
    "optim.schedule": ["cosine", "poly"],
    "train.batch_size": [4, 8, 16],
}


def make_spec(
    folder: Path,
    name: str,
    *,
    trials: int,
    sampler: Any = "tpe",
    pruner: Any = "ended_median",
    confirm: Any = None,
) -> StudySpec:
    """A study of EPOCHS epochs and PARAMETERS parameters."""
    assert len(SPACE) == PARAMETERS
    tree = {
        "name": name,
        "task": "segmentation",
        "data": {
            split: {"images": f"{folder}/{split}/images", "masks": f"{folder}/{split}/masks"}
            for split in ("train", "val")
        }
        | {"classes": ["road", "other"]},
        "space": {"train.epochs": EPOCHS, **SPACE},
        "use_default_space": False,
        "use_starting_points": False,
        "sampler": sampler,
        "pruner": pruner,
        "budget": {"trials": trials},
        "confirm": confirm,
    }
    return StudySpec.of(tree)


def curve(rng: random.Random, epochs: int = EPOCHS) -> list[float]:
    """A learning curve: it rises and levels off, with noise."""
    top, speed = rng.uniform(0.2, 0.8), rng.uniform(0.7, 0.95)
    return [
        round(max(0.0, top * (1 - speed ** (e + 1)) + rng.gauss(0, 0.01)), 6) for e in range(epochs)
    ]


@dataclass
class Quiet:
    """A watcher that says nothing; what goes wrong is raised."""

    ended: list[tuple[int, str]] = field(default_factory=list)

    def trial_started(self, number: int, config: Any, attempt: int) -> None: ...

    def trial_resumed(self, number: int, epoch: int, dropped: int) -> None: ...

    def epoch_ended(self, number: int, report: EpochReport) -> None: ...

    def trial_ended(
        self, number: int, state: str, reason: str, value: float | None, epochs: int
    ) -> None:
        self.ended.append((number, reason))

    def store_away(self, error: BaseException) -> None:
        raise error

    def paused(self, message: str) -> None:
        raise RuntimeError(message)

    def not_shown(self, number: int | None, problem: str) -> None:
        raise RuntimeError(problem)


class NoData:
    """Data that nobody looks at."""

    splits: dict[str, Any] = {}  # noqa: RUF012 - never changed
    fingerprint = "f" * 64
    folds = ()


def new_worker(study: Study, artifacts: Path, **settings: Any) -> Worker:
    """A worker that leaves out what the clock alone asks of the store; `settings` of `Worker`.

    Its trials train nothing within `scripted`.
    """
    settings = {"timing": Timing(look=math.inf), **settings}
    return worker_of(
        study,
        NoData(),
        Artifacts(artifacts),
        Quiet(),
        Interrupt(),
        **settings,  # type: ignore[arg-type]
    )


@contextmanager
def scripted(
    worker: Worker, script: Callable[[], Sequence[float]], model: Path | None = None
) -> Iterator[None]:
    """Let a worker's trials train nothing: each has the metrics that `script` gives next."""
    before = worker.make_child
    worker.make_child = lambda *given: FakeChild(script(), model=model)
    yield
    worker.make_child = before
