"""The supervisor: claims slots, runs each trial in a child, stores what it reports, gives verdicts.

It alone talks to the database. What ends a trial, and how that is stored:

    completed, patience            COMPLETE
    median and Optuna's pruners    PRUNED
    health:<alarm>, nonfinite      PRUNED
    oom, unfit                     PRUNED, without a value where no epoch was finished
    crashed                        the slot returns; FAILED after MAX_ATTEMPTS
    preempted                      the slot returns and does not count as an attempt
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from optuna.trial import TrialState

from search import results
from search.budget import ENDED, MAX_ATTEMPTS, RENEW_SECONDS, Claim
from search.pruning import Curve, median_rule, stock_verdict, warmup_end
from search.study import Study
from search.trial_process import ChildDied, Done, Epoch, Failed, TrialProcess
from spaces.config import BaseTrialConfig
from trainers.checkpoint import remove_last, remove_models
from trainers.tasks import Data
from trainers.train import TrialResult

POLL_SECONDS = 0.5
STOP_SECONDS = 20.0  # a child that has not ended so long after being told to is killed
FAILURES_IN_A_ROW = 3  # then something is wrong that the next trial will meet too


class Watcher(Protocol):
    """Whoever shows the progress of a study."""

    def trial_started(self, number: int, config: BaseTrialConfig, attempt: int) -> None: ...

    def epoch_ended(self, number: int, report: dict[str, Any]) -> None: ...

    def trial_ended(
        self, number: int, state: str, reason: str, value: float | None, epochs: int
    ) -> None: ...


class TooManyFailures(Exception):
    """Several trials in a row have failed; the study waits for its user."""


@dataclass
class Interrupt:
    """What the user's Ctrl-C has asked for so far."""

    count: int = 0

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Count SIGINT and SIGTERM instead of dying of them."""
        before = {s: signal.signal(s, self._heard) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self.count += 1


@dataclass
class Worker:
    """Runs trials of one study until its slots are used up or it is told to stop."""

    study: Study
    data: Data
    artifacts: Path
    watcher: Watcher
    interrupt: Interrupt
    _ended: dict[int, Curve] = field(default_factory=dict)
    _failures: int = 0

    def run(self) -> bool:
        """Serve the study; True where nothing is left to claim, False where interrupted.

        Raises:
            TooManyFailures: FAILURES_IN_A_ROW trials have failed one after another.
        """
        while not self.interrupt.count:
            claim = self.study.budget.claim(self.study.ask)
            if claim is None:
                return True
            self._serve(claim)
            if self._failures >= FAILURES_IN_A_ROW:
                raise TooManyFailures
        return False

    def _serve(self, claim: Claim) -> None:
        number = claim.trial_number
        trial = self.study.trial(number)
        config = self.study.config(trial)
        workdir = self.study.workdir(self.artifacts, number)
        self.watcher.trial_started(number, config, claim.attempt)
        began = time.monotonic()
        child = TrialProcess(config, self.data, workdir, self.study.space.free())
        try:
            outcome = self._supervise(claim, config, child)
        except ChildDied as death:
            outcome = Failed(unfit=False, message=death.how)
        except BaseException:
            child.kill()
            raise
        child.join()
        seconds = time.monotonic() - began
        if isinstance(outcome, Done):
            self._settle(claim, outcome.result, workdir, seconds)
        else:
            self._fail(claim, outcome, workdir)

    def _supervise(
        self, claim: Claim, config: BaseTrialConfig, child: TrialProcess
    ) -> Done | Failed:
        """Pass on reports and verdicts until the child has ended."""
        values: list[float] = []
        stored = len(self.study.curve(claim.trial_number).values)
        renewed = time.monotonic()
        told: float | None = None
        while True:
            message = child.receive(POLL_SECONDS)
            if isinstance(message, Done | Failed):
                return message
            if isinstance(message, Epoch):
                values.append(message.report["metric"])
                self.watcher.epoch_ended(claim.trial_number, message.report)
                if len(values) <= stored:
                    continue  # a resumed child repeats what has been stored and judged
                self.study.report(claim.trial_number, message.report)
                if told is None and (verdict := self._verdict(claim, config, values)):
                    child.stop(verdict)
                    told = time.monotonic()
            if self.interrupt.count and told is None:
                child.stop("preempted")
                told = time.monotonic()
            if self.interrupt.count > 1 or (
                self.interrupt.count and told and time.monotonic() - told > STOP_SECONDS
            ):
                child.kill()
            if time.monotonic() - renewed > RENEW_SECONDS:
                if not self.study.budget.renew(claim):
                    child.stop("preempted")  # another worker has the slot now
                renewed = time.monotonic()

    def _verdict(self, claim: Claim, config: BaseTrialConfig, values: list[float]) -> str | None:
        """Return the pruner's name where it stops the trial after its last epoch."""
        spec = self.study.spec.pruner
        if spec.name == "none" or len(values) >= config.train.epochs:
            return None
        if spec.name == "median":
            rule = median_rule(spec, config.train.epochs)
            curve = Curve(tuple(values), warmup_end(config))
            return "median" if rule.stops(curve, self._ended_curves()) else None
        pruned = stock_verdict(self.study.optuna(claim.slot), claim.trial_number)
        return spec.name if pruned else None

    def _ended_curves(self) -> list[Curve]:
        """Curves of all trials that ended COMPLETE or PRUNED; read again only for new ones."""
        counts = self.study.budget.counts()
        if sum(counts[state] for state in ENDED if state != "FAILED") != len(self._ended):
            for trial in self.study.trials():
                counted = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
                if counted and trial.number not in self._ended:
                    self._ended[trial.number] = self.study.curve(trial.number)
        return list(self._ended.values())

    def _settle(self, claim: Claim, result: TrialResult, workdir: Path, seconds: float) -> None:
        """Store a result: tell, end the slot, tidy up."""
        reason = result.reason
        if reason in ("preempted", "orphaned"):
            self.study.budget.give_back(claim, counts=False)
            return
        if not self.study.budget.renew(claim):
            return  # the lease ran out and another worker has the slot: this result is not counted
        self._failures = 0
        state = TrialState.COMPLETE if reason in ("completed", "patience") else TrialState.PRUNED
        self.study.tell(
            claim.trial_number,
            state,
            result.value,
            reason=reason,
            epochs=len(result.history),
            best_epoch=result.best_epoch,
            seconds=round(sum(report["seconds"] for report in result.history), 3),
            decode=result.decode,
            hardware=result.hardware,
        )
        self.study.budget.end(claim, state.name, reason)
        self.watcher.trial_ended(
            claim.trial_number, state.name, reason, result.value, len(result.history)
        )
        self._tidy(workdir)

    def _fail(self, claim: Claim, failure: Failed, workdir: Path) -> None:
        """A config that cannot run is PRUNED; a crash returns the slot until attempts run out."""
        number = claim.trial_number
        if failure.unfit:
            self.study.tell(number, TrialState.PRUNED, None, reason="unfit", error=failure.message)
            self.study.budget.end(claim, "PRUNED", "unfit")
            self.watcher.trial_ended(number, "PRUNED", f"unfit: {failure.message}", None, 0)
            return
        if self.interrupt.count:
            self.study.budget.give_back(claim, counts=False)
            return
        message = f"{failure.message}; see {workdir / 'trial.log'}"
        if claim.attempt < MAX_ATTEMPTS:
            self.study.budget.give_back(claim, counts=True)
            self.watcher.trial_ended(number, "RETRY", f"crashed: {message}", None, 0)
            return
        self._failures += 1
        self.study.tell(number, TrialState.FAIL, None, reason="crashed", error=failure.message)
        self.study.budget.end(claim, "FAILED", "crashed")
        self.watcher.trial_ended(number, "FAILED", f"crashed: {message}", None, 0)

    def _tidy(self, ended: Path) -> None:
        """Keep checkpoints of running trials and models of the best; drop the rest."""
        remove_last(ended)
        keep = {
            trial.number
            for trial in results.ranked(self.study.trials())[: self.study.spec.keep_models]
        }
        for trial in self.study.trials():
            if trial.state.is_finished() and trial.number not in keep:
                folder = self.study.workdir(self.artifacts, trial.number)
                if folder.is_dir():
                    remove_models(folder, but=None)
