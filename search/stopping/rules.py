"""Early stopping: our rule, the median by default, and Optuna's pruners.

The rule has two bars. A trial below the lower one stops: the median of the others, from a quarter
of the run on, in its third epoch at the soonest. One between them is paused: it goes on as soon as
it reaches the upper one beside all others, or when nothing new is left to begin. So the best are
trained first, and what is trained in the end is the same. Pauses begin sooner than stops, as what
they hold back is not lost.

The stock median compares with COMPLETE trials only. Whoever it stops drops out of the comparison,
so its bar can only rise, until good trials with an ordinary start are stopped too. Here every ended
trial counts, a stopped one with the best value it reached.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import optuna

from search.stopping.curves import Curve, EndedCurves, Floats
from spaces.config import TrialConfig
from spaces.sections import PAUSING, PrunerSpec

STARTUP_TRIALS = 5
MEDIAN = 0.5


class Verdict(Enum):
    """What becomes of a trial after an epoch: it goes on, ends, or waits to be taken up again."""

    GO = "go"
    STOP = "stop"
    PAUSE = "pause"


@dataclass
class Review:
    """What becomes of paused trials, by number.

    Attributes:
        stops: {trial: the bar that it is below}.
        goes: go on before anything new begins, best first.
        waits: go on when nothing new is left to begin, best first.
    """

    stops: dict[int, float] = field(default_factory=dict)
    goes: list[int] = field(default_factory=list)
    waits: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class QuantileRule:
    """Stop a trial whose best so far is below a quantile of the others' best by that epoch.

    Attributes:
        startup_trials: others that must be there before any verdict.
        bars: (epoch, quantile), by epoch: from this epoch on a trial stops below this quantile of
            the others' bests, in (0, 1); 0.5 is the median.
        pause_from: a trial may pause from this epoch on; below `pause_early`, from half of it on.
        align_warmup: compare at equal epochs since the end of each trial's warm-up.
        margin: how far below the bar, in units of the metric, a trial may be.
        running: compare also with trials that are paused, and with those that run and have come as
            far; else with ended ones alone.
        pause_below: pause a trial below this quantile that does not stop, and in its epoch
            `pause_from` one that there are too few others for; None never pauses.
        pause_early: the same before `pause_from`.
    """

    startup_trials: int = 5
    bars: tuple[tuple[int, float], ...] = ((3, 0.5),)
    pause_from: int = 3
    align_warmup: bool = False
    margin: float = 0.0
    running: bool = False
    pause_below: float | None = None
    pause_early: float | None = None

    def bar(self, trial: Curve, ended: EndedCurves, beside: Sequence[float] = ()) -> float | None:
        """Return what the trial must reach after its last epoch lest it stop, or None.

        Args:
            beside: best metric, by that epoch, of each paused trial, and of each running one that
                has come as far.
        """
        quantile = self._stop_below(trial)
        known = None if quantile is None else self._known(trial, ended, beside)
        return None if quantile is None or known is None else self._bar(known, quantile)

    def verdict(
        self,
        trial: Curve,
        ended: EndedCurves,
        beside: Sequence[float] = (),
        *,
        may_pause: bool = True,
    ) -> Verdict:
        """Judge a trial after its last epoch.

        Args:
            may_pause: False where it was taken up because nothing new was left to begin.
        """
        stop_below = self._stop_below(trial)
        pause_below = self._pause_below(trial) if may_pause else None
        if stop_below is None and pause_below is None:
            return Verdict.GO
        known = self._known(trial, ended, beside)
        if known is None:
            first = len(trial.values) == max(1, self.pause_from)
            return Verdict.PAUSE if pause_below is not None and first else Verdict.GO
        best = _or_nan(trial.best_by(len(trial.values)))
        if stop_below is not None and not best >= self._bar(known, stop_below):
            return Verdict.STOP
        if pause_below is not None and not best >= self._bar(known, pause_below):
            return Verdict.PAUSE
        return Verdict.GO

    def review(
        self, paused: Mapping[int, Curve], running: Mapping[int, Curve], ended: EndedCurves
    ) -> Review:
        """Judge paused trials again, beside all that is known by now."""
        found = Review()
        ranks: dict[int, tuple[float, int]] = {}
        for epoch in {len(curve.values) for curve in paused.values()}:
            as_far = [curve for curve in running.values() if len(curve.values) >= epoch]
            curves = (*paused.values(), *as_far)
            bests = np.array([_or_nan(curve.best_by(epoch)) for curve in curves])
            known_ended = ended.bests(epoch)
            for row, (number, curve) in enumerate(paused.items()):
                if len(curve.values) != epoch:
                    continue
                others = np.delete(bests, row)
                beside = others[~np.isnan(others)]
                verdict = self.verdict(curve, ended, beside)
                if verdict is Verdict.STOP:
                    bar = self.bar(curve, ended, beside)
                    assert bar is not None
                    found.stops[number] = bar
                    continue
                below = np.sum(known_ended < bests[row]) + np.sum(beside < bests[row])
                ranks[number] = (below / max(1, len(known_ended) + len(beside)), epoch)
                (found.goes if verdict is Verdict.GO else found.waits).append(number)
        for numbers in (found.goes, found.waits):
            numbers.sort(key=lambda number: ranks[number], reverse=True)
        return found

    def _stop_below(self, trial: Curve) -> float | None:
        """Below which quantile the trial stops after its last epoch, or None."""
        epoch = len(trial.values)
        if self.align_warmup and epoch <= trial.warmup:
            return None
        return next((bar for first, bar in reversed(self.bars) if epoch >= first), None)

    def _pause_below(self, trial: Curve) -> float | None:
        """Below which quantile the trial pauses after its last epoch, or None."""
        epoch = len(trial.values)
        if epoch >= self.pause_from:
            return self.pause_below
        return self.pause_early if epoch >= max(1, self.pause_from // 2) else None

    def _known(self, trial: Curve, ended: EndedCurves, beside: Sequence[float]) -> Floats | None:
        """The others' bests after as many epochs; None where they are too few."""
        epoch = len(trial.values)
        since = epoch - trial.warmup if self.align_warmup else epoch
        known = ended.bests(since, after_warmup=self.align_warmup)
        if self.running and len(beside):
            known = np.concatenate([known, beside])
        return None if len(known) < max(1, self.startup_trials) else known

    def _bar(self, known: Floats, quantile: float) -> float:
        middle = np.median(known) if quantile == MEDIAN else np.quantile(known, quantile)
        return float(middle) - self.margin


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


