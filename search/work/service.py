"""A worker of a whole store: serves its open studies in turn until told to stop."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from rich.console import Console

from search.database.retry import is_away, until_it_answers
from search.database.store import Store, UnknownStudy
from search.files.artifacts import Artifacts
from search.files.bucket_copies import Copies
from search.studies.heartbeats import Registration
from search.studies.open_slots import existing, is_unfinished, studies_with_open_slots
from search.studies.owners import new_owner
from search.studies.study import Study, open_study, open_study_by_id, study_names
from search.work.background import Background
from search.work.child import MakeChild, TrialProcess
from search.work.confirming import advance
from search.work.forkserver import warm_up
from search.work.preflight import preflight
from search.work.progress import ProgressView
from search.work.supervision import Timing
from search.work.tracker_feed import Tracked
from search.work.watchers import Interrupt, Watcher
from search.work.worker import DeviceLost, TooManyFailures, Worker
from spaces.errors import DONE, INTERRUPTED, InputError
from spaces.spec import StudySpec
from trainers.devices import VISIBLE, pick_device
from trainers.tasks import Data

T = TypeVar("T")

IDLE_SECONDS = 2.0  # between looks for work


def new_worker(
    study: Study,
    data: Data,
    artifacts: Artifacts,
    watcher: Watcher,
    interrupt: Interrupt,
    **settings: Any,
) -> Worker:
    """Return a worker of a study with what it needs around it.

    Args:
        settings: further ones of `Worker`.
    """
    artifacts.mark(study)
    bucket = artifacts.bucket
    copies = None if bucket is None else Copies(bucket, watcher.paused)
    background = Background(study, data, artifacts, watcher, interrupt, copies)
    return Worker(study, data, artifacts, watcher, interrupt, background, copies, **settings)


@dataclass
class Service:
    """Serves the store's open studies, the one with the fewest running trials first.

    Attributes:
        only: name of the one study to serve; None for all.
        until_idle: end when no slot is open or running any more.
        watch: makes the view of a study's progress.
        load_data: checks a study's data, and reads what its trials need of them.
        idle_seconds: between looks for work.
    """

    store: Store
    artifacts: Artifacts
    console: Console
    interrupt: Interrupt
    registration: Registration
    watch: Callable[[Study], Watcher]
    only: str | None = None
    until_idle: bool = False
    load_data: Callable[[StudySpec], Data] = preflight
    make_child: MakeChild = TrialProcess
    timing: Timing = field(default_factory=Timing)
    idle_seconds: float = IDLE_SECONDS
    _workers: dict[int, Worker] = field(default_factory=dict)
    _refused: set[int] = field(default_factory=set)
    _unplanned: set[str] = field(default_factory=set)  # studies whose confirmation may be due

    def run(self) -> bool:
        """Serve until idle (True) or interrupted (False)."""
        seen = -math.inf
        try:
            self._patiently(self.registration.enter)
            self._patiently(self._look_at_all)
            while not self.interrupt.count:
                open_ones = self._patiently(lambda: studies_with_open_slots(self.store, self.only))
                candidates = [i for i in open_ones if i not in self._refused]
                if any(self._serve(study_id) for study_id in candidates) or self._confirm():
                    continue
                self._meanwhile(idle=True)
                if time.monotonic() - seen > self.timing.look:
                    self._patiently(self.registration.seen)
                    self._close_deleted()
                    seen = time.monotonic()
                if self.until_idle and not self._patiently(self._is_unfinished):
                    return True
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
            self.registration.leave()

    def _serve(self, study_id: int) -> bool:
        """Run one trial of a study here; False where it has none for us."""
        worker = self._workers.get(study_id)
        try:
            if worker is None:
                worker = self._patiently(lambda: self._worker(study_id))
                self._workers[study_id] = worker
            served = worker.serve_one()
            if served:
                self._unplanned.add(worker.study.spec.beside or worker.study.spec.name)
            return served
        except DeviceLost:
            raise
        except UnknownStudy as error:
            self._close(study_id, str(error))
        except InputError as error:
            self._refuse(study_id, f"cannot be served here: {error}")
        except TooManyFailures:
            self._refuse(study_id, "several trials in a row failed; mend the reason, then resume")
        return False

    def _look_at_all(self) -> None:
        """Remember all studies, as a worker that died may have left a confirmation unplanned."""
        self._unplanned |= set(study_names(self.store) if self.only is None else [self.only])

    def _confirm(self) -> bool:
        """Plan the confirmations that are due; True where there is something new to claim."""
        planned = False
        while self._unplanned and not self.interrupt.count:
            name = self._unplanned.pop()
            planned |= self._patiently(partial(self._advance, name))
        return planned

    def _advance(self, name: str) -> bool:
        try:
            return advance(open_study(self.store, name)) is not None
        except UnknownStudy:  # deleted meanwhile
            return False

    def _worker(self, study_id: int) -> Worker:
        study = open_study_by_id(self.store, study_id, self.registration.owner)
        data = self.load_data(study.spec)
        if data.fingerprint != study.fingerprint:
            raise InputError(f"the data here are not those that study {study.spec.name} began with")
        view = self.watch(study)
        return new_worker(
            study,
            data,
            self.artifacts,
            view,
            self.interrupt,
            registration=self.registration,
            meanwhile=self._meanwhile,
            make_child=self.make_child,
            timing=self.timing,
        )

    def _meanwhile(self, *, idle: bool = False) -> None:
        """Go on with what follows the trials that have ended here, of all studies."""
        for worker in self._workers.values():
            worker.background.advance(idle=idle)

    def _close_deleted(self) -> None:
        """Let go of the studies that somebody has deleted: their data, and what was to be shown."""
        there = self._patiently(lambda: existing(self.store, list(self._workers)))
        for study_id in set(self._workers) - there:
            self._close(study_id, f"study {self._workers[study_id].study.spec.name} was deleted")

    def _close(self, study_id: int, why: str) -> None:
        self._workers.pop(study_id, None)
        self.console.print(f"{why}; going on with the others", highlight=False, markup=False)

    def _refuse(self, study_id: int, message: str) -> None:
        self._refused.add(study_id)
        text = f"study {study_id}: {message}"
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _is_unfinished(self) -> bool:
        return is_unfinished(self.store, self.only, but=self._refused)

    def _sleep(self) -> None:
        until = time.monotonic() + self.idle_seconds
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
    device = _device()  # before anything is entered into the store
    store.work_alone()
    warm_up()
    interrupt = Interrupt()
    registration = Registration(store, new_owner(), device)
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
    if pick_device().type == "cpu":
        return "cpu"
    return f"cuda:{os.environ.get(VISIBLE, 'all')}"
