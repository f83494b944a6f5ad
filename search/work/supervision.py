"""One trial from its start to its child's end: reports out, words in, the lease kept.

Training never waits for the store: while it is away, reports queue up here.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from search.database.retry import Backoff, is_away
from search.studies.heartbeats import Registration
from search.studies.limits import Limits, limits
from search.studies.slots import FENCE_SECONDS, Claim
from search.studies.study import Study
from search.work.child import Alive, Child, ChildDied, Done, Epoch, Failed, FoldEnded, Resumed
from search.work.judge import Judge, Word
from search.work.measured import seconds_per_epoch
from search.work.watchers import Interrupt, Watcher
from spaces.config import TrialConfig
from spaces.limits import Cost
from trainers.report import EpochReport, same_report


@dataclass(frozen=True)
class Timing:
    """How long a supervisor waits, in seconds.

    Attributes:
        poll: for a child's next message.
        look: between renewals of the lease and looks at what the user has asked for.
        fence: after a renewal the child ends by itself.
        stop: a child that has not ended so long after being told to is killed.
        watchdog: a child that has taken no step and ended no epoch for so long hangs.
        room: that a worker rests where the disk is full, or too many files are open.
    """

    poll: float = 0.5
    look: float = 5.0
    fence: float = FENCE_SECONDS
    stop: float = 15.0
    watchdog: float = 3600.0
    room: float = 60.0


@dataclass(frozen=True)
class Lost:
    """The slot is another worker's by now: what the child did does not count."""


