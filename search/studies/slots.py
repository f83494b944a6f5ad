"""The slots of a study: exactly N, each claimed, renewed and ended in one transaction.

A slot is OPEN, RUNNING under a lease, or ended (COMPLETE, PRUNED, FAILED). An interrupted trial
returns its slot, which keeps its trial and is claimed again before any new one is begun. So does
a paused one (reason: paused), which is claimed again when the study's rule says so. A slot and its
trial in Optuna's tables change together: the transaction that claims a slot begins the trial, and
the one that stores its result ends it. Only the holder of the lease can do either.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import sqlalchemy as sa
from optuna.trial import TrialState

from search.database import optuna_writer
from search.database.store import Store
from search.database.tables import (
    ENDED,
    OPEN,
    PAUSED,
    RUNNING,
    SPENT,
    control_table,
    slot_table,
)
from search.stopping.rules import Review
from search.studies.claimable import claimable
from search.studies.owners import is_dead

LEASE_SECONDS = 60.0  # a worker that has not renewed for so long has lost its slot
FENCE_SECONDS = 50.0  # after a renewal the trial's process ends by itself, before the lease does
MAX_ATTEMPTS = 3


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
        reason: a code of `reasons.REASONS`.
        attrs: `TrialFacts.at_end`, which become user attributes of Optuna's trial; JSON.
        constraints: {limit: above 0 where the trial is outside}, for the sampler.
    """

    state: str
    value: float | None
    reason: str
    attrs: Mapping[str, Any]
    constraints: Mapping[str, float] | None = None


