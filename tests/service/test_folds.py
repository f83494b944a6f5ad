"""A study with folds in the store: what is compared, what stops, and who is ranked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from search.database.store import Store
from search.findings.answer import read_answer
from search.findings.evidence import Candidate, Run, next_round
from search.findings.facts import summary
from search.studies.learning_curves import curves_ended_after
from search.studies.slots import Result
from search.studies.study import Study, create_or_resume
from search.studies.trial_facts import TrialFacts
from spaces.data import FoldsSpec
from spaces.sections import ConfirmSpec
from spaces.spec import StudySpec
from tests.fake_child import FakeChild
from tests.scripted import EPOCHS, make_spec, new_worker
from tests.stores import sqlite_too

FOLDS = 3
GOOD, NEAR, ALSO = (0.95, 0.60, 0.70), (0.94, 0.58, 0.69), (0.96, 0.59, 0.69)
HOPELESS = (0.85, 0.50, 0.60)  # its mean over the first fold is above that of GOOD over all


def folded(store: Store, folder: Path, trials: int, pruner: Any = "quantile") -> Study:
    """A study of so many trials, each of FOLDS * EPOCHS epochs."""
    spec = make_spec(folder, "folded", trials=trials, sampler="random", pruner=pruner)
    data = spec.data.model_copy(update={"val": None, "folds": FoldsSpec(count=FOLDS)})
    spec = StudySpec.from_json(spec.model_copy(update={"data": data}).to_json())
    return create_or_resume(store, spec, "f" * 64, None)


def child(folds: Sequence[float]) -> FakeChild:
    """Each epoch of a fold is a little better than the one before."""
    metrics = [v * (0.9 + 0.1 * e / EPOCHS) for v in folds for e in range(1, EPOCHS + 1)]
    return FakeChild(metrics, fold_epochs=EPOCHS)


def serve(study: Study, tmp_path: Path, *trials: Sequence[float]) -> list[TrialFacts]:
    left = iter(trials)
    worker = new_worker(study, tmp_path, make_child=lambda *given: child(next(left)))
    assert worker.run()
    return [TrialFacts.of(trial) for trial in study.trials()]


@sqlite_too
def test_a_hopeless_trial_stops_after_a_fold_and_never_wins(store: Store, tmp_path: Path) -> None:
    study = folded(store, tmp_path, 4)
    facts = serve(study, tmp_path, NEAR, GOOD, HOPELESS, ALSO)
    assert [known.reason for known in facts] == ["completed", "completed", "folds", "completed"]
    assert facts[1].folds == pytest.approx(GOOD) and facts[2].folds == pytest.approx(HOPELESS[:1])
    assert facts[2].bar == pytest.approx(GOOD[0])
    trials = study.trials()
    assert trials[2].state.name == "PRUNED" and trials[2].value > trials[1].value
    answer = read_answer(study, trials)
    assert answer is not None and answer.trial.number == 1
    assert [trial.number for trial in answer.ranking] == [1, 3, 0]
    assert "mean of 3 folds (0.9500, 0.6000, 0.7000)" in answer.headline
    epochs = [len(study.history(number)) for number in range(4)]
    assert epochs == [FOLDS * EPOCHS, FOLDS * EPOCHS, EPOCHS, FOLDS * EPOCHS]
    assert summary(study)["epochs_saved"] == pytest.approx(2 / 12)
    assert [report.fold for report in study.history(1)[EPOCHS - 1 : EPOCHS + 1]] == [1, 2]


def test_curves_are_compared_within_the_first_fold(store: Store, tmp_path: Path) -> None:
    """A trial that is bad in its second fold's first epochs is no worse a curve for it."""
    study = folded(store, tmp_path, 2, pruner={"name": "ended_median", "startup_trials": 1})
    facts = serve(study, tmp_path, GOOD, (0.95, 0.10, 0.20))
    assert [known.reason for known in facts] == ["completed", "completed"]
    _, curves = curves_ended_after(study, 0, warmups=False)
    assert [len(curve.values) for curve in curves.values()] == [EPOCHS, EPOCHS]


def test_without_a_pruner_all_folds_are_trained(store: Store, tmp_path: Path) -> None:
    facts = serve(folded(store, tmp_path, 3, pruner="none"), tmp_path, NEAR, GOOD, HOPELESS)
    assert [len(known.folds or ()) for known in facts] == [FOLDS] * 3


def test_a_study_of_before_there_were_folds_opens(store: Store, tmp_path: Path) -> None:
    text = make_spec(tmp_path, "old", trials=1).to_json()
    old = text.replace('"folds": null, ', "")
    assert old != text
    assert StudySpec.from_json(old) == StudySpec.from_json(text)


def test_a_starting_point_that_was_stopped_is_the_baseline_all_the_same(
    store: Store, tmp_path: Path
) -> None:
    """It runs again in full; its value on few folds, which may be the easy ones, never counts."""
    study = folded(store, tmp_path, 3)
    for folds in ((0.99,), NEAR, GOOD):
        claim = study.slots.claim(study.ask)
        assert claim is not None
        state = ("COMPLETE", "completed") if len(folds) == FOLDS else ("PRUNED", "folds")
        origin = {"origin": "a recipe"} if len(folds) < FOLDS else {}
        attrs = {**TrialFacts(folds=folds).at_end(), **origin}
        study.slots.end(claim, Result(state[0], fmean(folds), state[1], attrs))
    answer = read_answer(study, study.trials())
    assert answer is not None and answer.trial.number == 2 and answer.baseline is not None
    assert answer.baseline.number == 0 and "stopped before its last fold" in str(answer.claim)
    firsts = {c.number: c.first for c in answer.evidence.candidates}
    assert firsts == {2: fmean(GOOD), 1: fmean(NEAR), 0: None}
    assert (0, 7) in next_round(answer.evidence, ConfirmSpec(top=2), [7, 8], 3)
    again = Candidate(0, None, {7: Run(0, 0.7), 8: Run(1, 0.6)})
    assert again.score == pytest.approx(0.65) and again.score_without(7) == 0.6
    assert Candidate(0, None, {7: Run(0, 0.7)}).score_without(7) == -math.inf
