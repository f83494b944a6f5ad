"""The test split: its interval against theory, and words that say no more than the interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from search.findings.evidence import Candidate, Evidence, Run, image_interval
from search.findings.looks import beside, counted, latest, look_lines, look_list, look_table
from search.studies.looks import Beside, Look, Score
from trainers.image_counts import hmean


def hits(*of_100: int) -> np.ndarray:
    """(N, 1, 3): an image each, with so many of 100 boxes found."""
    return np.array([[[found, 100, 100]] for found in of_100])


def scored(value: float, trial: int = 5, **more: object) -> Score:
    facts = {"model_sha256": "f" * 64, "val": 0.6, "interval": (value - 0.1, value + 0.1), **more}
    return Score(trial=trial, value=value, **facts)  # type: ignore[arg-type]


def look(
    half: float | None = None, *, seeds: bool = True, mean: float = 0.02, **more: object
) -> Look:
    facts = {
        "when": "2026-01-02T03:04:05+00:00",
        "by": "ana@host",
        "command": "export",
        "images": 25,
        "score": scored(0.5),
        "baseline": scored(0.48, trial=0),
        "difference": None if half is None else Beside(mean=mean, half_width=half, seeds=seeds),
        **more,
    }
    return Look(**facts)  # type: ignore[arg-type]


def test_the_interval_holds_the_truth_nineteen_times_in_twenty() -> None:
    """Eight images of equal size, whose score is a mean: 0.5 in the whole population.

    The plain percentiles hold it in 0.89 of these draws.
    """
    rng = np.random.default_rng(8)
    draws = 200
    held = 0
    for _ in range(draws):
        low, high = image_interval(hmean, [hits(*rng.integers(20, 81, 8))]) or (1, 0)
        held += low <= 0.5 <= high
    assert 0.92 <= held / draws <= 0.98


def test_a_difference_is_taken_image_by_image_and_knows_the_noise_of_seeds() -> None:
    """Hard and easy images: the two are apart by 2 points on each, which only pairing can see."""
    rng = np.random.default_rng(0)
    easy = rng.integers(10, 90, 30)
    one, other = hits(*easy + 2), hits(*easy)
    paired = Evidence(hmean, []).difference_on([one], [other])  # no seed is known
    assert paired is not None and paired.above
    assert (paired.mean, paired.half) == pytest.approx((0.02, 0.0))
    low, high = image_interval(hmean, [one]) or (0, 0)
    assert high - low > 0.1
    noisy = Evidence(hmean, [Candidate(1, 0.5, {7: Run(0, 0.54)})])
    with_seeds = noisy.difference_on([one], [other])
    assert with_seeds is not None and not with_seeds.above
    sd = np.std([0.5, 0.54], ddof=1) * np.sqrt(2)
    assert with_seeds.half == pytest.approx(stats.t.ppf(0.975, 1) * sd)


def test_a_single_image_has_no_interval() -> None:
    assert image_interval(hmean, [hits(50)]) is None
    lines = look_lines(
        look(score=scored(0.5, interval=None), baseline=scored(0.4, trial=0), images=1), 1, "mIoU"
    )
    assert lines[0].startswith("test: trial 5 has mIoU 0.5000 over 1 image; ")
    assert "says nothing" in lines[1]


@pytest.mark.parametrize(
    ("mean", "half", "seeds", "words"),
    [
        (0.02, 0.019, True, "trial 5 is better there: +0.0200 +- 0.0190; 95% interval over seeds"),
        (
            0.02,
            0.019,
            False,
            "these weights are better there: +0.0200 +- 0.0190; 95% interval over",
        ),
        (
            0.02,
            0.02,
            True,
            "no difference beyond noise: +0.0200 +- 0.0200; 95% interval over seeds",
        ),
        (-0.02, 0.03, False, "no difference beyond noise: -0.0200 +- 0.0300; 95% interval over im"),
        (-0.02, 0.01, True, "trial 5 is worse there: -0.0200 +- 0.0100; 95% interval over seeds"),
    ],
)
def test_better_is_said_only_of_an_interval_without_0(
    mean: float, half: float, seeds: bool, words: str
) -> None:
    said = beside(look(half, mean=mean, seeds=seeds))
    assert said.startswith(words)
    assert ("another seed may undo it" in said) == ("these weights" in words)


def test_a_look_in_words() -> None:
    assert look_lines(look(0.03), 3, "mIoU") == [
        "test: trial 5 has mIoU 0.5000 (0.4000 to 0.6000) over 25 images; on val, which chose "
        "them, the same weights have 0.6000",
        "test: the baseline (trial 0) has 0.4800 (0.3800 to 0.5800); no difference beyond "
        "noise: +0.0200 +- 0.0300; 95% interval over seeds and images",
        "the test split was looked at 3 times",
    ]
    assert counted(1) == "the test split was looked at once"
    alone = look(baseline=None, missing="the winner is itself the best starting point")
    assert look_lines(alone, 1, "mIoU")[1:] == [
        "test: no baseline beside it: the winner is itself the best starting point",
        "the test split was looked at once",
    ]


def test_the_last_export_is_shown_and_every_look_listed() -> None:
    by_hand = scored(0.55, val=None, settings=("decode.threshold=0.4",))
    known = [look(), look(by="bo@host"), look(command="evaluate", score=by_hand, baseline=None)]
    assert latest(known) is known[1] and latest([known[2]]) is known[2] and latest([]) is None
    _, rows = look_list(known)
    assert [row[1].replace("\\", "") for row in rows] == ["ana@host", "bo@host", "ana@host"]
    assert "decode.threshold=0.4" in rows[2][2].replace("\\", "")
    _, (winner, baseline) = look_table(known[1], winner=5)
    assert winner == (5, "0.6000", "0.5000", "0.4000 to 0.6000", "the winner")
    assert baseline[-1] == "the baseline"
    assert look_table(known[1], winner=7)[1][0][-1] == ""
