"""Whole runs on a GPU that computes nothing: devices of tensors, waits, forks, resuming."""

from __future__ import annotations

import tempfile
import time
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
from trainers.to_host import Snapshot
from trainers.train import TrainingRun

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
        steps = 0

        def stop() -> str | None:
            nonlocal steps
            steps += 1
            return "preempted" if steps > 2 else None  # two steps an epoch

        with tempfile.TemporaryDirectory() as folder:
            assert run(config, Path(folder), should_stop=stop).reason == "preempted"
            result = run(config, Path(folder))
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
        "data.photometric": "strong",
        "train.ema": 0.1,
    }
    kinds = {
        "segmentation": (small(**{"train.precision": "bf16"}), blobs()),
        "demanding": (small(**demanding), blobs()),
        "text": (small_text(**{"train.precision": "fp16"}), receipts()),
    }
    for name, (config, data) in kinds.items():
        one = TrainingRun(config, data, Path(tempfile.mkdtemp()), {}).build()
        one.train_epoch(lambda: None)  # what is copied once a run
        one.finish_epoch()
        one.deliver()
        torch.cuda.set_sync_debug_mode("warn")
        phases = {
            "train": lambda one=one: one.train_epoch(lambda: None),
            "validate": lambda one=one: one.task.validate(one.model),
            "copy": lambda one=one: Snapshot(one._state()),
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
    assert found["segmentation"]["train"] == {"to_host.py:close": 1}, found
    for name in ("demanding", "text"):
        assert set(found[name]["train"]) <= {"to_host.py:close", "train.py:train_epoch"}, found
        assert sum(found[name]["train"].values()) <= 2, found
    # a split's score is read once a counter, its losses once a part
    assert sum(found["segmentation"]["validate"].values()) <= 5, found
    for name in found:  # a checkpoint: the scaler's scale
        assert sum(found[name]["copy"].values()) <= 1, found


def _order() -> list[str]:
    """What happens when, in a run whose checkpoints take longer than a step."""
    said: list[str] = []
    commit, update = checkpoint.commit, TrainingRun._update

    def slow_commit(workdir: Path, epoch: int, *given: Any) -> None:
        time.sleep(0.3)
        commit(workdir, epoch, *given)
        said.append(f"durable {epoch}")

    def told_update(self: TrainingRun) -> torch.Tensor:
        said.append(f"step of {self.epoch + 1}")
        return update(self)

    checkpoint.commit = slow_commit
    TrainingRun._update = told_update  # type: ignore[method-assign]
    config = small(**{"train.epochs": 3})
    run(config, on_epoch=lambda report: said.append(f"told {report.epoch}"))
    return said


def test_the_next_epoch_trains_while_a_checkpoint_is_written(nop: Nop) -> None:
    """No report is sent before its epoch is durable, and one epoch is written at a time."""
    said = nop(_order)
    for epoch in (1, 2, 3):
        assert said.index(f"durable {epoch}") < said.index(f"told {epoch}"), said
    for epoch in (1, 2):
        assert said.index(f"step of {epoch + 1}") < said.index(f"durable {epoch}"), said
        assert said.index(f"told {epoch}") < said.index(f"durable {epoch + 1}"), said
    assert said[-1] == "told 3"


def _written() -> bool:
    """Whether a checkpoint and the best weights hold what was there when they were copied."""
    workdir = Path(tempfile.mkdtemp())
    one = TrainingRun(small(**{"train.ema": 0.1}), blobs(), workdir, {}).build()
    one.train_epoch(lambda: None)
    with torch.no_grad():
        # of one dimension: a copy of it is a copy of memory, which this device has
        name = next(name for name, value in one.model.named_parameters() if value.ndim == 1)
        weight = one.model.get_parameter(name)
        weight.copy_(torch.full(weight.shape, 3.0))
        average = one.validated.get_parameter(name)
        average.copy_(torch.full(average.shape, 5.0))
    one.finish_epoch()
    with torch.no_grad():
        for changed in (weight, average):
            changed.copy_(torch.zeros(changed.shape))
    one.deliver()
    facts = checkpoint.load_facts(workdir)
    assert facts is not None
    state = checkpoint.load_state(workdir, facts)
    kept = checkpoint.load_model(workdir / "model-1").state_dict()[name]
    return bool((state["model"][name] == 3).all() and (state["average"][name] == 5).all()) and bool(
        (kept == 5).all()
    )


def test_what_is_written_is_what_was_copied(nop: Nop) -> None:
    assert nop(_written)
