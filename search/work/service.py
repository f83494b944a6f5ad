"""A worker of a whole store: serves its open studies in turn until told to stop."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import sqlalchemy as sa
from rich.console import Console

from search.database.retry import is_away, until_it_answers
from search.database.store import Store
from search.database.tables import OPEN, RUNNING, control_table, slot_table, study_table
from search.files.artifacts import Artifacts
from search.studies.heartbeats import Registration
from search.studies.slots import claimable, is_dead, new_owner
from search.studies.study import Study, open_study, open_study_by_id
from search.work.forkserver import warm_up
from search.work.preflight import preflight
from search.work.progress import ProgressView
from search.work.supervision import LOOK_SECONDS
from search.work.tracker_feed import Tracked
from search.work.watchers import Interrupt, Watcher
from search.work.worker import TooManyFailures, Worker
from spaces.errors import DONE, INTERRUPTED, InputError
from trainers.precision import gpu_count

T = TypeVar("T")

IDLE_SECONDS = 2.0  # between looks for work


@dataclass
class Service:
    """Serves the store's open studies, the one with the fewest running trials first.

    Attributes:
        only: name of the one study to serve; None for all.
        until_idle: end when no slot is open or running any more.
        watch: makes the view of a study's progress.
    """

    store: Store
    artifacts: Artifacts
    console: Console
    interrupt: Interrupt
    registration: Registration
    watch: Callable[[Study], Watcher]
    only: str | None = None
    until_idle: bool = False
    _workers: dict[int, Worker] = field(default_factory=dict)
    _refused: set[int] = field(default_factory=set)

    def run(self) -> bool:
        """Serve until idle (True) or interrupted (False)."""
        seen = -math.inf
        try:
            self._patiently(self.registration.enter)
            while not self.interrupt.count:
                open_ones = self._patiently(self._open_studies)
                candidates = [i for i in open_ones if i not in self._refused]
                if any(self._serve(study_id) for study_id in candidates):
                    continue
                self._meanwhile(idle=True)
                if self.until_idle and not self._patiently(self._unfinished):
                    return True
                if time.monotonic() - seen > LOOK_SECONDS:
                    self._patiently(self.registration.seen)
                    seen = time.monotonic()
                self._sleep()
        except Exception as error:
            if not (self.interrupt.count and is_away(error)):
                raise
        finally:
            self._leave()
        return False

    def _leave(self) -> None:
        """Bring what is shown up to date and take our entry out, unless a user waits."""
        if self.interrupt.count < 2:
            for worker in self._workers.values():
                worker.finish()
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                self.registration.leave()

    def _serve(self, study_id: int) -> bool:
        """Run one trial of a study here; False where it has none for us."""
        worker = self._workers.get(study_id)
        try:
            if worker is None:
                worker = self._patiently(lambda: self._worker(study_id))
                self._workers[study_id] = worker
            return worker.serve_one()
        except InputError as error:
            self._refuse(study_id, f"cannot be served here: {error}")
        except TooManyFailures:
            self._refuse(study_id, "several trials in a row failed; mend the reason, then resume")
        return False

    def _worker(self, study_id: int) -> Worker:
        study = open_study_by_id(self.store, study_id, self.registration.owner)
        data = preflight(study.spec)
        if data.fingerprint != study.fingerprint:
            raise InputError(f"the data here are not those that study {study.spec.name} began with")
        view = self.watch(study)
        return Worker(
            study, data, self.artifacts, view, self.interrupt, self.registration, self._meanwhile
        )

    def _meanwhile(self, *, idle: bool = False) -> None:
        """Go on with what follows the trials that have ended here, of all studies."""
        for worker in self._workers.values():
            worker.aftermath.advance(idle=idle)

    def _refuse(self, study_id: int, message: str) -> None:
        self._refused.add(study_id)
        text = f"study {study_id}: {message}"
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _open_studies(self) -> list[int]:
        """Ids of studies with a slot to claim: fewest running trials first, then oldest."""
        late = sa.func.min(slot_table.c.lease_until) < self.store.now()
        query = (
            sa.select(
                slot_table.c.study_id,
                slot_table.c.state,
                slot_table.c.owner,
                late.label("late"),
            )
            .join(control_table, control_table.c.study_id == slot_table.c.study_id)
            .where(
                claimable(control_table.c.stop),
                slot_table.c.state.in_((OPEN, RUNNING)),
                *self._chosen(slot_table.c.study_id),
            )
            .group_by(slot_table.c.study_id, slot_table.c.state, slot_table.c.owner)
        )
        with self.store.engine.connect() as connection:
            rows = connection.execute(query).all()
        running: Counter[int] = Counter()
        found = set()
        for row in rows:
            if row.state == OPEN or row.late or is_dead(row.owner):
                found.add(row.study_id)
            else:
                running[row.study_id] += 1
        return sorted(found, key=lambda study_id: (running[study_id], study_id))

    def _unfinished(self) -> bool:
        """Whether a slot is running anywhere, or open in a study that we may serve."""
        query = (
            sa.select(slot_table.c.study_id, slot_table.c.state, claimable(control_table.c.stop))
            .join(control_table, control_table.c.study_id == slot_table.c.study_id)
            .where(slot_table.c.state.in_((OPEN, RUNNING)), *self._chosen(slot_table.c.study_id))
            .distinct()
        )
        with self.store.engine.connect() as connection:
            rows = connection.execute(query).all()
        return any(
            state == RUNNING or (is_open and study_id not in self._refused)
            for study_id, state, is_open in rows
        )

    def _chosen(self, column: sa.ColumnElement[int]) -> list[sa.ColumnElement[bool]]:
        if self.only is None:
            return [column.in_(sa.select(study_table.c.study_id))]
        study_id = self.store.storage.get_study_id_from_name(self.only)
        return [column == study_id]

    def _sleep(self) -> None:
        until = time.monotonic() + IDLE_SECONDS
        while time.monotonic() < until and not self.interrupt.count:
            time.sleep(0.1)

    def _patiently(self, call: Callable[[], T]) -> T:
        return until_it_answers(
            call,
            give_up=lambda: bool(self.interrupt.count),
            on_wait=lambda error: self.console.print(f"store away: {error}", highlight=False),
        )


def serve(
    store: Store, artifacts: Artifacts, console: Console, only: str | None, until_idle: bool
) -> int:
    """Run a worker here; return the exit code."""
    if only is not None:
        open_study(store, only)  # its name must be right
    store.work_alone()
    warm_up()
    interrupt = Interrupt()
    registration = Registration(store, new_owner(), _device())
    with interrupt.listen(), contextlib.ExitStack() as views:

        def watch(study: Study) -> Watcher:
            view = ProgressView(study, console)
            return views.enter_context(Tracked(study, artifacts, view, console, interrupt))

        finished = Service(
            store, artifacts, console, interrupt, registration, watch, only, until_idle
        ).run()
    return DONE if finished else INTERRUPTED


def _device() -> str:
    """`cpu`, or `cuda:` and what this process sees; asking for a name would take GPU memory."""
    return f"cuda:{os.environ.get('CUDA_VISIBLE_DEVICES', 'all')}" if gpu_count() else "cpu"
