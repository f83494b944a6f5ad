"""The worker of one study: claims slots, runs each trial in a child, stores what it came to.

It alone talks to the database. How each end of a trial is stored stands in studies/reasons.py; a
crash returns the slot until budget.max_attempts are used up.
"""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from optuna.trial import FrozenTrial

from search.database.retry import Backoff, is_away, until_it_answers
from search.files.artifacts import Artifacts
from search.files.bucket_copies import Copies, fetch_checkpoint
from search.files.logs import LOG
from search.studies.heartbeats import Registration
from search.studies.limits import limits
from search.studies.reasons import REASONS
from search.studies.slots import Claim, Result
from search.studies.study import Study
from search.studies.trial_facts import TrialFacts
from search.work.child import Done, Failed, MakeChild, TrialProcess
from search.work.judge import Judge
from search.work.measured import Measured
from search.work.outcome import as_stored
from search.work.supervision import Supervision, Timing
from search.work.until import Until
from search.work.watchers import Interrupt, Watcher
from spaces.config import TrialConfig
from spaces.errors import InputError
from spaces.limits import Probe
from spaces.paths import cache_dir
from trainers.checkpoint import LAST, remove_last, weights_digest
from trainers.disk import is_out_of_files
from trainers.health import trivial_below
from trainers.image_counts import FILE as IMAGES
from trainers.tasks import Data, load_data
from trainers.train import TrialResult
from trainers.trivial import best_constant

T = TypeVar("T")

ROOM_BYTES = 2_000_000  # of a full disk: what is more room
FAILURES_IN_A_ROW = 3  # then something is wrong that the next trial will meet too
HANDOVER_SECONDS = 20.0  # how long a returned slot waits for its copy; well within the lease
SETTLE_SECONDS = 60.0  # how long a worker that ends waits for its last copies


class TooManyFailures(Exception):
    """Several trials in a row have failed; the study waits for its user."""


class DeviceLost(InputError):
    """The device that this worker began with cannot be used any more; its slot is free again."""


class BackgroundWork(Protocol):
    """What follows a trial while the next one trains."""

    def trial_ended(
        self, number: int, config: TrialConfig, result: TrialResult, trials: list[FrozenTrial]
    ) -> None:
        """Take a trial whose result has been stored, and the study's trials as they are then."""

    def trial_failed(self) -> None:
        """Take a trial that has ended without a result."""

    def advance(self, *, idle: bool = False) -> None:
        """Do what can be done now, without waiting."""

    def finish(self) -> None:
        """Do everything that is left."""


