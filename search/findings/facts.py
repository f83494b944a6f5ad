"""What a study has found, read once: the note, the report and the graphs are views of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from search.database.tables import GAIN
from search.findings.answer import Answer, read_answer
from search.findings.fronts import near_front
from search.findings.importances import Share, shares
from search.findings.ranking import judged, ranked
from search.findings.wording import first_settings
from search.studies.configs import drawn_config
from search.studies.limits import stopped
from search.studies.own_end import OwnEnd, own_end
from search.studies.reasons import known, reason
from search.studies.study import Study
from search.studies.trial_facts import TrialFacts
from spaces.config import TrialConfig
from spaces.space import Free
from trainers.report import EpochReport

TOP = 5  # trials whose every epoch is read


@dataclass(frozen=True)
class Comparison:
    """A searched setting: its default, and its value in the best trial.

    Attributes:
        default: None for a setting that does not count among the defaults.
    """

    setting: str
    default: Any
    best: Any


@dataclass(frozen=True)
class Alarm:
    """A trial that a health rule ended, and after how many epochs."""

    trial: int
    reason: str
    epochs: int


@dataclass(frozen=True)
class SoFar:
    """How far a trial has come that has not ended.

    Attributes:
        epoch: that has ended; of its fold, where there are folds.
        of: epochs that it trains at most, in a fold.
        fold: that it trains on; None without folds.
        best: highest metric of these epochs; None where there is none yet.
        best_epoch: that had it.
    """

    epoch: int
    of: int
    fold: int | None
    best: float | None
    best_epoch: int | None


@dataclass(frozen=True)
class Facts:
    """A study's trials as they were at one moment, and what follows from them.

    Attributes:
        trials: all that have been begun, by number.
    """

    study: Study
    trials: list[FrozenTrial]

    @cached_property
    def slots(self) -> Mapping[str, int]:
        """{state: slots}, read when it is first asked for."""
        return self.study.slots.counts()

    @cached_property
    def begins_with(self) -> Mapping[str, int]:
        """{earlier study: trials that the search knew from the start}, read when asked for."""
        return self.study.begins_with

    @cached_property
    def closed(self) -> str | None:
        """Why no new trial begins, or None; read when it is first asked for."""
        return stopped(self.study)

    @cached_property
    def own_end(self) -> OwnEnd | None:
        """Why it has ended by itself, or None; read when it is first asked for."""
        return own_end(self.study) if self.closed == GAIN else None

    @cached_property
    def ended(self) -> list[FrozenTrial]:
        return [trial for trial in self.trials if trial.state.is_finished()]

    @cached_property
    def ranking(self) -> list[FrozenTrial]:
        """Trials with a value, best first."""
        return ranked(self.trials)

    @cached_property
    def answer(self) -> Answer | None:
        """What the study answers, read when it is first asked for."""
        return read_answer(self.study, self.trials)

    @property
    def best(self) -> FrozenTrial | None:
        """The confirmed winner, else the trial of the highest value."""
        return None if self.answer is None else self.answer.trial

    @cached_property
    def kept(self) -> list[int]:
        """Numbers of the trials whose weights and pictures are kept: the best, best first, then
        those that are nearly as good, and faster than every better one."""
        best = self.ranking[: self.study.spec.keep_models]
        return [*dict.fromkeys(trial.number for trial in (*best, *near_front(self.ranking)))]

    @property
    def slot_count(self) -> int:
        return sum(self.slots.values())

    @cached_property
    def reasons(self) -> dict[str, int]:
        """{reason: ended trials}, the most frequent first."""
        return dict(Counter(reason(trial) for trial in self.ended).most_common())

    @cached_property
    def judged(self) -> list[FrozenTrial]:
        """Ended trials that could have trained all their epochs."""
        return judged(self.trials)

    @cached_property
    def epochs(self) -> tuple[int, int]:
        """(epochs trained, epochs that the judged trials would have trained in full)."""
        trained = sum(TrialFacts.of(trial).epochs or 0 for trial in self.judged)
        return trained, len(self.judged) * self.study.full_epochs

    @property
    def saved(self) -> float:
        """Share of the epochs that early stopping saved, of all kinds."""
        trained, full = self.epochs
        return 1 - trained / full if full else 0.0

    @cached_property
    def seconds(self) -> float:
        """Seconds that trials have trained, on one device each."""
        return sum(seconds(trial) for trial in self.trials)

    @cached_property
    def alarms(self) -> list[Alarm]:
        """Trials that a health rule ended."""
        return [
            Alarm(trial.number, why, TrialFacts.of(trial).epochs or 0)
            for trial in self.ended
            if known(why := reason(trial)).kind == "alarm"
        ]

    @cached_property
    def complete(self) -> list[FrozenTrial]:
        """Trials that have ended by themselves, stopped by no rule, limit or alarm."""
        return [trial for trial in self.trials if trial.state == TrialState.COMPLETE]

    @cached_property
    def shares(self) -> list[Share]:
        """What each setting explains, as `importances.shares`, over `complete`.

        What is swept inside each trial is a result of the trial, and is left out.
        """
        known = [(trial, self.searched_settings(trial)) for trial in self.complete]
        drawn = [n for n in self.searched if not isinstance(self.study.space.dims[n], Free)]
        return shares(
            {name: [settings.get(name) for _, settings in known] for name in drawn},
            [trial.value or 0.0 for trial, _ in known],
        )

    @cached_property
    def importances(self) -> dict[str, float]:
        """{setting: share that it explains}, the largest first, where that is more than chance."""
        return {one.setting: one.share for one in self.shares if one.named}

    @cached_property
    def comparison(self) -> list[Comparison]:
        """The searched settings of the best trial beside their defaults, by importance."""
        if self.best is None:
            return []
        default, best = self.study.space.base.flat(), self.config(self.best).flat()
        rows = [
            Comparison(
                name,
                default.get(name) if self._has_meaning(name, default) else None,
                best.get(name),
            )
            for name in self.searched
            if self._has_meaning(name, best)
        ]
        return sorted(rows, key=lambda row: self.by_importance.index(row.setting))

    def _has_meaning(self, name: str, config: Mapping[str, Any]) -> bool:
        """Whether the condition holds under which a setting is drawn."""
        conditions = self.study.space.when.get(name, {})
        return all(config.get(other) in values for other, values in conditions.items())

    @cached_property
    def searched(self) -> list[str]:
        """Dotted names of the searched settings, those swept inside each trial last."""
        space = self.study.space
        return sorted(space.dims, key=lambda name: isinstance(space.dims[name], Free))

    @cached_property
    def by_importance(self) -> list[str]:
        """The searched settings, those first that explain most, then as `first_settings`."""
        names = first_settings(self.searched)
        return sorted(names, key=lambda name: -self.importances.get(name, 0.0))

    @cached_property
    def histories(self) -> dict[int, list[EpochReport]]:
        """{trial: every epoch's report} of the TOP best trials."""
        return self.study.histories(t.number for t in self.ranking[:TOP])

    def config(self, trial: FrozenTrial) -> TrialConfig:
        return self.study.config(trial)

    def settings(self, trial: FrozenTrial) -> dict[str, Any]:
        """Every setting that a trial ran with, by dotted name; `config` without its checks."""
        flat = drawn_config(trial)
        if flat is None:
            return self.config(trial).flat()
        return {**flat, **TrialFacts.of(trial).decode}

    def searched_settings(self, trial: FrozenTrial) -> dict[str, Any]:
        """The searched settings that count in a trial, by dotted name."""
        values = self.settings(trial)
        return {name: values[name] for name in self.searched if self._has_meaning(name, values)}


def gather(study: Study) -> Facts:
    """Read a study."""
    return Facts(study, study.trials())


def seconds(trial: FrozenTrial) -> float:
    return float(TrialFacts.of(trial).seconds or 0.0)


def summary(study: Study) -> dict[str, Any]:
    """Return the state of a study as plain data (`segtune status --json`)."""
    trials = study.trials()
    waiting = study.slots.waiting()
    answer = read_answer(study, trials)
    epochs = sum(TrialFacts.of(trial).epochs or 0 for trial in trials)
    trained = sum(TrialFacts.of(trial).epochs or 0 for trial in judged(trials))
    full = len(judged(trials)) * study.full_epochs
    stop = stopped(study)
    why = own_end(study) if stop == GAIN else None
    closed = [] if why is None else [why.sentence(study.metric)]
    return {
        "name": study.spec.name,
        "task": study.spec.task,
        "metric": study.metric,
        "begins_with": study.begins_with,
        "slots": study.slots.counts(),
        "stopped": stop,
        "ended_by_itself": None if why is None else asdict(why),
        "reasons": dict(
            Counter(
                TrialFacts.of(t).reason or waiting.get(t.number, "running").lower() for t in trials
            )
        ),
        "epochs": epochs,
        "epochs_saved": 1 - trained / full if full else 0.0,
        "seconds": sum(seconds(trial) for trial in trials),
        "best": None if answer is None else trial_row(study, answer.trial, waiting),
        "answer": None if answer is None else answer.to_json(),
        "test_looks": []
        if answer is None
        else [look.model_dump(mode="json") for look in answer.looks],
        "says": closed if answer is None else [*answer.lines, *closed],
        "trials": [trial_row(study, trial, waiting) for trial in trials],
    }


def so_far(study: Study, trial: FrozenTrial) -> SoFar:
    """How far a trial has come, by the epochs that it has reported."""
    of, reported = study.space.base.train.epochs, trial.intermediate_values
    last = max(reported, default=0)
    begins = max(last - 1, 0) // of * of  # epochs of the folds before this one
    known = {
        epoch - begins: value
        for epoch, value in reported.items()
        if epoch > begins and not math.isnan(value)
    }
    best = max(known, key=lambda epoch: (known[epoch], -epoch), default=None)
    fold = begins // of + 1 if study.full_epochs > of else None
    return SoFar(last - begins, of, fold, None if best is None else known[best], best)


def trial_row(study: Study, trial: FrozenTrial, waiting: Mapping[int, str]) -> dict[str, Any]:
    """One trial as plain data; `waiting` as of `Slots.waiting`."""
    facts = TrialFacts.of(trial)
    return {
        "number": trial.number,
        "state": waiting.get(trial.number, trial.state.name),
        "value": trial.value,
        "reason": facts.reason,
        "error": facts.error or facts.outside,
        "origin": facts.origin,
        "epochs": facts.epochs,
        "best_epoch": facts.best_epoch,
        "folds": facts.folds,
        "seconds": facts.seconds,
        "so_far": None if trial.state.is_finished() else asdict(so_far(study, trial)),
        "parameters": facts.parameters,
        "latency_ms": facts.latency_ms,
        "memory_mb": facts.memory_mb,
        "hardware": facts.hardware,
        "params": {**trial.params, **facts.decode},
    }
