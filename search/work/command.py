"""A command as a process: heard while it runs, and ended with all that it has begun."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from search.launchers.engine import in_a_job

BLOCK = 64 * 1024  # bytes that are read at a time


class Command:
    """Begins with its construction, without a shell; is over at the end of its `with` block.

    It dies with this process, which must begin it in its main thread.

    Args:
        environment: all of it.
        hear: told what it prints, to both streams.
        grace: seconds that it has to end, once it is told to.
    """

    def __init__(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        hear: Callable[[bytes], None],
        grace: float,
    ) -> None:
        self._hear, self._grace = hear, grace
        self.process = subprocess.Popen(
            words,
            bufsize=0,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # a group that can be ended as a whole
            preexec_fn=in_a_job,
        )
        assert self.process.stdout is not None
        self._output = self.process.stdout
        os.set_blocking(self._output.fileno(), False)
        self._poll = select.poll()
        self._poll.register(self._output, select.POLLIN)
        self._listens = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=self._grace)
            self._signal(signal.SIGKILL)
            self.process.wait()
        self._output.close()

    @property
    def code(self) -> int:
        """Its exit code, once it has ended."""
        return int(self.process.returncode)

    def runs(self, seconds: float) -> bool:
        """Hear for so long at most what it prints; whether it still runs."""
        if not self._listens:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=seconds)
        elif self._poll.poll(1000 * seconds):
            self._listen()
        if self.process.poll() is None:
            return True
        while self._listens and self._listen():  # what is left; what it has begun may go on
            pass
        return False

    def _listen(self) -> bool:
        """Whether there was something to hear."""
        data = self._output.read(BLOCK)  # None: nothing yet
        if data:
            self._hear(data)
        elif data is not None:
            self._listens = False
        return bool(data)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
