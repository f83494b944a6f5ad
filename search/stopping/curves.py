"""Curves of ended trials, with their best values by epoch in one array.

A verdict after each epoch of each trial asks for all of them: at 10,000 trials one look along a
column instead of ten thousand curves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class EndedCurves:
    """{trial: its curve}, which only grows."""

    def __init__(self) -> None:
        self._curves: dict[int, Curve] = {}
        # by epoch from the first: best so far, a shorter curve's last best carried on; NaN before
        self._bests: Floats = np.empty((0, 1))
        self._warmups = np.empty(0, dtype=np.int64)

    @classmethod
    def of(cls, curves: Iterable[Curve]) -> Self:
        """The curves of trials 0, 1, ..."""
        ended = cls()
        for trial, curve in enumerate(curves):
            ended.add(trial, curve)
        return ended

    def add(self, trial: int, curve: Curve) -> None:
        """Add a trial's curve, once."""
        assert trial not in self._curves, trial
        row = len(self._curves)
        self._make_room(row + 1, len(curve.values))
        if curve.values:
            best = np.fmax.accumulate(np.array(curve.values, dtype=np.float64))
            self._bests[row, : len(best)] = best
            self._bests[row, len(best) :] = best[-1]
        else:
            self._bests[row] = np.nan
        self._warmups[row] = curve.warmup
        self._curves[trial] = curve

    def bests(self, epoch: int, *, after_warmup: bool = False) -> Floats:
        """Each trial's best metric by an epoch, `epoch` >= 1; those without one are left out.

        Args:
            epoch: counted from the first one, or from the end of each trial's own warm-up.
        """
        bests = self._bests[: len(self)]
        last = bests.shape[1]
        if after_warmup:
            columns = np.minimum(self._warmups[: len(self)] + epoch, last) - 1
            found = bests[np.arange(len(self)), columns]
        else:
            found = bests[:, min(epoch, last) - 1]
        known: Floats = found[~np.isnan(found)]
        return known

    def __contains__(self, trial: object) -> bool:
        return trial in self._curves

    def __len__(self) -> int:
        return len(self._curves)

    def __iter__(self) -> Iterator[Curve]:
        return iter(self._curves.values())

    def _make_room(self, rows: int, epochs: int) -> None:
        """Grow the array by doubling, so that adding costs the same at any size."""
        have_rows, have_epochs = self._bests.shape
        if epochs > have_epochs:
            wider = np.repeat(self._bests[:, -1:], epochs, axis=1)
            wider[:, :have_epochs] = self._bests
            self._bests = wider
        if rows > have_rows:
            more = max(rows, 2 * have_rows, 64) - have_rows
            empty = np.full((more, self._bests.shape[1]), np.nan)
            self._bests = np.concatenate([self._bests, empty])
            self._warmups = np.concatenate([self._warmups, np.zeros(more, dtype=np.int64)])


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
