"""`segtune compare`: what two studies answer, how soon, and what differs, on every store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from search.cli import app
from search.database.store import Store
from search.findings.comparison import _half, compare
from search.findings.evidence import CONFIDENCE
from search.findings.markup import to_markdown
from search.studies.slots import Result
from search.studies.study import Study, create_or_resume
from search.studies.trial_facts import TrialFacts
from search.work.confirming import advance
from spaces.sections import ConfirmSpec
from tests.fake_child import report
from tests.scripted import NoData, make_spec
from tests.stores import sqlite_too, worker_too

CONFIRM = ConfirmSpec(top=2, seeds=3, share=10)


def searched(
    store: Store,
    folder: Path,
    name: str,
    values: Sequence[float],
    *,
    more: int = 0,
    fingerprint: str = NoData.fingerprint,
    **changes: Any,
) -> Study:
    """A study whose trials have ended with these values, after two epochs each.

    Args:
        more: slots that nobody has claimed yet.
        changes: of its spec.
    """
    spec = make_spec(folder, name, trials=len(values) + more, sampler="random")
    spec = spec.model_copy(update=changes)
    study = create_or_resume(store, spec, fingerprint, None)
    for value in values:
        end_one(study, value)
    return study


def end_one(study: Study, value: float) -> None:
    claim = study.slots.claim(study.ask)
    assert claim is not None
    for epoch, share in ((1, 0.5), (2, 1.0)):
        assert study.report(claim, report(epoch, value * share)) is not None
    facts = TrialFacts(epochs=2, best_epoch=2, seconds=3.0, hardware={"device": "cpu"})
    assert study.slots.end(claim, Result("COMPLETE", value, "completed", facts.at_end()))


def said(one: Study, other: Study) -> str:
    return to_markdown(compare(one, other)).replace("\\", "")


def run(store: Store, *words: str) -> Any:
    url = store.engine.url.render_as_string(hide_password=False)
    return CliRunner().invoke(app, ["compare", *words], env={"SEGTUNE_STORE": url})


@worker_too
def test_best_curves_and_what_differs(store: Store, tmp_path: Path) -> None:
    """One has ended, the other runs; of equal settings nothing is said."""
    space = {"train.epochs": 30, "optim.lr": {"low": 1e-4, "high": 1e-2}, "data.augment": "none"}
    searched(store, tmp_path, "one", [0.3, 0.5, 0.4])
    searched(store, tmp_path, "two", [0.6], more=4, space=space, seed=7)
    answer = run(store, "one", "two", "--to", "-")
    assert answer.exit_code == 0, answer.output
    text = answer.output.replace("\\", "")
    assert "one: trial 1: mIoU 0.5000, one seed" in text
    assert "two less one: +0.1000. Nobody knows yet whether that is more than noise" in text
    assert "segtune confirm one, segtune confirm two" in text
    assert "| trials ended | 3 of 3 | 1 of 5 |" in text and "| best trial | 1 | 0 |" in text
    assert "| 1 | 2 | 0.3 | 2 | 0.6 |" in text and "| 2 | 4 | 0.5 | - | - |" in text
    assert "| 3 | 6 | 0.5 | - | - |" in text  # the best so far does not fall
    assert "| 1 | 0.25 | 0.3 |" in text and "| 2 | 0.5 | 0.6 |" in text  # epochs of both best
    assert "| data.augment | medium | none |" in text and "| seed | 0 | 7 |" in text
    assert (
        "| budget.trials | 3 | 5 |" in text and "| loss.region | dice, tversky, jaccard |" in text
    )
    assert "| data.resolution |" not in text and "| sampler.name |" not in text
    shown = run(store, "one", "two").output
    assert "two less one: +0.1000" in shown and "dice, tversky, jaccard" in shown
    page = tmp_path / "both.html"
    assert run(store, "one", "two", "--to", str(page)).exit_code == 0
    assert "best-so-far" in page.read_text() and "<title>one and two" in page.read_text()


@sqlite_too
def test_confirmed_answers_have_the_interval_of_their_difference(
    store: Store, tmp_path: Path
) -> None:
    fresh = {"one": (0.30, 0.31, 0.33), "two": (0.50, 0.52, 0.51)}
    studies = []
    for name, values in fresh.items():
        study = searched(store, tmp_path, name, [values[1]])
        study.take_settings(study.spec.model_copy(update={"confirm": CONFIRM}))
        confirmation = advance(study)
        assert confirmation is not None
        for value in values:
            end_one(confirmation, value)
            advance(study)
        studies.append(study)
    text = said(*studies)
    assert "two less one: +0.19" in text and "interval over seeds): a difference" in text
    assert "no more than noise" in said(studies[0], studies[0])


def test_the_interval_is_welchs() -> None:
    one, other = (0.30, 0.31, 0.33, 0.29), (0.50, 0.52, 0.55)
    low, high = stats.ttest_ind(other, one, equal_var=False).confidence_interval(CONFIDENCE)
    known = [(float(np.var(v, ddof=1)) / len(v), len(v) - 1) for v in (one, other)]
    assert _half(*known) == pytest.approx((high - low) / 2)
    assert _half((0.0, 2), (0.0, 3)) == 0


def test_values_of_other_data_or_another_metric_are_not_compared(
    store: Store, tmp_path: Path
) -> None:
    one = searched(store, tmp_path, "one", [0.3])
    data = searched(store, tmp_path, "data", [0.4], fingerprint="e" * 64)
    metric = one.spec.metric.model_copy(update={"name": "dice"})
    other = searched(store, tmp_path, "metric", [0.5], metric=metric)
    assert "cannot be compared: their images, splits or classes are not the same" in said(one, data)
    assert "cannot be compared: one by mIoU, metric by mDice" in said(one, other)
    assert "less one" not in said(one, data) + said(one, other)


def test_studies_of_trials_of_another_length_are_marked(store: Store, tmp_path: Path) -> None:
    one = searched(store, tmp_path, "one", [0.3])
    two = searched(store, tmp_path, "two", [0.4], space={**one.spec.space, "train.epochs": 60})
    text = said(one, two)
    assert "one trains 30 epochs a trial, two 60: part of the difference may be that" in text
    assert "epochs a trial, two" not in said(one, searched(store, tmp_path, "three", [0.4]))


def test_studies_without_a_value_are_compared_too(store: Store, tmp_path: Path) -> None:
    one, two = (searched(store, tmp_path, name, [], more=2) for name in ("one", "two"))
    text = said(one, two)
    assert "one: no trial has ended with a value yet" in text and "Best so far" not in text
    assert "| trials ended | 0 of 2 | 0 of 2 |" in text and "less" not in text


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("one", "tow"), "no study tow in"),
        (("one", "one"), "one stands twice; name two studies"),
        (("one", "two", "--to", "both.pdf"), "must end in .html or .md"),
    ],
)
def test_wrong_input_is_one_error(
    words: tuple[str, ...], error: str, store: Store, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        searched(store, tmp_path, name, [0.3])
    answer = run(store, *words)
    assert answer.exit_code == 2 and error in answer.output
