"""The lines that follow a study where there is no terminal."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import TrialState, create_trial
from rich.console import Console

from search.work.progress import ProgressView
from spaces.config import SegmentationConfig
from spaces.sections import BudgetSpec
from trainers.report import EpochReport, Losses


def make_view() -> tuple[ProgressView, io.StringIO]:
    study: Any = SimpleNamespace(
        metric="mIoU",
        spec=SimpleNamespace(beside=None, budget=BudgetSpec(), data=SimpleNamespace(folds=None)),
        full_epochs=SegmentationConfig().train.epochs,
        space=SimpleNamespace(base=SegmentationConfig()),
        slots=SimpleNamespace(
            counts=lambda: dict.fromkeys(("OPEN", "RUNNING", "COMPLETE", "PRUNED", "FAILED"), 1),
            waiting=dict,
        ),
        trials=list,
        begun=lambda number: SimpleNamespace(
            trial=SimpleNamespace(params={"optim.lr": 0.01 * (number + 1)}, user_attrs={})
        ),
    )
    out = io.StringIO()
    return ProgressView(study, Console(file=out, width=200)), out


def report(epoch: int) -> EpochReport:
    return EpochReport(epoch=epoch, metric=epoch / 10, images_per_s=9, train=Losses(total=1.0))


def test_a_trial_that_goes_on_repeats_no_line() -> None:
    view, out = make_view()
    for number in (0, 1):
        view.trial_started(number, SegmentationConfig(), 1)
        view.epoch_ended(number, report(1))
        view.epoch_ended(number, report(2))
        view.trial_ended(number, "PAUSED", "waits", 0.2, 2)
    view.trial_started(0, SegmentationConfig(), 1)
    for epoch in (1, 2, 3):
        view.epoch_ended(0, report(epoch))
        if epoch == 2:
            view.trial_resumed(0, 2, 0)
    view.trial_ended(0, "COMPLETE", "completed", 0.3, 3)
    lines = [" ".join(line.split()[:4]) for line in out.getvalue().splitlines()]
    of = SegmentationConfig().train.epochs
    begun = ["started: optim.lr=0.0{}", f"epoch 1/{of}:", f"epoch 2/{of}:", "PAUSED (waits):"]
    more = ["goes on", f"epoch 3/{of}:", "COMPLETE (completed):"]
    assert lines == [
        *(f"trial {n} {line.format(n + 1)}" for n in (0, 1) for line in begun),
        *(f"trial 0 {line}" for line in more),
    ]
    assert "trial 0 goes on after epoch 2\n" in out.getvalue()


@pytest.mark.parametrize(("epochs", "said"), [(0, "0 epochs;"), (1, "1 epoch;"), (2, "2 epochs;")])
def test_the_epochs_of_a_trial_are_counted_in_words(epochs: int, said: str) -> None:
    view, out = make_view()
    view.trial_started(0, SegmentationConfig(), 1)
    view.trial_ended(0, "PRUNED", "oom", None, epochs)
    assert f"trial 0 PRUNED (oom): no value in {said}" in out.getvalue()


def test_trials_that_end_elsewhere_are_shown_with_what_is_left() -> None:
    view, out = make_view()
    trials = []
    for number in range(3):
        attrs = {"epochs": 5, "seconds": 10.0, "reason": "completed"}
        trials.append(create_trial(value=0.1 * number, user_attrs=attrs))
        trials[-1].number = number
    failed = create_trial(state=TrialState.FAIL, user_attrs={"error": "gone"})
    failed.number = 3
    view.trials_ended([*trials, failed], {}, [trials[2], failed], workers=2)
    first, second = out.getvalue().splitlines()
    assert first.startswith("trial 2 COMPLETE (completed): mIoU 0.2000 in 5 epochs; 1 complete, ")
    assert second.startswith("trial 3 FAILED (crashed): no value in 0 epochs; ")
    assert ", before " not in first and first.endswith(" left") and second.endswith(" left")
    assert view.best is not None and view.best[0] == 2
