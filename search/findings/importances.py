"""Which settings decide how good a trial becomes, where that is more than chance.

Of values that mean nothing some setting still explains the most. So what each explains is held
against what it explains once the values have been dealt out anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

MIN_TRIALS = 8  # complete ones that have the setting; fewer say nothing
SHUFFLES = 200
CONFIDENCE = 0.95
GROUPS = 3  # of a setting with more values, as many trials in each


@dataclass(frozen=True)
class Share:
    """What a setting explains, beside what chance does.

    Attributes:
        share: of the variance of the trials' ranks that it explains.
        chance: the share up to which it would be no more than chance.
        named: whether it explains more than chance.
    """

    setting: str
    share: float
    chance: float
    named: bool


def shares(settings: Mapping[str, Sequence[Any]], values: Sequence[float]) -> list[Share]:
    """What each setting explains that enough trials have and that varies, the largest first.

    The share is eta squared of the ranks, as in the test of Kruskal and Wallis (1952); numbers are
    sorted into GROUPS, so that an optimum in the middle counts too. Only settings that explain more
    than chance are named: all share one band, which the largest standardised share of a study of
    shuffled values exceeds in 5 % of SHUFFLES (Westfall and Young 1993). Each by itself, one of
    twenty settings without any effect would be named.

    Args:
        settings: {name: its value in each trial}; None where a trial has none.
        values: of the trials.
    """
    ranks = rankdata(values)
    rng = np.random.default_rng(0)
    dealt = np.stack([ranks, *(rng.permutation(ranks) for _ in range(SHUFFLES))])
    found: dict[str, NDArray[np.float64]] = {}
    for name, column in settings.items():
        groups = _groups(column)
        if (groups >= 0).sum() >= MIN_TRIALS and len(np.unique(groups[groups >= 0])) > 1:
            found[name] = _explained(dealt[:, groups >= 0], groups[groups >= 0])
    if not found:
        return []
    explained = np.stack([*found.values()])  # (settings, 1 + SHUFFLES)
    mean = explained[:, 1:].mean(axis=1, keepdims=True)
    spread = explained[:, 1:].std(axis=1, keepdims=True)
    scores = (explained - mean) / np.where(spread > 0, spread, np.inf)
    band = np.quantile(scores[:, 1:].max(axis=0), CONFIDENCE, method="higher")
    chance = np.minimum(mean + band * spread, 1.0)[:, 0]
    all_shares = [
        Share(name, float(share), float(reach), bool(score > band))
        for name, share, reach, score in zip(
            found, explained[:, 0], chance, scores[:, 0], strict=True
        )
    ]
    return sorted(all_shares, key=lambda one: -one.share)


def _groups(column: Sequence[Any]) -> NDArray[np.int64]:
    """The group of each value, from 0; -1 where there is none."""
    known = [value for value in column if value is not None]
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in known)
    if numbers and len(set(known)) > GROUPS:
        edges = np.quantile(known, np.arange(1, GROUPS) / GROUPS)
        places = [-1 if v is None else np.searchsorted(edges, v, side="right") for v in column]
        return np.array(places, dtype=np.int64)
    names = [None if value is None else repr(value) for value in column]
    order = {name: place for place, name in enumerate(dict.fromkeys(filter(None, names)))}
    return np.array([-1 if name is None else order[name] for name in names])


def _explained(ranks: NDArray[np.float64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """(S, n) ranks of n trials -> (S,) shares of their variance between the groups."""
    ranks = ranks - ranks.mean(axis=1, keepdims=True)
    members = (groups == np.unique(groups)[:, None]).astype(np.float64)  # (groups, n)
    between = ((ranks @ members.T) ** 2 / members.sum(axis=1)).sum(axis=1)
    total = (ranks**2).sum(axis=1)
    return np.where(total > 0, between / np.where(total > 0, total, 1.0), 0.0)
