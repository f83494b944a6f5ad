"""How a study stands, in a word and in a few more."""

from __future__ import annotations

from dataclasses import dataclass

from search.database.tables import AFTER, GAIN, GPU_HOURS, HOURS, NOW
from search.studies.catalogue import Entry

STATES = ("running", "waiting", "ended", "stopped")
WHY = {
    AFTER: "by a user",
    NOW: "by a user, at once",
    HOURS: "its hours are spent",
    GPU_HOURS: "its GPU hours are spent",
    GAIN: "by itself: little is left to gain",
}


@dataclass(frozen=True)
class State:
    """How a study stands.

    Attributes:
        word: one of STATES.
        detail: what a list says behind it; may be empty.
    """

    word: str
    detail: str = ""


def state(study: Entry, confirmation: Entry | None) -> State:
    """How a study stands, with its confirmation."""
    why = "" if study.stop is None else WHY.get(study.stop, study.stop)
    if study.running:
        return State("running", f"its last trials; stopped {why}" if why else "")
    if confirmation is not None and confirmation.running:
        return State("running", "its confirmation")
    confirms = (
        confirmation is not None
        and confirmation.stop is None
        and confirmation.ended < confirmation.slots
    )
    if study.ended == study.slots and not confirms:
        return State("ended")
    if study.ended < study.slots and study.stop is not None and not confirms:
        return State("ended" if study.stop == GAIN else "stopped", why)
    return State("waiting", "for workers, to confirm" if confirms else "for workers")
