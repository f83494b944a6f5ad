"""The supervisor of one study: claims slots, runs each trial in a child, stores what it reports.

It alone talks to the database, and training never waits for it: while the store is away, reports
queue up here. What ends a trial, and how that is stored:

    completed, patience            COMPLETE
    quantile, median, Optuna's     PRUNED
    health:<alarm>, nonfinite      PRUNED
    timeout, stopped               PRUNED, with the value of the best epoch so far
    oom, unfit                     PRUNED, without a value where no epoch was finished
    crashed                        the slot returns; FAILED after budget.max_attempts
    preempted, paused              the slot returns and does not count as an attempt
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import optuna
from optuna.trial import FrozenTrial

from search.database.retry import Backoff, is_away, until_it_answers
from search.files.artifacts import Artifacts
from search.files.bucket_copies import Copies, fetch_checkpoint
from search.findings.ranking import ranked
from search.stopping.curves import Curve, EndedCurves
from search.stopping.rules import (
    OURS,
    QuantileRule,
    Review,
    Verdict,
    quantile_rule,
    rule_pauses,
    stock_verdict,
    warmup_end,
)
from search.studies.heartbeats import Registration
from search.studies.limits import limits
from search.studies.reports import Stored
from search.studies.slots import Claim, Result
from search.studies.study import Study
from search.studies.trial_facts import TrialFacts
from search.work.background import Aftermath, per_class
from search.work.child import Done, Failed, TrialProcess
from search.work.supervision import LOOK_SECONDS, POLL_SECONDS, Word, _Supervision
from search.work.watchers import Interrupt, Watcher
from spaces.config import BaseTrialConfig
from spaces.paths import cache_dir
from trainers.checkpoint import WEIGHTS, remove_last, remove_models
from trainers.data import file_digest
from trainers.tasks import Data
from trainers.train import TrialResult

T = TypeVar("T")

ROOM_SECONDS, ROOM_BYTES = 60.0, 2_000_000  # how long a full disk is waited for; what is more room
FAILURES_IN_A_ROW = 3  # then something is wrong that the next trial will meet too
HANDOVER_SECONDS = 20.0  # how long a returned slot waits for its copy; well within the lease
SETTLE_SECONDS = 60.0  # how long a worker that ends waits for its last copies


class TooManyFailures(Exception):
    """Several trials in a row have failed; the study waits for its user."""


@dataclass
class Worker:
    """Runs trials of one study until its slots are used up or it is told to stop."""

    study: Study
    data: Data
    artifacts: Artifacts
    watcher: Watcher
    interrupt: Interrupt
    registration: Registration | None = None
    meanwhile: Callable[[], None] | None = None  # done while trials run; None: our own aftermath
    _ended: EndedCurves = field(default_factory=EndedCurves)
    _ended_until: int = 0  # what `_ended` holds, as `Study.curves_ended_after` counts
    _stock: tuple[int, optuna.Study] | None = None  # a slot, and Optuna's study for its pruner
    _tidied: set[int] = field(default_factory=set)  # ended trials that `_tidy` has seen
    _models: set[int] = field(default_factory=set)  # those of them that had a model then
    _slots: int | None = None  # of the study, at the first look
    _failures: int = 0
    _has_read: bool = False

    def __post_init__(self) -> None:
        self.aftermath = Aftermath(
            self.study, self.data, self.artifacts, self.watcher, self.interrupt
        )
        bucket = self.artifacts.bucket
        self.copies = None if bucket is None else Copies(bucket, self.watcher.paused)
        if self.meanwhile is None:
            self.meanwhile = self.aftermath.advance

    def run(self) -> bool:
        """Serve the study; True where nothing is left to claim, False where interrupted.

        Raises:
            TooManyFailures: FAILURES_IN_A_ROW trials have failed one after another.
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
        self.aftermath.finish()
        if self.copies is not None and not self.copies.settle(SETTLE_SECONDS):
            self.watcher.not_shown(None, "not everything was copied into the bucket")

    def serve_one(self) -> bool:
        """Claim a slot and run its trial; False where there was nothing to claim."""
        budget = self.study.spec.budget
        if budget.hours is not None or budget.gpu_hours is not None:
            self._patiently(lambda: limits(self.study))  # closes the study where they are spent
        if not self._has_read:  # all that has ended, before a lock makes others wait for it
            self._patiently(self.study.trials)
            self._has_read = True
        review = self._patiently(self._review)
        claim = self._patiently(lambda: self.study.budget.claim(self.study.ask, review))
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
        config = self._patiently(lambda: self.study.config(self.study.begun(number)))
        workdir = self.artifacts.workdir(self.study, number)
        self.watcher.trial_started(number, config, claim.attempt)
        if not self._fetch(claim, workdir):
            return
        child = TrialProcess(config, self.data, workdir, self.study.space.free())
        try:
            supervision = _Supervision(self, claim, config, child)
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
        key, backoff, looked = self.artifacts.key(self.study, claim.trial_number), Backoff(), 0.0
        with ThreadPoolExecutor(1) as pool:
            while True:
                fetched = pool.submit(fetch_checkpoint, bucket, key, workdir)
                while not wait([fetched], POLL_SECONDS).done:
                    if time.monotonic() - looked > LOOK_SECONDS:
                        if not self._patiently(lambda: self.study.budget.renew(claim)):
                            return False
                        looked = time.monotonic()
                error = fetched.exception()
                if error is None:
                    return True
                if self.interrupt.count:
                    self._give_back(claim, counts=False)
                    return False
                self.watcher.paused(f"{bucket.url}: {type(error).__name__}: {error}")
                time.sleep(backoff.next())

    def _patiently(self, call: Callable[[], T]) -> T:
        """Ask the store, and ask again while it is away; Ctrl-C ends the waiting."""
        return until_it_answers(
            call, give_up=lambda: bool(self.interrupt.count), on_wait=self.watcher.store_away
        )

    def copy_checkpoint(self, claim: Claim) -> None:
        """Copy the last checkpoint of our trial into the bucket, if there is one."""
        if self.copies is not None:
            workdir = self.artifacts.workdir(self.study, claim.trial_number)
            self.copies.checkpoint(self.artifacts.key(self.study, claim.trial_number), workdir)

    def verdict(
        self,
        claim: Claim,
        config: BaseTrialConfig,
        values: list[float],
        said: Stored,
    ) -> Word | None:
        """Return what the trial is told after its last epoch, where it does not go on.

        Args:
            said: by the store, when it took the last report.
        """
        spec = self.study.spec.pruner
        if spec.name == "none" or len(values) >= config.train.epochs:
            return None
        if (rule := self._rule) is not None:
            self._refresh_ended(said.ended, warmups=rule.align_warmup)
            curve = Curve(tuple(values), warmup_end(config))
            verdict = rule.verdict(curve, self._ended, said.beside, may_pause=claim.may_pause)
            if verdict is Verdict.GO:
                return None
            if verdict is Verdict.PAUSE:
                return Word("paused")
            return Word(spec.name, rule.bar(curve, self._ended, said.beside))
        if self._stock is None or self._stock[0] != claim.slot:
            self._stock = claim.slot, self.study.optuna(claim.slot)
        return Word(spec.name) if stock_verdict(self._stock[1], claim.trial_number) else None

    @property
    def _rule(self) -> QuantileRule | None:
        """The study's rule where it is one of OURS."""
        pruner = self.study.spec.pruner
        if pruner.name not in OURS:
            return None
        if self._slots is None and rule_pauses(pruner):
            self._slots = sum(self.study.budget.counts().values())
        return quantile_rule(pruner, self.study.space.base.train.epochs, self._slots or 0)

    def _review(self) -> Review | None:
        """Judge the paused trials again; None where the study pauses none."""
        rule = self._rule
        if rule is None or rule.pause_below is None:
            return None
        ended, paused, running = self.study.curves_begun()
        if not paused:
            return Review()
        self._refresh_ended(ended, warmups=False)
        return rule.review(paused, running, self._ended)

    def _refresh_ended(self, ended: int | None, *, warmups: bool) -> None:
        """Read the curves of trials that have ended since the last look, where there are any."""
        if ended is None or ended > self._ended_until:
            until, curves = self.study.curves_ended_after(self._ended_until, warmups=warmups)
            for trial, curve in curves.items():
                if trial not in self._ended:
                    self._ended.add(trial, curve)
            self._ended_until = until

    def _settle(
        self, claim: Claim, config: BaseTrialConfig, result: TrialResult, bar: float | None
    ) -> None:
        """Store a result, where the slot is still ours, and tidy up."""
        if result.reason in ("preempted", "orphaned"):
            self._give_back(claim, counts=False)
            return
        epochs = len(result.history)
        if result.reason == "paused":
            self._give_back(claim, counts=False, paused=True)
            waits = "goes on when it is among the best, or nothing new is left to begin"
            self.watcher.trial_ended(claim.trial_number, "PAUSED", waits, result.value, epochs)
            return
        weights = None if result.model is None else result.model / WEIGHTS
        state = "COMPLETE" if result.reason in ("completed", "patience") else "PRUNED"
        stored = Result(
            state,
            result.value,
            result.reason,
            TrialFacts(
                epochs=epochs,
                best_epoch=result.best_epoch,
                seconds=round(sum(report.seconds for report in result.history), 3),
                decode=result.decode,
                per_class=per_class(result),
                bar=bar,
                hardware=result.hardware,
                model_sha256=None if weights is None else file_digest(str(weights)),
            ).at_end(),
        )
        if not self._patiently(lambda: self.study.budget.end(claim, stored)):
            return  # the lease ran out and another worker has the slot: this result is not counted
        self._failures = 0
        self.watcher.trial_ended(claim.trial_number, state, result.reason, result.value, epochs)
        trials = self._patiently(self.study.trials)
        ranking = ranked(trials)
        self._tidy(claim.trial_number, trials, ranking)
        if self.copies is not None:
            key = self.artifacts.key(self.study, claim.trial_number)
            if result.model is not None and result.model.is_dir():
                self.copies.model(key, result.model)
            self.copies.forget_checkpoints(key)
        self.aftermath.trial_ended(claim.trial_number, config, result, ranking)

    def _fail(self, claim: Claim, failure: Failed, workdir: Path) -> None:
        """A config that cannot run is PRUNED; a crash returns the slot until attempts run out."""
        number, budget = claim.trial_number, self.study.budget
        if failure.unfit:
            unfit = Result("PRUNED", None, "unfit", TrialFacts(error=failure.message).at_end())
            if self._patiently(lambda: budget.end(claim, unfit)):
                self._drop_checkpoints(number)
                self.aftermath.trial_failed()
                self.watcher.trial_ended(number, "PRUNED", f"unfit: {failure.message}", None, 0)
            return
        if self.interrupt.count or failure.disk:
            self._give_back(claim, counts=False)
            if failure.disk:
                self._wait_for_room(workdir)
            return
        message = f"{failure.message}; see {workdir / 'trial.log'}"
        if claim.attempt < budget.max_attempts:
            self._give_back(claim, counts=True)
            self.watcher.trial_ended(number, "RETRY", f"crashed: {message}", None, 0)
            return
        self._failures += 1
        crashed = Result("FAILED", None, "crashed", TrialFacts(error=failure.message).at_end())
        if self._patiently(lambda: budget.end(claim, crashed)):
            self._drop_checkpoints(number)
            self.aftermath.trial_failed()
            self.watcher.trial_ended(number, "FAILED", f"crashed: {message}", None, 0)

    def _drop_checkpoints(self, number: int) -> None:
        """Delete a trial's copies in the bucket, which nobody will resume from."""
        if self.copies is not None:
            self.copies.forget_checkpoints(self.artifacts.key(self.study, number))

    def _give_back(self, claim: Claim, *, counts: bool, paused: bool = False) -> None:
        """Return a slot; where the store is away and we must go, its lease returns it.

        Its last checkpoint is in the bucket then, where another machine looks for it, unless that
        takes too long.
        """
        if self.copies is not None:
            self.copies.settle(HANDOVER_SECONDS)
        try:
            self._patiently(
                lambda: self.study.budget.give_back(claim, counts=counts, paused=paused)
            )
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
        until = time.monotonic() + ROOM_SECONDS
        while time.monotonic() < until and not self.interrupt.count:
            now = [shutil.disk_usage(folder).free for folder in disks]
            if any(free > before + ROOM_BYTES for free, before in zip(now, had, strict=True)):
                return
            time.sleep(POLL_SECONDS)

    def _tidy(
        self, ended: int, trials: Sequence[FrozenTrial], ranking: Sequence[FrozenTrial]
    ) -> None:
        """Keep checkpoints of running trials and models of the best; drop the rest."""
        remove_last(self.artifacts.workdir(self.study, ended))
        finished = {trial.number for trial in trials if trial.state.is_finished()}
        self._models |= finished - self._tidied
        self._tidied = finished
        best = ranking[: self.study.spec.keep_models]
        for number in self._models - {trial.number for trial in best}:
            folder = self.artifacts.workdir(self.study, number)
            if folder.is_dir():
                remove_models(folder, but=None)
            if self.copies is not None:
                self.copies.forget_models(self.artifacts.key(self.study, number))
            self._models.discard(number)
