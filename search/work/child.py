"""A trial in a process of its own, forked from a server that has torch and smp loaded.

A crash, a leak or a CUDA error never outlives its trial, and a start costs a fork instead of an
import. The child never sees the database: it sends each epoch's report down a pipe and finds there
the word that ends it. It does not wait for verdicts.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from search.files.logs import LOG
from search.work.forkserver import context
from search.work.worker_log import log_to
from spaces.config import TrialConfig
from spaces.errors import InputError
from spaces.limits import Probe
from spaces.paths import no_link
from spaces.space import Free
from trainers.checkpoint import LAST
from trainers.cost import measure_cost, untrained
from trainers.devices import ASKED, device_name, pick_device
from trainers.disk import is_full, is_out_of_files
from trainers.folds import train_trial
from trainers.precision import resolve_precision
from trainers.report import EpochReport
from trainers.tasks import Data
from trainers.train import TrialResult

LOCK = "lock"  # in a trial's folder, held by its process
ALIVE_SECONDS = 30.0


@dataclass(frozen=True)
class Epoch:
    """An epoch has ended and its checkpoint is durable."""

    report: EpochReport


@dataclass(frozen=True)
class Resumed:
    """All epochs that its checkpoint holds have been sent; none where there is no checkpoint."""


@dataclass(frozen=True)
class FoldEnded:
    """A fold has ended by itself, with this value; its last epoch has been sent before."""

    value: float


@dataclass(frozen=True)
class Done:
    """The trial has ended with a result."""

    result: TrialResult


@dataclass(frozen=True)
class Failed:
    """The trial could not run: `unfit` for a config that cannot, else a crash of the trainer.

    With `disk`, `files` or `device` it is neither's fault: there was no room for what it had to
    write, no more files may be open, or the device that its worker began with cannot be used.
    """

    unfit: bool
    message: str
    disk: bool = False
    files: bool = False
    device: bool = False


@dataclass(frozen=True)
class Alive:
    """Steps are being taken: said after the first one, and then now and then.

    So a trial is known to train, and a long epoch is not taken for a hang.
    """


Message = Epoch | Resumed | FoldEnded | Done | Failed | Alive


class Child(Protocol):
    """The supervisor's handle of a child."""

    def receive(self, timeout: float) -> Message | None: ...

    def stop(self, reason: str) -> None: ...

    def fence(self, deadline: float) -> None: ...

    def kill(self) -> None: ...

    def join(self) -> None: ...


class MakeChild(Protocol):
    """Starts the child of a trial."""

    def __call__(
        self,
        config: TrialConfig,
        data: Data,
        workdir: Path,
        free: Mapping[str, Free],
        probe: Probe,
    ) -> Child: ...


class TrialProcess:
    """A child that is a process."""

    def __init__(
        self,
        config: TrialConfig,
        data: Data,
        workdir: Path,
        free: Mapping[str, Free],
        probe: Probe | None = None,
    ) -> None:
        workdir.mkdir(parents=True, exist_ok=True)
        self._pipe, childs_end = context.Pipe()
        self._process = context.Process(
            target=_main,
            args=(childs_end, trials_device(), config, data, workdir, dict(free), probe or Probe()),
            name="trial",
        )
        self._process.start()
        childs_end.close()
        self._inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        # the child never waits for a supervisor that waits for the store
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def receive(self, timeout: float) -> Message | None:
        """Return the next message, or None after `timeout` seconds without one.

        Raises:
            ChildDied: the child is gone without a result.
        """
        try:
            message = self._inbox.get(timeout=timeout)
        except queue.Empty:
            return None
        if message is None:
            self._process.join()
            raise ChildDied(self._process.exitcode)
        return message

    def stop(self, reason: str) -> None:
        """Ask the child to end after its current step, with this reason."""
        self._send(reason)

    def fence(self, deadline: float) -> None:
        """Let the child end by itself after this time (`time.monotonic`), unless it is moved.

        So a trial ends before its lease does, also where its supervisor is frozen.
        """
        self._send(deadline)

    def _send(self, word: str | float) -> None:
        with contextlib.suppress(OSError):  # ended by itself: its last message is in the inbox
            self._pipe.send(word)

    def _read(self) -> None:
        try:
            while True:
                self._inbox.put(self._pipe.recv())
        except (EOFError, OSError):
            self._inbox.put(None)

    def kill(self) -> None:
        """End the child at once."""
        self._process.kill()
        self._process.join()

    def join(self) -> None:
        self._process.join()
        self._reader.join()
        self._pipe.close()


@cache
def trials_device() -> str:
    """The type of device that this process's trials train on: the one that was there at first.

    Raises:
        InputError: a GPU is there, but cannot be used.
    """
    return pick_device().type


class ChildDied(Exception):
    """The child ended without a result."""

    def __init__(self, exitcode: int | None) -> None:
        if exitcode is not None and exitcode < 0:
            self.how = f"killed by {signal.Signals(-exitcode).name}"
        else:
            self.how = f"exit code {exitcode}"
        super().__init__(self.how)


def _main(
    pipe: Connection,
    device: str,
    config: TrialConfig,
    data: Data,
    workdir: Path,
    free: dict[str, Free],
    probe: Probe,
) -> None:
    """The child: measure, train, report, end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor, which tells us
    with contextlib.ExitStack() as held:
        try:
            log_to(workdir / LOG)
            lock = held.enter_context(open(workdir / LOCK, "w", opener=no_link))
        except InputError as error:
            pipe.send(Failed(unfit=False, message=str(error)))
            return
        fcntl.flock(lock, fcntl.LOCK_EX)  # an orphan of a killed supervisor may still be ending
        words = _Words(pipe)
        os.environ[ASKED] = device
        try:
            pick_device()
        except InputError as error:
            pipe.send(Failed(unfit=False, message=str(error), device=True))
            return
        try:
            cost = measure_cost(config, data, probe)
            if probe.limits.outside(cost) is not None and not (workdir / LAST).exists():
                pipe.send(Done(untrained(cost, _hardware(config))))
                return
            result = train_trial(
                config,
                data,
                workdir,
                on_epoch=lambda report: pipe.send(Epoch(report)),
                should_stop=words.reason,
                free=free,
                on_fold=lambda value: pipe.send(FoldEnded(value)),
                on_resumed=lambda: pipe.send(Resumed()),
            )
            pipe.send(Done(replace(result, cost=cost)))
        except InputError as error:
            pipe.send(Failed(unfit=True, message=str(error)))
        except BrokenPipeError:
            pass  # the supervisor is gone; the last checkpoint is durable
        except Exception as error:
            full = is_full(error)
            if not full:  # the log could not be written either
                traceback.print_exc()
            message = f"{type(error).__name__}: {error}"
            files = is_out_of_files(error)
            pipe.send(Failed(unfit=False, message=message, disk=full, files=files))


def _hardware(config: TrialConfig) -> dict[str, str]:
    """What a trial would train on."""
    device = pick_device()
    precision = resolve_precision(config.train.precision, device)
    return {"device": device_name(device), "precision": precision}


class _Words:
    """What the supervisor said last; its death and its silence are words too."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.deadline = math.inf
        self.said = -math.inf

    def reason(self) -> str | None:
        """Why to end now, or None; asked after every step."""
        try:
            if time.monotonic() - self.said > ALIVE_SECONDS:
                self.said = time.monotonic()
                self.pipe.send(Alive())
            while self.pipe.poll():
                word = self.pipe.recv()
                if isinstance(word, str):
                    return word
                self.deadline = word
        except (EOFError, OSError):
            return "orphaned"
        return "preempted" if time.monotonic() > self.deadline else None
