"""The trials that are cheaper than every better one."""

from __future__ import annotations

from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.findings.front_section import front_graph
from search.findings.fronts import fastest_within, front, near_front
from search.findings.ranking import ranked
from spaces.errors import InputError


def trial(
    number: int, value: float, ms: float | None, count: int | None = None, device: str = "cpu"
) -> FrozenTrial:
    facts: dict[str, Any] = {
        "reason": "completed",
        "latency_ms": ms,
        "parameters": count,
        "hardware": {"device": device, "precision": "fp32"},
    }
    found = create_trial(state=TrialState.COMPLETE, value=value, user_attrs=facts)
    found.number = number
    return found


TRIALS = ranked(
    [
        trial(0, 0.800, 30.0, 20_000_000),
        trial(1, 0.795, 12.0, 30_000_000),
        trial(2, 0.794, 15.0, 10_000_000),  # slower than 1, and worse
        trial(3, 0.700, 5.0, 5_000_000),
        trial(4, 0.600, 6.0, 5_000_000),
        trial(6, 0.800, 31.0, 21_000_000),  # as good as 0, and dearer
        trial(5, 0.796, 1.0, device="another"),  # its milliseconds are others
    ]
)


def numbers(trials: list[FrozenTrial]) -> list[int]:
    return [trial.number for trial in trials]


def test_a_front_has_whoever_is_cheaper_than_every_better_one() -> None:
    assert numbers(front(TRIALS, "latency_ms")) == [3, 1, 0]
    assert numbers(front(TRIALS, "parameters")) == [3, 2, 0]


@pytest.mark.parametrize(("distance", "chosen"), [(0, 0), (0.004, 0), (0.01, 1), (0.2, 3)])
def test_the_fastest_within_a_distance_of_the_best(distance: float, chosen: int) -> None:
    assert fastest_within(TRIALS, distance, "s").number == chosen


def test_whoever_is_fastest_later_has_kept_its_weights() -> None:
    kept = numbers(near_front(TRIALS))
    assert kept == [1, 0]
    better = ranked([*TRIALS, trial(7, 0.8049, 40.0)])  # then 1 is out of reach of 0.005
    assert fastest_within(better, 0.005, "s").number in kept


def test_without_latencies_there_is_no_fastest() -> None:
    older = [trial(0, 0.8, None), trial(1, 0.7, None)]
    assert near_front(older) == []
    with pytest.raises(InputError, match="--fastest-within: no trial of study s"):
        fastest_within(older, 0.01, "s")


def test_a_graph_has_what_can_be_compared() -> None:
    figure = front_graph(TRIALS, "latency_ms", "mIoU")
    assert figure is not None
    assert [*figure.data[1].x] == [5.0, 12.0, 30.0] and 1.0 not in figure.data[0].x
