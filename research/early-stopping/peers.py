"""Other libraries' stopping rules in our replay: Ray Tune's ASHA, Syne Tune's ASHA and PASHA.

Their own schedulers decide; the configs come from the sampler under test, so that rules are
compared and not samplers. They are no extras of segtune:

    pip install 'ray[tune]>=2.40' 'dill>=0.3'
    pip install --no-deps 'syne-tune==0.14.2'

(Syne Tune declares numpy below 2, but what is used here runs on numpy 2; later releases have no
PASHA. It needs dill.)
"""

from __future__ import annotations

import datetime
import math
import random
from types import SimpleNamespace
from typing import Any

import numpy as np

from search.stopping.replay import NEW, WAIT, Run, Unpruned
from search.stopping.rules import Verdict

METRIC, EPOCH, LENGTH = "metric", "epoch", "epochs"
CONTROLLER: Any = None  # what Ray's scheduler is told of, and does not look at


def available() -> dict[str, str | None]:
    """{library: its version, or None where it is not installed}."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {}
    for name in ("ray", "syne-tune"):
        try:
            if name == "ray":
                version("pyarrow")  # of Ray Tune: Ray alone is not enough
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


class RayAsha(Unpruned):
    """Ray Tune's AsyncHyperBandScheduler, which stops runs at rungs."""

    def __init__(self, epochs: int, seed: int, grace_period: int, reduction_factor: float) -> None:
        from ray.tune.schedulers import AsyncHyperBandScheduler

        np.random.seed(seed)  # it draws brackets from the global generator
        self.scheduler = AsyncHyperBandScheduler(
            time_attr=EPOCH,
            metric=METRIC,
            mode="max",
            max_t=epochs,
            grace_period=grace_period,
            reduction_factor=reduction_factor,
        )
        self.trials: dict[int, Any] = {}

    def epoch_ended(self, run: Run) -> Verdict:
        if run.number not in self.trials:
            self.trials[run.number] = SimpleNamespace(trial_id=str(run.number))
            self.scheduler.on_trial_add(CONTROLLER, self.trials[run.number])
        answer = self.scheduler.on_trial_result(CONTROLLER, self.trials[run.number], _result(run))
        return Verdict.STOP if answer == "STOP" else Verdict.GO

    def run_ended(self, run: Run) -> None:
        if run.ran_out and run.number in self.trials:
            self.scheduler.on_trial_complete(CONTROLLER, self.trials[run.number], _result(run))


class SyneTune(Unpruned):
    """Syne Tune's ASHA (which stops runs) or PASHA (which pauses and promotes them)."""

    def __init__(self, name: str, epochs: int, seed: int) -> None:
        from syne_tune.config_space import uniform
        from syne_tune.optimizer import legacy_baselines

        random.seed(seed)
        np.random.seed(seed)
        self.scheduler = getattr(legacy_baselines, name)(
            {"unused": uniform(0, 1), LENGTH: epochs},
            metric=METRIC,
            resource_attr=EPOCH,
            max_resource_attr=LENGTH,
            mode="max",
            random_seed=seed,
        )
        self.runs: dict[int, Run] = {}  # by their number
        self.begun: list[Any] = []  # their trials, by our number
        self.asked = 0

    def next(self, can_begin: bool) -> Run | str:
        suggestion = self.scheduler.suggest(self.asked)
        if suggestion is None:
            return WAIT
        if not suggestion.spawn_new_trial_id:
            return self.runs[suggestion.checkpoint_trial_id]
        self.asked += 1
        if not can_begin:  # nothing is left to begin, and it promotes nothing either
            return WAIT
        from syne_tune.backend.trial_status import Trial

        trial = Trial(self.asked - 1, suggestion.config, datetime.datetime.now())
        self.begun.append(trial)
        self.scheduler.on_trial_add(trial)
        return NEW

    def epoch_ended(self, run: Run) -> Verdict:
        answer = self.scheduler.on_trial_result(self._trial(run), _result(run))
        return {"STOP": Verdict.STOP, "PAUSE": Verdict.PAUSE}.get(answer, Verdict.GO)

    def run_ended(self, run: Run) -> None:
        if run.ran_out:
            self.scheduler.on_trial_result(self._trial(run), _result(run))
            self.scheduler.on_trial_complete(self._trial(run), _result(run))

    def _trial(self, run: Run) -> Any:
        trial = self.begun[run.number]
        self.runs[trial.trial_id] = run
        return trial


def _result(run: Run) -> dict[str, float]:
    """What a user's training script would report: the epoch's metric; no number is the worst."""
    value = run.recorded.metric[run.epoch - 1]
    return {EPOCH: run.epoch, METRIC: 0.0 if math.isnan(value) else value}
