"""How much of a disk the files of studies take, measured beside the requests.

To add up a study's files means to look at each of them. So no page waits for it: one study is
measured at a time, when somebody looks at its page, and what was found is shown for a while.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from search.dashboard.doors import Clock
from search.files.artifacts import Artifacts
from search.files.removal import size_of
from spaces.errors import InputError

AGE = 300.0  # seconds for which a size is shown before it is measured anew
KEPT = 1000  # studies


class DiskUse:
    """The bytes of studies' files.

    Args:
        clock: seconds; only differences count.
    """

    def __init__(self, artifacts: Artifacts, clock: Clock) -> None:
        self._artifacts, self._clock = artifacts, clock
        self._known: OrderedDict[str, tuple[float, int | None]] = OrderedDict()
        self._lock = threading.Lock()
        self._measures: threading.Thread | None = None

    def of(self, studies: Sequence[tuple[str, str]]) -> int | None:
        """Bytes of a study and those beside it, as last measured; where that is long ago, again.

        Args:
            studies: their names and uids, the study's own first.

        Returns:
            None where it is not known: not yet, not here, or in a bucket, where to list is to pay.
        """
        if self._artifacts.bucket is not None:
            return None
        uid = studies[0][1]
        with self._lock:
            at, size = self._known.get(uid, (None, None))
            idle = self._measures is None or not self._measures.is_alive()
            if idle and (at is None or self._clock() - at >= AGE):
                self._measures = threading.Thread(
                    target=self._measure, args=(studies,), name="disk use", daemon=True
                )
                self._measures.start()
        return size

    def wait(self) -> None:
        """Wait for the measurement that is under way."""
        if self._measures is not None:
            self._measures.join()

    def _measure(self, studies: Sequence[tuple[str, str]]) -> None:
        try:
            size = sum(size_of(self._artifacts, name, uid) for name, uid in studies) or None
        except (OSError, InputError):
            size = None
        with self._lock:
            self._known[studies[0][1]] = self._clock(), size
            self._known.move_to_end(studies[0][1])
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
