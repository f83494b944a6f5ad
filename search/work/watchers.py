"""Who follows a study while it runs, and the Ctrl-C of its user."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

from spaces.config import TrialConfig
from spaces.signals import ending_signals
from trainers.report import EpochReport


class Watcher(Protocol):
    """Whoever shows the progress of a study."""

    def trial_started(self, number: int, config: TrialConfig, attempt: int) -> None: ...

    def trial_resumed(self, number: int, epoch: int, dropped: int) -> None:
        """It trains from here on; it has repeated the epochs that its checkpoint holds.

        Args:
            epoch: of the checkpoint; 0 where it has none.
            dropped: epochs that were stored of earlier attempts, and the checkpoint lacks.
        """

    def epoch_ended(self, number: int, report: EpochReport) -> None: ...

    def trial_ended(
        self, number: int, state: str, reason: str, value: float | None, epochs: int
    ) -> None: ...

    def store_away(self, error: BaseException) -> None: ...

    def paused(self, message: str) -> None: ...

    def not_shown(self, number: int | None, problem: str) -> None: ...


@dataclass
class Interrupt:
    """What the user's Ctrl-C has asked for so far."""

    count: int = 0

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Count the signals that ask for an end, instead of dying of them."""
        before = {number: signal.signal(number, self._heard) for number in ending_signals()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if number == signal.SIGHUP:
            _leave_terminal()


def _leave_terminal() -> None:
    """Print no more to a terminal that is gone, which would be an error; a file is still there."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        if stat.S_ISCHR(os.fstat(descriptor).st_mode):
            os.dup2(nothing, descriptor)
    os.close(nothing)
