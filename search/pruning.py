"""Early stopping: our quantile rule, with the median as one of its settings, and Optuna's pruners.

The stock median compares with COMPLETE trials only. Whoever it stops drops out of the comparison,
so its bar can only rise, until good trials with an ordinary start are stopped too. Here every ended
trial counts, a stopped one with the best value it reached.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
import optuna

from search.ended import EndedCurves
from spaces.config import BaseTrialConfig
from spaces.spec import PrunerSpec

STARTUP_TRIALS = 5


@dataclass(frozen=True)
class Curve:
    """A trial's metric after each epoch, from the first, and where its warm-up ended."""

    values: tuple[float, ...]
    warmup: int = 0

    def best_by(self, epoch: int) -> float | None:
        """Best metric of the first `epoch` epochs; a shorter curve keeps its last best."""
        if epoch < 1 or not self.values:
            return None
        best = self._running_best[min(epoch, len(self.values)) - 1]
        return None if best == -math.inf else best

    @cached_property
    def _running_best(self) -> tuple[float, ...]:
        numbers = (-math.inf if math.isnan(value) else value for value in self.values)
        return tuple(accumulate(numbers, max))


@dataclass(frozen=True)
class QuantileRule:
    """Stop a trial whose best so far is below a quantile of the others' best by that epoch.

    Attributes:
        startup_trials: others that must be there before any verdict.
        min_epochs: no verdict before this epoch.
        align_warmup: compare at equal epochs since the end of each trial's warm-up.
        quantile: of the others' bests, in (0, 1); 0.5 is the median.
        margin: how far below the bar, in units of the metric, a trial may be.
        running: compare also with trials that run and have come as far; else with ended ones alone.
    """

    startup_trials: int = 5
    min_epochs: int = 3
    align_warmup: bool = False
    quantile: float = 0.5
    margin: float = 0.0
    running: bool = False

    def bar(self, trial: Curve, ended: EndedCurves, beside: Sequence[float] = ()) -> float | None:
        """Return what the trial is held against after its last epoch, or None.

        Args:
            beside: best metric, by that epoch, of each running trial that has come as far.
        """
        epoch = len(trial.values)
        if epoch < self.min_epochs or (self.align_warmup and epoch <= trial.warmup):
            return None
        since = epoch - trial.warmup if self.align_warmup else epoch
        known = ended.bests(since, after_warmup=self.align_warmup)
        if self.running and beside:
            known = np.concatenate([known, beside])
        if len(known) < max(1, self.startup_trials):
            return None
        middle = np.median(known) if self.quantile == 0.5 else np.quantile(known, self.quantile)
        return float(middle) - self.margin

    def stops(self, trial: Curve, ended: EndedCurves, beside: Sequence[float] = ()) -> bool:
        """Tell whether the trial stops after its last epoch."""
        bar = self.bar(trial, ended, beside)
        if bar is None:
            return False
        best = trial.best_by(len(trial.values))
        return best is None or best < bar


OURS = ("quantile", "median")


def quantile_rule(spec: PrunerSpec, epochs: int) -> QuantileRule:
    """Return the rule of a study whose pruner is one of OURS."""
    startup, first = startup_trials(spec), min_epochs(spec, epochs)
    aligned = spec.align == "warmup"
    if spec.name == "median":
        return QuantileRule(startup, first, aligned)
    assert spec.name == "quantile", spec.name
    running = asks_running(spec)
    return QuantileRule(startup, first, aligned, spec.quantile, spec.margin, running)


def asks_running(spec: PrunerSpec) -> bool:
    """Tell whether a study's rule compares with running trials too.

    Whose warm-up ends when is known of ended trials only.
    """
    return spec.name == "quantile" and spec.align == "start"


def startup_trials(spec: PrunerSpec) -> int:
    """Return how many others must be there before any verdict."""
    return STARTUP_TRIALS if spec.startup_trials is None else spec.startup_trials


def min_epochs(spec: PrunerSpec, epochs: int) -> int:
    """Return the first epoch that may end in a verdict."""
    if spec.min_epochs is not None:
        return spec.min_epochs
    least, share = (2, 0.1) if spec.name == "quantile" else (3, 0.2)
    return max(least, math.ceil(share * epochs))


def warmup_end(config: BaseTrialConfig) -> int:
    """Epochs until learning rate and loss have warmed up (the ramp not counted)."""
    return max(config.optim.warmup_epochs, config.loss_warmup[0])


def optuna_pruner(spec: PrunerSpec, epochs: int) -> optuna.pruners.BasePruner:
    """Return Optuna's pruner of a study; OURS and `none` never prune there."""
    first = min_epochs(spec, epochs)  # steps are epochs, from 1; the first that is judged
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
