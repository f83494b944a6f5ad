"""Limits of a study file: how they are written, and what is outside of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from spaces.limits import Cost, LimitsSpec, shown_count


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ("30M", 30_000_000),
        ("1.5k", 1500),
        (" 2 g ", 2_000_000_000),
        ("25000000", 25_000_000),
        (3e7, 30_000_000),
        (7, 7),
    ],
)
def test_counts_are_written_as_people_write_them(given: object, count: int) -> None:
    assert LimitsSpec.model_validate({"parameters": given}).parameters == count


@pytest.mark.parametrize("given", ["lots", "30 MB", "-3M", "0.0001", 0, True, 1.5, "1e6"])
def test_what_is_no_count_is_refused(given: object) -> None:
    with pytest.raises(ValidationError):
        LimitsSpec.model_validate({"parameters": given})


def test_the_first_limit_that_a_cost_is_above_is_said() -> None:
    limits = LimitsSpec.model_validate({"parameters": "30M", "latency_ms": 20})
    assert limits.outside(Cost(31_000_000, 25.0)) == "parameters 31M, above 30M"
    assert limits.outside(Cost(29_000_000, 25.04)) == "latency_ms 25, above 20"
    assert limits.outside(Cost(30_000_000, 20.0)) is None
    assert limits.outside(Cost()) is None  # nothing is known
    assert limits.constraints(Cost(15_000_000)) == {"parameters": -0.5, "latency_ms": 0.0}
    assert not LimitsSpec().given and LimitsSpec().constraints(Cost(1, 1.0)) == {}


@given(st.floats(1, 9.99e11))
def test_a_count_that_is_shown_is_read_back(count: float) -> None:
    read = LimitsSpec.model_validate({"parameters": shown_count(round(count))}).parameters
    assert read == pytest.approx(round(count), rel=0.005)
