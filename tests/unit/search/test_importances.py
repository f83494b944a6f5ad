"""Importances: what explains more than chance is named, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from search.findings.importances import MIN_TRIALS, shares


def drawn(trials: int, rng: np.random.Generator) -> dict[str, list[Any]]:
    """Fifteen settings, of numbers and names, one of them conditional."""
    numbers: dict[str, list[Any]] = {f"number{i}": [*rng.random(trials)] for i in range(8)}
    names: dict[str, list[Any]] = {f"name{i}": [*rng.choice([*"abc"], trials)] for i in range(6)}
    half = [value if rng.random() < 0.5 else None for value in rng.random(trials)]
    return numbers | names | {"conditional": half}


def named(settings: Mapping[str, Sequence[Any]], values: Sequence[float]) -> dict[str, float]:
    """{setting: what it explains} of those that explain more than chance."""
    return {one.setting: one.share for one in shares(settings, values) if one.named}


def test_noise_names_nothing() -> None:
    rng = np.random.default_rng(0)
    found = [named(drawn(24, rng), rng.random(24)) for _ in range(100)]
    # one band over all settings: 5 of 100 studies are expected; 15 bands would name in half
    assert sum(map(bool, found)) <= 10


@pytest.mark.parametrize("optimum", [0.5, 1.0])
def test_what_decides_is_named_also_where_its_optimum_is_in_the_middle(optimum: float) -> None:
    rng = np.random.default_rng(1)
    settings = drawn(40, rng)
    values = [-((x - optimum) ** 2) + rng.normal(0, 0.02) for x in settings["number3"]]
    found = named(settings, values)
    assert next(iter(found)) == "number3" and found["number3"] > 0.5


def test_a_name_and_a_conditional_setting() -> None:
    rng = np.random.default_rng(2)
    settings = drawn(40, rng)
    values = [
        (name == "a") + (0.0 if x is None else 3 * x) + rng.normal(0, 0.05)
        for name, x in zip(settings["name1"], settings["conditional"], strict=True)
    ]
    assert {"conditional"} <= set(named(settings, values)) <= {"name1", "conditional"}


def test_the_share_is_eta_squared_of_the_ranks() -> None:
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    halves = [*"aaaabbbb"]
    # ranks 1..8: 42 in all, 4 * (2.5 - 4.5)^2 + 4 * (6.5 - 4.5)^2 = 32 between the halves
    assert named({"x": halves}, values) == {"x": pytest.approx(32 / 42)}


def test_what_says_nothing_is_no_error() -> None:
    few = MIN_TRIALS - 1
    assert named({"x": [*range(few)]}, [*range(few)]) == {}
    assert named({"x": [*range(20)]}, [0.5] * 20) == {}  # all alike
    assert named({"x": ["a"] * 20}, [*range(20)]) == {}  # never varied
    assert named({}, []) == {}


def test_what_is_above_its_chance_is_named_and_nothing_else() -> None:
    rng = np.random.default_rng(3)
    settings = drawn(24, rng)
    found = shares(settings, [x + rng.normal(0, 0.2) for x in settings["number3"]])
    assert {one.setting for one in found} == {*settings}  # nothing is left out
    assert [one.share for one in found] == sorted((one.share for one in found), reverse=True)
    assert all(one.named == (one.share > one.chance) and 0 < one.chance <= 1 for one in found)
    assert any(one.named for one in found) and not all(one.named for one in found)
    # one that half the trials have must explain more of them
    chance = {one.setting: one.chance for one in found}
    assert chance["conditional"] > max(chance[f"number{i}"] for i in range(8))
    # values that are all alike: there is no chance to exceed
    [alike] = shares({"x": [*range(20)]}, [0.5] * 20)
    assert (alike.share, alike.chance, alike.named) == (0.0, 0.0, False)
