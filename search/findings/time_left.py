"""How long a study will still take, from what its trials have shown so far.

What is left is counted in epochs, not in trials: trials that are paused, stopped early or resumed
make seconds a trial swing, and hardly move seconds an epoch. How many epochs a trial will train is
told as in a life table: of the trials that came to an epoch, how many ended there? A few imagined
trials that train to the end keep the first real ones from deciding alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from optuna.trial import FrozenTrial, TrialState

from search.findings.wording import clock, clock_span
from search.studies.trained import Trained
from search.studies.trial_facts import TrialFacts

KNOWN = 3  # trials with epochs that were timed; with fewer nothing is said but what was measured
IMAGINED = 3  # trials that train to the end
PAUSED = 0.3  # of paused trials train no more; so it is right on average in replayed searches
JUMP = 4 / 3  # a change by more is explained
PLAIN = 1.1  # what changes by less explains nothing


@dataclass
class Pace:
    """What one trial has shown.

    Attributes:
        epochs: trained so far.
        timed: of them, those whose `seconds` are known.
        before: epochs that it had when this was first looked at.
        paused: it waits, and may end as it is.
        ended: and it says how far trials come; None: it has not ended.
    """

    epochs: int = 0
    timed: int = 0
    seconds: float = 0.0
    before: int = 0
    paused: bool = False
    ended: bool | None = None


@dataclass(frozen=True)
class Basis:
    """What an estimate was made from.

    Attributes:
        workers: that train at once.
        unended: trials that have not ended, those that have not begun included.
        length: epochs that a new trial will train.
        speed: seconds from the end of an epoch to that of the next.
    """

    workers: int
    unended: int
    length: float
    speed: float


@dataclass(frozen=True)
class Said:
    """An estimate.

    Attributes:
        at: when it was made, as `now` of `TimeLeft.estimate`.
        left: seconds from then on.
        why: it differs from what was said before; empty where it hardly does.
    """

    at: float
    left: float
    basis: Basis
    why: str = ""

    def left_at(self, now: float) -> float:
        """What it says later."""
        return max(self.left - (now - self.at), 0.0)


@dataclass
class TimeLeft:
    """Estimates the time that a study still takes, and explains each jump of the estimate.

    Attributes:
        epochs: of a trial in full, all folds.
        measured: (least, most) seconds of all of it, by steps that were measured before it began.
        paces: by trial.
    """

    epochs: int
    measured: tuple[float, float] | None = None
    paces: dict[int, Pace] = field(default_factory=dict)
    _busy: float = 0.0  # seconds of workers, in which the epochs after `Pace.before` were trained
    _said: Said | None = None
    _first: int = 0  # trials that had not ended when this first looked
    _unended: int = 0

    def take(self, trial: FrozenTrial, waiting: Mapping[int, str], *, first: bool = False) -> None:
        """Take over what the store has of a trial.

        Args:
            waiting: {trial: PAUSED or INTERRUPTED} of those that have begun and do not run.
            first: nobody has worked on it since this has looked.
        """
        facts = TrialFacts.of(trial)
        pace = self.paces.setdefault(trial.number, Pace())
        pace.epochs = facts.epochs or max(trial.intermediate_values, default=0)
        if first:
            pace.before = pace.epochs
        if facts.seconds is not None:
            pace.timed, pace.seconds = pace.epochs, facts.seconds
        pace.paused = waiting.get(trial.number) == "PAUSED"
        if trial.state.is_finished():
            refused = facts.refused
            pace.ended = trial.state != TrialState.FAIL and not refused

    def epoch_ended(self, number: int, epoch: int, seconds: float) -> None:
        """A trial has trained another epoch; what a resumed one repeats counts once."""
        pace = self.paces.setdefault(number, Pace())
        pace.paused = False
        if epoch > pace.epochs:
            pace.epochs, pace.timed, pace.seconds = epoch, pace.timed + 1, pace.seconds + seconds

    def trial_ended(self, number: int, state: str) -> None:
        """A trial has ended, or is PAUSED; one that FAILED says nothing of how far others come."""
        pace = self.paces.setdefault(number, Pace())
        pace.paused = state == "PAUSED"
        if not pace.paused:
            pace.ended = state != "FAILED"

    def worked(self, seconds: float) -> None:
        """The workers of these trials have spent so much time on them, all together."""
        self._busy += seconds

    def estimate(self, now: float, unended: int, workers: int) -> None:
        """Look at what has been heard, and estimate anew.

        Args:
            now: seconds since the study was first looked at.
            unended: trials that have not ended, those that have not begun included.
            workers: that train now, at least 1.
        """
        self._first, self._unended = self._first or unended, unended
        basis = self._basis(unended, workers)
        if basis is None:
            return
        said = Said(now, self._left(basis), basis)
        if (last := self._said) is not None:
            expected = last.left_at(now)
            if expected > said.left * JUMP or said.left > expected * JUMP:
                why = _reason(last.basis, basis, said.left > expected)
                said = replace(said, why=f", not {clock(expected)}: {why}")
        self._said = said

    @property
    def left(self) -> float | None:
        """Seconds that it said last; None where too little is known."""
        return None if self._said is None else self._said.left

    def text(self, now: float) -> str:
        """`about 12 min 30 s left`; with a reason where that is far from what was said before."""
        said = self._said
        if said is not None:
            return f"about {clock(said.left_at(now))} left{said.why}"
        if self.measured is None:
            return f"{clock(now)} gone"
        share = self._unended / max(self._first, 1)
        left = clock_span(*(share * seconds for seconds in self.measured))
        return f"{left} left by the steps measured before"

    def _basis(self, unended: int, workers: int) -> Basis | None:
        timed = [pace for pace in self.paces.values() if pace.timed]
        if len(timed) < KNOWN:
            return None
        speed = fmean(pace.seconds / pace.timed for pace in timed)
        trained = sum(
            (pace.epochs - pace.before) * (pace.seconds / pace.timed if pace.timed else speed)
            for pace in self.paces.values()
        )
        between = max(1.0, self._busy / trained) if trained else 1.0
        return Basis(workers, unended, self._more()[0], speed * between)

    def _left(self, basis: Basis) -> float:
        """Seconds that are left; the last trials do not share their epochs among workers."""
        begun = [pace for pace in self.paces.values() if pace.ended is None]
        more = self._more()
        alone = [
            more[min(pace.epochs, self.epochs)] * basis.speed * (1 - PAUSED * pace.paused)
            for pace in begun
        ]
        new = max(basis.unended - len(begun), 0)
        return max((sum(alone) + new * basis.length * basis.speed) / basis.workers, *alone, 0.0)

    def _more(self) -> list[float]:
        """Epochs that a trial will train yet, on average, by those that it has trained, from 0."""
        ends: dict[int, float] = defaultdict(float)
        came: dict[int, int] = defaultdict(int)
        for pace in self.paces.values():
            came[pace.epochs] += 1
            ends[pace.epochs] += 1.0 if pace.ended else PAUSED * pace.paused
        beyond = len(self.paces) + IMAGINED  # trials that have trained more than so many
        shares = []
        for epoch in range(self.epochs):
            beyond -= came[epoch]
            shares.append(beyond / (beyond + ends[epoch]))
        expected = [0.0]  # of one that has trained them all
        for share in reversed(shares):
            expected.append(share * (1 + expected[-1]))
        return expected[::-1]


def seconds_left(
    trials: Sequence[Trained], epochs: int, unended: int, workers: int
) -> float | None:
    """How long a study will still take, by its trials as the store has them.

    Args:
        trials: all that have begun.
        epochs: of a trial in full.
        unended: trials that have not ended, those that have not begun included.
        workers: that train now, at least 1.

    Returns:
        None where fewer than KNOWN trials have trained.
    """
    estimate = TimeLeft(epochs, paces={trial.trial: _pace(trial) for trial in trials})
    estimate.worked(sum(trial.held for trial in trials))
    estimate.estimate(0.0, unended, workers)
    return estimate.left


def _pace(trial: Trained) -> Pace:
    """What a trial has shown; of one that has not ended all time on a device counts as training."""
    seconds = trial.seconds
    if seconds is None and not trial.ended and trial.held:
        seconds = trial.held
    refused = trial.reason == "limit" and not trial.epochs
    return Pace(
        trial.epochs,
        0 if seconds is None else trial.epochs,
        seconds or 0.0,
        paused=trial.paused,
        ended=None if not trial.ended else trial.state != "FAILED" and not refused,
    )


def _reason(before: Basis, now: Basis, longer: bool) -> str:
    """What has changed most of all that makes a study take longer, or less long, than expected."""
    changes = {
        f"{_of(now.workers, 'worker')}, before {before.workers}": before.workers / now.workers,
        f"{_of(now.unended, 'trial')} to end, before {before.unended}": now.unended
        / max(before.unended, 1),
        f"trials train {now.length:.0f} epochs on average, before {before.length:.0f}": now.length
        / before.length,
        f"an epoch takes {clock(now.speed)} on average, before {clock(before.speed)}": now.speed
        / before.speed,
    }
    changes = {text: share if longer else 1 / max(share, 1e-9) for text, share in changes.items()}
    most = max(changes, key=lambda text: changes[text])
    if changes[most] > PLAIN:
        return most
    return f"trials that have begun will train {'more' if longer else 'fewer'} epochs than expected"


def _of(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
