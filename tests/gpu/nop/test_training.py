"""Whole runs on a GPU that computes nothing: devices of tensors, waits, forks, resuming."""

from __future__ import annotations

import tempfile
import traceback
import warnings
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import torch

from tests.gpu.nop.conftest import Nop
from tests.gpu.nop.runs import as_if_computed, blobs, receipts, run, small, small_text
from trainers import checkpoint, samples
from trainers.train import _Run

ENDS = {"completed", "patience", "health:trivial"}


def _all_kinds() -> dict[tuple[Any, ...], tuple[str, str, int]]:
    """{(task, precision, on the device or carried there, micro-batch): (reason, precision, epochs)}
    of runs that are preempted in their second epoch and resumed."""
    as_if_computed()
    found = {}
    for task, precision, stays, micro in product(
        ("segmentation", "text"), ("fp32", "bf16", "fp16"), (True, False), (None, 1)
    ):
        samples.DEVICE_SHARE = 0.25 if stays else 0.0
        changes = {
            "train.precision": precision,
            "train.micro_batch": micro,
            "train.workers": 0 if stays else 2,
        }
        config = (small if task == "segmentation" else small_text)(**changes)
        workdir, steps = Path(tempfile.mkdtemp()), 0

        def stop() -> str | None:
            nonlocal steps
            steps += 1
            return "preempted" if steps > 2 else None  # two steps an epoch

        assert run(config, workdir, should_stop=stop).reason == "preempted"
        result = run(config, workdir)
        key = task, precision, stays, micro
        found[key] = result.reason, result.hardware["precision"], len(result.history)
    return found


def test_both_tasks_in_each_precision_train_and_resume(nop: Nop) -> None:
    found = nop(_all_kinds)
    assert len(found) == 24
    for (_, precision, *_), (reason, trained, epochs) in found.items():
        assert reason in ENDS and trained == precision and epochs == 2, found


def _waits() -> dict[str, dict[str, dict[str, int]]]:
    """{run: {phase: {where the host waits for the device: how often}}}."""
    as_if_computed()
    found: dict[str, dict[str, dict[str, int]]] = {}
    where: Counter[str] = Counter()

    def heard(message: Any, *_: Any, **__: Any) -> None:
        if "called a synchronizing" in str(message):
            own = [f for f in traceback.extract_stack() if "/trainers/" in f.filename]
            where[f"{Path(own[-1].filename).name}:{own[-1].name}"] += 1

    warnings.simplefilter("always")
    warnings.showwarning = heard  # type: ignore[assignment]
    demanding = {
        "train.precision": "fp16",
        "optim.name": "sgd",
        "train.micro_batch": 1,
        "loss.region": "lovasz",
        "loss.region_share": 0.5,
        "data.augment": "strong",
        "train.ema": 0.1,
    }
    kinds = {
        "segmentation": (small(**{"train.precision": "bf16"}), blobs()),
        "demanding": (small(**demanding), blobs()),
        "text": (small_text(**{"train.precision": "fp16"}), receipts()),
    }
    for name, (config, data) in kinds.items():
        one = _Run(config, data, Path(tempfile.mkdtemp()), {}).build()
        one.train_epoch(lambda: None)  # what is copied once a run
        one.finish_epoch()
        torch.cuda.set_sync_debug_mode("warn")
        phases = {
            "train": lambda one=one: one.train_epoch(lambda: None),
            "validate": lambda one=one: one.task.validate(one.model),
            "save": lambda one=one: checkpoint.save_state(one.workdir, 9, one._state()),
        }
        found[name] = {}
        for phase, act in phases.items():
            where.clear()
            act()
            found[name][phase] = dict(where)
        torch.cuda.set_sync_debug_mode("default")
    return found


def test_the_host_waits_for_the_device_once_an_epoch(nop: Nop) -> None:
    """While training: to read the epoch's sums, and in fp16 the scale. Set `warn` itself warns."""
    found = nop(_waits)
    assert found["segmentation"]["train"] == {"watch.py:close": 1}, found
    for name in ("demanding", "text"):
        assert set(found[name]["train"]) <= {"watch.py:close", "train.py:train_epoch"}, found
        assert sum(found[name]["train"].values()) <= 2, found
    # a split's score is read once a counter, its losses once a part
    assert sum(found["segmentation"]["validate"].values()) <= 5, found
