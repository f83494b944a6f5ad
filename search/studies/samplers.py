"""The sampler of each slot."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import optuna

from spaces.sections import SamplerSpec


def other_seed(seed: int, earlier: Sequence[str]) -> int:
    """Return the seed of a study that begins with others: its draws are not those that they made
    with an equal seed. Where it begins with none it is `seed`."""
    if not earlier:
        return seed
    return int.from_bytes(
        hashlib.sha256(f"{seed}/{'/'.join(earlier)}".encode()).digest()[:4], "big"
    )


def build_sampler(spec: SamplerSpec, seed: int, slot: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of a slot.

    Each slot has a seed of its own, derived from the study's: a resumed study goes on with new
    draws instead of repeating its first ones, and two workers never draw the same.
    """
    mixed = int.from_bytes(hashlib.sha256(f"{seed}/{slot}".encode()).digest()[:4], "big")
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
