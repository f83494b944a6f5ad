"""Trials that are no better than a constant answer: their rank, the rule, what is said first."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.findings.ranking import ranked
from search.findings.trivial import trivial_warning
from search.stopping.curves import Curve
from search.studies.reports import Stored
from search.studies.slots import Claim
from search.work import judge as judging
from search.work.judge import Judge
from spaces.config import SegmentationConfig
from spaces.sections import PrunerSpec


def trial(
    number: int, value: float, reason: str, trivial_score: float | None = 0.25
) -> FrozenTrial:
    state = TrialState.PRUNED if reason == "median" else TrialState.COMPLETE
    attrs = {"reason": reason, "trivial_score": trivial_score}
    made = create_trial(state=state, value=value, user_attrs=attrs)
    made.number = number
    return made


def test_a_trivial_trial_never_stands_above_another_of_equal_value() -> None:
    trials = [
        trial(0, 0.25, "health:trivial"),
        trial(1, 0.25, "median"),
        trial(2, 0.25, "completed"),
        trial(3, 0.26, "health:trivial"),
    ]
    assert [t.number for t in ranked(trials)] == [3, 2, 1, 0]


def study(**config: Any) -> Any:
    space = SimpleNamespace(base=SegmentationConfig().replace(config))
    return SimpleNamespace(metric="IoU", space=space)


@pytest.mark.parametrize(
    ("best", "config", "warns"),
    [
        (trial(0, 0.2505, "health:trivial"), {}, True),
        (trial(0, 0.2505, "median"), {}, True),  # stopped before it could be called so
        (trial(0, 0.26, "completed"), {}, False),
        (trial(0, 0.2505, "completed"), {"health.trivial": 0}, False),
        (trial(0, 0.2505, "completed", None), {}, False),  # of a store of before
    ],
)
def test_a_study_whose_best_is_trivial_says_so(
    best: FrozenTrial, config: dict[str, Any], warns: bool
) -> None:
    warning = trivial_warning(study(**config), best, best.value or 0.0)
    assert (warning is not None) is warns
    if warning:
        assert "the best IoU, 0.2505, is no better" in warning and "0.2500" in warning


class Recorded:
    """A study whose trials have all ended with these curves."""

    def __init__(self, curves: list[tuple[float, ...]]) -> None:
        self.spec = SimpleNamespace(pruner=PrunerSpec(pause_below=None, stop_from=1))
        self.space = SimpleNamespace(base=SegmentationConfig())
        self.slots = SimpleNamespace(counts=lambda: {"OPEN": 30})
        self.earlier = ()
        self.curves = {number: Curve(values) for number, values in enumerate(curves)}


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The curves of a study are those that it was made with."""
    monkeypatch.setattr(
        judging, "curves_ended_after", lambda study, ended, warmups: (1, study.curves)
    )


@pytest.mark.usefixtures("in_memory")
@pytest.mark.parametrize(
    ("floor", "word"), [(-math.inf, "median"), (0.25075, None)], ids=["before", "now"]
)
def test_trials_are_not_stopped_on_differences_between_constant_answers(
    floor: float, word: str | None
) -> None:
    """A binary study stopped trials for 1e-4 at the IoU of all foreground."""
    recorded: Any = Recorded([(0.25 + 1e-4 * index,) for index in range(7)])
    judge = Judge(recorded, floor)
    said = Stored(1, (0.2504, 0.2503))
    found = judge.verdict(Claim(0, 9, 1), SegmentationConfig(), [0.2501], said)
    assert (found and found.reason) == word


@pytest.mark.usefixtures("in_memory")
def test_what_has_learned_nothing_still_stops_below_what_has() -> None:
    recorded: Any = Recorded([(0.4 + 0.05 * index,) for index in range(7)])
    judge = Judge(recorded, 0.25075)
    found = judge.verdict(Claim(0, 9, 1), SegmentationConfig(), [0.2501], Stored(1, ()))
    assert found is not None and found.reason == "median"
    assert judge._floored(Curve((math.nan, 0.1, 0.6))).values[1:] == (0.25075, 0.6)
    assert math.isnan(judge._floored(Curve((math.nan, 0.1))).values[0])
