"""Batches read by processes beside the one that trains, and what happens where they are lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from spaces.config import TrainConfig
from trainers.batches import Reader

BATCHES = [[3 * batch, 3 * batch + 1] for batch in range(8)]
MB = 2**20


class Rows(Dataset[Tensor]):
    """Row i is full of i; the loader process that reads row `dies` is killed."""

    def __init__(
        self, size: int = 1, dies: int | None = None, fails: type[Exception] | None = None
    ) -> None:
        self.size, self.dies, self.fails = size, dies, fails

    def __getitem__(self, index: int) -> Tensor:
        if index == self.dies and get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGBUS)
        if self.fails is not None:
            raise self.fails(index)
        return torch.full((self.size,), index, dtype=torch.uint8)


def together(rows: list[Tensor]) -> tuple[Tensor, list[Any]]:
    return torch.stack(rows), [row[:1] for row in rows]


def read(rows: Rows, workers: int = 2) -> list[list[int]]:
    reader = Reader(rows, TrainConfig(workers=workers), torch.device("cpu"), together)
    found = [[int(row[0]) for row in batch] for batch, _ in reader.read(BATCHES)]
    again = [[int(row[0]) for row in batch] for batch, _ in reader.read(BATCHES)]
    assert again == found
    return found


@pytest.mark.slow
def test_a_loader_process_that_dies_is_done_without(capfd: pytest.CaptureFixture[str]) -> None:
    assert read(Rows()) == read(Rows(), workers=0) == BATCHES
    assert capfd.readouterr().out == ""
    assert read(Rows(dies=BATCHES[4][0])) == BATCHES
    said = capfd.readouterr().out
    assert said.count("a loader process is lost (") == 1 and "shm_size" in said


@pytest.mark.slow
@pytest.mark.parametrize("error", [FileNotFoundError, RuntimeError])
def test_an_error_of_the_data_is_no_lost_process(error: type[Exception]) -> None:
    with pytest.raises(error, match="in DataLoader worker process"):
        read(Rows(fails=error))


@pytest.mark.slow
def test_a_container_with_little_shared_memory_reads_on(tmp_path: Path) -> None:
    """Docker gives /dev/shm 64 MB; four batches that are read ahead take 128."""
    script = f"from {__name__.rpartition('.')[2]} import *; print(read(Rows(16 * MB)) == BATCHES)"
    small = 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", small, "sh", sys.executable, "-c", script]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)]),
    }
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "shared memory(shm)" in done.stdout and "/dev/shm holds 67 MB" in done.stdout
    assert done.stdout.endswith("True\n")
