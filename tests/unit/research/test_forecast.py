"""Forecasts with hindsight: each run's from all others, as a regression without it gives it."""

from __future__ import annotations

import math

import numpy as np
import pytest

import forecast
from search.stopping.replay import Recorded

EPOCHS = 4


def made(count: int = 12) -> tuple[list[Recorded], np.ndarray]:
    """Runs whose end follows from their config, and their configs."""
    random = np.random.default_rng(0)
    points = random.uniform(size=(count, 2))
    curves = points[:, :1] * np.linspace(0.4, 1.0, EPOCHS) + random.normal(0, 0.01, (count, EPOCHS))
    return [Recorded({}, tuple(curve), (1.0,) * EPOCHS) for curve in curves], points


def test_a_forecast_is_that_of_a_regression_without_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, only in (("CONFIG_WEIGHTS", 0.6), ("LENGTH_SCALES", 2.0), ("NOISES", 0.3)):
        monkeypatch.setattr(forecast, name, (only,))
    runs, points = made()
    found = forecast.forecasts(runs, points)
    ends = np.array([run.value for run in runs])
    wanted = (ends - ends.mean()) / ends.std()
    for epoch in range(EPOCHS):
        best = np.array([max(run.metric[: epoch + 1]) for run in runs])
        before = np.array([max(run.metric[: max(1, epoch)]) for run in runs])
        last = np.array([run.metric[epoch] for run in runs])
        columns = np.column_stack([best, last, best - before, points])
        spread = columns.std(axis=0)
        inputs = (columns - columns.mean(axis=0)) / np.where(spread > 0, spread, 1)
        inputs[:, 3:] *= 0.6
        for row in range(len(runs)):
            others = np.delete(np.arange(len(runs)), row)
            apart = ((inputs[:, None] - inputs[None]) ** 2).sum(-1)
            near = np.exp(-apart / (2 * 2.0**2))
            inner = near[np.ix_(others, others)] + 0.3 * np.eye(len(others))
            mean = near[row, others] @ np.linalg.solve(inner, wanted[others])
            expected = mean * ends.std() + ends.mean()
            assert found[row, epoch] == pytest.approx(expected, abs=1e-9)


def test_forecasts_of_what_can_be_foretold_are_near() -> None:
    runs, points = made(40)
    found = forecast.forecasts(runs, points)
    ends = np.array([run.value for run in runs])
    assert np.corrcoef(found[:, 0], ends)[0, 1] > 0.95
    assert np.abs(found[:, -1] - ends).max() < 0.1


def test_epochs_without_a_number_and_unset_parameters() -> None:
    runs, points = made()
    nan = Recorded({}, (math.nan, math.nan, 0.2, math.nan), (1.0,) * EPOCHS)
    points = np.vstack([points, [math.nan, 0.5]])
    assert np.isfinite(forecast.forecasts([*runs, nan], points)).all()
