"""Stopping and reopening a study, and the limits of its budget beside the count of trials."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from search.database.store import Store, UnknownStudy
from search.database.tables import GAIN, GPU_HOURS, HOURS, NOW, SPENT, control_table
from search.studies import own_end
from search.studies.slots import Slots
from search.studies.study import Study


@dataclass(frozen=True)
class Limits:
    """What a supervisor must act on.

    Attributes:
        now: the word that ends running trials: preempted (`stop --now`), stopped (a spent budget).
        trial_seconds: how long one attempt may run.
    """

    now: str | None
    trial_seconds: float | None

    @staticmethod
    def none() -> Limits:
        return Limits(None, None)


def limits(study: Study) -> Limits:
    """Read a study's limits; close it where its hours are spent.

    A search leaves of its hours what its confirmation may need.
    """
    budget, confirm = study.spec.budget, study.spec.confirm
    seconds = 3600 / (1 if confirm is None else 1 + confirm.share)  # of an hour, for the search
    stop, elapsed = _state(study.store, study.study_id)
    spent = stop if stop in SPENT else None
    if stop in (None, GAIN):  # hours count on while what runs goes on to its end
        if budget.hours is not None and elapsed > budget.hours * seconds:
            spent = HOURS
        elif budget.gpu_hours is not None:
            used = study.slots.used_seconds()
            if study.spec.confirms is not None:
                searched = study.store.storage.get_study_id_from_name(study.spec.confirms)
                used += Slots(study.store, searched, study.owner).used_seconds()
            spent = GPU_HOURS if used > budget.gpu_hours * seconds else None
        if spent and stop is None:
            close(study.store, study.study_id, spent)
    word = "preempted" if stop == NOW else "stopped" if spent else None
    longest = None if budget.trial_hours is None else budget.trial_hours * 3600
    return Limits(word, longest)


def stopped(study: Study) -> str | None:
    """Why no new trial begins: after, now, hours, gpu_hours, gain; None while it is open."""
    return _state(study.store, study.study_id)[0]


def close(store: Store, study_id: int, reason: str) -> None:
    """Let no new trial begin; with `now` running ones return their slots at their next step."""
    with store.engine.begin() as connection:
        connection.execute(
            sa.update(control_table).where(control_table.c.study_id == study_id).values(stop=reason)
        )


def reopen(store: Store, study_id: int) -> None:
    """Let trials begin again; hours count from here, and it looks later whether it may end."""
    with store.engine.begin() as connection:
        own_end.resumed(connection, study_id)
        connection.execute(
            sa.update(control_table)
            .where(control_table.c.study_id == study_id)
            .values(stop=None, opened_at=store.now())
        )


def _state(store: Store, study_id: int) -> tuple[str | None, float]:
    """(why it is closed, seconds since it was opened)."""
    with store.engine.connect() as connection:
        row = connection.execute(
            sa.select(control_table.c.stop, store.now() - control_table.c.opened_at).where(
                control_table.c.study_id == study_id
            )
        ).one_or_none()
    if row is None:
        raise UnknownStudy(f"study {study_id} of {store.shown} was deleted")
    return row[0], float(row[1])
