"""What each sampler draws: first from the priors where there are some, else as Optuna does."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from statistics import NormalDist, fmean

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution, IntDistribution

from search.studies.samplers import build_sampler, drawn
from spaces.sections import SamplerSpec
from spaces.space import Prior

LR = FloatDistribution(1e-4, 1e-2, log=True)
PRIOR = {"optim.lr": Prior(3e-3, 1.001)}  # so narrow that no other draw looks like it

WITHOUT = {
    "tpe": [0.0013831397626869178, 0.0005171474342800844, 0.006663848037503866],
    "random": [0.0013831397626869178, 0.0005171474342800844, 0.0005677002444475465],
    "gp": [0.0013831397626869178, 0.0005171474342800844, 0.0033340637631235712],
    "cmaes": [0.0013831397626869178, 0.0005171474342800844, 0.0038655399702293043],
    "qmc": [0.00014210736239935758, 0.0014405222856258755, 0.00012110607594841465],
}
"""Learning rates that segtune 0.2 drew, of seed 7 and two startup trials."""


def rates(
    name: str, slots: int, priors: dict[str, Prior] | None = None, startup: int = 2
) -> list[float]:
    """Learning rates that a study of two parameters draws."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(direction="maximize")
        for slot in range(slots):
            spec = SamplerSpec(name=name, startup_trials=startup)
            study.sampler = build_sampler(spec, 7, slot, priors)
            trial = study.ask()
            found.append(trial.suggest_float("optim.lr", LR.low, LR.high, log=True))
            trial.suggest_float("optim.momentum", 0.5, 0.99)
            assert trial.distributions["optim.lr"] == LR
            study.tell(trial, -abs(found[-1] - 1e-3))
    return found


@pytest.mark.parametrize("name", list(WITHOUT))
def test_without_priors_a_study_draws_what_it_always_drew(name: str) -> None:
    assert rates(name, 3) == pytest.approx(WITHOUT[name], rel=1e-9)
    assert rates(name, 3, {}) == rates(name, 3)


@pytest.mark.parametrize("name", ["tpe", "random", "gp", "cmaes"])
def test_every_second_of_the_first_trials_draws_from_a_prior(name: str) -> None:
    found = rates(name, 14, PRIOR, startup=10)
    near = [number for number, rate in enumerate(found) if 2.98e-3 < rate < 3.02e-3]
    assert near == [0, 2, 4, 6, 8]


@given(share=st.floats(0, 1, exclude_max=True), center=st.floats(0, 1), spread=st.floats(1e-9, 1e9))
def test_every_draw_lies_in_its_range(share: float, center: float, spread: float) -> None:
    for range_ in (
        LR,
        FloatDistribution(0.1, 0.95, step=0.05),
        FloatDistribution(-3.0, 2.0),
        IntDistribution(1, 64, log=True),
        IntDistribution(4, 20, step=4),
    ):
        width = spread + 1 if range_.log else spread
        middle = range_.low + center * (range_.high - range_.low)
        value = drawn(Prior(middle, width), range_, share)
        assert range_.low <= value <= range_.high
        assert range_._contains(range_.to_internal_repr(value))


def test_draws_follow_the_prior_as_a_normal_distribution_of_the_logarithm() -> None:
    prior = Prior(1e-3, 2.0)
    found = [drawn(prior, LR, (i + 0.5) / 1000) for i in range(1000)]
    inside = sum(5e-4 < rate < 2e-3 for rate in found)
    normal = NormalDist()
    kept = normal.cdf(math.log(10) / math.log(2)) * 2 - 1  # the range is ten times to either side
    assert inside == pytest.approx(1000 * (normal.cdf(1) * 2 - 1) / kept, abs=2)
    assert fmean(map(math.log, found)) == pytest.approx(math.log(1e-3), abs=0.01)


def test_whole_numbers_follow_it_up_to_the_ends_of_their_range() -> None:
    shares = [(i + 0.5) / 10_000 for i in range(10_000)]
    found = Counter(drawn(Prior(0.0, 1.0), IntDistribution(0, 5), share) for share in shares)
    assert all(isinstance(value, int) for value in found)
    normal = NormalDist()
    cut = normal.cdf(5.5) - normal.cdf(-0.5)
    for value in range(6):
        expected = (normal.cdf(value + 0.5) - normal.cdf(value - 0.5)) / cut
        assert found[value] / 10_000 == pytest.approx(expected, abs=1e-3)
    steps = [drawn(Prior(12.0, 1e9), IntDistribution(4, 20, step=4), share) for share in shares]
    counted = Counter(steps)
    assert set(counted) == {4, 8, 12, 16, 20}  # so wide that all are alike
    assert max(counted.values()) - min(counted.values()) < 10
