"""A trial that is outside of its study's limits ends, and its slot is free for another one.

It has trained nothing, so it is no part of the budget: the slot returns without it. So that a study
whose limits nearly nothing keeps comes to its end, that holds for as many trials as the study has
slots (`study.py`); each further one keeps its slot.
"""

from __future__ import annotations

from optuna.trial import TrialState

from search.database import optuna_writer
from search.database.tables import OPEN
from search.studies.slots import Claim, Result, Slots, held_seconds


def refuse(slots: Slots, claim: Claim, result: Result) -> bool:
    """End a trial with a result, and return its slot without it.

    Returns:
        False where the slot is no longer ours: nothing has changed.
    """
    with slots.store.engine.begin() as connection:
        freed = connection.execute(
            slots.renewal(claim).values(
                state=OPEN,
                reason=None,
                trial_number=None,
                attempt=0,
                owner=None,
                lease_until=None,
                claimed_at=None,
                seconds=held_seconds(slots.store),
            )
        )
        if freed.rowcount != 1:
            return False
        attrs = {"reason": result.reason, **result.attrs}
        optuna_writer.end(
            connection,
            slots.study_id,
            claim.trial_number,
            TrialState[result.state],
            result.value,
            attrs,
            result.constraints,
        )
        return True
