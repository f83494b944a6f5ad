"""A surrogate of a recorded table: answers any config of the table's space, trains nothing.

    from surrogate import surrogate
    model = surrogate("camvid")        # fitted in a second
    model.curve(config.flat())         # metric after each epoch; also takes a trial's params
    model.value(trial.params, seed=3)  # its best epoch's, as another seed would have it

    python research/early-stopping/surrogate.py    # how well each table's surrogate ranks

Gaussian process regression of the recorded curves on the drawn parameters: the curve of a config is
a weighted sum of all recorded ones, and those of near configs weigh most. What counts as near is
fitted (one length for each parameter, by marginal likelihood; Rasmussen and Williams 2006, chapter
5). It says nothing about values of a parameter that the table does not have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.stats import spearmanr

from record import TABLES, read_table, space
from search.stopping.replay import Recorded
from spaces.space import Choice, Float, Int, Space, parameter_path
from table import Table

WEIGHT, NOISE = -2.0, -2.0  # logarithms of what is expected before any curve is seen
GRID = 17  # values of a range that `best` tries


@cache
def surrogate(table: str = "camvid") -> Surrogate:
    """Return the surrogate of all runs of a table; the same at every call."""
    return Surrogate(
        space(table),
        [
            Recorded(
                row["params"],
                tuple(math.nan if value is None else value for value in row["metric"]),
                tuple(row["cpu_seconds"]),
                row["warmup"],
            )
            for row in read_table(table)
        ],
    )


class Surrogate:
    """Curves of configs that nobody has trained.

    Attributes:
        space: what the recorded configs were drawn from.
        table: the recorded runs.
        noise: standard deviation of what the parameters do not explain, in the metric's units.
    """

    def __init__(self, space: Space, runs: Sequence[Recorded]) -> None:
        self.space = space
        self.table = Table(space, runs)
        curves = np.array([run.metric for run in runs])  # (N, E)
        self._curves = np.where(np.isnan(curves), np.nanmin(curves), curves)
        values = np.array([run.value for run in runs])
        self._fit(values)
        explained = np.stack([self._explained(run.params) for run in runs])
        rest = self._curves - explained
        scale = self.noise / (values - explained.max(axis=1)).std()
        self._rest = (rest - rest.mean(axis=0)) * scale  # (N, E)

    def params(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What a trial with these settings draws, by parameter name; the others do not matter."""
        answers = _Given(self.space.base.flat(), settings)
        self.space.sample(answers)
        return answers.params

    def curve(self, settings: Mapping[str, Any], *, seed: int | None = None) -> list[float]:
        """Return the validation metric after each epoch.

        Args:
            settings: a config's `flat()`, or the parameters of a trial.
            seed: also adds what some recorded run, drawn by the seed, has beyond its parameters:
                noise as seeds make it. None: none.
        """
        curve = self._explained(self.params(settings))
        if seed is not None:
            curve = curve + self._rest[np.random.default_rng(seed).integers(len(self._rest))]
        return [float(value) for value in curve]

    def value(self, settings: Mapping[str, Any], *, seed: int | None = None) -> float:
        """Return the metric of the best epoch."""
        return max(self.curve(settings, seed=seed))

    def best(
        self, allowed: Callable[[Mapping[str, Any]], bool] = lambda settings: True
    ) -> tuple[dict[str, Any], float]:
        """Return the flat config with the highest value, without noise, and that value.

        Found by changing one parameter at a time until none helps, from each of the best recorded
        configs; so it is the best that was found.

        Args:
            allowed: whether a flat config counts.
        """
        runs = sorted(self.table.runs, key=lambda run: -self.value(run.params))
        starts = [self.space.config(run.params).flat() for run in runs]
        climbed = [self._climb(flat, allowed) for flat in list(filter(allowed, starts))[:5]]
        return max(climbed, key=lambda found: found[1])

    def _climb(
        self, flat: dict[str, Any], allowed: Callable[[Mapping[str, Any]], bool]
    ) -> tuple[dict[str, Any], float]:
        value, before = self.value(flat), -math.inf
        while value > before + 1e-5:
            before = value
            for name in self.space.dims:
                for setting in _grid(self.space, name):
                    changed = flat | {name: setting}
                    if allowed(changed) and (found := self.value(changed)) > value:
                        flat, value = changed, found
        return flat, value

    # ------------------------------------------------------------ the regression

    def _fit(self, values: np.ndarray) -> None:
        apart = np.stack([self.table.apart(run.params) for run in self.table.runs]) ** 2  # (N,N,P)
        wanted = (values - values.mean()) / values.std()
        count, size = apart.shape[1:]

        def unlikely(logs: np.ndarray) -> float:
            """Negative log posterior of weights and noise, the signal's variance profiled out."""
            kernel = _matern(apart @ np.exp(logs[:size])) + np.exp(logs[size]) * np.eye(count)
            lower = np.linalg.cholesky(kernel)
            solved = np.linalg.solve(lower, wanted)
            fit = 0.5 * count * math.log(solved @ solved / count) + np.log(np.diag(lower)).sum()
            prior = ((logs[:size] - WEIGHT) ** 2).sum() / 8 + (logs[size] - NOISE) ** 2 / 2
            return float(fit + prior)

        bounds = [(-8.0, 4.0)] * size + [(-5.0, 1.0)]
        start = np.array([WEIGHT] * size + [NOISE])
        logs = minimize(unlikely, start, method="L-BFGS-B", bounds=bounds).x
        self._weights = np.exp(logs[:size])  # (P,)
        kernel = _matern(apart @ self._weights) + np.exp(logs[size]) * np.eye(count)
        signal = wanted @ np.linalg.solve(kernel, wanted) / count
        self.noise = float(np.sqrt(np.exp(logs[size]) * signal) * values.std())
        self._mean = self._curves.mean(axis=0)  # (E,)
        self._solved = np.linalg.solve(kernel, self._curves - self._mean)  # (N, E)

    def _explained(self, params: Mapping[str, Any]) -> np.ndarray:
        near = _matern(self.table.apart(params) ** 2 @ self._weights)  # (N,)
        return np.asarray(self._mean + near @ self._solved)  # (E,)


