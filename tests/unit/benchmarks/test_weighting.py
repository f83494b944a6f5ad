"""The runs of benchmarks.weighting, and their report."""

from __future__ import annotations

from typing import Any

from benchmarks.weighting import FIXED, OTHERS, SETUPS, WEIGHTING, report, wanted
from spaces.config import SegmentationConfig
from spaces.text_detection import TextDetectionConfig


def test_every_arm_is_a_config_and_runs_with_every_seed() -> None:
    runs = wanted(2, others=True)
    arms = sum(len(WEIGHTING) + len(OTHERS[setup]) for setup in SETUPS)
    assert len({(setup, arm, seed) for setup, arm, _, seed in runs}) == 2 * arms == len(runs)
    assert wanted(2, others=False) == runs[: 2 * len(SETUPS) * len(WEIGHTING)]
    configs = {"camvid": SegmentationConfig(), "sroie": TextDetectionConfig()}
    for setup, arm, settings, _ in runs:
        example, base = SETUPS[setup]
        plain = configs[example].replace(base)
        assert (plain.replace(settings) == plain) is (arm == FIXED)


def run(arm: str, seed: int, *metrics: float, **weights: float) -> dict[str, Any]:
    return {
        "setup": "SROIE",
        "arm": arm,
        "seed": seed,
        "metrics": metrics,
        "weights": weights,
        "seconds": 1,
    }


def test_gains_are_of_the_same_seed_over_the_arm_that_they_change() -> None:
    runs = [run(FIXED, 0, 0.4, 0.5), run(FIXED, 1, 0.6, 0.5), run("gradnorm", 0, 0.6, 0.4, dice=2)]
    runs += [run("focal", 0, 0.3), run("focal, alpha 0.25", 0, 0.35)]
    text = report(runs, "weighting")
    assert "| SROIE | fixed | 0.5500 | 0.5000 |  |" in text
    assert "| 0.6000 | 0.4000 | +0.1000 (+0.1000 to +0.1000) over fixed |" in text
    assert "| SROIE | focal | 0.3000 | 0.3000 | -0.2000 (-0.2000 to -0.2000) over fixed |" in text
    assert "| 0.3500 | 0.3500 | +0.0500 (+0.0500 to +0.0500) over focal |" in text
    assert "| SROIE | gradnorm | 0 | 0.6000 | 0.4000 | dice 2 |" in text
