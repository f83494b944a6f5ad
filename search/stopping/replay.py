"""Searches replayed on recorded learning curves: what another stopping rule would have spent.

Nothing is trained. Recorded runs begin as a sampler or an order says, their curves are told epoch
by epoch in simulated time, and a rule may stop them. What counts are the epochs that a search
spends, and whether it still finds what there was to find.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import optuna
from optuna.trial import TrialState

from search.stopping.curves import Curve, EndedCurves
from search.stopping.rules import QuantileRule, Review, Verdict


@dataclass(frozen=True)
class Recorded:
    """A run as it was recorded.

    Attributes:
        params: what was drawn, by parameter name.
        metric: after each epoch, higher is better; NaN where it was no number.
        seconds: of each epoch.
        warmup: epochs until learning rate and loss had warmed up.
    """

    params: Mapping[str, Any]
    metric: tuple[float, ...]
    seconds: tuple[float, ...]
    warmup: int = 0

    @cached_property
    def value(self) -> float:
        """The best epoch's metric; -inf where there is none."""
        return max((v for v in self.metric if not math.isnan(v)), default=-math.inf)


# ---------------------------------------------------------------- stopping rules


@dataclass
class Run:
    """A run of a search, as far as it has come."""

    trial: optuna.Trial
    recorded: Recorded
    epoch: int = 0

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def curve(self) -> Curve:
        return Curve(self.recorded.metric[: self.epoch], self.recorded.warmup)

    @property
    def ran_out(self) -> bool:
        return self.epoch >= len(self.recorded.metric)


@dataclass(frozen=True)
class Stopped:
    """A paused run that ends now."""

    run: Run


NEW, WAIT = "new", "wait"


class Rule(Protocol):
    """Who stops runs, pauses them, and takes up paused ones. One object a search."""

    def next(self, can_begin: bool) -> Run | Stopped | str:
        """A worker is free: the paused run that it takes up or that ends, NEW, or WAIT.

        Args:
            can_begin: whether there is a recorded run left to begin.
        """
        ...

    def epoch_ended(self, run: Run) -> Verdict:
        """Judge a run after each epoch but its last."""
        ...

    def run_ended(self, run: Run) -> None:
        """Hear of a run that has ended, by itself or stopped."""
        ...


class Unpruned:
    """Every run goes to its last epoch; the base of rules that never pause."""

    def next(self, can_begin: bool) -> Run | Stopped | str:
        return NEW if can_begin else WAIT

    def epoch_ended(self, run: Run) -> Verdict:
        return Verdict.GO

    def run_ended(self, run: Run) -> None: ...


class OptunaRule(Unpruned):
    """What the study's Optuna pruner says."""

    def epoch_ended(self, run: Run) -> Verdict:
        return Verdict.STOP if run.trial.should_prune() else Verdict.GO


@dataclass
class OurRule(Unpruned):
    """Our quantile rule."""

    rule: QuantileRule
    ended: EndedCurves = field(default_factory=EndedCurves)
    _running: dict[int, Run] = field(default_factory=dict)
    _paused: dict[int, Run] = field(default_factory=dict)
    _last: set[int] = field(default_factory=set)
    """Runs that were taken up because nothing new was left to begin."""

    def next(self, can_begin: bool) -> Run | Stopped | str:
        review = self._review()
        if review.stops:
            return Stopped(self._paused[next(iter(review.stops))])
        if review.goes:
            return self._take_up(review.goes[0])
        if can_begin:
            return NEW
        if review.waits:
            self._last.add(review.waits[0])
            return self._take_up(review.waits[0])
        return WAIT

    def epoch_ended(self, run: Run) -> Verdict:
        self._running[run.number] = run
        verdict = self.rule.verdict(
            self.curve(run), self.ended, self._beside(run), may_pause=run.number not in self._last
        )
        if verdict is Verdict.PAUSE:
            self._paused[run.number] = self._running.pop(run.number)
        return verdict

    def run_ended(self, run: Run) -> None:
        self._running.pop(run.number, None)
        self._paused.pop(run.number, None)
        self.ended.add({run.number: self.curve(run)})

    def curve(self, run: Run) -> Curve:
        """What a run is judged by."""
        return run.curve

    def _take_up(self, number: int) -> Run:
        run = self._running[number] = self._paused.pop(number)
        return run

    def _review(self) -> Review:
        paused = {number: self.curve(run) for number, run in self._paused.items()}
        running = {number: self.curve(run) for number, run in self._running.items()}
        return self.rule.review(paused, running, self.ended)

    def _beside(self, run: Run) -> list[float]:
        """Best metric, by the run's epoch, of paused runs and of those that have come as far."""
        others = [r for n, r in self._running.items() if n != run.number and r.epoch >= run.epoch]
        bests = (self.curve(r).best_by(run.epoch) for r in (*others, *self._paused.values()))
        return [best for best in bests if best is not None]


