"""A table of recorded runs, searched by a sampler: each proposal stands for the nearest run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from search.stopping.replay import Recorded
from search.studies.samplers import Around
from spaces.space import Choice, Float, Int, Space, parameter_path


class Table:
    """Recorded runs of one space, and which of them a proposal is nearest to."""

    def __init__(self, space: Space, runs: Sequence[Recorded]) -> None:
        assert runs, "a table has at least one run"
        self.space = space
        self.runs = list(runs)
        self.epochs = max(len(run.metric) for run in runs)
        self.best = max(run.value for run in runs)
        names = sorted({name for run in runs for name in run.params})
        self.distributions = {name: self._distribution(name) for name in names}
        self.points = np.stack([self._point(run.params) for run in runs])  # (N, P)

    @property
    def total_epochs(self) -> int:
        """Epochs of all runs together."""
        return sum(len(run.metric) for run in self.runs)

    def nearest(self, params: Mapping[str, Any], among: Sequence[int]) -> int:
        """Return the index of the run in `among` that is nearest to the parameters.

        Distance: Euclid's, each number scaled to [0, 1] over its range (its logarithm where the
        range is one of logarithms); two different choices are 1 apart, and so are a parameter that
        is set and one that is not. Ties go to the lowest index.
        """
        apart = self.apart(params)[np.asarray(among)]
        return among[int(np.argmin((apart**2).sum(axis=1)))]

    def apart(self, params: Mapping[str, Any]) -> np.ndarray:
        """(N, P) how far each run is from the parameters in each of them, from 0 to 1."""
        points, wanted = self.points, self._point(params)
        choices = np.array(
            [isinstance(d, CategoricalDistribution) for d in self.distributions.values()]
        )
        apart = np.where(choices, points != wanted, np.abs(points - wanted))
        one_unset = np.isnan(points) != np.isnan(wanted)
        both_unset = np.isnan(points) & np.isnan(wanted)
        return np.where(both_unset, 0.0, np.where(one_unset, 1.0, apart))

    def _point(self, params: Mapping[str, Any]) -> np.ndarray:
        """(P,) numbers in [0, 1] or indices of choices; NaN where a parameter is not set."""
        return np.array(
            [
                _scaled(distribution, params[name]) if name in params else math.nan
                for name, distribution in self.distributions.items()
            ]
        )

    def _distribution(self, name: str) -> BaseDistribution:
        path = parameter_path(name)
        if path == "model.encoder" and path != name:
            return CategoricalDistribution(self.space.encoder_choice(name[14:-1])[1].choices)
        dim = self.space.dims[path]
        if isinstance(dim, Float):
            return FloatDistribution(dim.low, dim.high, log=dim.log, step=dim.step)
        if isinstance(dim, Int):
            return IntDistribution(dim.low, dim.high, log=dim.log, step=dim.step)
        assert isinstance(dim, Choice), f"{name} is no parameter of a trial"
        return CategoricalDistribution(dim.choices)


def _scaled(distribution: BaseDistribution, value: Any) -> float:
    if isinstance(distribution, CategoricalDistribution):
        return float(distribution.to_internal_repr(value))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = float(distribution.low), float(distribution.high)
    if distribution.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low) if high > low else 0.0


class NearestRecorded(Around):
    """Draws as another sampler does, but each trial gets the parameters of a recorded run.

    No run is given twice; `runs` says which one each trial has.
    """

    def __init__(self, inner: BaseSampler, table: Table) -> None:
        super().__init__(inner)
        self.table = table
        self.free = list(range(len(table.runs)))
        self.runs: dict[int, int] = {}

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return dict(self.table.distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        joint = self.inner.infer_relative_search_space(study, trial)
        drawn = _Drawn(self.inner, study, trial, self.inner.sample_relative(study, trial, joint))
        self.table.space.sample(drawn)
        index = self.table.nearest(drawn.params, self.free)
        self.free.remove(index)
        self.runs[trial.number] = index
        return dict(self.table.runs[index].params)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        raise AssertionError(f"{param_name} is not in the table")


class _Drawn:
    """Answers a space's questions as a sampler's trial would, and keeps the answers."""

    def __init__(
        self,
        sampler: BaseSampler,
        study: optuna.Study,
        trial: FrozenTrial,
        relative: Mapping[str, Any],
    ) -> None:
        self.sampler, self.study, self.trial, self.relative = sampler, study, trial, relative
        self.params: dict[str, Any] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self._answer(name, FloatDistribution(low, high, log=log, step=step)))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return int(self._answer(name, IntDistribution(low, high, log=log, step=step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._answer(name, CategoricalDistribution(choices))

    def _answer(self, name: str, distribution: BaseDistribution) -> Any:
        if name in self.relative:
            value = self.relative[name]
        elif distribution.single():
            value = distribution.to_external_repr(
                0 if isinstance(distribution, CategoricalDistribution) else distribution.low  # type: ignore[attr-defined]
            )
        else:
            value = self.sampler.sample_independent(self.study, self.trial, name, distribution)
        self.params[name] = value
        return value


class Nearest:
    """Proposals of a sampler, each the nearest recorded run that has not begun."""

    def __init__(self, table: Table, sampler: BaseSampler) -> None:
        self.table = table
        self.sampler = NearestRecorded(sampler, table)

    @property
    def left(self) -> bool:
        return bool(self.sampler.free)

    def begin(self, study: optuna.Study) -> tuple[optuna.Trial, Recorded]:
        trial = study.ask()
        self.table.space.sample(trial)
        return trial, self.table.runs[self.sampler.runs[trial.number]]