def left_out(table: str, folds: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Return (N,) values of a table's runs, and those of surrogates that have not seen them."""
    runs = surrogate(table).table.runs
    fold = np.random.default_rng(0).permutation(len(runs)) % folds
    found = np.empty(len(runs))
    for number in range(folds):
        seen = Surrogate(space(table), [r for r, f in zip(runs, fold, strict=True) if f != number])
        for row in np.flatnonzero(fold == number):
            found[row] = seen.value(runs[row].params)
    return np.array([run.value for run in runs]), found


def _matern(squares: np.ndarray) -> np.ndarray:
    """Matérn kernel with nu = 5/2, of squared distances (Rasmussen and Williams 2006, eq. 4.17)."""
    root = np.sqrt(5 * squares + 1e-12)
    return np.asarray((1 + root + root**2 / 3) * np.exp(-root))


def _grid(space: Space, name: str) -> list[Any]:
    """Values of a dimension; none of one that is swept inside a trial."""
    dim = space.dims[name]
    if isinstance(dim, Choice):
        return list(dim.choices)
    if isinstance(dim, Float):
        even = np.geomspace if dim.log else np.linspace
        return [float(v) for v in np.clip(even(dim.low, dim.high, GRID), dim.low, dim.high)]
    if isinstance(dim, Int):
        return list(range(dim.low, dim.high + 1, dim.step))
    return []


class _Given:
    """Answers a space's questions with given settings, and keeps the answers."""

    def __init__(self, base: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.settings = {**base, **{parameter_path(name): v for name, v in settings.items()}}
        self.params: dict[str, Any] = {}

    def suggest_float(self, name: str, low: float, high: float, **kinds: Any) -> float:
        return float(self._answer(name))

    def suggest_int(self, name: str, low: int, high: int, **kinds: Any) -> int:
        return int(self._answer(name))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._answer(name)

    def _answer(self, name: str) -> Any:
        self.params[name] = self.settings[parameter_path(name)]
        return self.params[name]


def main() -> None:
    """Say how well each table's surrogate ranks configs that it has not seen."""
    for table in TABLES:
        if len(read_table(table)) < 20:
            print(f"{table}: not recorded yet")
            continue
        (known, found), model = left_out(table), surrogate(table)
        error, rank = math.sqrt(((known - found) ** 2).mean()), spearmanr(known, found).statistic
        print(
            f"{table}: {len(known)} runs, {known.min():.3f} to {known.max():.3f}; left out: rank "
            f"correlation {rank:.2f}, error {error:.3f} (of a constant "
            f"{known.std():.3f}); noise {model.noise:.3f}; best config {model.best()[1]:.3f}"
        )


if __name__ == "__main__":
    main()
