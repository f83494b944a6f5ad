"""The report of an epoch: made in train.py, sent down a pipe, stored as JSON, read by everybody.

`to_json` and `from_json` alone know how a report looks in the store and in a checkpoint. Every
report that an older version has written can be read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Self

from trainers.image_counts import ImageCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Mean loss parts over a split; None for a part that the task's loss does not have.

    Attributes:
        share: of the terms that warm up, in this epoch; of training alone.
    """

    pixel: float = math.nan
    region: float | None = None  # of segmentation
    threshold: float | None = None  # of text detection, as dice
    dice: float | None = None
    total: float = math.nan
    share: float | None = None

    def parts(self) -> dict[str, float]:
        """{part: value} of those that there are."""
        found = {name: getattr(self, name) for name in _LOSSES}
        return {name: value for name, value in found.items() if value is not None}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        return cls(**{name: value for name, value in stored.items() if name in _LOSSES})


class CurvePoint(NamedTuple):
    """Scores of text detection at one box_thresh; a list of four numbers in JSON."""

    box_thresh: float
    precision: float
    recall: float
    hmean: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """Scores of text detection beside Hmean.

    Attributes:
        images_over_max_candidates: images in which `decode.max_candidates` has left text out.
        curve: one point for each box_thresh that was tried, at the best of the other settings.
    """

    precision: float
    recall: float
    images_over_max_candidates: int = 0
    curve: tuple[CurvePoint, ...] = ()

    def to_json(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in _DETECTION}
        return plain | {"curve": [list(point) for point in self.curve]}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        known = {name: value for name, value in stored.items() if name in _DETECTION}
        return cls(**known | {"curve": tuple(map(CurvePoint._make, stored.get("curve", ())))})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How good a model is on a split; None for what the task does not have.

    Attributes:
        metric: the study's, at the best values of the free decode settings.
        metrics: {name: value} of all that cost little, over all classes: mIoU, mDice; IoU, F1;
            Hmean; and the chosen one. Old reports have none.
        decode: {dotted name: value} of the free decode settings.
        per_class: IoU of each class; NaN where neither truth nor prediction has it.
        binary: threshold, precision, recall and f1 of a segmentation of one class.
    """

    metric: float
    metrics: dict[str, float] = field(default_factory=dict)
    decode: dict[str, float] = field(default_factory=dict)
    per_class: list[float] | None = None
    pixel_accuracy: float | None = None
    binary: dict[str, float] | None = None
    detection: Detection | None = None


class Validation(NamedTuple):
    """A split, scored."""

    scores: Scores
    losses: Losses
    images: ImageCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReport(Scores):
    """What an epoch has come to; the scores are those of the validation split.

    A number that an old report lacks is NaN, a count 0.

    Attributes:
        epoch: from 1; with folds those of fold N are counted from (N - 1) * train.epochs + 1.
        fold: from 1; None where there are none.
        grad_norm: mean before clipping; 0 where no step has counted.
        lr: the largest of the network's parameter groups, at the last step.
        loss_weights: {term: its weight} after the epoch, where they are learned; without the ramp.
        images_per_s: in training.
        micro_batch: images that were in memory at once.
        seconds: of training and validation.
    """

    epoch: int
    fold: int | None = None
    train: Losses = Losses()
    val: Losses = Losses()
    grad_norm: float = math.nan
    grad_norm_max: float = math.nan
    lr: float = math.nan
    loss_weights: dict[str, float] | None = None
    images_per_s: float = math.nan
    peak_memory_mb: float = math.nan
    micro_batch: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`, which writes NaN as NaN; what does not apply is left out."""
        plain = {name: getattr(self, name) for name in _REPORT}
        plain |= {"train": self.train.parts(), "val": self.val.parts()}
        if self.detection is not None:
            plain["detection"] = self.detection.to_json()
        elif self.binary is None and not self.decode:  # the task has nothing to choose
            del plain["decode"]
        if not self.metrics:
            del plain["metrics"]
        return {name: value for name, value in plain.items() if value is not None}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Read a report of any version.

        Keys that we do not know are left out: nothing here could read them, and the row that
        holds them is never written again.
        """
        known = {name: value for name, value in stored.items() if name in _REPORT}
        for split in ("train", "val"):
            if split in known:
                known[split] = Losses.from_json(known[split])
        if "detection" in known:
            known["detection"] = Detection.from_json(known["detection"])
        return cls(**known)


def same_report(one: EpochReport, other: EpochReport) -> bool:
    """Whether two reports say the same; NaN, which equals nothing, is the same as NaN."""
    return json.dumps(one.to_json()) == json.dumps(other.to_json())


_LOSSES, _DETECTION, _REPORT = (
    tuple(part.name for part in fields(kind)) for kind in (Losses, Detection, EpochReport)
)
