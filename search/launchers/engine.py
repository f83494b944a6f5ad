"""What an engine that places workers must do and is told; a worker's process in its job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from search.database.url import STORE
from search.files.artifacts import Artifacts
from search.studies.heartbeats import JOB
from spaces.errors import InputError
from spaces.paths import inside
from spaces.sections import WorkersSpec

WORKER_LOG = "SEGTUNE_LOG"  # environment variable: the file that is a worker's stdout and stderr
ENDED_WELL = (0, 130)  # exit codes of a worker: done, or told to end


@dataclass(frozen=True)
class Order:
    """What to start.

    Attributes:
        study: name of the study that the workers serve.
        store: its URL as the user gave it, if at all; it may hold a password.
        detach: the workers outlive the launch.
    """

    study: str
    artifacts: Artifacts
    store: str | None = field(repr=False)
    options: WorkersSpec
    detach: bool

    @property
    def command(self) -> list[str]:
        """What a worker runs; no secret stands in it."""
        return [
            sys.executable, "-m", "search.cli", "worker",
            "--study", self.study, "--until-idle", "--artifacts", self.artifacts.name,
        ]  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        """What a worker needs beside the environment of its machine.

        A job that asked for a GPU never trains on a CPU, and one that did not never on a GPU.
        """
        from trainers.devices import ASKED, SHARED_BY

        passed = ("SEGTUNE_", "AWS_", "WANDB_", "MLFLOW_", "HF_", "PG")
        found = {name: value for name, value in os.environ.items() if name.startswith(passed)}
        if self.store is not None:
            found[STORE] = self.store
        if self.options.on != "local":
            found.setdefault(ASKED, "cuda" if self.options.gpus else "cpu")
            if 0 < self.options.gpus < 1:
                found.setdefault(SHARED_BY, str(int(1 / self.options.gpus)))
        return found

    @property
    def logs(self) -> Path:
        """The folder of the workers' logs, made here."""
        folder = inside(self.artifacts.folder, "workers")
        folder.mkdir(parents=True, exist_ok=True)
        return folder


class Member(Protocol):
    """A worker of a launch."""

    @property
    def job(self) -> str:
        """The engine's name and its own for the worker, as in `slurm 4711`."""
        ...

    @property
    def log(self) -> str:
        """Where what it prints can be read."""
        ...

    def runs(self) -> bool:
        """Whether it waits for its place, runs, or will run again."""
        ...

    def stop(self) -> None:
        """Let it return its trial and end; what has not begun is taken back."""
        ...

    def withdraw(self) -> None:
        """Take it back where it waits for its place."""
        ...

    def failure(self) -> str | None:
        """What went wrong, once it has ended; None where nothing did."""
        ...


class Launcher(Protocol):
    """An engine; its constructor raises InputError where it cannot be used here."""

    def check(self) -> None:
        """Raise InputError where a worker with these options could never run."""
        ...

    def start(self, order: Order) -> list[Member]:
        """Start the workers of an order.

        Raises:
            InputError: the engine refuses them; none has been started.
        """
        ...

    def cancel_waiting(self, jobs: Sequence[str]) -> None:
        """Take back those jobs that wait for their place; those that run end by themselves."""
        ...


def needs_extra(package: str, extra: str, error: ImportError) -> InputError:
    """What to say where an engine's package is absent."""
    return InputError(
        f"workers.on: {extra} needs {package} ({error}); install it with: "
        f"pip install 'segtune[{extra}]'"
    )


def begin_worker(
    command: Sequence[str], environment: Mapping[str, str], job: str
) -> subprocess.Popen[bytes]:
    """Start a worker inside of an engine's job, whose end it hears of."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment, JOB: job},
        preexec_fn=in_a_job,
    )


def in_a_job() -> None:
    """In the worker: the job's own signal is not for it, and it returns its trial if the job dies.

    Both are inherited by what it starts, or taken back by it (prctl(2): PR_SET_PDEATHSIG is 1).
    """
    import ctypes

    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def end_worker(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Let a worker return its trial; kill it where that takes too long."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
