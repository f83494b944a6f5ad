"""What is known of a trial beside its parameters and values: Optuna's user attributes, typed.

Whoever reads such a fact asks `TrialFacts.of`; what a worker stores comes from `TrialFacts` too.
A fact has one name and one default here. Attributes of older versions can be read: 0.1 had the
config among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from optuna.trial import FrozenTrial


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFacts:
    """The facts of one trial; None for those that it does not have, or not yet.

    Attributes:
        reason: why it ended; `reasons` explains the codes.
        epochs: that it has trained.
        best_epoch: from 1; its weights and its value are of that epoch; with folds their median.
        seconds: of all its epochs.
        decode: {dotted name: value} of the settings that it has chosen itself.
        per_class: IoU of each class at the best epoch; None for one that the split lacks.
        bar: the value that the stopping rule held it against when it ended it.
        hardware: device, precision and micro-batch that it ended with.
        parameters: of its network.
        latency_ms, memory_mb: as of `spaces.limits.Cost`; the latter only where it is limited.
        outside: which limit it is above.
        model_sha256: of its best weights.
        trivial_score: of the best answer that looks at no image; None in stores of before.
        folds: the value of each fold that has ended, in their order; its own value is their mean.
        fold_epochs: the best epoch of each of them.
        fold_decode: what each of them has chosen itself, as `decode`.
        error: why it could not run, or crashed.
        origin: the starting point that it was begun from.
        confirms: the trial of the search that it runs again, on another seed.
        finishes: the trial of the search that it trains to its end, which was stopped there.
        from_study: the earlier study that it is a trial of, where this one only knows of it.
        from_trial: its number there.
        config: every setting by dotted name; of stores of 0.1 alone.
    """

    reason: str | None = None
    epochs: int | None = None
    best_epoch: int | None = None
    seconds: float | None = None
    decode: dict[str, float] = field(default_factory=dict)
    per_class: Sequence[float | None] | None = None
    bar: float | None = None
    hardware: Mapping[str, Any] = field(default_factory=dict)
    parameters: int | None = None
    latency_ms: float | None = None
    memory_mb: float | None = None
    outside: str | None = None
    model_sha256: str | None = None
    trivial_score: float | None = None
    folds: Sequence[float] | None = None
    fold_epochs: Sequence[int] | None = None
    fold_decode: Sequence[Mapping[str, float]] | None = None
    error: str | None = None
    origin: str | None = None
    confirms: int | None = None
    finishes: int | None = None
    from_study: str | None = None
    from_trial: int | None = None
    config: dict[str, Any] | None = None

    @property
    def refused(self) -> bool:
        """Whether it was outside of the limits before it trained: its slot went to another one."""
        return self.reason == "limit" and not self.epochs

    @classmethod
    def of(cls, trial: FrozenTrial) -> Self:
        """Read a trial's; cheap, as a study has thousands, so nothing is checked."""
        return cls(**{key: value for key, value in trial.user_attrs.items() if key in _NAMES})

    def at_end(self) -> dict[str, Any]:
        """What is stored when a trial has ended, beside its reason: only `error` where it has one.

        All others are stored, also where they are None, but for those of folds and of limits.
        """
        if self.error is not None:
            return {"error": self.error}
        folds = {} if self.folds is None else {name: getattr(self, name) for name in _OF_FOLDS}
        limited = {name: getattr(self, name) for name in _OF_LIMITS}
        known = {name: value for name, value in limited.items() if value is not None}
        return {name: getattr(self, name) for name in _MEASURED} | folds | known

    def as_known(self) -> dict[str, Any]:
        """What is stored of a trial of an earlier study: nothing of files, which are not here."""
        names = (
            *("reason", "epochs", "best_epoch", "decode", *_OF_FOLDS, "from_study", "from_trial"),
            *("hardware", "parameters", "latency_ms", "memory_mb"),
        )
        known = {name: getattr(self, name) for name in names}
        return {name: value for name, value in known.items() if value is not None}

    def in_queue(self) -> dict[str, Any]:
        """What is stored when a trial is put into the queue."""
        queued = {
            "origin": self.origin,
            "confirms": self.confirms,
            "finishes": self.finishes,
        }
        return {name: value for name, value in queued.items() if value is not None}


_NAMES = frozenset(known.name for known in fields(TrialFacts))
_MEASURED = (
    "epochs",
    "best_epoch",
    "seconds",
    "decode",
    "per_class",
    "bar",
    "hardware",
    "parameters",
    "latency_ms",
    "model_sha256",
    "trivial_score",
)
_OF_LIMITS = ("memory_mb", "outside")
_OF_FOLDS = ("folds", "fold_epochs", "fold_decode")