class Slots:
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
        self, begin: Callable[[int, sa.Connection], int], review: Review | None = None
    ) -> Claim | None:
        """Take the next open slot, or return None where there is none.

        Interrupted trials come first, then paused ones that end or go on, then new ones, then
        paused ones that wait. Called again after a lost answer it returns the slot that the lost
        call has taken.

        Args:
            begin: begins a new trial for a slot within the transaction that holds the study's
                lock, so that no trial is ever begun without a slot; returns its number.
            review: what becomes of the paused trials.
        """
        with self.store.locked(self.study_id) as connection:
            begun = self._begun(connection)
            for row in begun:
                if row.owner == self.owner:  # an answer was lost
                    return Claim(row.slot, row.trial_number, row.attempt)
            self._reap(connection, begun)
            paused = {row.trial_number: row for row in begun if row.reason == PAUSED}
            while (chosen := self._next_open(connection, paused, review or Review())) is not None:
                number, attempt = chosen.trial_number, chosen.attempt
                paused.pop(number, None)
                if attempt >= self.max_attempts:
                    crashed = Result("FAILED", None, "crashed", {})
                    self._end(connection, chosen.slot, number, crashed)
                    continue
                if number is None:
                    number = begin(chosen.slot, connection)
                self._set(
                    connection,
                    chosen.slot,
                    state=RUNNING,
                    reason=None,
                    trial_number=number,
                    attempt=attempt + 1,
                    owner=self.owner,
                    lease_until=self.store.now() + LEASE_SECONDS,
                    claimed_at=self.store.now(),
                )
                return replace(chosen, trial_number=number, attempt=attempt + 1)
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

    def end(self, claim: Claim, result: Result, images: bytes | None = None) -> bool:
        """Store a trial's result with its slot, and end Optuna's trial with it.

        Args:
            images: `ImageCounts` of its best epoch, where they are to be kept.

        Returns:
            False where the slot is no longer ours: the result does not count. Ending twice with
            the same result is True both times.
        """
        with self.store.engine.begin() as connection:
            ours = self._end(connection, claim.slot, claim.trial_number, result, images, owned=True)
            return ours or self._ended_by_us(connection, claim, result)

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
                reason=PAUSED if paused else None,
                attempt=attempt,
                **self._freed(),
            )

    def images(self) -> dict[int, bytes]:
        """{trial: its `ImageCounts`} of the ended trials that have them."""
        columns = slot_table.c.trial_number, slot_table.c.images
        query = sa.select(*columns).where(self._mine, slot_table.c.images.is_not(None))
        with self.store.engine.connect() as connection:
            return {row.trial_number: row.images for row in connection.execute(query)}

    def used_seconds(self) -> float:
        """Seconds that trials of this study have held a device, running ones up to now."""
        total = sa.func.sum(held_seconds(self.store))
        with self.store.engine.connect() as connection:
            found = connection.execute(sa.select(total).where(self._mine)).scalar()
        return float(found or 0.0)

    # ------------------------------------------------------------ within the study's lock

    def _begun(self, connection: sa.Connection) -> Sequence[Any]:
        """The slots that run, and those that wait with a trial.

        `late`: whose lease is over; `ahead`: whose lease is longer than any.
        """
        return connection.execute(
            sa.select(
                slot_table.c.slot,
                slot_table.c.trial_number,
                slot_table.c.attempt,
                slot_table.c.owner,
                slot_table.c.reason,
                (slot_table.c.lease_until < self.store.now()).label("late"),
                is_ahead(self.store).label("ahead"),
            ).where(
                self._mine,
                slot_table.c.state.in_((OPEN, RUNNING)),
                slot_table.c.trial_number.is_not(None),
            )
        ).all()

    def _next_open(
        self, connection: sa.Connection, paused: Mapping[int, Any], review: Review
    ) -> Claim | None:
        """The slot to take, as it is; of a study that was stopped at most one with a trial."""
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
        spent = row.stop in SPENT
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

    def _reap(self, connection: sa.Connection, begun: Sequence[Any]) -> None:
        """Reopen the slots whose worker is gone."""
        running = [row for row in begun if row.owner is not None]
        if any(row.ahead for row in running):  # who lives will renew it
            ahead = sa.update(slot_table).where(self._mine, is_ahead(self.store))
            connection.execute(ahead.values(lease_until=self.store.now() + LEASE_SECONDS))
        dead = [row.owner for row in running if is_dead(str(row.owner))]
        if not dead and not any(row.late for row in running):
            return
        late = slot_table.c.lease_until < self.store.now()
        connection.execute(
            sa.update(slot_table)
            .where(
                self._mine,
                slot_table.c.state == RUNNING,
                sa.or_(late, slot_table.c.owner.in_(dead)),
            )
            .values(self._freed())
        )

    # ------------------------------------------------------------ statements

    def _freed(self) -> dict[str, object]:
        freed = dict.fromkeys(("owner", "lease_until", "claimed_at"))
        return {**freed, "state": OPEN, "seconds": held_seconds(self.store)}

    def _update(self, slot: int, *, owned: bool = False, **values: object) -> sa.Update:
        where = [self._mine, slot_table.c.slot == slot]
        if owned:
            where += [slot_table.c.state == RUNNING, slot_table.c.owner == self.owner]
        return sa.update(slot_table).where(*where).values(**values)

    def _set(
        self, connection: sa.Connection, slot: int, *, owned: bool = False, **values: object
    ) -> bool:
        return connection.execute(self._update(slot, owned=owned, **values)).rowcount == 1

    def _end(
        self,
        connection: sa.Connection,
        slot: int,
        trial_number: int | None,
        result: Result,
        images: bytes | None = None,
        *,
        owned: bool = False,
    ) -> bool:
        """Store a result with its slot and with Optuna's trial; False where the slot is not ours.

        Args:
            trial_number: None where no trial was ever begun for the slot.
            owned: only where we hold the lease.
        """
        assert result.state in ENDED, result.state
        stored = self._set(
            connection,
            slot,
            owned=owned,
            state=result.state,
            reason=result.reason,
            result=json.dumps(asdict(result)),
            images=images,
            lease_until=None,
            seconds=held_seconds(self.store),
            claimed_at=None,
        )
        if not stored:
            return False
        # its row is locked until the end of the transaction: ends come one by one
        ended = connection.execute(
            sa.update(control_table)
            .where(control_table.c.study_id == self.study_id)
            .values(ended=control_table.c.ended + 1)
            .returning(control_table.c.ended)
        ).scalar_one()
        self._set(connection, slot, ended_as=ended)
        if trial_number is not None:
            state = TrialState.FAIL if result.state == "FAILED" else TrialState[result.state]
            attrs = {"reason": result.reason, **result.attrs}
            told = result.value, attrs, result.constraints
            optuna_writer.end(connection, self.study_id, trial_number, state, *told)
        return True

    def _ended_by_us(self, connection: sa.Connection, claim: Claim, result: Result) -> bool:
        """Whether an earlier `end`, whose answer was lost, has stored this result."""
        row = connection.execute(
            sa.select(slot_table.c.owner, slot_table.c.state, slot_table.c.reason).where(
                self._mine, slot_table.c.slot == claim.slot
            )
        ).one_or_none()  # its study may be deleted
        return row is not None and tuple(row) == (self.owner, result.state, result.reason)


def is_ahead(store: Store) -> sa.ColumnElement[bool]:
    """Whether a lease ends later than any can: the database's clock was put back since."""
    return slot_table.c.lease_until > store.now() + LEASE_SECONDS


def held_seconds(store: Store) -> sa.ColumnElement[Any]:
    """Seconds that a slot has been held, this attempt included."""
    held = store.now() - slot_table.c.claimed_at
    now = sa.case((held > 0, held), else_=0.0)  # below where the clock was put back
    return sa.func.coalesce(slot_table.c.seconds, 0.0) + now
