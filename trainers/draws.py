"""Random numbers that are a function of (seed, epoch, index) alone.

So a resumed run sees what the uninterrupted one would have seen, in whatever batches and however
its pixels are loaded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Uniform:
    """Columns of uniform numbers in 0..1, one a sample (splitmix64, Steele et al. 2014).

    Args:
        indices: of the samples; equal (seed, epoch, index) give equal numbers.
    """

    def __init__(self, seed: int, epoch: int, indices: Sequence[int]) -> None:
        row = np.asarray(indices, np.uint64)
        start = np.uint64((seed * _GOLDEN + epoch * 0xBF58476D1CE4E5B9 + 1) % 2**64)
        self.state = _mixed(_mixed(np.full_like(row, start)) + row)

    def bits(self) -> NDArray[np.uint64]:
        """The next column as whole numbers of 64 bits, (N,)."""
        self.state = self.state + np.uint64(_GOLDEN)  # wraps around, as it should
        return _mixed(self.state)

    def next(self) -> Floats:
        """The next column, (N,)."""
        return (self.bits() >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def between(self, low: float, high: float) -> Floats:
        """The next column, uniform in low..high."""
        return low + (high - low) * self.next()


_GOLDEN = 0x9E3779B97F4A7C15


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
