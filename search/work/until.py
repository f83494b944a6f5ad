"""Whether a study ends by itself, asked after each of its trials: `budget.until`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial, TrialState

from search.findings.confirmation import read_confirmation
from search.stopping.further_gain import further_gain
from search.studies import own_end
from search.studies.own_end import OwnEnd, on_the_same_data
from search.studies.study import Study
from search.studies.trial_facts import TrialFacts
from spaces.starting import starting_params

UNMEASURED = 0.005  # counts where `gain_below` is left out and nobody has measured the noise


@dataclass
class Until:
    """Closes a study for new trials where the next ones are expected to gain too little.

    A look takes a few milliseconds at 10,000 trials, and asks the store for nothing.
    """

    study: Study
    _not_before: int = 0  # trials that must have ended
    _noise: list[float | None] = field(default_factory=list)  # once it has been read

    def __post_init__(self) -> None:
        spec, space = self.study.spec, self.study.space
        points = spec.starting_points if spec.use_starting_points else ()
        tried_first = sum(bool(starting_params(space, point)) for point in points)
        self._not_before = spec.sampler.startup_trials + tried_first

    def trial_ended(self, trials: Sequence[FrozenTrial]) -> OwnEnd | None:
        """Look whether the study may end now.

        Args:
            trials: of the study, by number, as they are now that one has ended.

        Returns:
            Why it has ended; None where it goes on, or was closed before.
        """
        until = self.study.spec.budget.until
        if until is None or self.study.spec.beside is not None:
            return None
        if self.study.spec.limits.given:
            trials = [trial for trial in trials if not TrialFacts.of(trial).refused]
        ended = [trial for trial in trials if trial.state.is_finished()]
        if len(ended) < max(2, self._not_before):
            return None
        gain = further_gain([self._value(trial) for trial in ended], until.trials)
        below, measured = self._below(trials)
        if not gain < below:
            return None
        slots = self.study.slots
        paused = sum(why == "PAUSED" for why in slots.waiting().values())
        total = sum(slots.counts().values())
        if len(trials) >= total and not paused:  # nothing is left to begin
            return None
        why = OwnEnd(len(ended), paused, total, until.trials, gain, below, measured)
        not_before = own_end.end(self.study, why, until.trials)
        if not_before is None:
            return why
        self._not_before = not_before
        self._noise.clear()  # it may have been measured when the study had ended
        return None

    def _value(self, trial: FrozenTrial) -> float:
        """What it came to; with folds that of one trained on all, as others cannot be compared."""
        folds = self.study.spec.data.folds is not None
        counts = (TrialState.COMPLETE,) if folds else (TrialState.COMPLETE, TrialState.PRUNED)
        value = trial.value if trial.state in counts else None
        return -math.inf if value is None else value

    def _below(self, trials: Sequence[FrozenTrial]) -> tuple[float, bool]:
        """(What a further gain is held against, whether that is the noise that was measured)."""
        until = self.study.spec.budget.until
        assert until is not None
        if until.gain_below is not None:
            return until.gain_below, False
        if not self._noise:
            self._noise.append(self._measured_noise(trials))
        noise = self._noise[0]
        return (UNMEASURED, False) if noise is None else (noise, True)

    def _measured_noise(self, trials: Sequence[FrozenTrial]) -> float | None:
        """Standard deviation of a value between seeds, by this study's confirmation or the latest
        on the same data; None where there is none."""
        for study in (self.study, *on_the_same_data(self.study)):
            known = trials if study is self.study else study.trials()
            variance, freedom = read_confirmation(study, known).evidence.noise
            if freedom:
                return math.sqrt(variance)
        return None
