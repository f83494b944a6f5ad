"""How far a study's answer can be trusted: its best trials on fresh seeds, beside the baseline.

The value of a trial is the best epoch of one seed, chosen among many: it says too much. Here are
the means over fresh seeds, the interval of a difference, and what may be said of it. All of it is
plain arithmetic on `Candidate`, so that `research/confirmation/replay.py` can replay it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from spaces.sections import ConfirmSpec
from trainers.image_counts import Counts

CONFIDENCE = 0.95
RESAMPLES = 1000

ScoreOf = Callable[[NDArray[np.number]], NDArray[np.float64]]
"""A metric of counts that are summed over images: (..., K, 3) -> (...)."""


@dataclass(frozen=True, eq=False)
class Run:
    """A candidate on one fresh seed, trained to its end.

    Attributes:
        number: of the trial of the confirmation.
        counts: (N, K, 3) of the validation images, as of `ImageCounts`; None where unknown.
    """

    number: int
    value: float
    counts: Counts | None = None


@dataclass(frozen=True, eq=False)
class Candidate:
    """A trial of the search that runs again.

    Attributes:
        number: of the trial.
        first: its value in the search; None where it was stopped there, so that its best epoch
            may have been to come.
        runs: {seed: run} of the fresh seeds.
        failed: seeds on which it could not be trained.
        seconds: of an epoch, validation included.
        device: on which it was trained.
        parameters: of its network.
    """

    number: int
    first: float | None
    runs: Mapping[int, Run] = field(default_factory=dict)
    failed: frozenset[int] = frozenset()
    seconds: float | None = None
    device: str | None = None
    parameters: int | None = None

    @property
    def fresh(self) -> list[float]:
        """Values on the fresh seeds, in the order in which they were drawn."""
        return [run.value for run in self.runs.values()]

    @property
    def values(self) -> list[float]:
        """Values on the first and the fresh seeds."""
        return self.fresh if self.first is None else [self.first, *self.fresh]

    @property
    def score(self) -> float:
        """What it is ranked by: the mean over the first and the fresh seeds."""
        return fmean(self.values)

    def score_without(self, seed: int) -> float:
        """The same without one of the fresh seeds; -inf where no other is known."""
        left = replace(self, runs={s: r for s, r in self.runs.items() if s != seed}).values
        return fmean(left) if left else -math.inf

    @property
    def mean(self) -> float:
        """What is reported: the mean over the fresh seeds alone."""
        return fmean(self.fresh)

    @property
    def sd(self) -> float | None:
        """Standard deviation over the fresh seeds; None of one."""
        return stdev(self.fresh) if len(self.runs) > 1 else None

    @property
    def median_run(self) -> Run:
        """The run of the median value; of an even number the lower of both."""
        runs = sorted(self.runs.values(), key=lambda run: run.value)
        return runs[(len(runs) - 1) // 2]


@dataclass(frozen=True)
class Difference:
    """The mean difference of two candidates over the seeds that both ran on.

    Attributes:
        half: half the width of its interval, of CONFIDENCE.
    """

    mean: float
    half: float
    seeds: int

    @property
    def above(self) -> bool:
        """Whether the interval lies above 0."""
        return self.mean - self.half > 0

    @property
    def below(self) -> bool:
        """Whether the interval lies below 0."""
        return self.mean + self.half < 0


@dataclass(frozen=True)
class Evidence:
    """What is known of a study's candidates.

    Attributes:
        score: the study's metric of counts that are summed over images, (..., K, 3) -> (...).
        baseline: number of the best starting point; None where none was tried.
        waiting: runs that are planned and have not ended.
    """

    score: ScoreOf
    candidates: Sequence[Candidate]
    baseline: int | None = None
    waiting: int = 0

    @cached_property
    def ranking(self) -> list[Candidate]:
        """Those with a fresh run, best first."""
        ran = [candidate for candidate in self.candidates if candidate.runs]
        return sorted(ran, key=lambda candidate: -candidate.score)

    @cached_property
    def alike(self) -> list[Candidate]:
        """The leader and whoever is within one standard error of it, best first."""
        if not self.ranking:
            return []
        leader = self.ranking[0]
        return [
            other
            for other in self.ranking
            if other is leader or leader.score - other.score <= self._standard_error(leader, other)
        ]

    @cached_property
    def winner(self) -> Candidate | None:
        """The cheapest of those that cannot be told from the leader."""
        return min(self.alike, key=self._cost, default=None)

    @cached_property
    def by_cost(self) -> bool:
        """Whether the winner is not the leader, but as good and cheaper."""
        return bool(self.ranking) and self.winner is not self.ranking[0]

    @cached_property
    def gain(self) -> Difference | None:
        """Winner less baseline; None without a baseline, or where it is the winner."""
        baseline = self.candidate(self.baseline)
        if self.winner is None or baseline is None or self.winner is baseline:
            return None
        return self.difference(self.winner, baseline)

    @cached_property
    def worth(self) -> float:
        """What the winner may be expected to be worth, free of having been chosen.

        Cross-fitted: for each fresh seed the best is chosen by all the other values, and is given
        its value on that seed, which had no part in the choice; this is their mean. A winner that
        the search has stopped, and that ran on one fresh seed, has no other value to be chosen by:
        then it is that one's.
        """
        assert self.winner is not None
        if len(self.winner.values) == 1:
            return self.winner.mean
        values = []
        for seed in self.winner.runs:
            ran = [c for c in self.ranking if seed in c.runs]
            chosen = max(ran, key=lambda c: c.score_without(seed))
            values.append(chosen.runs[seed].value)
        return fmean(values)

    @cached_property
    def noise(self) -> tuple[float, int]:
        """(Variance of a value between seeds, its degrees of freedom), pooled over candidates."""
        values = [c.values for c in self.candidates if c.runs]
        freedom = sum(len(of_one) - 1 for of_one in values)
        squares = sum(float(np.var(of_one)) * len(of_one) for of_one in values)
        return (squares / freedom if freedom else math.nan), freedom

    def candidate(self, number: int | None) -> Candidate | None:
        return next((c for c in self.candidates if c.number == number), None)

    def difference(self, one: Candidate, other: Candidate) -> Difference | None:
        """One less the other, with an interval; None where no seed is common to both.

        Two things vary: what a seed makes of a config, whose variance s^2 is pooled over all
        candidates, and which images the split has, drawn anew by a paired bootstrap (Efron 1979).
        The interval is Student's, with the degrees of freedom of Satterthwaite (1946).
        """
        seeds = [seed for seed in one.runs if seed in other.runs]
        if not seeds:
            return None
        mean = fmean(one.runs[s].value - other.runs[s].value for s in seeds)
        return self._with_interval(mean, len(seeds), *self._image_variance(one, other, seeds))

    def difference_on(
        self, models: Sequence[Counts], others: Sequence[Counts]
    ) -> Difference | None:
        """One seed of a candidate less one of another, on two or more images of another split.

        The interval is that of `difference`, but holds the images alone where the noise of a seed
        is not known; None of a single image. With folds each has a model of each.
        """
        return difference_on(self.score, models, others, self.noise)

    def _with_interval(self, mean: float, seeds: int, of_images: float, images: int) -> Difference:
        return _with_interval(mean, seeds, self.noise, of_images, images)

    def _image_variance(
        self, one: Candidate, other: Candidate, seeds: Sequence[int]
    ) -> tuple[float, int]:
        """(Variance of the mean difference over draws of the images, images of a split)."""
        drawn = np.zeros(RESAMPLES)
        images = 0
        for seed in seeds:
            mine, theirs = one.runs[seed].counts, other.runs[seed].counts
            if mine is None or theirs is None or len(mine) != len(theirs):
                return 0.0, 0
            images = len(mine)  # equal ones are drawn alike: seeds may share their split
            drawn += _mean_drawn(self.score, [mine]) - _mean_drawn(self.score, [theirs])
        return float(np.nanvar(drawn / len(seeds), ddof=1)), images

    def _standard_error(self, one: Candidate, other: Candidate) -> float:
        """Of the difference of two scores."""
        shares = 1 / len(one.values) + 1 / len(other.values)
        return math.sqrt(self.noise[0] * shares)

    def _cost(self, candidate: Candidate) -> tuple[int, int, float]:
        """Seconds an epoch where all were trained on one kind of device, then parameters."""
        devices = {c.device for c in self.alike}
        timed = len(devices) == 1 and all(c.seconds for c in self.alike)
        # speeds that differ by less than a tenth are the same
        seconds = round(math.log(candidate.seconds or 1.0) / math.log(1.1)) if timed else 0
        return seconds, candidate.parameters or 0, -candidate.score


def difference_on(
    score: ScoreOf,
    models: Sequence[Counts],
    others: Sequence[Counts],
    noise: tuple[float, float] = (0.0, 0.0),
    tried: int = 1,
    varying: int | None = None,
) -> Difference | None:
    """One result less another on the same images; None of a single image.

    Args:
        models, others: (N, K, 3) of each model, as of `ImageCounts`; one, or those of the folds.
        noise: of a seed, as of `Evidence.noise`; without it the interval holds the images alone.
        tried: differences looked at together; all of their intervals hold at once (Bonferroni).
        varying: images on which they differ, 2 or more; None: all.
    """
    if (images := len(models[0])) < 2:
        return None
    mean = fmean(float(score(counts.sum(0))) for counts in models)
    mean -= fmean(float(score(counts.sum(0))) for counts in others)
    drawn = _mean_drawn(score, models) - _mean_drawn(score, others)
    of_images = float(np.nanvar(drawn, ddof=1))
    return _with_interval(mean, 1, noise, of_images, varying or images, tried)


def _with_interval(
    mean: float,
    seeds: int,
    seed_noise: tuple[float, float],
    of_images: float,
    images: int,
    tried: int = 1,
) -> Difference:
    noise, freedom = seed_noise
    of_seeds = 2 * noise / seeds if freedom else 0.0
    variance = of_seeds + of_images
    if variance == 0:
        return Difference(mean, 0.0, seeds)
    parts = of_seeds**2 / freedom if freedom else 0.0
    parts += of_images**2 / (images - 1) if images > 1 else 0.0
    quantile = stats.t.ppf(1 - (1 - CONFIDENCE) / 2 / tried, variance**2 / parts)
    return Difference(mean, float(quantile * math.sqrt(variance)), seeds)


def image_interval(score: ScoreOf, models: Sequence[Counts]) -> tuple[float, float] | None:
    """(low, high) of CONFIDENCE: a mean score's interval over which images the split has.

    A bootstrap over images. Its percentiles are taken further out, as Student's t asks for (the
    expanded percentile interval of Hesterberg, The American Statistician 69, 2015): of few images
    the plain one is too narrow. It stays within the range of the score.

    Args:
        models: (N, K, 3) of each model, as of `ImageCounts`; one, or those of the folds.

    Returns:
        None of fewer than two images.
    """
    images = len(models[0])
    if images < 2:
        return None
    drawn = _mean_drawn(score, models)
    quantile = stats.t.ppf((1 - CONFIDENCE) / 2, images - 1) * math.sqrt(images / (images - 1))
    tail = stats.norm.cdf(quantile)
    low, high = np.nanquantile(drawn, [tail, 1 - tail]).tolist()
    return low, high


def _mean_drawn(score: ScoreOf, models: Sequence[Counts]) -> NDArray[np.float64]:
    """(RESAMPLES,): the mean score of models, in each draw of the images that they share."""
    weights = _draws(len(models[0]))
    drawn = np.stack([score(_weighted(weights, counts)) for counts in models])
    mean: NDArray[np.float64] = drawn.mean(axis=0)
    return mean


def _draws(images: int) -> NDArray[np.float64]:
    """(RESAMPLES, images): how often each image is in each draw with replacement."""
    rng = np.random.default_rng(images)
    return rng.multinomial(images, np.full(images, 1 / images), RESAMPLES).astype(np.float64)


def _weighted(weights: NDArray[np.float64], counts: Counts) -> NDArray[np.float64]:
    """(R, N) weights, (N, K, 3) counts -> (R, K, 3) sums."""
    flat = weights @ counts.reshape(len(counts), -1).astype(np.float64)
    return flat.reshape(len(weights), *counts.shape[1:])


# ---------------------------------------------------------------- who runs next


def next_round(
    evidence: Evidence, spec: ConfirmSpec, seeds: Sequence[int], runs_left: float
) -> list[tuple[int, int]]:
    """[(trial, seed)] that are to run now; empty where runs are awaited, or all is known.

    In each round those that are still in the race run on one fresh seed. Who has lost against the
    leader, by the interval of their difference, is out; so is who could not be trained.

    Args:
        evidence: its candidates by rank in the search.
        seeds: spec.seeds of them, in their order.
        runs_left: how many runs in full the share allows; the first round always has two.
    """
    if evidence.waiting:
        return []
    race = list(evidence.candidates)
    for round_, seed in enumerate(seeds[: spec.seeds]):
        ran = [c for c in race if seed in c.runs or seed in c.failed]
        due = [c for c in race if c not in ran]
        if due:
            if round_ == 0:
                due = _first_of(due, max(2 - len(ran), math.floor(runs_left)), evidence.baseline)
            elif len(due) > runs_left:
                return []
            if due:
                return [(c.number, seed) for c in due]
        race = [c for c in race if seed in c.runs]
        if not race:
            break
        leader = max(race, key=lambda c: c.score)
        race = [c for c in race if c is leader or not _lost(evidence, c, leader)]
        if len(race) == 1 and len(evidence.candidates) > 1:
            return []
    return []


def _lost(evidence: Evidence, one: Candidate, leader: Candidate) -> bool:
    difference = evidence.difference(one, leader)
    return difference is not None and difference.below


def _first_of(due: list[Candidate], most: int, baseline: int | None) -> list[Candidate]:
    """At most so many: the best one, the baseline, then the others in their order."""
    ordered = sorted(due, key=lambda c: (c is not due[0], c.number != baseline))
    return [c for c in due if c in ordered[:most]]
