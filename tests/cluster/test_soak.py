"""Many faults in one study: `benchmarks.faults`, whole."""

from __future__ import annotations

from pathlib import Path

from benchmarks.faults import FAULTS, TRIALS, Soak


def test_random_faults_lose_and_double_nothing(tmp_path: Path) -> None:
    soak = Soak(tmp_path, seed=0)
    soak.run(TRIALS)  # which checks that each trial has exactly one result
    assert len({fault for _, fault, _ in soak.log}) >= len(FAULTS) / 2
