"""The sampler of each slot."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from spaces.sections import SamplerSpec
from spaces.space import Prior


def other_seed(seed: int, earlier: Sequence[str]) -> int:
    """Return the seed of a study that begins with others: its draws are not those that they made
    with an equal seed. Where it begins with none it is `seed`."""
    return _mixed(f"{seed}/{'/'.join(earlier)}") if earlier else seed


def build_sampler(
    spec: SamplerSpec, seed: int, slot: int, priors: Mapping[str, Prior] | None = None
) -> BaseSampler:
    """Return the sampler of a slot.

    Each slot has a seed of its own, derived from the study's: a resumed study goes on with new
    draws instead of repeating its first ones, and two workers never draw the same.

    Args:
        priors: {parameter: where every second of the first `spec.startup_trials` trials draws it
            from}.
    """
    sampler = _sampler(spec, seed, slot)
    if not priors:
        return sampler
    return FirstFromPriors(sampler, priors, spec.startup_trials, _mixed(f"{seed}/{slot}/prior"))


class Around(BaseSampler):
    """A sampler around another one: what a subclass does not do itself, the inner one does."""

    def __init__(self, inner: BaseSampler) -> None:
        self.inner = inner

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self.inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self.inner.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.inner.before_trial(study, trial)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self.inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self.inner.reseed_rng()


class FirstFromPriors(Around):
    """Draws as another sampler does, but some of the first trials from priors.

    Those are every second one, so that a prior that misleads leaves trials that show it. What is
    drawn is all that the other sampler hears of priors: Optuna's distributions are the plain
    ranges.

    Args:
        trials: how many of the study's trials are its first ones.
        every: 2 for every second one of them, from the study's first trial on.
    """

    def __init__(
        self,
        inner: BaseSampler,
        priors: Mapping[str, Prior],
        trials: int,
        seed: int,
        every: int = 2,
    ) -> None:
        super().__init__(inner)
        self.priors, self.trials, self.every = dict(priors), trials, every
        self.random = random.Random(seed)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        prior = self.priors.get(param_name)
        if prior is None or trial.number >= self.trials or trial.number % self.every:
            return super().sample_independent(study, trial, param_name, param_distribution)
        assert isinstance(param_distribution, FloatDistribution | IntDistribution), param_name
        return drawn(prior, param_distribution, self.random.random())


def drawn(prior: Prior, range_: FloatDistribution | IntDistribution, share: float) -> float:
    """Return the value of a range below which a share in [0, 1) of its prior lies.

    The prior is a normal distribution, of the logarithm on a log range, that is cut to the range;
    values between steps go to the nearest one.
    """
    half = 0.0 if range_.step is None else range_.step / 2
    low, high, center, spread = range_.low - half, range_.high + half, prior.center, prior.spread
    if range_.log:
        low, high, center, spread = map(math.log, (low, high, center, spread))
    normal = NormalDist(center, spread)
    least, most = normal.cdf(low), normal.cdf(high)
    within = min(max(least + share * (most - least), math.ulp(0)), 1 - math.ulp(0.5))
    value = min(max(normal.inv_cdf(within), low), high)
    value = math.exp(value) if range_.log else value
    if range_.step is not None:
        value = range_.low + round((value - range_.low) / range_.step) * range_.step
    value = min(max(value, range_.low), range_.high)
    return int(value) if isinstance(range_, IntDistribution) else value


def _mixed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _sampler(spec: SamplerSpec, seed: int, slot: int) -> BaseSampler:
    mixed = _mixed(f"{seed}/{slot}")
    if spec.name == "tpe":
        return optuna.samplers.TPESampler(
            n_startup_trials=spec.startup_trials,
            multivariate=True,
            group=True,
            constant_liar=True,
            seed=mixed,
        )
    if spec.name == "gp":
        return optuna.samplers.GPSampler(
            n_startup_trials=spec.startup_trials, seed=mixed, warn_independent_sampling=False
        )
    if spec.name == "cmaes":
        return optuna.samplers.CmaEsSampler(
            n_startup_trials=max(1, spec.startup_trials),
            seed=mixed,
            warn_independent_sampling=False,
        )
    if spec.name == "qmc":  # one sequence, whose position Optuna keeps in the store
        return optuna.samplers.QMCSampler(
            scramble=True,
            seed=seed,
            warn_independent_sampling=False,
            warn_asynchronous_seeding=False,
        )
    assert spec.name == "random", spec.name
    return optuna.samplers.RandomSampler(seed=mixed)
