"""`segtune replay`: what stopping rules would have done to a study's own curves."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from typing import Any

import optuna
import pytest
from typer.testing import CliRunner

from search.cli import app
from search.database.store import open_store
from search.findings.savings import LOST, compare, read_curves
from search.studies.study import open_study
from spaces.sections import PrunerSpec

NAME = "scripted-segmentation"
CUT = ("median", "ended_median", "timeout", "stopped")


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_every_rule_is_replayed_on_every_ended_trial(hostile_stores: dict[str, str]) -> None:
    store = open_store(hostile_stores["segmentation"], create=False)
    study = open_study(store, NAME)
    curves = read_curves(study)
    ended = [t for t in study.trials() if t.state.is_finished() and study.history(t.number)]
    assert [run.params for run in curves.runs] == [trial.params for trial in ended]
    assert curves.epochs == sum(len(study.history(trial.number)) for trial in ended)
    reasons = [trial.user_attrs["reason"] for trial in ended]
    assert curves.cut == sum(reason in CUT for reason in reasons) > 0
    rows = {row.rule: row for row in compare(study, curves, orders=8, workers=1)}
    store.close()
    assert {
        "none",
        "median",
        "thrifty",
        "quantile",
        "ended_median",
        "stock_median",
        "hyperband",
    } <= set(rows)
    unpruned = rows["none"]
    assert unpruned.epochs == unpruned.mean_epochs == curves.epochs
    assert unpruned.best == curves.best and unpruned.lost == 0
    for row in rows.values():
        assert row.mean_epochs <= curves.epochs and row.best <= curves.best
        assert (row.to_best is None) == (row.lost == 1)
    assert min(row.epochs for row in rows.values()) < curves.epochs


def test_our_rules_see_no_differences_below_what_needs_no_learning(
    hostile_stores: dict[str, str],
) -> None:
    """As in the study: a rule cannot tell runs apart that are no better than a constant answer."""
    with closing(open_store(hostile_stores["segmentation"], create=False)) as store:
        study = open_study(store, NAME)
        curves = replace(read_curves(study), cut=0)
        low = replace(curves, floor=curves.best + 0.1)
        values = {value for run in low.floored for value in run.metric if value == value}
        assert values == {low.floor} and low.runs == curves.runs
        rows, floored = (
            {row.rule: row for row in compare(study, of, orders=2, workers=1)}
            for of in (curves, low)
        )
    rule = PrunerSpec().name
    assert rows[rule].epochs < floored[rule].epochs == curves.epochs
    assert rows["stock_median"] == floored["stock_median"]  # Optuna's sees them as they are
    assert floored[rule].best == curves.best


def test_the_command_prints_a_table_and_json(hostile_stores: dict[str, str]) -> None:
    options = ["--store", hostile_stores["segmentation"], "--orders", "4"]
    shown = CliRunner().invoke(app, ["replay", NAME, *options])
    assert shown.exit_code == 0, shown.output
    assert "stopping rules on its" in shown.output and "stopped by the study itself" in shown.output
    printed = CliRunner().invoke(app, ["replay", NAME, *options, "--json"])
    found: dict[str, Any] = json.loads(printed.output)
    assert found["runs"] > 10 and found["rules"][0]["rule"] == "none"
    assert all(rule["best"] > found["best"] - LOST for rule in found["rules"][:1])


def test_too_few_trials_say_so(finished: Any) -> None:
    refused = CliRunner().invoke(app, ["replay", "my-study", "--store", finished.url])
    assert refused.exit_code == 2
    assert "3 ended trials" in refused.output and "needs 10" in refused.output
