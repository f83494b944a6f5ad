"""A GPU that computes nothing (device/runtime.c): everything of CUDA but numbers and speed."""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.nop.device.build import ROOT, environment

SECONDS = 600.0  # that a call may take


@dataclass
class Nop:
    """Calls functions in processes that have such a GPU."""

    connection: Connection
    folder: Path
    env: Mapping[str, str]
    output: str = ""
    """What the last call has printed."""

    def __call__(self, function: Callable[..., Any], *given: Any, code: int = 0, **env: str) -> Any:
        """Return what a module's function returns there; its process must end with `code`.

        Args:
            env: added to its environment.
        """
        output, answer = self.folder / "output", self.folder / "answer"
        answer.unlink(missing_ok=True)
        self.connection.send(
            {
                "module": function.__module__,
                "name": function.__name__,
                "given": given,
                "env": env,
                "cwd": str(self.folder),
                "output": str(output),
                "answer": str(answer),
            }
        )
        assert self.connection.poll(SECONDS), f"no answer in {SECONDS:.0f} s:\n{output.read_text()}"
        ended = self.connection.recv()
        self.output = output.read_text()
        assert ended == code, f"{ended}:\n{self.output}"
        return pickle.loads(answer.read_bytes()) if answer.exists() else None


@pytest.fixture(scope="session")
def nop_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a program that has such a GPU; its libraries are built here."""
    if shutil.which("cc") is None:
        if "CI" in os.environ:
            pytest.fail("no C compiler here")
        pytest.skip("no C compiler here")
    return environment(tmp_path_factory.mktemp("nop"))


@pytest.fixture(scope="session")
def server(nop_environment: dict[str, str]) -> Iterator[Connection]:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.gpu.nop.server", str(theirs.fileno())],
            cwd=ROOT,
            env={**os.environ, **nop_environment},
            pass_fds=[theirs.fileno()],
        )
    with Connection(ours.detach()) as connection:
        yield connection
    process.wait(30)


@pytest.fixture
def nop(server: Connection, nop_environment: dict[str, str], tmp_path: Path) -> Iterator[Nop]:
    yield Nop(server, tmp_path, nop_environment)
    # Hundreds of MB of checkpoints; programs that are just ending may tidy up there themselves.
    shutil.rmtree(tmp_path, ignore_errors=True)
