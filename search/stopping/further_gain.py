"""What the next trials of a search may be expected to gain, from the values of those before.

The next values are taken to be drawn like the last WINDOW ones: from their kernel density estimate,
with Silverman's bandwidth (Density Estimation for Statistics and Data Analysis, 1986, eq. 3.30),
as no draw from the values themselves would ever exceed the best of them. What the best of k draws
is expected to gain over the best so far is the integral of 1 - F(x)^k above it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr

WINDOW = 200  # trials; so one estimate costs the same at any length of the history
STEPS = 80  # of the integral
REACH = 8.0  # bandwidths above the best that it goes


def further_gain(values: Sequence[float], trials: int) -> float:
    """Return the expected gain of the best value over the next trials, >= 0.

    Args:
        values: of the trials that have ended, in their order; -inf where one has come to nothing.
        trials: how many of the next ones, 1 or more.

    Returns:
        In the values' units; inf where fewer than two trials have a value, as nothing is known.
    """
    last = np.array(values[-WINDOW:], dtype=np.float64)
    known = last[np.isfinite(last)]
    if len(known) < 2:
        return math.inf
    width = _bandwidth(known)
    if width == 0:
        return 0.0
    above = max(values) + np.linspace(0.0, REACH * width, STEPS)  # (S,)
    chance = ndtr((above[:, None] - known) / width).sum(axis=1)  # (S,), expected number below
    below = (chance + len(last) - len(known)) / len(last)
    return float(np.trapezoid(1 - below**trials, above))


def _bandwidth(values: np.ndarray) -> float:
    """Silverman's, of a normal kernel."""
    quarters = np.percentile(values, [25, 75])
    spread = float(np.std(values, ddof=1))
    middle = float(quarters[1] - quarters[0]) / 1.34
    return float(0.9 * (min(spread, middle) or spread) * len(values) ** -0.2)
