"""Verdicts of a study's rule: on the trial that runs here, and on those that are paused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

import optuna

from search.stopping.curves import Curve, EndedCurves, raised
from search.stopping.folds import is_hopeless
from search.stopping.rules import (
    OURS,
    QuantileRule,
    Review,
    Verdict,
    our_rule,
    rule_pauses,
    stock_verdict,
    warmup_end,
)
from search.studies.learning_curves import curves_begun, curves_ended_after, earlier_curves
from search.studies.reports import Stored
from search.studies.slots import Claim
from search.studies.study import Study
from search.studies.trial_facts import TrialFacts
from spaces.config import TrialConfig
from spaces.data import fold_count


@dataclass(frozen=True)
class Word:
    """What a child is told, and the value that a pruner held its trial against, where there is one.

    Attributes:
        reason: a pruner's name, `folds`, `paused`, `preempted`, `stopped`, `timeout`.
    """

    reason: str
    bar: float | None = None


@dataclass
class Judge:
    """Judges the trials of one study; it remembers the curves of those that have ended.

    Attributes:
        floor: scores up to here are those of constant answers, and so equal: what they differ by
            says nothing of who will learn something.
    """

    study: Study
    floor: float = -math.inf
    _ended: EndedCurves = field(default_factory=EndedCurves)
    _ended_until: int = 0  # what `_ended` holds, as `curves_ended_after` counts
    _knows_earlier: bool = False  # whether `_ended` holds what the study began with
    _stock: tuple[int, optuna.Study] | None = None  # a slot, and Optuna's study for its pruner
    _slot_count: int | None = None  # of the study, at the first look

    def verdict(
        self, claim: Claim, config: TrialConfig, values: list[float], said: Stored
    ) -> Word | None:
        """Return what a trial is told after its last epoch, where it does not go on.

        Args:
            values: its metric after each epoch.
            said: by the store, when it took the last report.
        """
        spec = self.study.spec.pruner
        if spec.name == "none" or len(values) >= config.train.epochs:
            return None
        if (rule := self._rule) is not None:
            self._refresh_ended(said.ended, warmups=rule.align_warmup)
            curve = self._floored(Curve(tuple(values), warmup_end(config)))
            beside = [max(best, self.floor) for best in said.beside]
            verdict = rule.verdict(curve, self._ended, beside, may_pause=claim.may_pause)
            if verdict is Verdict.GO:
                return None
            if verdict is Verdict.PAUSE:
                return Word("paused")
            return Word(spec.name, rule.bar(curve, self._ended, beside))
        if self._stock is None or self._stock[0] != claim.slot:
            self._stock = claim.slot, self.study.optuna(claim.slot)
        return Word(spec.name) if stock_verdict(self._stock[1], claim.trial_number) else None

    def fold_verdict(self, folds: Sequence[float]) -> Word | None:
        """Return what a trial is told after its last fold, where it does not go on.

        Args:
            folds: the values of those that have ended.
        """
        count = fold_count(self.study.spec.data)
        if self.study.spec.pruner.name == "none" or len(folds) >= count:
            return None
        trials = (*self.study.earlier, *self.study.trials())
        known = (TrialFacts.of(trial).folds or () for trial in trials)
        whole = [values for values in known if len(values) == count]
        if not is_hopeless(folds, whole):
            return None
        return Word("folds", fmean(max(whole, key=fmean)[: len(folds)]))

    def review(self) -> Review | None:
        """Judge the paused trials again; None where the study pauses none."""
        rule = self._rule
        if rule is None or rule.pause_below is None:
            return None
        ended, paused, running = curves_begun(self.study)
        if not paused:
            return Review()
        self._refresh_ended(ended, warmups=False)
        waits, runs = (
            {number: self._floored(curve) for number, curve in curves.items()}
            for curves in (paused, running)
        )
        return rule.review(waits, runs, self._ended)

    @property
    def _rule(self) -> QuantileRule | None:
        """The study's rule where it is one of OURS."""
        pruner = self.study.spec.pruner
        if pruner.name not in OURS:
            return None
        if self._slot_count is None and rule_pauses(pruner):
            self._slot_count = sum(self.study.slots.counts().values())
        trials = (self._slot_count or 0) + len(self.study.earlier)
        return our_rule(pruner, self.study.space.base.train.epochs, trials)

    def _refresh_ended(self, ended: int | None, *, warmups: bool) -> None:
        """Read the curves of trials that have ended since the last look, where there are any."""
        if not self._knows_earlier:
            earlier = earlier_curves(self.study, warmups=warmups)
            self._ended.add({-1 - i: self._floored(curve) for i, curve in enumerate(earlier)})
            self._knows_earlier = True
        if ended is None or ended > self._ended_until:
            until, curves = curves_ended_after(self.study, self._ended_until, warmups=warmups)
            new = {t: self._floored(c) for t, c in curves.items() if t not in self._ended}
            self._ended.add(new)
            self._ended_until = until

    def _floored(self, curve: Curve) -> Curve:
        """The curve as the rule sees it; NaN stays."""
        return replace(curve, values=raised(curve.values, self.floor))
