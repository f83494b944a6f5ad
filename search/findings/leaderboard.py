"""The best trials of a study beside each other: their values, and how their settings differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from optuna.trial import FrozenTrial

from search.findings.answer import rank_bands
from search.findings.facts import Facts
from search.findings.wording import short
from search.studies.reasons import known, reason
from search.studies.trial_facts import TrialFacts

MOST = 8  # settings that are listed of a trial


@dataclass(frozen=True)
class Leaderboard:
    """The first trials of a ranking.

    Attributes:
        trials: best first.
        settings: of each of them: the searched ones that count in it.
    """

    facts: Facts
    trials: Sequence[FrozenTrial]
    settings: Sequence[Mapping[str, Any]]

    @cached_property
    def alike(self) -> list[str]:
        """Settings that count in all trials and are the same in them."""
        first, several = self.settings[0], len(self.trials) > 1
        names = self.facts.by_importance
        return [
            n for n in names if several and all(n in s and s[n] == first[n] for s in self.settings)
        ]

    @cached_property
    def differing(self) -> list[str]:
        """The others that count in one of them, those first that matter most."""
        counts = {name for settings in self.settings for name in settings}
        return [n for n in self.facts.by_importance if n in counts and n not in self.alike]

    @cached_property
    def bands(self) -> list[str]:
        """The ranks that each may have; empty texts where the noise of a seed is not known."""
        answer = self.facts.answer
        if answer is None:
            return [""] * len(self.trials)
        values = [trial.value or 0.0 for trial in self.facts.ranking]
        return rank_bands(values, answer.evidence)[: len(self.trials)]

    @cached_property
    def stopped(self) -> list[FrozenTrial]:
        """Those that a rule, an alarm or a limit has stopped."""
        return [trial for trial in self.trials if _is_stopped(trial)]

    def epochs(self, trial: FrozenTrial) -> int | str | None:
        """12, or of a trial that was stopped `4 of 12`."""
        trained = TrialFacts.of(trial).epochs
        return f"{trained} of {self.facts.study.full_epochs}" if _is_stopped(trial) else trained

    @property
    def notes(self) -> list[str]:
        """What the table leaves unsaid, a sentence each."""
        said = []
        if any(self.bands):
            said.append(
                "Rank: all that a trial may have, as two seeds of one config differ; trials whose "
                "ranks overlap cannot be told apart."
            )
        if self.stopped:
            said.append(
                f'Epochs as in "{self.epochs(self.stopped[0])}": the trial was stopped there, and '
                "nobody knows what it would have come to."
            )
        if self.alike:
            said.append(f"All of these have {listed_settings(self.settings[0], self.alike)}.")
        if rest := self.differing[MOST:]:
            less = ", as they matter less" if self.facts.importances else ""
            said.append(f"Not shown{less}: {', '.join(rest)}.")
        return said


def read_leaderboard(facts: Facts, rows: int) -> Leaderboard | None:
    """The first `rows` trials; None where no trial has ended with a value."""
    trials = facts.ranking[:rows]
    return Leaderboard(facts, trials, [*map(facts.searched_settings, trials)]) if trials else None


def listed_settings(settings: Mapping[str, Any], names: Sequence[str]) -> str:
    """`optim.lr=0.00123 model.arch=FPN`, of those that count."""
    return " ".join(f"{name}={short(settings[name])}" for name in names if name in settings)


def _is_stopped(trial: FrozenTrial) -> bool:
    return known(reason(trial)).stored == "PRUNED"
