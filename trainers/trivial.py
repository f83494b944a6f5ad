"""What answers that look at no image score: a trial that ends there has learned nothing.

The same class for every pixel, or no text at all. A binary study whose foreground fills 23 % of the
pixels gives an IoU of 0.23 to whoever paints everything, and trials that end there differ by 1e-4.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from spaces.config import MetricConfig
from trainers.boundary import near_outline, width
from trainers.data import SegmentationData, recalled
from trainers.image_counts import Counts, score_of
from trainers.losses import IGNORE
from trainers.masks import decode_mask
from trainers.text_data import TextData


@dataclass(frozen=True)
class Constant:
    """An answer that is the same for every image, and its score on val."""

    name: str
    score: float


def constants(metric: MetricConfig, data: object) -> list[Constant]:
    """Return the constant answers to a data set, best first; none to one of an unknown task."""
    if isinstance(data, TextData):
        return [Constant("nothing found", 0.0)]
    if not isinstance(data, SegmentationData):
        return []
    near = metric.name == "boundary_iou"
    counts = _near_outlines(data) if near else _everywhere(np.array(data.val_counts))
    scores = score_of(metric, data.spec)(counts).tolist()
    names = data.spec.class_names
    found = [
        Constant(f"all {'foreground' if data.spec.binary and index else name}", score)
        for index, (name, score) in enumerate(zip(names, scores, strict=True))
        if name not in data.spec.ignore_classes
    ]
    return sorted(found, key=lambda constant: -constant.score)


def best_constant(metric: MetricConfig, data: object) -> float:
    """Return the score of the best constant answer; -inf where none is known."""
    return max((constant.score for constant in constants(metric, data)), default=-math.inf)


def _everywhere(pixels: Counts) -> Counts:
    """Pixels of each class (K,) -> (K, K, 3): what an answer of each class alone is counted as."""
    classes = len(pixels)
    counts = np.zeros((classes, classes, 3), np.int64)
    own = np.arange(classes)
    counts[:, :, 1] = pixels
    counts[own, own, 0] = pixels
    counts[own, own, 2] = pixels.sum()
    return counts


def _near_outlines(data: SegmentationData) -> Counts:
    """The same of pixels near outlines: an answer of one class has them along the image's border.

    Reads every val mask, and remembers what it has found.
    """
    samples = data.split("val")

    def read() -> dict[str, Any]:
        with ThreadPoolExecutor(max_workers=4) as pool:
            found = list(pool.map(lambda sample: _border(sample.mask, data), samples))
        truths, hits, border = (sum(part) for part in zip(*found, strict=True))
        return {"truths": truths.tolist(), "hits": hits.tolist(), "border": int(border)}

    facts = recalled(data.spec, {"val": samples}, read, kind="outlines")
    counts = _everywhere(np.array(facts["truths"]))
    own = np.arange(data.classes)
    counts[own, own, 0], counts[own, own, 2] = facts["hits"], facts["border"]
    return counts


def _border(path: str, data: SegmentationData) -> tuple[Counts, Counts, int]:
    """Of a mask: pixels of each class near outlines (K,), those near the border too, all there."""
    mask = torch.from_numpy(decode_mask(path, data.spec)).long()[None]  # (1, H, W)
    void, d = mask == IGNORE, width(mask.shape[1:])  # type: ignore[arg-type]
    near, border = near_outline(mask, void, d), near_outline(torch.zeros_like(mask), void, d)
    truths, hits = (
        np.bincount(mask[at].numpy(), minlength=data.classes) for at in (near, near & border)
    )
    return truths, hits, int(border.sum())
