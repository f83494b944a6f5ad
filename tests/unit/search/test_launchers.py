"""Where the workers of a launch go."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from search.files.artifacts import Artifacts
from search.launchers import launcher
from search.launchers.engine import Order
from search.launchers.local import place
from search.launchers.slurm import _Serve
from spaces.errors import InputError
from spaces.sections import WorkersSpec


@pytest.mark.parametrize(
    ("workers", "per_gpu", "gpus", "places"),
    [
        (None, 1, [], [None]),
        (3, 1, [], [None] * 3),
        (None, 1, ["0", "1", "2", "3"], ["0", "1", "2", "3"]),
        (None, 2, ["0", "1"], ["0", "0", "1", "1"]),
        (3, 1, ["0", "1"], ["0", "1", "0"]),
        (None, 1, ["5", "7"], ["5", "7"]),  # a scheduler has given us these two
    ],
)
def test_one_worker_a_gpu_unless_told_otherwise(
    workers: int | None, per_gpu: int, gpus: list[str], places: list[str | None]
) -> None:
    assert place(workers, per_gpu, gpus) == places


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"on": "kubernetes"}, "local"),
        ({"on": "slurm", "gpus": 0.5}, "Slurm gives out whole GPUs"),
        ({"on": "slurm", "gpus": 2}, "a trial trains on one GPU"),
        ({"on": "ray", "gpus": 1.5}, "start more workers, with count"),
        ({"on": "local", "partition": "gpu"}, "partition: counts with on: slurm only"),
        ({"on": "ray", "minutes": 60}, "minutes: counts with on: slurm only"),
        ({"on": "slurm", "minutes": 10}, "20"),  # submitit takes a preemption for a time-out then
        ({"on": "slurm", "address": "10.0.0.1:6379"}, "address: counts with on: ray only"),
        ({"on": "slurm", "per_gpu": 2}, "per_gpu: counts with on: local only"),
        ({"count": -1}, "greater than or equal to 0"),
    ],
)
def test_options_of_another_engine_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        WorkersSpec.model_validate(given)


def test_options_survive_the_store() -> None:
    given = WorkersSpec.model_validate({"on": "ray", "gpus": 0.5, "address": "10.0.0.1:6379"})
    assert WorkersSpec.model_validate(given.model_dump(mode="json")) == given


@pytest.mark.parametrize(("engine", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_an_absent_extra_is_named(
    engine: Any, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"pip install 'segtune\[{engine}\]'"):
        launcher(WorkersSpec(on=engine))


def test_slurm_without_its_commands_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(InputError, match="sbatch is not here"):
        launcher(WorkersSpec(on="slurm"))


def test_no_secret_stands_on_a_command_line(tmp_path: Path) -> None:
    url = "postgresql://me:s3cr3t@db/x"
    order = Order("small", Artifacts(tmp_path), url, WorkersSpec(), detach=False)
    assert "s3cr3t" not in " ".join(order.command)
    assert order.environment["SEGTUNE_STORE"] == url


@pytest.mark.parametrize("code", [0, 130])
def test_a_job_whose_worker_was_told_to_end_is_completed(code: int) -> None:
    assert _Serve([sys.executable, "-c", f"raise SystemExit({code})"], {})() == code


def test_a_job_whose_worker_could_not_serve_fails() -> None:
    with pytest.raises(RuntimeError, match="ended with code 2"):
        _Serve([sys.executable, "-c", "raise SystemExit(2)"], {})()


def test_a_worker_is_told_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    code = "import os, sys; sys.exit(os.environ['SEGTUNE_JOB'] != 'slurm ?')"
    assert _Serve([sys.executable, "-c", code], {})() == 0
