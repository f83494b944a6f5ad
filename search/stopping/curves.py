"""Curves of ended trials, with their best values by epoch in one array.

A verdict after each epoch of each trial asks for all of them: at 10,000 trials one look along a
row instead of ten thousand curves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, zip_longest
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class EndedCurves:
    """{trial: its curve}, which only grows."""

    def __init__(self) -> None:
        self._curves: dict[int, Curve] = {}
        # (epochs, trials): best so far, a shorter curve's last best carried on; NaN before
        self._bests: Floats = np.empty((1, 0))
        self._warmups = np.empty(0, dtype=np.int64)

    @classmethod
    def of(cls, curves: Iterable[Curve]) -> Self:
        """The curves of trials 0, 1, ..."""
        ended = cls()
        ended.add(dict(enumerate(curves)))
        return ended

    def add(self, curves: Mapping[int, Curve]) -> None:
        """Add the curves of trials, each once; many are best added together."""
        assert not self._curves.keys() & curves.keys(), curves.keys()
        metrics = list(zip_longest(*(c.values for c in curves.values()), fillvalue=math.nan))
        new = np.array(metrics or [(math.nan,) * len(curves)], dtype=np.float64)
        epochs = max(len(self._bests), len(new))
        parts = (self._bests, np.fmax.accumulate(new))
        self._bests = np.hstack([_carried_on(part, epochs) for part in parts])
        warmups = np.array([c.warmup for c in curves.values()], dtype=np.int64)
        self._warmups = np.hstack([self._warmups, warmups])
        self._curves |= curves

    def bests(self, epoch: int, *, after_warmup: bool = False) -> Floats:
        """Each trial's best metric by an epoch, `epoch` >= 1; those without one are left out.

        Args:
            epoch: counted from the first one, or from the end of each trial's own warm-up.
        """
        last = len(self._bests)
        if after_warmup:
            rows = np.minimum(self._warmups + epoch, last) - 1
            found = self._bests[rows, np.arange(len(self))]
        else:
            found = self._bests[min(epoch, last) - 1]
        known: Floats = found[~np.isnan(found)]
        return known

    def __contains__(self, trial: object) -> bool:
        return trial in self._curves

    def __len__(self) -> int:
        return len(self._curves)

    def __iter__(self) -> Iterator[Curve]:
        return iter(self._curves.values())


def _carried_on(bests: Floats, epochs: int) -> Floats:
    """(epochs, trials), with the last epoch repeated until there are so many."""
    return np.concatenate([bests, np.repeat(bests[-1:], epochs - len(bests), axis=0)])


@dataclass(frozen=True)
class Curve:
    """A trial's metric after each epoch, from the first, and where its warm-up ended."""

    values: tuple[float, ...]
    warmup: int = 0

    def best_by(self, epoch: int) -> float | None:
        """Best metric of the first `epoch` epochs; a shorter curve keeps its last best."""
        if epoch < 1 or not self.values:
            return None
        best = self._running_best[min(epoch, len(self.values)) - 1]
        return None if best == -math.inf else best

    @cached_property
    def _running_best(self) -> tuple[float, ...]:
        numbers = (-math.inf if math.isnan(value) else value for value in self.values)
        return tuple(accumulate(numbers, max))


def raised(values: tuple[float, ...], floor: float) -> tuple[float, ...]:
    """Metrics as our rules see them: those up to `floor` say nothing, and are equal; NaN stays."""
    return tuple(floor if value <= floor else value for value in values)
