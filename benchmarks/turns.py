"""Processes that train in turns: one epoch each, while the others wait.

Loops that are compared must meet the same machine: other work on it, heat and clock rates drift
within minutes. So all of them are alive at once, and each trains one epoch before the next one's
turn; figures of one turn of everybody are pairs.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self, TypeVar

import torch

Job = Callable[["Turns"], None]
T = TypeVar("T")

READY, ENDED = "ready", "ended"


@dataclass(frozen=True)
class Epoch:
    """What one epoch took, and what the validation after it said."""

    train_seconds: float
    seconds: float
    """With validation, and whatever else the loop does before its next epoch."""
    metric: float


class Turns:
    """A training loop's side: `wait`, train, `trained`, validate, `done`; and again."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def wait(self) -> None:
        """Sleep until the next epoch may begin."""
        self.connection.send(READY)
        self.connection.recv()
        self.began = time.perf_counter()

    def trained(self) -> None:
        """The last step of the epoch has been taken."""
        self.train_seconds = self._seconds()

    def done(self, metric: float) -> None:
        """The epoch is over; it scored `metric`."""
        self.connection.send(Epoch(self.train_seconds, self._seconds(), metric))

    def _seconds(self) -> float:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # steps are only queued when the loop is through with them
        return time.perf_counter() - self.began


class Crew:
    """The other side: starts one process a job, and says whose turn it is. A context manager.

    Args:
        jobs: {name: what the process runs}; must survive pickling.
    """

    def __init__(self, jobs: Mapping[str, Job]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.loops"])  # a fork later, torch is there
        self.processes, self.connections = {}, {}
        for name, job in jobs.items():
            here, there = context.Pipe()
            self.processes[name] = context.Process(
                target=_work, args=(job, there, dict(os.environ)), name=name
            )
            self.connections[name] = here
            self.processes[name].start()
            there.close()  # so that its end is seen here

    def __enter__(self) -> Self:
        for name in self.processes:
            self._receive(name)  # until it is ready
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self.processes.values():
            if kind is not None:
                process.terminate()
            process.join()

    def turn(self, names: Sequence[str]) -> dict[str, Epoch]:
        """Let these train one epoch, all at the same time, and return when all have ended it.

        Raises:
            RuntimeError: one of them has failed; its own error stands on stderr.
        """
        for name in names:
            self.connections[name].send("go")
        found = {name: self._receive(name) for name in names}
        for name in names:
            self._receive(name)  # ready again, or at its end: it leaves the machine to the next one
        return found

    def _receive(self, name: str) -> Epoch:
        try:
            message: Epoch = self.connections[name].recv()
        except EOFError:
            self.processes[name].join()  # its error is printed last
            raise RuntimeError(f"the process of {name!r} has failed; see above") from None
        return message


def rotated(items: Sequence[T], by: int) -> list[T]:
    """The items in their order, beginning `by` further on."""
    start = by % len(items)
    return [*items[start:], *items[:start]]


def _work(job: Job, connection: Connection, environ: dict[str, str]) -> None:
    os.environ.update(environ)  # the server of the forks has that of its own start
    job(Turns(connection))
    connection.send(ENDED)
