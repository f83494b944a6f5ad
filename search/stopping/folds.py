"""Early stopping between folds: a trial stops when it will hardly reach the best one any more.

Trials are compared on the same folds, pair by pair: a fold that is hard is hard for all, and drops
out of the difference. What is left of noise is pooled over all trials that have trained every fold,
since five differences of one pair say little of their own scatter. So a verdict is possible after
the first fold, where a rank test of five pairs cannot speak before the fourth (decision 0024).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np
from scipy import stats

CHANCE = 0.05  # a trial with less is stopped

Folds = Sequence[float]
"""Values of a trial on the folds that it has trained, in their order."""


def is_hopeless(trial: Folds, whole: Sequence[Folds]) -> bool:
    """Tell whether a trial's chance to reach the best one is below CHANCE.

    Args:
        trial: not all folds yet.
        whole: all trials that have trained every fold; before there are two, nobody is hopeless.
    """
    if len(whole) < 2:
        return False
    return chance(trial, max(whole, key=fmean), whole) < CHANCE


def chance(trial: Folds, best: Folds, whole: Sequence[Folds]) -> float:
    """Return the chance that a trial's mean over all K folds will be above the best one's.

    After f folds the mean difference to the best is d. Differences of two trials on a fold scatter
    with variance 2 s^2 around their mean, s^2 being the residual of trials x folds (two-way layout;
    Fisher 1925). So the difference over all K folds lies around d with variance
    2 s^2 (1/f - 1/K), and Student's t has the freedom of s^2.

    Args:
        whole: two trials or more, the best among them.
    """
    seen, count = len(trial), len(best)
    behind = fmean(b - t for b, t in zip(best, trial, strict=False))
    values = np.array(whole)  # (trials, K)
    rest = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    freedom = (len(whole) - 1) * (count - 1)
    variance = 2 * float((rest**2).sum()) / freedom * (1 / seen - 1 / count)
    if variance == 0:
        return float(behind <= 0)
    return float(stats.t.sf(behind / math.sqrt(variance), freedom))
