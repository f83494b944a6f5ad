"""Waiting for other processes, bounded by progress: a busy host is slow, only what hangs fails."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any, TypeVar

from search.work.forkserver import context

QUIET_SECONDS = 300.0  # nothing has changed for so long: it hangs
CPU_SECONDS = 5.0  # work that counts as progress; polling takes less in QUIET_SECONDS
TICK = os.sysconf("SC_CLK_TCK")

T = TypeVar("T")

STARTED: list[Running] = []  # tests that fail leave processes behind

context.set_forkserver_preload(["search.work.child", "search.launch", "search.work.service"])


def until(
    condition: Callable[[], T],
    *,
    progress: Callable[[], object] = lambda: None,
    quiet: float = QUIET_SECONDS,
    every: float = 0.05,
) -> T:
    """Ask until the answer is true, and return it.

    Args:
        progress: anything that changes while what is waited for comes nearer.
        every: seconds between two looks; longer for those that cost much.

    Raises:
        AssertionError: neither the answer nor `progress` has changed for `quiet` seconds.
    """
    before: object = None
    changed = looked = time.monotonic()
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() - looked > quiet / 100:  # to look costs what the others could use
            now = (repr(answer), repr(progress()))
            looked = time.monotonic()
            if now != before:
                before, changed = now, looked
            if looked - changed > quiet:
                raise AssertionError(f"nothing has changed for {quiet:.0f} s: {now}")
        time.sleep(every)


class Running:
    """A process in a session of its own, whose output is read while it runs.

    Attributes:
        lines: what it has printed so far, to both streams.
    """

    def __init__(self, process: Any, output: IO[str]) -> None:
        self.process, self.pid = process, process.pid
        STARTED.append(self)
        self.lines: list[str] = []
        self._read = 0  # lines that `line` has passed
        self._reader = threading.Thread(target=self._listen, args=(output,), daemon=True)
        self._reader.start()

    @classmethod
    def program(
        cls, *words: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> Running:
        """Start a program; `env` is added to ours."""
        process = subprocess.Popen(
            [str(word) for word in words],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        return cls(process, process.stdout)

    @classmethod
    def fork(
        cls,
        function: Callable[..., int | None],
        *given: Any,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        terminal: bool = False,
    ) -> Running:
        """Call a function of a module in a process that has torch and the rest imported already."""
        ours, theirs = pty.openpty() if terminal else os.pipe()
        with Connection(theirs, readable=False) as end:  # such a descriptor can be handed over
            process = context.Process(
                target=_forked,
                args=(end, {**os.environ, **(env or {})}, cwd or Path.cwd(), function, given),
            )
            process.start()
        return cls(_Forked(process), open(ours, encoding="utf-8", errors="replace"))

    @classmethod
    def segtune(
        cls,
        *words: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        terminal: bool = False,
        without: Sequence[str] = (),
    ) -> Running:
        """Run a command as the installed script does, without its seconds of imports.

        Args:
            without: packages that are not there.
        """
        words = tuple(map(str, words))
        return cls.fork(_segtune, words, without, cwd=cwd, env=env, terminal=terminal)

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        code: int | None = self.process.poll()
        return code

    def line(self, word: str) -> str:
        """Wait for the next line that begins with `word`, and return it."""

        def found() -> str | None:
            over = not self._reader.is_alive()
            while self._read < len(self.lines):
                self._read += 1
                if self.lines[self._read - 1].startswith(word):
                    return self.lines[self._read - 1]
            assert not over, f"it ended before it said {word!r}:\n{self}"
            return None

        return str(until(found, progress=self.progress))

    def finish(self, code: int | None = 0, progress: Callable[[], object] = lambda: None) -> str:
        """Wait for its end, with this code (None: any); returns all that it has printed.

        Args:
            progress: beside its output and its work, as with `until`.
        """
        ended = until(
            lambda: self.returncode is not None and not self._reader.is_alive(),
            progress=lambda: (self.progress(), progress()),
        )
        assert ended and (code is None or self.returncode == code), f"{self.returncode}:\n{self}"
        return str(self)

    def send(self, how: signal.Signals) -> None:
        """Send a signal to it alone."""
        os.kill(self.pid, how)

    def send_all(self, how: signal.Signals) -> None:
        """Send a signal to its whole process group."""
        os.killpg(self.pid, how)

    def kill(self) -> None:
        """End its group, if it still runs, and wait for that."""
        if self.returncode is None:
            for kill in (os.killpg, os.kill):  # it may have no group of its own yet
                with contextlib.suppress(ProcessLookupError):
                    kill(self.pid, signal.SIGKILL)
        self.process.wait()

    def progress(self) -> object:
        """What it has printed, and how much work its session has done."""
        return len(self.lines), cpu_seconds(self.pid) // CPU_SECONDS

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def _listen(self, output: IO[str]) -> None:
        # an error is how a terminal says that nobody writes any more
        with output, contextlib.suppress(OSError):
            for line in output:
                self.lines.append(line.rstrip("\n"))


class _Forked:
    """A process of `multiprocessing`, as `subprocess` shows one."""

    def __init__(self, process: Any) -> None:
        self.process, self.pid = process, process.pid

    def poll(self) -> int | None:
        code: int | None = self.process.exitcode
        return code

    def wait(self) -> None:
        self.process.join()


def _forked(
    end: Connection,
    env: dict[str, str],
    cwd: Path,
    function: Callable[..., Any],
    given: Sequence[Any],
) -> None:
    """In the forked process."""
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which `nohup make test` ignores
    # and which the fork server does not hear, where a test's supervisor has started it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    for descriptor in (1, 2):
        os.dup2(end.fileno(), descriptor)
    end.close()
    sys.exit(function(*given))


def _segtune(words: Sequence[str], without: Sequence[str]) -> None:
    for package in without:
        sys.modules[package] = None  # type: ignore[assignment]
    from search.cli import main

    sys.argv = ["segtune", *words]
    main()


def cpu_seconds(session: int) -> float:
    """Of all processes of a session that live, and of those that their parents have waited for."""
    return sum(ticks for ticks in _ticks(session)) / TICK


def _ticks(session: int) -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                yield sum(map(int, fields[11:15]))
