"""`segtune launch --workers N`: workers as processes of their own, watched or left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from search.artifacts import Artifacts
from search.budget import ENDED
from search.control import stopped
from search.progress import ProgressView
from search.retry import until_it_answers
from search.study import Study
from search.worker import Interrupt

LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Member:
    """A worker process of this launch."""

    process: subprocess.Popen[bytes]
    log: Path


def place(workers: int | None, per_gpu: int, gpus: int) -> list[str | None]:
    """Return the GPU of each worker, as CUDA_VISIBLE_DEVICES wants it; None on a CPU machine.

    Args:
        workers: how many; None for one a GPU (times `per_gpu`), or one.
        per_gpu: workers that share a GPU.
        gpus: GPUs of this machine.
    """
    count = workers if workers is not None else max(1, gpus * per_gpu)
    if gpus == 0:
        return [None] * count
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(gpus)]
    return [names[(i // per_gpu) % len(names)] for i in range(count)]


def start(
    study: str,
    places: Sequence[str | None],
    artifacts: Artifacts,
    store: str | None,
    *,
    detach: bool,
) -> list[Member]:
    """Start one `segtune worker` a place, for one study; each logs into the artifacts folder."""
    logs = artifacts.folder / "workers"
    logs.mkdir(parents=True, exist_ok=True)
    members = []
    for index, gpu in enumerate(places):
        environment = dict(os.environ)
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        if gpu is None:  # processes that all take every core slow each other several times
            share = max(1, (os.cpu_count() or 1) // len(places))
            environment.setdefault("OMP_NUM_THREADS", str(share))
        if store is not None:  # not on the command line: it may hold a password
            environment["SEGTUNE_STORE"] = store
        log = logs / f"{study}-{time.strftime('%Y%m%d-%H%M%S')}-{index}.log"
        command = [
            sys.executable, "-m", "search.cli", "worker",
            "--study", study, "--until-idle", "--artifacts", artifacts.name,
        ]  # fmt: skip
        with open(log, "wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches them through us, once
            )
        members.append(Member(process, log))
        if not detach:
            time.sleep(0.1)
    return members


def follow(study: Study, members: Sequence[Member], console: Console, interrupt: Interrupt) -> bool:
    """Show trials as they end, until the workers have; False where interrupted."""
    known = {trial.number for trial in study.trials() if trial.state.is_finished()}
    with ProgressView(study, console) as view:
        told = 0
        while any(member.process.poll() is None for member in members):
            if interrupt.count > told:
                told = interrupt.count
                for member in members:
                    if member.process.poll() is None:
                        member.process.send_signal(signal.SIGTERM)
            _show_ended(study, known, view, interrupt)
            time.sleep(LOOK_SECONDS)
        _show_ended(study, known, view, interrupt)
    return not interrupt.count


def _show_ended(study: Study, known: set[int], view: ProgressView, interrupt: Interrupt) -> None:
    trials = until_it_answers(
        study.trials, give_up=lambda: interrupt.count > 1, on_wait=view.store_away
    )
    for trial in trials:
        if not trial.state.is_finished() or trial.number in known:
            continue
        known.add(trial.number)
        facts = trial.user_attrs
        state = "FAILED" if trial.state.name == "FAIL" else trial.state.name
        reason, epochs = facts.get("reason", "?"), facts.get("epochs", 0)
        view.trial_ended(trial.number, state, reason, trial.value, epochs)


def failed(members: Sequence[Member]) -> list[Member]:
    """Workers that ended with anything but success or an interrupt."""
    return [member for member in members if member.process.returncode not in (0, 130)]


def finished(study: Study) -> bool:
    """Whether every slot of the study has ended, or it was stopped."""
    counts = study.budget.counts()
    return sum(counts[state] for state in ENDED) == sum(counts.values()) or bool(stopped(study))
