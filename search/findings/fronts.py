"""What is good and cheap: the trials that no other one beats in value and in cost."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial

from search.studies.trial_facts import TrialFacts
from spaces.errors import InputError

COSTS = {"latency_ms": "latency of one image, ms", "parameters": "parameters"}
NEAR = 0.01  # below the best: of the fronts' trials that are so near the weights are kept


def cost_of(trial: FrozenTrial, name: str) -> float | None:
    """One of COSTS."""
    facts = TrialFacts.of(trial)
    return facts.latency_ms if name == "latency_ms" else facts.parameters


def comparable(ranking: Sequence[FrozenTrial], name: str) -> list[FrozenTrial]:
    """The trials whose cost is known and may be compared: latencies of one device and precision,
    that of the best trial with one.

    Args:
        ranking: best first.
    """
    known = [trial for trial in ranking if cost_of(trial, name) is not None]
    if name != "latency_ms" or not known:
        return known
    device = measured_on(known[0])
    return [trial for trial in known if measured_on(trial) == device]


def measured_on(trial: FrozenTrial) -> str:
    """`NVIDIA H200, bf16`."""
    hardware = TrialFacts.of(trial).hardware
    return ", ".join(str(hardware[name]) for name in ("device", "precision") if name in hardware)


def front(ranking: Sequence[FrozenTrial], name: str) -> list[FrozenTrial]:
    """The trials that are cheaper than every one that is at least as good, cheapest first.

    Args:
        ranking: best first.
    """
    found: list[FrozenTrial] = []
    for trial in comparable(ranking, name):
        cost = cost_of(trial, name)
        assert cost is not None
        if found and cost >= (cost_of(found[-1], name) or 0.0):
            continue
        if found and trial.value == found[-1].value:
            found.pop()
        found.append(trial)
    return found[::-1]


def near_front(ranking: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The front of latency, as far as it is within NEAR of the best: the fastest one within any
    smaller distance is among them, now and when a better trial has come."""
    best = ranking[0].value if ranking else None
    return [t for t in front(ranking, "latency_ms") if (t.value or 0.0) >= (best or 0.0) - NEAR]


def fastest_within(ranking: Sequence[FrozenTrial], distance: float, study: str) -> FrozenTrial:
    """The trial of the lowest latency whose value is at most so far below the best one's.

    Both values are of one seed, in the search.

    Raises:
        InputError: no latency is known.
    """
    best = ranking[0].value if ranking else None
    for trial in front(ranking, "latency_ms"):
        if best is not None and (trial.value or 0.0) >= best - distance:
            return trial
    raise InputError(
        f"--fastest-within: no trial of study {study} within {distance:g} of the best has a "
        "measured latency; trials of older versions have none"
    )
