#!/usr/bin/env python3
"""Runs a command on a GPU of its own, among the containers of this machine.

Compose gives all replicas of a service the same GPUs (docker/compose#11863), and a reservation of
one is always the first. So each container sees all of them and takes one by locking a file in
$SEGTUNE_GPU_LOCKS, a folder that they share; the kernel lets the lock go when the command ends.
Every GPU is taken once before any is shared, and none by more than $SEGTUNE_WORKERS_PER_GPU.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

LOCKS, PER_GPU = "SEGTUNE_GPU_LOCKS", "SEGTUNE_WORKERS_PER_GPU"


def main() -> NoReturn:
    command = sys.argv[1:]
    if not command:
        _refuse("it was given no command to run, as in: segtune-own-gpu segtune worker")
    gpus, per_gpu, folder = _gpus(), _per_gpu(), os.environ.get(LOCKS)
    if not folder:
        _refuse(f"{LOCKS} must name a folder that this machine's containers share")
    for turn in range(per_gpu):
        for gpu in range(gpus):
            if _lock(Path(folder) / f"gpu-{gpu}-{turn}"):
                _run_on(gpu, command, f"GPU {gpu} of {gpus}" + (", shared" if turn else ""))
    _refuse(
        f"all GPUs here ({gpus}) are taken by {per_gpu} each; run fewer workers "
        f"(docker compose up --detach --scale worker={gpus}) or raise {PER_GPU}"
    )


def _run_on(gpu: int, command: list[str], where: str) -> NoReturn:
    print(f"segtune-own-gpu: {where}", file=sys.stderr, flush=True)
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the same numbers in every container
    os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"segtune-own-gpu: cannot run {command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(127 if isinstance(error, FileNotFoundError) else 126)


def _gpus() -> int:
    """How many GPUs this container sees."""
    try:
        found = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60, check=True
        )
    except FileNotFoundError:
        _refuse("no nvidia-smi here; is the NVIDIA container toolkit installed on the host?")
    except subprocess.TimeoutExpired:
        _refuse("nvidia-smi does not answer within 60 s")
    except subprocess.CalledProcessError as error:
        _refuse(f"nvidia-smi failed: {' '.join((error.stdout + error.stderr).split())}")
    count = sum(line.startswith("GPU ") for line in found.stdout.splitlines())
    return count or _refuse("nvidia-smi lists no GPU")


def _per_gpu() -> int:
    given = os.environ.get(PER_GPU, "1")
    if not given.isdecimal() or int(given) < 1:
        _refuse(f"{PER_GPU} must be a whole number of at least 1, but got {given!r}")
    return int(given)


def _lock(path: Path) -> bool:
    """Lock a file for this process and the command that takes its place."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        _refuse(f"{LOCKS}: cannot open {path}: {error.strerror}")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    os.set_inheritable(descriptor, True)
    return True


def _refuse(message: str) -> NoReturn:
    print(f"segtune-own-gpu: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
