"""The log of a worker that was left running: bounded, however long it runs."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import sys
from pathlib import Path

from rich.console import Console

from search.launchers.engine import WORKER_LOG
from spaces.paths import no_link

MOST_BYTES = 10_000_000  # of it, and of the one before it: NAME.log.1


def worker_console(usual: Console) -> Console:
    """Where a worker of a launch prints: into its log; else the usual one."""
    named = os.environ.pop(WORKER_LOG, None)  # its trials have logs of their own
    return usual if named is None else _console(Path(named), MOST_BYTES)


def _console(path: Path, most: int) -> Console:
    return Console(file=_Log(path, most), width=160)  # type: ignore[arg-type]


class _Log(io.TextIOBase):
    """stdout, which is a file; once that is full it becomes the one before it."""

    def __init__(self, path: Path, most: int) -> None:
        self.path, self.most = path, most
        self._hold()

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()
        if os.fstat(1).st_size > self.most:  # libraries write to it too
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
            log_to(self.path)
            self._hold()

    def _hold(self) -> None:
        """Show that it is in use, to `segtune clean`."""
        with contextlib.suppress(OSError):
            fcntl.flock(1, fcntl.LOCK_SH)


def log_to(path: Path) -> None:
    """Send this process's output to a log."""
    descriptor = no_link(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
