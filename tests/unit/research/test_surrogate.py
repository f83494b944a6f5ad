"""The surrogate of a recorded table answers configs that the table lacks, and ranks them."""

from __future__ import annotations

import pytest
from scipy.stats import spearmanr

import record
from surrogate import Surrogate, surrogate

pytestmark = pytest.mark.slow


def test_runs_that_a_surrogate_has_not_seen_are_ranked() -> None:
    runs = surrogate().table.runs
    seen, unseen = runs[:75], runs[75:]
    model = Surrogate(record.space(), seen)
    found = [model.value(run.params) for run in unseen]
    assert spearmanr(found, [run.value for run in unseen]).statistic > 0.6
    assert Surrogate(record.space(), seen).value(unseen[0].params) == found[0]


def test_a_config_and_its_drawn_parameters_are_the_same_to_it() -> None:
    model = surrogate()
    params, config = record.draw(model.space, 1234)
    assert model.params(config.flat()) == params
    assert model.curve(config.flat()) == model.curve(params)
    assert len(model.curve(params)) == model.table.epochs


def test_seeds_differ_by_the_noise() -> None:
    model = surrogate()
    params, _ = record.draw(model.space, 1234)
    values = {seed: model.value(params, seed=seed) for seed in range(40)}
    assert len(set(values.values())) > 10
    assert model.value(params, seed=3) == values[3]
    mean = sum(values.values()) / len(values)
    spread = (sum((v - mean) ** 2 for v in values.values()) / len(values)) ** 0.5
    assert 0.5 * model.noise < spread < 2 * model.noise


def test_best_stays_within_what_is_allowed() -> None:
    model = surrogate()
    flat, value = model.best(lambda settings: settings["model.encoder"] == "mobilenet_v2")
    assert flat["model.encoder"] == "mobilenet_v2"
    assert value == model.value(flat)
    allowed = [run for run in model.table.runs if run.params["model.encoder"] == "mobilenet_v2"]
    assert value > max(model.value(run.params) for run in allowed)
