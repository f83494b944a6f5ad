"""Forecasts of how good each recorded run becomes, from its curve so far and its config.

They are fitted with hindsight, on all other runs of the table in full: no search could have better
ones of this kind. So they tell what a rule would gain that forecasts instead of ranking.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from search.stopping.replay import Recorded

Floats = npt.NDArray[np.float64]

CONFIG_WEIGHTS = (0.0, 0.3, 0.6, 1.0)  # of a config's numbers beside those of its curve
LENGTH_SCALES = (2.0, 4.0, 8.0)
NOISES = (0.1, 0.3, 1.0)


def forecasts(runs: Sequence[Recorded], points: Floats) -> Floats:
    """Return what each run's best metric will be, as forecast after each of its epochs.

    By Gaussian process regression on the best and the last metric so far, the last rise and the
    config, one for each epoch; its settings are those with the least leave-one-out error.

    Args:
        points: (N, P) the configs, scaled; NaN where a parameter is not set.

    Returns:
        (N, E); of a run from all others.
    """
    metric = np.array([[-math.inf if math.isnan(v) else v for v in r.metric] for r in runs])
    best = np.maximum.accumulate(metric, axis=1)
    low = best[np.isfinite(best)].min()
    metric, best = np.maximum(metric, low), np.maximum(best, low)  # of epochs that gave no number
    config = _standard(np.where(np.isnan(points), -1.0, points))
    ends = best[:, -1]
    found: Floats = np.empty_like(best)
    for epoch in range(best.shape[1]):
        rise = best[:, epoch] - best[:, max(0, epoch - 1)]
        curve = _standard(np.column_stack([best[:, epoch], metric[:, epoch], rise]))
        found[:, epoch] = _left_out(curve, config, ends)
    return found


def _left_out(curve: Floats, config: Floats, ends: Floats) -> Floats:
    """(N,) forecasts of the ends, each without its own run."""
    tried = []
    wanted = (ends - ends.mean()) / ends.std()
    for weight in CONFIG_WEIGHTS:
        point = np.hstack([curve, weight * config])
        apart = ((point[:, None] - point[None]) ** 2).sum(axis=-1)
        for scale in LENGTH_SCALES:
            near = np.exp(-apart / (2 * scale**2))
            for noise in NOISES:
                # leave-one-out means in closed form: Rasmussen and Williams 2006, eq. 5.12
                inverse = np.linalg.inv(near + noise * np.eye(len(near)))
                error = (inverse @ wanted) / np.diag(inverse)
                tried.append((float(error @ error), wanted - error))
    means = min(tried, key=lambda pair: pair[0])[1]
    return np.asarray(means * ends.std() + ends.mean())


def _standard(columns: Floats) -> Floats:
    spread = columns.std(axis=0)
    return np.asarray((columns - columns.mean(axis=0)) / np.where(spread > 0, spread, 1.0))