OURS = (*PAUSING, "ended_median")


def our_rule(spec: PrunerSpec, epochs: int, trials: int) -> QuantileRule:
    """Return the rule of a study whose pruner is one of OURS.

    Args:
        epochs: of a trial in full.
        trials: of the study; so few that there is never a verdict are not paused either.
    """
    startup, first = startup_trials(spec), stop_from(spec, epochs)
    aligned = spec.align == "warmup"
    if spec.name == "ended_median":
        return QuantileRule(startup, ((first, MEDIAN),), align_warmup=aligned)
    bars = {
        "median": ((first, MEDIAN),),
        "thrifty": ((first, 0.3), (max(first, math.ceil(epochs / 3)), 0.65)),
        "quantile": ((first, spec.quantile),),
    }[spec.name]
    pauses = rule_pauses(spec) and trials > startup
    return QuantileRule(
        startup,
        bars,
        min(first, _tenth(epochs)) if spec.pause_from is None else spec.pause_from,
        aligned,
        spec.margin,
        asks_running(spec),
        spec.pause_below if pauses else None,
        MEDIAN if pauses else None,
    )


def asks_running(spec: PrunerSpec) -> bool:
    """Tell whether a study's rule compares with running trials too.

    Whose warm-up ends when is known of ended trials only.
    """
    return spec.name in PAUSING and spec.align == "start"


def rule_pauses(spec: PrunerSpec) -> bool:
    """Tell whether a study's rule pauses trials, where it has enough of them."""
    return spec.pause_below is not None and asks_running(spec)


def startup_trials(spec: PrunerSpec) -> int:
    """Return how many others must be there before any verdict."""
    return STARTUP_TRIALS if spec.startup_trials is None else spec.startup_trials


def stop_from(spec: PrunerSpec, epochs: int) -> int:
    """Return the first epoch that may stop a trial."""
    if spec.stop_from is not None:
        return spec.stop_from
    if spec.name == "median":
        return max(3, math.ceil(epochs / 4))
    return _tenth(epochs) if spec.name in PAUSING else max(3, math.ceil(0.2 * epochs))


def _tenth(epochs: int) -> int:
    """A tenth of a run, but not its first epoch."""
    return max(2, math.ceil(0.1 * epochs))


def warmup_end(config: TrialConfig) -> int:
    """Epochs until learning rate and loss have warmed up (the ramp not counted)."""
    return max(config.optim.warmup_epochs, config.loss_warmup[0])


def optuna_pruner(spec: PrunerSpec, epochs: int) -> optuna.pruners.BasePruner:
    """Return Optuna's pruner of a study; OURS and `none` never prune there."""
    first = stop_from(spec, epochs)  # steps are epochs, from 1; the first that is judged
    if spec.name == "stock_median":
        return optuna.pruners.MedianPruner(startup_trials(spec), first)
    if spec.name == "percentile":
        return optuna.pruners.PercentilePruner(spec.percentile, startup_trials(spec), first)
    if spec.name == "hyperband":
        return optuna.pruners.HyperbandPruner(max(1, first), max(epochs, first + 1))
    return optuna.pruners.NopPruner()


def stock_verdict(study: optuna.Study, trial_number: int) -> bool:
    """Ask the study's Optuna pruner about a running trial."""
    trials: Sequence[optuna.trial.FrozenTrial] = study.get_trials(deepcopy=False)
    return study.pruner.prune(study, trials[trial_number])
