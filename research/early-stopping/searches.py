"""Searches that know a surrogate: what each trial came to, in the order in which they ended.

The surrogates of the recorded tables (surrogate.py) answer any config, with
the noise of a seed. The study's own sampler draws, and its own rule stops and pauses, one epoch
after another (search/stopping/replay.py).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import optuna

from search.stopping.replay import OurRule, Recorded, Run, replay
from search.stopping.rules import QuantileRule, Verdict, our_rule
from search.studies.samplers import build_sampler
from spaces.sections import PrunerSpec, SamplerSpec
from surrogate import Surrogate, surrogate

TRIALS = 100


@dataclass(frozen=True)
class Search:
    """A search; each list has an entry for each moment at which a trial has ended.

    Attributes:
        final: (T,) what each trial came to in the end, by number: the best epoch's metric, of a
            stopped one as far as it came.
        so_far: (B,) by number, what the trials that had begun had come to by then.
        ended: (B,) bool, which of them had ended.
        epochs: trained by then.
    """

    final: np.ndarray
    so_far: list[np.ndarray]
    ended: list[np.ndarray]
    epochs: list[int]


def search(table: str, sampler: str, seed: int, trials: int = TRIALS, workers: int = 1) -> Search:
    """One search on a table's surrogate."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore")
    model = surrogate(table)
    length = model.table.epochs
    rule = _Told(our_rule(PrunerSpec(), length, trials))
    replay(_Drawn(model, sampler, seed, trials), rule, length, workers=workers)
    return Search(rule.so_far[-1], rule.so_far, rule.ends, rule.epochs)


class _Drawn:
    """Configs as a sampler draws them; the same ones in a search of fewer trials."""

    def __init__(self, model: Surrogate, sampler: str, seed: int, trials: int) -> None:
        self.model, self.seed, self.trials, self.begun = model, seed, trials, 0
        self.sampler = build_sampler(SamplerSpec(name=sampler), seed, 0)

    @property
    def left(self) -> bool:
        return self.begun < self.trials

    def begin(self, study: optuna.Study) -> tuple[optuna.Trial, Recorded]:
        trial = study.ask()
        self.model.space.sample(trial)
        curve = self.model.curve(trial.params, seed=self.seed * 10_000 + trial.number)
        self.begun += 1
        return trial, Recorded(trial.params, tuple(curve), (1.0,) * len(curve))


class _Told(OurRule):
    """Our rule, which writes down each end."""

    def __init__(self, rule: QuantileRule) -> None:
        super().__init__(rule)
        self.runs: dict[int, Run] = {}
        self.done: set[int] = set()
        self.so_far: list[np.ndarray] = []
        self.ends: list[np.ndarray] = []
        self.epochs: list[int] = []

    def epoch_ended(self, run: Run) -> Verdict:
        self.runs[run.number] = run
        return super().epoch_ended(run)

    def run_ended(self, run: Run) -> None:
        self.runs[run.number] = run
        self.done.add(run.number)
        super().run_ended(run)
        runs = [self.runs[number] for number in sorted(self.runs)]
        self.so_far.append(np.array([run.curve.best_by(run.epoch) for run in runs], float))
        self.ends.append(np.array([run.number in self.done for run in runs]))
        self.epochs.append(sum(run.epoch for run in runs))
