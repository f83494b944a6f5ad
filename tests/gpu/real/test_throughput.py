"""The throughput benchmark on a GPU: every loop trains there, and trials share it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import throughput
from benchmarks.loops import AMP, FP32, LIMIT, OURS
from search.samples.streets import write_streets

Command = Callable[[str], str]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_streets(tmp_path_factory.mktemp("streets"), train=32, val=8)


@pytest.fixture
def command(streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run the command with more arguments, and return its report."""

    def run(given: str) -> str:
        path = tmp_path / "report.md"
        arguments = f"--data {streets} --resolution 64x64 --to {path} {given}"
        monkeypatch.setattr(sys, "argv", ["throughput", *arguments.split()])
        monkeypatch.setenv("SEGTUNE_HOME", "")  # the command sets it; put back at the end
        throughput.main()
        return path.read_text()

    return run


def test_every_loop_trains_on_the_gpu(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "_worker_counts", lambda gpu: [2])
    text = command("--epochs 3 --pairs 2")
    assert torch.cuda.get_device_name() in text
    for name in (FP32, AMP, LIMIT):
        assert text.count(f"| {name} |") == 2, text
    assert text.count(f"| {OURS} |") == 1 and "nan" not in text
    assert "at least 0.9 |" in text and "at least 2.0 |" in text


def test_two_trials_share_the_gpu(command: Command) -> None:
    text = command("--epochs 3 --per-gpu 2")
    assert "2 at once, in total" in text and "| 64x64 |" in text
    assert "Medians with ranges of 2 pairs" in " ".join(text.split())
