"""Workers as processes of this machine, watched or left running."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from search.launchers.engine import ENDED_WELL, WORKER_LOG, Member, Order
from search.studies.heartbeats import JOB
from spaces.paths import no_link
from spaces.sections import WorkersSpec


def place(workers: int | None, per_gpu: int, gpus: Sequence[str]) -> list[str | None]:
    """Return the GPU of each worker, as CUDA_VISIBLE_DEVICES wants it; None on a CPU machine.

    Args:
        workers: how many; None for one a GPU (times `per_gpu`), or one.
        per_gpu: workers that share a GPU.
        gpus: this machine's, as CUDA_VISIBLE_DEVICES names them.
    """
    count = workers if workers is not None else max(1, len(gpus) * per_gpu)
    if not gpus:
        return [None] * count
    return [gpus[(i // per_gpu) % len(gpus)] for i in range(count)]


@dataclass(frozen=True)
class _Process:
    """A worker process of this launch."""

    job: str
    log: str
    process: subprocess.Popen[bytes]

    def runs(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        if self.runs():
            self.process.send_signal(signal.SIGTERM)

    def withdraw(self) -> None:
        """Nothing waits here."""

    def failure(self) -> str | None:
        code = self.process.returncode
        return None if code in ENDED_WELL else f"code {code}"


@dataclass(frozen=True)
class Local:
    """Processes of this machine: one a GPU, or as many as asked for."""

    options: WorkersSpec

    def check(self) -> None:
        """Nothing can be asked for here that is not given."""

    def start(self, order: Order) -> list[Member]:
        from trainers.devices import SHARED_BY, VISIBLE, visible_gpus

        places = place(self.options.count, self.options.per_gpu, visible_gpus())
        members: list[Member] = []
        for index, gpu in enumerate(places):
            environment = {**os.environ, **order.environment, JOB: "local"}
            if gpu is not None:
                environment[VISIBLE] = gpu
                environment[SHARED_BY] = str(places.count(gpu))
            # processes that all take every core slow each other several times
            share = max(1, (os.cpu_count() or 1) // len(places))
            environment.setdefault("OMP_NUM_THREADS", str(share))
            log = order.logs / f"{order.study}-{time.strftime('%Y%m%d-%H%M%S')}-{index}.log"
            environment[WORKER_LOG] = str(log)
            with open(log, "ab", opener=no_link) as output:
                process = subprocess.Popen(
                    order.command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,  # Ctrl-C reaches them through us, once
                )
            members.append(_Process(f"local {process.pid}", str(log), process))
            if not order.detach:
                time.sleep(0.1)
        return members

    def cancel_waiting(self, jobs: Sequence[str]) -> None:
        """Nothing waits here."""
