"""How long a study will still take: over a real one, and what is said where that jumps."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import create_trial

from search.findings.time_left import JUMP, KNOWN, TimeLeft, seconds_left
from search.studies.trained import Trained

# what a worker heard of `segtune demo --trials 16`: seconds, what, trial, epoch of 8
DEMO = """\
0 starts 0; 33 epoch 0 1; 37.8 epoch 0 2; 39.2 PAUSED 0; 39.3 starts 1; 47.6 epoch 1 1; 55.4
epoch 1 2; 56.3 PAUSED 1; 56.5 starts 2; 63.4 epoch 2 1; 70.7 epoch 2 2; 73.3 PAUSED 2; 73.6
starts 3; 83.2 epoch 3 1; 89.8 epoch 3 2; 91.4 PAUSED 3; 91.5 starts 4; 100.5 epoch 4 1; 106.2
epoch 4 2; 107.2 PAUSED 4; 107.3 starts 5; 115.6 epoch 5 1; 122.6 epoch 5 2; 130.9 epoch 5 3;
137.1 epoch 5 4; 144.1 epoch 5 5; 152.2 epoch 5 6; 159.2 epoch 5 7; 166.3 epoch 5 8; 167.2
COMPLETE 5; 174.6 starts 1; 174.8 PRUNED 1; 176.8 starts 2; 179.8 PRUNED 2; 182.2 starts 3;
185.4 PRUNED 3; 187.6 starts 4; 189.6 PRUNED 4; 191.8 starts 0; 197.3 epoch 0 3; 201.2 epoch 0
4; 205.9 epoch 0 5; 211.1 epoch 0 6; 212.7 PAUSED 0; 212.8 starts 6; 221.6 epoch 6 1; 227.5
epoch 6 2; 232.5 epoch 6 3; 238.1 epoch 6 4; 243.7 epoch 6 5; 248.7 epoch 6 6; 255.1 epoch 6 7;
261.7 epoch 6 8; 262.1 COMPLETE 6; 262.3 starts 7; 268.5 epoch 7 1; 270 PAUSED 7; 270.2 starts
8; 277.3 epoch 8 1; 284.4 epoch 8 2; 285.6 PRUNED 8; 286 starts 9; 291.5 epoch 9 1; 296.3 epoch
9 2; 297.5 PAUSED 9; 297.6 starts 10; 307.2 epoch 10 1; 308.2 PAUSED 10; 308.3 starts 11; 314.6
epoch 11 1; 320.1 epoch 11 2; 320.6 PRUNED 11; 320.8 starts 12; 325.5 epoch 12 1; 329.3 epoch 12
2; 330.4 PAUSED 12; 330.5 starts 13; 336.4 epoch 13 1; 341.5 epoch 13 2; 342.9 PRUNED 13; 343.1
starts 14; 351.8 epoch 14 1; 352.8 PAUSED 14; 352.9 starts 15; 359.8 epoch 15 1; 364.7 epoch 15
2; 368 epoch 15 3; 372.2 epoch 15 4; 373.1 PAUSED 15; 374.2 starts 15; 379 epoch 15 5; 383 epoch
15 6; 388.3 epoch 15 7; 392.9 epoch 15 8; 393.4 COMPLETE 15; 395.3 starts 0; 401.1 epoch 0 7;
406 epoch 0 8; 406.4 COMPLETE 0; 408.4 starts 9; 414.5 epoch 9 3; 420.2 epoch 9 4; 427.5 epoch 9
5; 434.3 epoch 9 6; 439.9 epoch 9 7; 443.9 epoch 9 8; 444.4 COMPLETE 9; 446 starts 12; 448.8
epoch 12 3; 454.2 epoch 12 4; 459.2 epoch 12 5; 464 epoch 12 6; 469.6 epoch 12 7; 475.8 epoch 12
8; 476.5 COMPLETE 12; 480.4 starts 14; 485.7 epoch 14 2; 486.8 PRUNED 14; 488.5 starts 10; 497.8
epoch 10 2; 499 PRUNED 10; 500.7 starts 7; 505.4 epoch 7 2; 506.2 PRUNED 7
"""
TRIALS = 16


def lines(said: TimeLeft) -> list[tuple[float, str, float | None]]:
    """(when, what is said, seconds that it says) at each end of a trial of the demo, or pause."""
    found, started, last, unended = [], 0.0, {}, TRIALS  # type: ignore[var-annotated]
    for event in DEMO.replace("\n", " ").strip().split("; "):
        at, what, number, *epoch = event.split()
        now, trial = float(at), int(number)
        if what == "starts":
            started = last[trial] = now
        elif what == "epoch":
            said.epoch_ended(trial, int(epoch[0]), now - last[trial])
            last[trial] = now
        else:
            unended -= what != "PAUSED"
            said.trial_ended(trial, what)
            said.worked(now - started)
            said.estimate(now, unended, 1)
            left = None if said._said is None else said._said.left
            if unended:
                found.append((now, said.text(now), left))
    return found


def test_a_real_study_is_told_without_swings() -> None:
    """Before, the same lines said 42 min, 20 min, 13 min, 9 min and 7 min one after another."""
    found = lines(TimeLeft(8, measured=(60.0, 1500.0)))
    end = float(DEMO.strip().rpartition("; ")[2].split()[0])
    assert [text for _, text, _ in found[: KNOWN - 1]] == [
        "1 min 00 s to 25 min 00 s left by the steps measured before"
    ] * 2  # paused: all of their trials are to end
    told = [(now, text, left) for now, text, left in found if left is not None]
    assert len(told) == len(found) - (KNOWN - 1) and len(told) >= 20
    for (then, _, before), (now, text, left) in pairwise(told):
        expected = before - (now - then)
        jumps = max(left / expected, expected / left) > JUMP
        assert jumps == (", not " in text), text
    assert sum(", not " in text for _, text, _ in told) <= len(told) / 4
    off = [max(left / (end - now), (end - now) / left) for now, _, left in told]
    assert sorted(off)[len(off) // 2] < 1.8 and max(off[: len(off) // 2]) < 3, off


@pytest.fixture
def steady() -> TimeLeft:
    """Of 4 trials of 10 epochs, each of which takes 10 s."""
    said = TimeLeft(10)
    for trial in range(4):
        for epoch in range(1, 11):
            said.epoch_ended(trial, epoch, 10.0)
        said.trial_ended(trial, "COMPLETE")
    said.estimate(400.0, 20, 1)
    assert said.text(400.0) == "about 33 min 20 s left"
    assert said.text(460.0) == "about 32 min 20 s left"  # it counts down between lines
    return said


def test_a_jump_names_its_reason(steady: TimeLeft) -> None:
    steady.estimate(400.0, 20, 4)
    assert steady.text(400.0) == "about 8 min 20 s left, not 33 min 20 s: 4 workers, before 1"
    steady.estimate(400.0, 20, 1)
    assert steady.text(400.0) == "about 33 min 20 s left, not 8 min 20 s: 1 worker, before 4"
    steady.estimate(400.0, 40, 1)  # a larger budget
    assert ", not 33 min 20 s: 40 trials to end, before 20" in steady.text(400.0)
    for trial in range(4, 24):
        steady.epoch_ended(trial, 1, 10.0)
        steady.trial_ended(trial, "PRUNED")
    steady.estimate(600.0, 20, 1)
    assert ": trials train 3 epochs on average, before 10" in steady.text(600.0)
    for trial in range(24, 34):
        for epoch in range(1, 11):
            steady.epoch_ended(trial, epoch, 90.0)
        steady.trial_ended(trial, "COMPLETE")
    steady.estimate(9600.0, 20, 1)
    assert ": an epoch takes 34 s on average, before 10 s" in steady.text(9600.0)


def test_what_lies_between_epochs_counts(steady: TimeLeft) -> None:
    steady.worked(800.0)  # in which 400 s of epochs were trained
    steady.estimate(800.0, 20, 1)
    assert steady.text(800.0).startswith("about 1 h 06 min left")


def test_the_last_trials_have_a_worker_each() -> None:
    said = TimeLeft(10)
    for trial in range(8):
        for epoch in range(1, 6):
            said.epoch_ended(trial, epoch, 10.0)
    said.estimate(50.0, 8, 16)
    assert said.text(50.0) == "about 50 s left"


def test_failed_trials_and_repeated_epochs_say_nothing(steady: TimeLeft) -> None:
    before = steady.text(400.0)
    for trial in range(4, 9):
        steady.trial_ended(trial, "FAILED")
    for epoch in range(1, 11):  # a resumed trial repeats what it has
        steady.epoch_ended(0, epoch, 500.0)
    steady.estimate(400.0, 20, 1)
    assert steady.text(400.0) == before


def test_a_resumed_study_is_known_from_the_start() -> None:
    said = TimeLeft(10, measured=(1.0, 2.0))
    for number in range(KNOWN):
        attrs = {"epochs": 10, "seconds": 100.0}
        trial = create_trial(value=0.5, user_attrs=attrs)
        trial.number = number
        said.take(trial, {}, first=True)
    waiting: Any = SimpleNamespace(
        number=KNOWN, user_attrs={}, intermediate_values={1: 0.1, 4: 0.2}, state=trial.state.RUNNING
    )
    said.take(waiting, {KNOWN: "INTERRUPTED"}, first=True)
    said.estimate(0.0, 1, 1)
    assert said.text(0.0) == "about 1 min 00 s left"
    said.take(waiting, {KNOWN: "PAUSED"})
    said.estimate(0.0, 1, 1)
    why = "trials that have begun will train fewer epochs than expected"
    assert said.text(0.0) == f"about 40 s left, not 1 min 00 s: {why}"


def test_what_the_store_has_of_trials_is_told_as_a_worker_tells_it(steady: TimeLeft) -> None:
    ended = [Trained(n, "COMPLETE", "completed", 10, 100.0, 100.0) for n in range(4)]
    assert seconds_left(ended, 10, 20, 1) == steady.left == 2000
    assert seconds_left(ended, 10, 20, 4) == 500
    assert seconds_left(ended[:2], 10, 20, 1) is None
    waited = [trial._replace(held=200.0) for trial in ended]  # between epochs
    assert seconds_left(waited, 10, 20, 1) == 4000
    crashed = Trained(4, "FAILED", "crashed", 0, None, 0.0)
    refused = Trained(5, "PRUNED", "limit", 0, None, 0.0)
    assert seconds_left([*ended, crashed, refused], 10, 20, 1) == 2000
    runs = Trained(6, "RUNNING", None, 5, None, 50.0)
    assert seconds_left([*ended, runs], 10, 1, 1) == pytest.approx(50)
    paused = runs._replace(state="OPEN", reason="paused")
    left = seconds_left([*ended, paused], 10, 1, 1)
    assert left is not None and left < 50
