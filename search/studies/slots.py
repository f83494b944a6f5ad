"""The budget: exactly N slots, each claimed, renewed and ended by one statement or transaction.

A slot is OPEN, RUNNING under a lease, or ended (COMPLETE, PRUNED, FAILED). An interrupted trial
returns its slot, which keeps its trial and is claimed again before any new one is begun. So does
a paused one (reason: paused), which is claimed again when the study's rule says so. Our table
decides: a result counts when `end` has stored it with the slot, in one statement that only the
holder of the lease can carry out; Optuna's trial is told afterwards, by the same worker or, where
that one has died, by the reaper of any other.
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

from search.database import optuna_writer
from search.database.store import Store
from search.database.tables import (
    ENDED,
    OPEN,
    PAUSED,
    RUNNING,
    SPENT,
    UNCLAIMED,
    control_table,
    slot_table,
)
from search.stopping.rules import Review
from search.studies.trial_facts import TrialFacts

LEASE_SECONDS = 60.0  # a worker that has not renewed for so long has lost its slot
FENCE_SECONDS = 50.0  # after a renewal the trial's process ends by itself, before the lease does
MAX_ATTEMPTS = 3

CONFIG = "segtune:config"


@dataclass(frozen=True)
class Claim:
    """A slot that this process runs.

    Attributes:
        bar: of the study's rule, where the trial was found below it while it was paused: it ends.
        spent: the study's hours are over: the trial, which was paused, ends.
        may_pause: False where it was taken up because nothing new was left to begin.
    """

    slot: int
    trial_number: int
    attempt: int
    bar: float | None = None
    spent: bool = False
    may_pause: bool = True


@dataclass(frozen=True)
class Result:
    """What a trial came to, as it is stored with its slot.

    Attributes:
        state: COMPLETE, PRUNED or FAILED.
        reason: completed, patience, median, health:<alarm>, oom, nonfinite, crashed, timeout,
            stopped, unfit.
        attrs: further facts, which become user attributes of Optuna's trial; JSON.
    """

    state: str
    value: float | None
    reason: str
    attrs: Mapping[str, Any]


@dataclass(frozen=True)
class Locked:
    """A study as the holder of its lock sees it.

    Attributes:
        connection: the transaction that ends with the lock.
        trials: all of Optuna's trials, by number.
    """

    connection: sa.Connection
    trials: Sequence[FrozenTrial]


def new_owner() -> str:
    """A name for this worker that no other has ever had: host:pid:random."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def drawn_config(trial: FrozenTrial) -> dict[str, Any] | None:
    """The settings that a trial was begun with, by dotted name; None where it was not drawn.

    They are no user attribute: optuna-dashboard would show them in one line of a thousand letters.
    """
    return trial.system_attrs.get(CONFIG) or TrialFacts.of(trial).config