@dataclass
class Worker:
    """Runs trials of one study until its slots are used up or it is told to stop.

    Attributes:
        copies: into the bucket, where the trials' files are in one.
        meanwhile: done while trials run; None: our own background's work.
    """

    study: Study
    data: Data
    artifacts: Artifacts
    watcher: Watcher
    interrupt: Interrupt
    background: BackgroundWork
    copies: Copies | None = None
    registration: Registration | None = None
    meanwhile: Callable[[], None] | None = None
    make_child: MakeChild = TrialProcess
    timing: Timing = field(default_factory=Timing)
    _failures: int = 0
    _has_read: bool = False

    def __post_init__(self) -> None:
        base = self.study.space.base
        constant = best_constant(base.metric, self.data)
        self.measured = Measured(self.study, self.data)
        self.judge = Judge(self.study, trivial_below(constant, base.health.trivial))
        self.until = Until(self.study)

    def run(self) -> bool:
        """Serve the study; True where nothing is left to claim, False where interrupted.

        Raises:
            TooManyFailures: FAILURES_IN_A_ROW trials have failed one after another.
            DeviceLost: the trial's slot has been returned.
        """
        try:
            while not self.interrupt.count:
                try:
                    if not self.serve_one():
                        return True
                except Exception as error:
                    if not (self.interrupt.count and is_away(error)):
                        raise
        finally:
            self.finish()
        return False

    def finish(self) -> None:
        """Do what is left to do after the last trial."""
        self.background.finish()
        if self.copies is not None and not self.copies.settle(SETTLE_SECONDS):
            self.watcher.not_shown(None, "not everything was copied into the bucket")

    def serve_one(self) -> bool:
        """Claim a slot and run its trial; False where there was nothing to claim."""
        budget = self.study.spec.budget
        if budget.hours is not None or budget.gpu_hours is not None:
            self._patiently(lambda: limits(self.study))  # closes the study where they are spent
        if not self._has_read:  # all that has ended, before a lock makes others wait for it
            self._patiently(lambda: (self.study.earlier, self.study.trials()))
            self._has_read = True
        review = self._patiently(self.judge.review)
        begin = partial(self.study.ask, outside=self.measured.outside)
        claim = self._patiently(lambda: self.study.slots.claim(begin, review))
        if claim is None:
            return False
        self._register(claim.trial_number)
        self._serve(claim)
        self._register(None)
        if self._failures >= FAILURES_IN_A_ROW:
            raise TooManyFailures
        return True

    def _register(self, trial_number: int | None) -> None:
        """Say what runs here."""
        if self.registration is not None:
            name = None if trial_number is None else self.study.spec.name
            registration = self.registration
            self._patiently(lambda: registration.works_on(name, trial_number))

    def _serve(self, claim: Claim) -> None:
        number = claim.trial_number
        config = self._patiently(lambda: self.study.begun(number)).config
        workdir = self.artifacts.workdir(self.study, number)
        self.watcher.trial_started(number, config, claim.attempt)
        if not self._fetch(claim, workdir):
            return
        data = self._data(claim, config)
        if data is None:
            return
        probe = Probe(self.study.spec.limits, self.measured.known(config))
        if probe.limits.outside(probe.known) is not None and not (workdir / LAST).exists():
            self._settle(claim, config, self.measured.untrained(probe.known), None)
            return
        try:
            child = self.make_child(config, data, workdir, self.study.space.free(), probe)
        except OSError as error:
            if not is_out_of_files(error):
                raise
            self._fail(claim, Failed(unfit=False, message=str(error), files=True), workdir)
            return
        try:
            supervision = Supervision(
                self.study,
                self.judge,
                claim,
                config,
                child,
                watcher=self.watcher,
                interrupt=self.interrupt,
                registration=self.registration,
                timing=self.timing,
                on_stored=lambda: self._copy_checkpoint(number),
                on_rewound=lambda epoch: self._rewind_copies(number, epoch),
                meanwhile=self.meanwhile or self.background.advance,
            )
            outcome = supervision.run()
        except BaseException:
            child.kill()
            raise
        child.join()
        if isinstance(outcome, Done):
            self._settle(claim, config, outcome.result, supervision.bar)
        elif isinstance(outcome, Failed):
            self._fail(claim, outcome, workdir)

    def _fetch(self, claim: Claim, workdir: Path) -> bool:
        """Bring a trial's checkpoint from the bucket, the lease kept; False where the slot is lost.

        A bucket that cannot be reached makes the trial wait: it must not begin anew.
        """
        bucket = self.artifacts.bucket
        if bucket is None:
            return True
        number, backoff = claim.trial_number, Backoff()
        key = self.artifacts.key(self.study, number)

        def said(problem: str) -> None:
            self.watcher.paused(f"trial {number}: {problem}")

        while True:
            fetched = self._leased(claim, lambda: fetch_checkpoint(bucket, key, workdir, said))
            if fetched is None:
                return False
            error = fetched.exception()
            if error is None:
                return True
            if self.interrupt.count:
                self._give_back(claim, counts=False)
                return False
            self.watcher.paused(f"{bucket.url}: {type(error).__name__}: {error}")
            time.sleep(backoff.next())

    def _data(self, claim: Claim, config: TrialConfig) -> Data | None:
        """The data that a trial trains on; None where the slot was lost while they were read."""
        spec = self.study.data_spec(config)
        if spec is self.study.spec.data:
            return self.data
        read = self._leased(claim, lambda: load_data(spec))
        return None if read is None else read.result()

    def _leased(self, claim: Claim, work: Callable[[], T]) -> Future[T] | None:
        """Do something that takes long while the lease is kept; None where the slot is lost."""
        looked = 0.0
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(work)
            while not wait([done], self.timing.poll).done:
                if time.monotonic() - looked > self.timing.look:
                    if not self._patiently(lambda: self.study.slots.renew(claim)):
                        return None
                    looked = time.monotonic()
        return done

    def _patiently(self, call: Callable[[], T]) -> T:
        """Ask the store, and ask again while it is away; Ctrl-C ends the waiting."""
        return until_it_answers(
            call, give_up=lambda: bool(self.interrupt.count), on_wait=self.watcher.store_away
        )

    def _settle(
        self, claim: Claim, config: TrialConfig, result: TrialResult, bar: float | None
    ) -> None:
        """Store a result, where the slot is still ours, and hand it on to the background."""
        state, epochs = REASONS[result.reason].stored, len(result.history)
        cost, limits = self.measured.heard(config, result), self.study.spec.limits
        if state == "OPEN":
            paused = result.reason == "paused"
            self._give_back(claim, counts=False, paused=paused)
            if paused:
                waits = REASONS["paused"].sentence
                self.watcher.trial_ended(claim.trial_number, "PAUSED", waits, result.value, epochs)
            return
        weights = images = None
        if result.model is not None:
            weights = weights_digest(result.model)
            if self.study.spec.confirms is not None:
                images = (result.model / IMAGES).read_bytes()
        stored = as_stored(result, cost, limits, bar=bar, weights=weights)
        outside = result.reason == "limit"
        end = partial(self.measured.end if outside else self.study.slots.end, claim, stored)
        if not self._patiently(end if images is None else partial(end, images)):
            return  # the lease ran out and another worker has the slot: this result is not counted
        self._failures = 0
        said = f"limit: {stored.attrs['outside']}" if outside else result.reason
        self.watcher.trial_ended(claim.trial_number, state, said, stored.value, epochs)
        remove_last(self.artifacts.workdir(self.study, claim.trial_number))
        self._drop_copies(claim.trial_number)
        trials = self._patiently(self.study.trials)  # now: the next claim reads within a lock
        if (why := self._patiently(lambda: self.until.trial_ended(trials))) is not None:
            self.watcher.paused(f"{self.study.spec.name} {why.sentence(self.study.metric)}")
        self.background.trial_ended(claim.trial_number, config, result, trials)

    def _fail(self, claim: Claim, failure: Failed, workdir: Path) -> None:
        """End a config that cannot run; a crash returns the slot until attempts run out."""
        number, slots = claim.trial_number, self.study.slots
        returned = failure.disk or failure.files or failure.device
        if not failure.unfit and (self.interrupt.count or returned):
            self._give_back(claim, counts=False)
            if failure.device:
                raise DeviceLost(f"trial {number} was returned to its study: {failure.message}")
            if failure.disk:
                self._wait_for_room(workdir)
            if failure.files:
                self._wait_for_files()
            return
        said = failure.message if failure.unfit else f"{failure.message}; see {workdir / LOG}"
        reason = "unfit" if failure.unfit else "crashed"
        if not failure.unfit and claim.attempt < slots.max_attempts:
            self._give_back(claim, counts=True)
            self.watcher.trial_ended(number, "RETRY", f"{reason}: {said}", None, 0)
            return
        self._failures += not failure.unfit
        state = REASONS[reason].stored
        ended = Result(state, None, reason, TrialFacts(error=failure.message).at_end())
        if self._patiently(lambda: slots.end(claim, ended)):
            self._drop_copies(number)
            self.background.trial_failed()
            self.watcher.trial_ended(number, state, f"{reason}: {said}", None, 0)

    def _copy_checkpoint(self, number: int) -> None:
        """Copy the last checkpoint of our trial into the bucket, if there is one."""
        if self.copies is not None:
            workdir = self.artifacts.workdir(self.study, number)
            self.copies.checkpoint(self.artifacts.key(self.study, number), workdir)

    def _drop_copies(self, number: int) -> None:
        """Delete a trial's checkpoints in the bucket, which nobody will resume from."""
        if self.copies is not None:
            self.copies.forget_checkpoints(self.artifacts.key(self.study, number))

    def _rewind_copies(self, number: int, epoch: int) -> None:
        """Delete a trial's checkpoints of later epochs in the bucket: they are of other weights."""
        if self.copies is not None:
            self.copies.rewind(self.artifacts.key(self.study, number), epoch)

    def _give_back(self, claim: Claim, *, counts: bool, paused: bool = False) -> None:
        """Return a slot; where the store is away and we must go, its lease returns it.

        Its last checkpoint is in the bucket then, where another machine looks for it, unless that
        takes too long.
        """
        if self.copies is not None:
            self.copies.settle(HANDOVER_SECONDS)
        try:
            self._patiently(lambda: self.study.slots.give_back(claim, counts=counts, paused=paused))
        except Exception as error:
            if not is_away(error):
                raise

    def _wait_for_room(self, workdir: Path) -> None:
        """Pause until the disk has more room, or it is time to look whether that was enough."""
        disks = [folder for folder in (workdir, cache_dir()) if folder.is_dir()]
        had = [shutil.disk_usage(folder).free for folder in disks]
        named = ", ".join(
            f"{folder} has {free / 1e6:.0f} MB left"
            for folder, free in zip(disks, had, strict=True)
        )
        self.watcher.paused(f"the disk is full ({named}); make room, the trial goes on by itself")

        def more() -> bool:
            now = [shutil.disk_usage(folder).free for folder in disks]
            return any(free > before + ROOM_BYTES for free, before in zip(now, had, strict=True))

        self._wait(more)

    def _wait_for_files(self) -> None:
        """Pause until it is time to look whether files can be opened again."""
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.watcher.paused(
            f"too many files are open (this process may open {most}, ulimit -n); end something, "
            "or start the worker with a higher limit; the trial goes on by itself"
        )
        self._wait(lambda: False)

    def _wait(self, over: Callable[[], bool]) -> None:
        until = time.monotonic() + self.timing.room
        while time.monotonic() < until and not self.interrupt.count and not over():
            time.sleep(self.timing.poll)
