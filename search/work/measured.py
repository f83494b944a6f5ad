"""What the trials of a study cost, remembered, so that no network and size is measured twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial

from search.studies.configs import drawn_config
from search.studies.refusals import refuse
from search.studies.slots import Claim, Result
from search.studies.study import Study
from search.studies.trial_facts import TrialFacts
from spaces.config import TrialConfig
from spaces.errors import InputError
from spaces.limits import Cost
from trainers.cost import count_parameters, untrained
from trainers.speed import NO_WEIGHTS
from trainers.tasks import Data
from trainers.train import TrialResult

Key = tuple[str, ...]

# what the time of an image depends on; that of an epoch and its memory on _OF_STEP, too
_OF_IMAGE = (
    *("model.", "data.resolution", "data.mode", "data.scale", "decode.tta", "decode.overlap"),
    *("train.precision", "train.channels_last"),
)
_OF_STEP = (
    *("data.", "loss.pixel", "loss.region", "loss.weighting", "optim.name", "train.batch_size"),
    *("train.micro_batch", "train.ema", "train.compile", "train.workers"),
)
_NOT = (*NO_WEIGHTS, "loss.region_share")


@dataclass
class Measured:
    """The costs of one study's configs on this worker's device.

    Attributes:
        device: of this worker's trials, once one has told it; what was measured on another kind of
            device counts for nothing here.
        refused: trials that have ended without taking a slot.
    """

    study: Study
    data: Data
    device: str | None = None
    refused: int = 0
    _seen: set[int] = field(default_factory=set)
    _of_image: dict[tuple[str, Key], Cost] = field(default_factory=dict)
    _of_step: dict[tuple[str, Key], Cost] = field(default_factory=dict)

    def outside(self, config: TrialConfig, trials: Sequence[FrozenTrial]) -> bool:
        """Whether a config is known to be outside of the study's limits.

        Args:
            trials: of earlier studies, then of the study; those that have ended are learned from.
        """
        for trial in trials:
            if trial.state.is_finished() and trial.number not in self._seen:
                self._seen.add(trial.number)
                self._learn(trial)
        limits = self.study.spec.limits
        return limits.given and limits.outside(self.known(config)) is not None

    def known(self, config: TrialConfig) -> Cost:
        """What is known of a config's cost; parameters are counted where they are limited."""
        parameters = None
        if self.study.spec.limits.parameters is not None:
            try:
                parameters = count_parameters(config, self.data)
            except InputError:  # its trial will say why it cannot be built
                parameters = None
        cost = Cost(parameters)
        if self.device is None:
            return cost
        flat = config.flat()
        of_image = self._of_image.get((self.device, _image_key(flat)), Cost())
        return cost.filled(of_image).filled(
            self._of_step.get((self.device, _step_key(flat)), Cost())
        )

    def heard(self, config: TrialConfig, result: TrialResult) -> Cost:
        """Take what a trial that ran here was measured with; returns its cost."""
        self.device = result.hardware.get("device", self.device)
        epoch = seconds_per_epoch([report.seconds for report in result.history])
        cost = Cost(result.parameters, seconds_per_epoch=epoch).filled(result.cost)
        self._remember(self.device, config.flat(), cost)
        return cost

    def untrained(self, cost: Cost) -> TrialResult:
        """The result of a config that is known to be outside."""
        return untrained(cost, {} if self.device is None else {"device": self.device})

    def end(self, claim: Claim, result: Result) -> bool:
        """End a trial that is outside. Where it has trained nothing, its slot is free again; but
        of so many trials as the study has slots at most.

        Returns:
            False where the slot is no longer ours.
        """
        slots = self.study.slots
        if result.attrs["epochs"] or self.refused >= sum(slots.counts().values()):
            return slots.end(claim, result)
        ours = refuse(slots, claim, result)
        self.refused += ours
        self._seen.add(len(self.study.earlier) + claim.trial_number)
        return ours

    def _learn(self, trial: FrozenTrial) -> None:
        facts, flat = TrialFacts.of(trial), drawn_config(trial)
        self.refused += facts.refused
        if flat is not None:
            slow = trial.constraints.get("seconds_per_epoch", 0.0)
            most = self.study.spec.limits.seconds_per_epoch
            seconds = None if most is None or slow == 0.0 else most * (1 + slow)
            cost = Cost(None, facts.latency_ms, facts.memory_mb, seconds)
            self._remember(facts.hardware.get("device"), flat, cost)

    def _remember(self, device: str | None, flat: Mapping[str, Any], cost: Cost) -> None:
        if device is None:
            return
        places = (
            (self._of_image, _image_key(flat), Cost(latency_ms=cost.latency_ms)),
            (
                self._of_step,
                _step_key(flat),
                Cost(memory_mb=cost.memory_mb, seconds_per_epoch=cost.seconds_per_epoch),
            ),
        )
        for known, key, new in places:
            known[device, key] = known.get((device, key), Cost()).filled(new)


def seconds_per_epoch(seconds: Sequence[float]) -> float | None:
    """What an epoch takes, by the first two: the first one also decodes images, and may compile.

    Returns:
        None of fewer than two.
    """
    return min(seconds[:2]) if len(seconds) > 1 else None


def _image_key(flat: Mapping[str, Any]) -> Key:
    return _key(flat, _OF_IMAGE)


def _step_key(flat: Mapping[str, Any]) -> Key:
    return _key(flat, (*_OF_IMAGE, *_OF_STEP))


def _key(flat: Mapping[str, Any], starts: tuple[str, ...]) -> Key:
    return tuple(
        f"{name}={value}"
        for name, value in sorted(flat.items())
        if name.startswith(starts) and name not in _NOT
    )
