"""Every loop of the throughput benchmark trains, in turns, to its end."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from functools import partial

import pytest

from benchmarks.loops import LIGHTNING, LIMIT, LOOPS, OURS, installed, run
from benchmarks.plain import Setup
from benchmarks.turns import Crew, rotated

pytestmark = pytest.mark.slow


class Here:
    """Turns without another process: notes what a loop says, and in which order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.metrics: list[float] = []

    def wait(self) -> None:
        self.calls.append("wait")

    def trained(self) -> None:
        self.calls.append("trained")

    def done(self, metric: float) -> None:
        self.calls.append("done")
        self.metrics.append(metric)


@pytest.mark.filterwarnings("ignore")  # of Lightning, about two cores and three batches
@pytest.mark.parametrize("loop", installed())
def test_a_loop_trains_in_turns(loop: str, setup: Setup) -> None:
    turns = Here()
    run(loop, setup, turns)  # type: ignore[arg-type]
    assert turns.calls == ["wait", "trained", "done"] * setup.epochs
    assert all(0 < metric < 1 for metric in turns.metrics), turns.metrics


@pytest.mark.parametrize("loop", [OURS, LIMIT])
def test_a_loop_learns(loop: str, setup: Setup) -> None:
    turns = Here()
    run(loop, replace(setup, epochs=8), turns)  # type: ignore[arg-type]
    assert turns.metrics[-1] > turns.metrics[0] + 0.05, turns.metrics


def test_lightning_is_left_out_where_it_is_absent() -> None:
    assert (LIGHTNING in installed()) == (importlib.util.find_spec("lightning") is not None)
    assert set(LOOPS) - set(installed()) <= {LIGHTNING}


def test_a_crew_takes_turns_alone_and_together(setup: Setup) -> None:
    names = ["one", "two"]
    jobs = {"one": partial(run, LIMIT, setup), "two": partial(run, LIMIT, replace(setup, epochs=1))}
    with Crew(jobs) as crew:
        both = crew.turn(names)
        alone = crew.turn(["one"])
    assert set(both) == {"one", "two"} and set(alone) == {"one"}
    for epoch in (*both.values(), *alone.values()):
        assert 0 < epoch.train_seconds < epoch.seconds and math.isfinite(epoch.metric)
    assert both["one"].metric == both["two"].metric  # of one seed, each in a process of its own


def test_a_failed_process_is_named(setup: Setup) -> None:
    with pytest.raises(RuntimeError, match="the process of 'x' has failed"):
        Crew({"x": partial(run, "no such loop", setup)}).__enter__()


@pytest.mark.parametrize(
    ("by", "order"), [(0, "abc"), (1, "bca"), (2, "cab"), (3, "abc"), (4, "bca")]
)
def test_the_order_rotates(by: int, order: str) -> None:
    assert "".join(rotated("abc", by)) == order