class Budget:
    """The slots of one study, seen by one owner."""

    def __init__(
        self, store: Store, study_id: int, owner: str, max_attempts: int = MAX_ATTEMPTS
    ) -> None:
        self.store = store
        self.max_attempts = max_attempts
        self.study_id = study_id
        self.owner = owner
        self._mine = slot_table.c.study_id == study_id

    def extend(self, total: int) -> None:
        """Make it `total` slots in all; never fewer than there are."""
        with self.store.locked(self.study_id) as connection:
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

    def waiting(self) -> dict[int, str]:
        """{trial: INTERRUPTED or PAUSED} of those that wait to be taken up again."""
        with self.store.engine.connect() as connection:
            found = connection.execute(
                sa.select(slot_table.c.trial_number, slot_table.c.reason).where(
                    self._mine, slot_table.c.state == OPEN, slot_table.c.trial_number.is_not(None)
                )
            )
            return {
                number: "PAUSED" if reason == PAUSED else "INTERRUPTED" for number, reason in found
            }

    def claim(
        self, ask: Callable[[int, Locked], int], review: Review | None = None
    ) -> Claim | None:
        """Take the next open slot, or return None where there is none.

        Interrupted trials come first, then paused ones that end or go on, then new ones, then
        paused ones that wait. Called again after a lost answer it returns the slot that the lost
        call has taken.

        Args:
            review: what becomes of the paused trials.
            ask: begins a new trial for a slot within the study's lock, and the transaction that
                holds it, so that no trial is ever begun without a slot; returns its number.
        """
        with self.store.locked(self.study_id) as connection:
            begun = self._begun(connection)
            for row in begun:
                if row.owner == self.owner:  # an answer was lost
                    return Claim(row.slot, row.trial_number, row.attempt)
            trials, orphan = self._reap(connection, begun)
            paused = {row.trial_number: row for row in begun if row.reason == PAUSED}
            while (chosen := self._next_open(connection, paused, review or Review())) is not None:
                slot, trial_number, attempt = chosen.slot, chosen.trial_number, chosen.attempt
                paused.pop(trial_number, None)
                if attempt >= self.max_attempts:
                    failed = Result("FAILED", None, "crashed", {})
                    self._store_result(connection, slot, failed)
                    self.tell_in(connection, trial_number, failed)
                    continue
                if trial_number is None:
                    trial_number = orphan
                if trial_number is None:
                    trial_number = ask(slot, Locked(connection, trials))
                self._set(
                    connection,
                    slot,
                    state=RUNNING,
                    reason=None,
                    trial_number=trial_number,
                    attempt=attempt + 1,
                    owner=self.owner,
                    lease_until=self.store.now() + LEASE_SECONDS,
                    claimed_at=self.store.now(),
                )
                return replace(chosen, trial_number=trial_number, attempt=attempt + 1)
        return None

    def renew(self, claim: Claim) -> bool:
        """Prolong the lease; False where the slot is no longer ours."""
        with self.store.engine.begin() as connection:
            return self.renew_in(connection, claim)

    def renew_in(self, connection: sa.Connection, claim: Claim) -> bool:
        """Prolong the lease as part of a transaction; False where the slot is no longer ours."""
        return connection.execute(self.renewal(claim)).rowcount == 1

    def renewal(self, claim: Claim) -> sa.Update:
        """The statement that prolongs the lease, where the slot is still ours."""
        lease_until = self.store.now() + LEASE_SECONDS
        return self._update(claim.slot, owned=True, lease_until=lease_until)

    def end(self, claim: Claim, result: Result) -> bool:
        """Store a trial's result with its slot, and tell Optuna.

        Returns:
            False where the slot is no longer ours: the result does not count. Ending twice with
            the same result is True both times.
        """
        with self.store.engine.begin() as connection:
            ours = self._store_result(connection, claim.slot, result, owned=True)
            if not ours and not self._ended_by_us(connection, claim, result):
                return False
        self.tell(claim.trial_number, result)
        return True

    def give_back(self, claim: Claim, *, counts: bool, paused: bool = False) -> bool:
        """Return the slot with its trial, to be resumed; `counts` uses up the attempt.

        Args:
            paused: by the study's rule, which says when it is taken up again.
        """
        attempt = claim.attempt if counts else claim.attempt - 1
        with self.store.engine.begin() as connection:
            return self._set(
                connection,
                claim.slot,
                owned=True,
                state=OPEN,
                reason=PAUSED if paused else None,
                attempt=attempt,
                owner=None,
                lease_until=None,
                seconds=self._seconds(),
                claimed_at=None,
            )

    def used_seconds(self) -> float:
        """Seconds that trials of this study have held a device, running ones up to now."""
        running = sa.func.coalesce(self.store.now() - slot_table.c.claimed_at, 0.0)
        total = sa.func.coalesce(slot_table.c.seconds, 0.0) + running
        with self.store.engine.connect() as connection:
            found = connection.execute(sa.select(sa.func.sum(total)).where(self._mine)).scalar()
        return float(found or 0.0)

    def tell(self, trial_number: int | None, result: Result) -> None:
        """End Optuna's trial with a result that its slot has; telling it again changes nothing."""
        with self.store.engine.begin() as connection:
            self.tell_in(connection, trial_number, result)

    def tell_in(self, connection: sa.Connection, trial_number: int | None, result: Result) -> None:
        """`tell` as part of a transaction."""
        if trial_number is not None:
            state = TrialState.FAIL if result.state == "FAILED" else TrialState[result.state]
            attrs = {"reason": result.reason, **result.attrs}
            optuna_writer.end(connection, self.study_id, trial_number, state, result.value, attrs)

    # ------------------------------------------------------------ within the study's lock

    def _begun(self, connection: sa.Connection) -> Sequence[Any]:
        """The slots that run, and those that wait with a trial; `late`: whose lease is over."""
        return connection.execute(
            sa.select(
                slot_table.c.slot,
                slot_table.c.trial_number,
                slot_table.c.attempt,
                slot_table.c.owner,
                slot_table.c.reason,
                (slot_table.c.lease_until < self.store.now()).label("late"),
            ).where(
                self._mine,
                slot_table.c.state.in_((OPEN, RUNNING)),
                slot_table.c.trial_number.is_not(None),
            )
        ).all()

    def _next_open(
        self, connection: sa.Connection, paused: Mapping[int, Any], review: Review
    ) -> Claim | None:
        """The slot to take, as it is; of a study that was stopped at most a paused one."""
        stop = sa.select(control_table.c.stop).where(control_table.c.study_id == self.study_id)
        row = connection.execute(
            sa.select(
                slot_table.c.slot,
                slot_table.c.trial_number,
                slot_table.c.attempt,
                slot_table.c.reason,
                stop.scalar_subquery().label("stop"),
            )
            .where(self._mine, slot_table.c.state == OPEN, claimable(stop.scalar_subquery()))
            .order_by(
                sa.func.coalesce(slot_table.c.reason, "") == PAUSED,
                slot_table.c.trial_number.is_(None),
                slot_table.c.slot,
            )
            .limit(1)
        ).first()
        if row is None:
            return None
        new, last = row.trial_number is None, row.reason == PAUSED
        spent = row.stop is not None
        if new or last:
            for number in (*review.stops, *review.goes, *(review.waits if last else ())):
                if (its := paused.get(number)) is not None:
                    row = its
                    break
        return Claim(
            row.slot,
            row.trial_number,
            row.attempt,
            bar=review.stops.get(row.trial_number),
            spent=spent,
            may_pause=not last,
        )

    def _reap(
        self, connection: sa.Connection, begun: Sequence[Any]
    ) -> tuple[Sequence[FrozenTrial], int | None]:
        """Reopen slots whose worker is gone, and mend trials whose worker died half-way.

        Returns:
            All of Optuna's trials, and a whole one that was begun for a slot whose claim was never
            stored, or None.
        """
        running = [row for row in begun if row.owner is not None]
        dead = [row.owner for row in running if is_dead(str(row.owner))]
        if dead or any(row.late for row in running):
            connection.execute(
                sa.update(slot_table)
                .where(
                    self._mine,
                    slot_table.c.state == RUNNING,
                    sa.or_(
                        slot_table.c.lease_until < self.store.now(), slot_table.c.owner.in_(dead)
                    ),
                )
                .values(
                    state=OPEN,
                    owner=None,
                    lease_until=None,
                    seconds=self._seconds(),
                    claimed_at=None,
                )
            )
        trials = self._trials()
        known = {row.trial_number for row in begun}
        strays = [t for t in trials if t.state == TrialState.RUNNING and t.number not in known]
        if not strays:
            return trials, None
        orphan = self._mend(connection, strays)
        return self._trials(), orphan

    def _mend(self, connection: sa.Connection, strays: Sequence[FrozenTrial]) -> int | None:
        """Tell or discard trials that run in no slot; returns a whole one to be taken up."""
        rows = connection.execute(
            sa.select(slot_table.c.trial_number, slot_table.c.state, slot_table.c.result).where(
                self._mine, slot_table.c.trial_number.in_([trial.number for trial in strays])
            )
        )
        slots = {row.trial_number: row for row in rows}
        orphans = []
        for trial in strays:
            slot = slots.get(trial.number)
            if slot is None:
                orphans.append(trial)
            elif slot.state in ENDED:  # its worker died between storing the result and telling it
                self.tell(trial.number, Result(**json.loads(slot.result)))
        whole = [trial for trial in orphans if drawn_config(trial) is not None]
        for trial in orphans:
            if not whole or trial.number != whole[0].number:
                self._discard(trial)
        return whole[0].number if whole else None

    def _trials(self) -> list[FrozenTrial]:
        return self.store.storage.get_all_trials(self.study_id, deepcopy=False)

    def _discard(self, trial: FrozenTrial) -> None:
        """End a trial that was never claimed; a starting point goes back into the queue."""
        self.tell(trial.number, Result("FAILED", None, UNCLAIMED, {}))
        fixed = trial.system_attrs.get("fixed_params")
        if fixed:
            waiting = optuna.trial.create_trial(
                state=TrialState.WAITING,
                system_attrs={"fixed_params": fixed},
                user_attrs=TrialFacts.of(trial).in_queue(),
            )
            self.store.storage.create_new_trial(self.study_id, template_trial=waiting)

    # ------------------------------------------------------------ statements

    def _update(self, slot: int, *, owned: bool = False, **values: object) -> sa.Update:
        where = [self._mine, slot_table.c.slot == slot]
        if owned:
            where += [slot_table.c.state == RUNNING, slot_table.c.owner == self.owner]
        return sa.update(slot_table).where(*where).values(**values)

    def _set(
        self, connection: sa.Connection, slot: int, *, owned: bool = False, **values: object
    ) -> bool:
        return connection.execute(self._update(slot, owned=owned, **values)).rowcount == 1

    def _store_result(
        self, connection: sa.Connection, slot: int, result: Result, *, owned: bool = False
    ) -> bool:
        assert result.state in ENDED, result.state
        stored = self._set(
            connection,
            slot,
            owned=owned,
            state=result.state,
            reason=result.reason,
            result=json.dumps(
                {
                    "state": result.state,
                    "value": result.value,
                    "reason": result.reason,
                    "attrs": dict(result.attrs),
                }
            ),
            lease_until=None,
            seconds=self._seconds(),
            claimed_at=None,
        )
        if stored:  # its row is locked until the end of the transaction: ends come one by one
            ended = connection.execute(
                sa.update(control_table)
                .where(control_table.c.study_id == self.study_id)
                .values(ended=control_table.c.ended + 1)
                .returning(control_table.c.ended)
            ).scalar_one()
            self._set(connection, slot, ended_as=ended)
        return stored

    def _ended_by_us(self, connection: sa.Connection, claim: Claim, result: Result) -> bool:
        """Whether an earlier `end`, whose answer was lost, has stored this result."""
        row = connection.execute(
            sa.select(slot_table.c.owner, slot_table.c.state, slot_table.c.reason).where(
                self._mine, slot_table.c.slot == claim.slot
            )
        ).one()
        return tuple(row) == (self.owner, result.state, result.reason)

    def _seconds(self) -> sa.ColumnElement[Any]:
        """Seconds that the slot has been held, this attempt included."""
        held = sa.func.coalesce(self.store.now() - slot_table.c.claimed_at, 0.0)
        return sa.func.coalesce(slot_table.c.seconds, 0.0) + held


def claimable(stop: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """Whether an open slot may be claimed: of an open study; where its hours are spent, if paused.

    Args:
        stop: why the study was stopped.
    """
    return sa.or_(stop.is_(None), sa.and_(stop.in_(SPENT), slot_table.c.reason == PAUSED))


def is_dead(owner: str) -> bool:
    """Whether an owner was a process of this host and is gone, or a zombie that nobody awaits."""
    host, _, pid = owner.rpartition(":")[0].rpartition(":")
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except ProcessLookupError:
        return True
    except OSError:
        return False  # somebody else's process, or a system without /proc
    return status[0] in ("Z", "X")
