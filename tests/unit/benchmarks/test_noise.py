"""The figures of noise, and their report."""

from __future__ import annotations

import pytest

from benchmarks.noise import LAST, Measured, figures, label, report


def test_the_figures_of_a_curve() -> None:
    """A steady rise has no jitter, however steep; the first half does not count."""
    steady = figures([0.9, 0.1, 0.5, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert steady.jitter == pytest.approx(0)
    assert (steady.best, steady.last) == (0.9, 0.6)
    assert steady.drop == pytest.approx(0.4)
    assert figures([0, 0, 0, 0.2, 0.4, 0.2, 0.4]).jitter == pytest.approx(0.2309, abs=1e-4)


def test_the_report_says_the_worst_seed() -> None:
    quiet, loud = [0.5] * 6, [0.5, 0.5, 0.5, 0.6, 0.4, 0.6]  # differences of -0.2 and 0.2
    other = label(0.1)
    curves = {3: {LAST: loud, other: quiet}, 4: {LAST: quiet, other: loud}}
    text = report({"A": Measured(curves, [100.0, 300.0], [10.0])}, "noise")
    assert "| A | last weights | 0.5500 | 0.5500 | 0.1414 | 0.0333 |" in text
    gain = "+0.0000 (-0.1000 to +0.1000)"
    assert f"| A | average, 0.1 | {gain} | {gain} | 1 of 2 |" in text
    assert "| A | 200 | 10.0 | 5.0% |" in text
    assert "| A | 3 | last weights | 0.6000 | 0.6000 | 0.2828 | 0.0667 |" in text
