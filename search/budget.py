"""The budget: exactly N slots, claimed and counted under the study's lock.

A slot is OPEN, RUNNING under a lease, or ended (COMPLETE, PRUNED, FAILED). An interrupted trial
returns its slot, which keeps its trial and is claimed again before any new one is begun.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

from search.store import Store, slot_table

LEASE_SECONDS = 60.0  # a worker that has not renewed for so long has lost its slot
RENEW_SECONDS = 15.0
MAX_ATTEMPTS = 3

OPEN, RUNNING = "OPEN", "RUNNING"
ENDED = ("COMPLETE", "PRUNED", "FAILED")


@dataclass(frozen=True)
class Claim:
    """A slot that this process runs."""

    slot: int
    trial_number: int
    attempt: int


class Budget:
    """The slots of one study."""

    def __init__(self, store: Store, study_id: int) -> None:
        self.store = store
        self.study_id = study_id
        self.owner = f"{socket.gethostname()}:{os.getpid()}"
        self._mine = slot_table.c.study_id == study_id

    def extend(self, total: int) -> None:
        """Make it `total` slots in all; never fewer than there are."""
        with self.store.study_lock(self.study_id), self.store.engine.begin() as connection:
            have = connection.execute(
                sa.select(sa.func.count()).select_from(slot_table).where(self._mine)
            ).scalar_one()
            rows = [
                {"study_id": self.study_id, "slot": slot, "state": OPEN, "attempt": 0}
                for slot in range(have, total)
            ]
            if rows:
                connection.execute(slot_table.insert(), rows)

    def counts(self) -> dict[str, int]:
        """Return {state: slots}."""
        with self.store.engine.connect() as connection:
            rows = connection.execute(
                sa.select(slot_table.c.state, sa.func.count())
                .where(self._mine)
                .group_by(slot_table.c.state)
            ).all()
        found: dict[str, int] = {str(state): int(count) for state, count in rows}
        return {state: found.get(state, 0) for state in (OPEN, RUNNING, *ENDED)}

    def waiting(self) -> set[int]:
        """Numbers of the trials that were interrupted and wait to be resumed."""
        with self.store.engine.connect() as connection:
            found = connection.execute(
                sa.select(slot_table.c.trial_number).where(
                    self._mine, slot_table.c.state == OPEN, slot_table.c.trial_number.is_not(None)
                )
            )
            return set(found.scalars())

    def claim(self, ask: Callable[[int], int]) -> Claim | None:
        """Take the next open slot, or return None where there is none.

        Args:
            ask: slot -> number of a new trial; called under the study's lock, so that no trial
                is ever begun without a slot.
        """
        with self.store.study_lock(self.study_id):
            self._reap()
            while True:
                row = self._next_open()
                if row is None:
                    return None
                slot, trial_number, attempt = row
                if trial_number is not None and self._already_told(slot, trial_number):
                    continue
                if attempt >= MAX_ATTEMPTS:
                    self._set(slot, state="FAILED", reason="crashed", owner=None)
                    self._tell_failed(trial_number)
                    continue
                if trial_number is None:
                    trial_number = ask(slot)
                self._set(
                    slot,
                    state=RUNNING,
                    trial_number=trial_number,
                    attempt=attempt + 1,
                    owner=self.owner,
                    lease_until=self.store.now() + LEASE_SECONDS,
                )
                return Claim(slot, trial_number, attempt + 1)

    def renew(self, claim: Claim) -> bool:
        """Prolong the lease; False where the slot is no longer ours."""
        return self._set(claim.slot, owned=True, lease_until=self.store.now() + LEASE_SECONDS)

    def end(self, claim: Claim, state: str, reason: str) -> bool:
        """End the slot for good; False where it is no longer ours."""
        assert state in ENDED, state
        return self._set(
            claim.slot, owned=True, state=state, reason=reason, owner=None, lease_until=None
        )

    def give_back(self, claim: Claim, *, counts: bool) -> bool:
        """Return the slot with its trial, to be resumed; `counts` uses up the attempt."""
        attempt = claim.attempt if counts else claim.attempt - 1
        return self._set(
            claim.slot, owned=True, state=OPEN, attempt=attempt, owner=None, lease_until=None
        )

    def _set(self, slot: int, *, owned: bool = False, **values: object) -> bool:
        where = [self._mine, slot_table.c.slot == slot]
        if owned:
            where += [slot_table.c.state == RUNNING, slot_table.c.owner == self.owner]
        with self.store.engine.begin() as connection:
            done = connection.execute(sa.update(slot_table).where(*where).values(**values))
            return done.rowcount == 1

    def _next_open(self) -> tuple[int, int | None, int] | None:
        """Interrupted slots first, then by number."""
        with self.store.engine.connect() as connection:
            row = connection.execute(
                sa.select(slot_table.c.slot, slot_table.c.trial_number, slot_table.c.attempt)
                .where(self._mine, slot_table.c.state == OPEN)
                .order_by(slot_table.c.trial_number.is_(None), slot_table.c.slot)
                .limit(1)
            ).first()
        return None if row is None else (row[0], row[1], row[2])

    def _reap(self) -> None:
        """Reopen slots whose worker is gone, and fail trials that no slot knows."""
        with self.store.engine.begin() as connection:
            connection.execute(
                sa.update(slot_table)
                .where(
                    self._mine,
                    slot_table.c.state == RUNNING,
                    sa.or_(
                        slot_table.c.lease_until < self.store.now(),
                        slot_table.c.owner.in_(self._dead_owners(connection)),
                    ),
                )
                .values(state=OPEN, owner=None, lease_until=None)
            )
            known = set(
                connection.execute(sa.select(slot_table.c.trial_number).where(self._mine)).scalars()
            )
        running = self.store.storage.get_all_trials(
            self.study_id, deepcopy=False, states=(TrialState.RUNNING,)
        )
        for trial in running:
            if trial.number not in known:
                self._tell_failed(trial.number)

    def _dead_owners(self, connection: sa.Connection) -> list[str]:
        """Owners on this host whose process is gone; no need to wait for their leases."""
        owners = connection.execute(
            sa.select(slot_table.c.owner)
            .where(self._mine, slot_table.c.state == RUNNING)
            .distinct()
        ).scalars()
        host = socket.gethostname()
        dead = []
        for owner in owners:
            name, _, pid = str(owner).rpartition(":")
            if name == host and not _alive(int(pid)):
                dead.append(str(owner))
        return dead

    def _already_told(self, slot: int, trial_number: int) -> bool:
        """A worker died between telling the result and ending its slot: end it now."""
        trial = self._trial(trial_number)
        if not trial.state.is_finished():
            return False
        state = "FAILED" if trial.state == TrialState.FAIL else trial.state.name
        reason = trial.user_attrs.get("reason", "crashed")
        self._set(slot, state=state, reason=reason, owner=None, lease_until=None)
        return True

    def _tell_failed(self, trial_number: int | None) -> None:
        if trial_number is None:
            return
        trial = self._trial(trial_number)
        if not trial.state.is_finished():
            storage = self.store.storage
            storage.set_trial_user_attr(trial._trial_id, "reason", "crashed")
            storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def _trial(self, number: int) -> FrozenTrial:
        storage = self.store.storage
        return storage.get_trial(
            storage.get_trial_id_from_study_id_trial_number(self.study_id, number)
        )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's process
    return True