# ---------------------------------------------------------------- the simulation


@dataclass(frozen=True)
class Outcome:
    """What a search came to.

    Attributes:
        solved: whether a run reached the target.
        epochs: trained by all workers until then, or until nothing was left to do.
        seconds: simulated time until then.
        best: the highest metric that was seen.
        rises: (epochs trained by then, new highest metric), in order.
    """

    solved: bool
    epochs: int
    seconds: float
    best: float
    rises: tuple[tuple[int, float], ...] = ()

    def epochs_to(self, target: float) -> int | None:
        """Epochs until a run reached a metric, or None."""
        return next((epochs for epochs, metric in self.rises if metric >= target), None)


class Proposals(Protocol):
    """Which recorded run begins next."""

    @property
    def sampler(self) -> optuna.samplers.BaseSampler:
        """Of the Optuna study in which the runs are trials."""
        ...

    @property
    def left(self) -> bool:
        """Whether there is a run that has not begun."""
        ...

    def begin(self, study: optuna.Study) -> tuple[optuna.Trial, Recorded]:
        """Begin a trial of the study, and say which run it stands for."""
        ...


class InOrder:
    """The recorded runs in a given order, whatever their parameters are."""

    def __init__(self, runs: Iterable[Recorded]) -> None:
        self.sampler = optuna.samplers.RandomSampler(seed=0)  # nothing is drawn
        self._waiting = deque(runs)

    @property
    def left(self) -> bool:
        return bool(self._waiting)

    def begin(self, study: optuna.Study) -> tuple[optuna.Trial, Recorded]:
        return study.ask(), self._waiting.popleft()


def replay(
    proposals: Proposals,
    rule: Rule,
    epochs: int,
    *,
    target: float = math.inf,
    workers: int = 1,
    pruner: optuna.pruners.BasePruner | None = None,
) -> Outcome:
    """Replay one search until a run reaches the target or nothing is left to do.

    Args:
        epochs: of a run in full.
        workers: how many train at once, in simulated time.
        pruner: Optuna's, for `OptunaRule`.
    """
    return _Search(proposals, rule, epochs, target, workers, pruner).run()


class _Search:
    def __init__(
        self,
        proposals: Proposals,
        rule: Rule,
        full: int,
        target: float,
        workers: int,
        pruner: optuna.pruners.BasePruner | None,
    ) -> None:
        self.proposals, self.rule, self.full, self.target = proposals, rule, full, target
        self.study = optuna.create_study(
            study_name="replay",  # Hyperband draws brackets from the name
            direction="maximize",
            sampler=proposals.sampler,
            pruner=pruner or optuna.pruners.NopPruner(),
        )
        self.idle = workers
        self.epochs = 0
        self.now = 0.0
        self.best = -math.inf
        self.rises: list[tuple[int, float]] = []
        self.due: list[tuple[float, int, Run]] = []  # (when its epoch ends, tie-break, run)
        self.begun = 0

    def run(self) -> Outcome:
        self._employ()
        while self.due:
            self.now, _, run = heapq.heappop(self.due)
            self.epochs += 1
            run.epoch += 1
            value = run.recorded.metric[run.epoch - 1]
            run.trial.report(value, run.epoch)
            if value > self.best:
                self.best = value
                self.rises.append((self.epochs, value))
            if self.best >= self.target:
                return self._outcome(solved=True)
            verdict = Verdict.STOP if run.ran_out else self.rule.epoch_ended(run)
            if verdict is Verdict.GO:
                self._train(run)
                continue
            if verdict is Verdict.STOP:
                self._end(run)
            self.idle += 1
            self._employ()
        return self._outcome(solved=False)

    def _outcome(self, *, solved: bool) -> Outcome:
        return Outcome(solved, self.epochs, self.now, self.best, tuple(self.rises))

    def _employ(self) -> None:
        """Give idle workers something to do."""
        while self.idle:
            chosen = self.rule.next(self.proposals.left)
            if isinstance(chosen, Stopped):
                self._end(chosen.run)
                continue
            if chosen == WAIT:
                return
            run = Run(*self.proposals.begin(self.study)) if chosen == NEW else chosen
            assert isinstance(run, Run)
            self.idle -= 1
            self._train(run)

    def _train(self, run: Run) -> None:
        self.begun += 1
        heapq.heappush(self.due, (self.now + run.recorded.seconds[run.epoch], self.begun, run))

    def _end(self, run: Run) -> None:
        best = run.curve.best_by(run.epoch)
        full = run.epoch >= self.full and best is not None
        state = TrialState.COMPLETE if full else TrialState.PRUNED
        self.study.tell(run.trial, best if full else None, state=state)
        self.rule.run_ended(run)
