"""The array of best values says what each curve says by itself."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from search.stopping.curves import Curve, EndedCurves

curves = st.builds(
    Curve,
    st.lists(st.floats(0, 1) | st.just(math.nan), max_size=9).map(tuple),
    st.integers(0, 6),
)


@given(st.lists(curves, max_size=80), st.integers(1, 14))
def test_equal_to_asking_each_curve(found: list[Curve], epoch: int) -> None:
    ended = EndedCurves.of(found)
    assert list(ended) == found and len(ended) == len(found)
    plain = [curve.best_by(epoch) for curve in found]
    aligned = [curve.best_by(curve.warmup + epoch) for curve in found]
    for asked, told in (
        (ended.bests(epoch), plain),
        (ended.bests(epoch, after_warmup=True), aligned),
    ):
        assert asked.tolist() == [value for value in told if value is not None]


def test_more_rows_and_longer_curves_are_made_room_for() -> None:
    ended = EndedCurves()
    for trial in range(1000):
        ended.add({trial: Curve((trial / 1000,) * (1 + trial % 50))})
    assert np.array_equal(ended.bests(50), np.arange(1000) / 1000)
    assert 999 in ended and 1000 not in ended
