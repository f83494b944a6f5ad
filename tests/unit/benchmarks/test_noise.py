"""The figures of noise, and their report."""

from __future__ import annotations

import pytest

from benchmarks.noise import Figures, Measured, figures, report


def test_the_figures_of_a_curve() -> None:
    """A steady rise has no jitter, however steep; the first half does not count."""
    steady = figures([0.9, 0.1, 0.5, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert steady.jitter == pytest.approx(0)
    assert (steady.best, steady.last) == (0.9, 0.6)
    assert steady.drop == pytest.approx(0.4)
    assert figures([0, 0, 0, 0.2, 0.4, 0.2, 0.4]).jitter == pytest.approx(0.2309, abs=1e-4)


def test_the_report_says_the_worst_pair() -> None:
    quiet, loud = Figures(0.5, 0.5, 0.01, 0.0), Figures(0.52, 0.4, 0.05, 0.1)
    text = report({"A": Measured({3: (loud, quiet), 4: (quiet, quiet)}, 200.0, 10.0)}, "noise")
    assert "-0.0100 on average; in the worst of 2 pairs -0.0200, in the best +0.0000" in text
    assert "the larger one in 0 pairs" in text
    assert "| A | last weights | 0.5100 | 0.4500 | 0.0300 | 0.0500 |" in text
    assert "| A | 3 | 0.5200 -> 0.5000 |" in text and "| A | 200 | 10.0 | 5.0% |" in text