class Supervision:
    """Supervises one trial; `run` once.

    Args:
        on_stored: called when a report has been stored.
        on_rewound: called with the epoch of the checkpoint, 0 where there is none, when what was
            stored of later ones has been dropped.
        meanwhile: called every now and then while the child trains.
    """

    def __init__(
        self,
        study: Study,
        judge: Judge,
        claim: Claim,
        config: TrialConfig,
        child: Child,
        *,
        watcher: Watcher,
        interrupt: Interrupt,
        registration: Registration | None,
        timing: Timing,
        on_stored: Callable[[], None],
        on_rewound: Callable[[int], None],
        meanwhile: Callable[[], None],
    ) -> None:
        self.study, self.judge, self.claim, self.config = study, judge, claim, config
        self.child, self.watcher, self.interrupt = child, watcher, interrupt
        self.registration, self.timing = registration, timing
        self.on_stored, self.on_rewound, self.meanwhile = on_stored, on_rewound, meanwhile
        self.began = time.monotonic()
        self.looked = self.began
        self.last_sign = self.began
        self.trains = False  # whether the child has sent an epoch, or taken a step
        self.first_step = math.inf  # when it said that it had taken one
        self.longest_epoch = 0.0
        self.seconds: list[float] = []  # of each epoch
        self.values: list[float] = []  # of each epoch
        self.folds: list[float] = []  # of each fold that has ended
        self.folds_judged = 0
        # reports of earlier attempts that the child has not repeated yet; None = not read yet
        self.earlier: deque[EpochReport] | None = None
        self.epoch = 0  # up to here what is stored is what the child has sent
        self.dropped = 0  # epochs that earlier attempts had stored, and its checkpoint lacks
        self.outbox: deque[EpochReport | Resumed] = deque()
        self.told: tuple[str, float] | None = None  # the word that the child was sent, and when
        self.bar: float | None = None  # that a pruner held the trial against
        self.limits: Limits = Limits.none()
        self.next_try, self.backoff = 0.0, Backoff()
        child.fence(self.began + timing.fence)

    def run(self) -> Done | Failed | Lost:
        """Supervise until the child has ended and its reports are stored, or the slot is lost."""
        outcome: Done | Failed | None = None
        while True:
            if outcome is None:
                try:
                    message = self.child.receive(self.timing.poll)
                except ChildDied as death:
                    message = Failed(unfit=False, message=death.how)
                if isinstance(message, Done | Failed):
                    outcome = message
                elif isinstance(message, Resumed):
                    self.outbox.append(message)
                elif isinstance(message, Epoch | FoldEnded | Alive):
                    self.last_sign, self.trains = time.monotonic(), True
                    if isinstance(message, Alive):
                        self.first_step = min(self.first_step, self.last_sign)
                    if isinstance(message, Epoch):
                        self._heard(message.report)
                    if isinstance(message, FoldEnded):
                        self.folds.append(message.value)
            elif self.outbox:
                time.sleep(self.timing.poll)
            if self._due() and not self._with_store():
                self.child.kill()
                return Lost()
            # an interrupted worker does not wait for a store that is away: the next attempt
            # repeats the reports from its checkpoint
            if outcome is not None and (not self.outbox or self.interrupt.count):
                return outcome
            if outcome is None:
                self._look_after_child()
                if self.trains:
                    self.meanwhile()

    def _heard(self, report: EpochReport) -> None:
        self.values.append(report.metric)
        self.seconds.append(report.seconds)
        self.longest_epoch = max(self.longest_epoch, report.seconds)
        self.watcher.epoch_ended(self.claim.trial_number, report)
        self.outbox.append(report)

    def _due(self) -> bool:
        """Whether there is something for the store, and it is time to try."""
        now = time.monotonic()
        waiting = bool(self.outbox) or self._fold_due or now - self.looked > self.timing.look
        return waiting and now >= self.next_try

    @property
    def _fold_due(self) -> bool:
        """Whether a fold has ended that is not judged yet; all its reports are stored first."""
        return len(self.folds) > self.folds_judged and not self.outbox

    def _with_store(self) -> bool:
        """Deliver reports in order and renew the lease; False where the slot is lost.

        While the store is away this returns quickly and is tried again later.
        """
        try:
            if self.earlier is None:
                self.earlier = deque(self.study.history(self.claim.trial_number))
            while self.outbox:
                if not self._deliver(self.outbox[0], self.earlier):
                    return False
            if self._fold_due:
                word = None if self.told else self.judge.fold_verdict(self.folds)
                self.folds_judged = len(self.folds)
                if word is not None:
                    self._tell(word)
            if (asked := time.monotonic()) - self.looked > self.timing.look:
                if not self.study.slots.renew(self.claim):
                    return False
                self._renewed(asked)
                self.looked = asked
                self.limits = limits(self.study)
                if self.registration is not None:
                    self.registration.seen()
        except Exception as error:
            if not is_away(error):
                raise
            self.watcher.store_away(error)
            self.next_try = time.monotonic() + self.backoff.next()
            return True
        self.next_try, self.backoff = 0.0, Backoff()
        return True

    def _deliver(self, message: EpochReport | Resumed, earlier: deque[EpochReport]) -> bool:
        """Store the first message of the outbox, and take it out; False where the slot is lost.

        A resumed child repeats what its checkpoint holds. Where that is not what was stored (its
        folder is gone, is older, or is of another attempt), it takes the place of what was stored.
        """
        report = None if isinstance(message, Resumed) else message
        if report is not None and earlier and same_report(report, earlier[0]):
            earlier.popleft()
            self.outbox.popleft()
            self.epoch = report.epoch
            return True
        asked = time.monotonic()
        if earlier:
            if not self.study.forget_epochs(self.claim, self.epoch):
                return False
            self._renewed(asked)
            self.dropped += len(earlier)
            earlier.clear()
            self.on_rewound(self.epoch)
        if report is None:
            self.outbox.popleft()
            self.watcher.trial_resumed(self.claim.trial_number, self.epoch, self.dropped)
            return True
        stored = self.study.report(self.claim, report)
        if stored is None:
            return False
        self._renewed(asked)
        self.outbox.popleft()
        self.epoch = report.epoch
        self.on_stored()
        # curves are compared within the first fold, whole folds after that
        if self.told is None and not self.outbox and report.fold in (None, 1):
            word = self.judge.verdict(self.claim, self.config, self.values, stored)
            if word is not None:
                self._tell(word)
        return True

    def _renewed(self, asked: float) -> None:
        """The lease runs from when it was asked for, at the latest."""
        self.child.fence(asked + self.timing.fence)

    def _look_after_child(self) -> None:
        """Send the word that is due, and kill a child that does not follow it."""
        now, interrupted = time.monotonic(), self.interrupt.count
        if self.told is None:
            if interrupted:
                self._tell(Word("preempted"))
            elif self.limits.now:
                self._tell(Word(self.limits.now))
            elif self.limits.trial_seconds and now - self.began > self.limits.trial_seconds:
                self._tell(Word("timeout"))
            elif self._slow:
                self._tell(Word("limit"))
            elif self.trains and self._ends:
                self._tell(self._ends)
        since = math.inf if self.told is None else self.told[1]
        if self._ends and not interrupted:  # no word is heeded before a step, which may compile
            since = max(since, self.first_step)
        late = now - since > self.timing.stop + self.longest_step
        if interrupted > 1 or late or now - self.last_sign > self.timing.watchdog:
            self.child.kill()

    @property
    def _slow(self) -> bool:
        """Whether its epochs take longer than the study's limit."""
        cost = Cost(seconds_per_epoch=seconds_per_epoch(self.seconds))
        return self.study.spec.limits.outside(cost) is not None

    @property
    def _ends(self) -> Word | None:
        """Why a trial that was paused is taken up only to end."""
        if self.claim.bar is not None:
            return Word(self.study.spec.pruner.name, self.claim.bar)
        return Word("stopped") if self.claim.spent else None

    @property
    def longest_step(self) -> float:
        """Seconds that a child may need to come to the end of its step."""
        return 0.0 if self.interrupt.count else self.longest_epoch

    def _tell(self, word: Word) -> None:
        self.child.stop(word.reason)
        self.bar = word.bar
        self.told = (word.reason, time.monotonic())
