"""What passes between a supervisor and its trial."""

from __future__ import annotations

import multiprocessing
import time

from search.work.child import ALIVE_SECONDS, Alive, _Words


def test_the_last_word_counts_and_a_fence_is_moved() -> None:
    ours, childs = multiprocessing.Pipe()
    words = _Words(childs)
    assert words.reason() is None
    ours.send(time.monotonic() + 60)
    assert words.reason() is None
    ours.send(time.monotonic() - 1)
    ours.send(time.monotonic() + 60)  # renewed in time
    assert words.reason() is None
    ours.send(time.monotonic() - 1)
    assert words.reason() == "preempted"
    ours.send("median")
    assert words.reason() == "median"
    ours.close()
    assert words.reason() == "orphaned"
    childs.close()


def test_a_trial_says_after_its_first_step_and_now_and_then_that_it_is_alive() -> None:
    ours, childs = multiprocessing.Pipe()
    words = _Words(childs)
    for _ in range(5):
        assert words.reason() is None
    assert isinstance(ours.recv(), Alive) and not ours.poll()  # after the first step
    words.said -= ALIVE_SECONDS + 1
    for _ in range(5):
        assert words.reason() is None
    assert isinstance(ours.recv(), Alive) and not ours.poll()
    ours.close()
    childs.close()
