"""What views and post-processing come to on a split, with models that have been trained."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from spaces.config import TrialConfig
from trainers.data import pixels_of
from trainers.image_counts import Counts
from trainers.members import Ensemble
from trainers.postprocess import KINDS, postprocess
from trainers.segmentation import SegmentationTask
from trainers.tasks import Data, load_task
from trainers.text_detection import TextDetectionTask

SHARES = (1e-4, 3e-4, 1e-3, 3e-3)  # of an image: sizes of areas and holes that are tried


class Part(NamedTuple):
    """A model, its config with its decode settings, and the data whose split it is scored on."""

    model: Path | Ensemble
    config: TrialConfig
    data: Data


@dataclass(frozen=True, eq=False)
class Tried:
    """What a setting comes to.

    Attributes:
        changes: {dotted name: value}; empty for what the others are compared with.
        counts: (N, K, 3) of the images of all parts, as of `ImageCounts`; the same order in all.
        seconds: of one pass over them; None where several settings shared one.
    """

    changes: dict[str, Any]
    counts: Counts
    seconds: float | None = None


def try_views(parts: Sequence[Part], split: str, values: Sequence[str]) -> list[Tried]:
    """Score models on a split at `decode.tta: none`, and then at each other value.

    The seconds are those of the network, of decoding and of scoring; the images have been read.
    """
    values = ["none", *(value for value in values if value != "none")]
    counts: dict[str, list[Counts]] = {value: [] for value in values}
    seconds = dict.fromkeys(values, 0.0)
    for part in parts:
        task, model = _opened(part)
        for value in values:
            for one in (task, *getattr(task, "tasks", ())):  # of an ensemble each member's, too
                one.config = one.config.replace({"decode.tta": value})
            _first_batch(task, model, split)
            began = time.perf_counter()
            counts[value].append(task.validate(model, split).images.counts)
            seconds[value] += time.perf_counter() - began
    return [
        Tried(
            {} if value == "none" else {"decode.tta": value},
            np.concatenate(counts[value]),
            seconds[value],
        )
        for value in values
    ]


def try_postprocessing(
    parts: Sequence[Part], split: str, kinds: Sequence[str] = KINDS
) -> list[Tried]:
    """Score models on a split without and with each kind of post-processing, in one pass.

    Each setting changes one class alone, at a size of SHARES of the median image. What changes no
    pixel is left out.
    """
    sizes = _sizes(parts, split)
    base: list[Counts] = []
    changed: dict[_Setting, dict[int, Counts]] = {}
    for part in parts:
        first = len(base)
        plain, others = _swept(part, split, kinds, sizes)
        base += [plain[image] for image in range(len(plain))]
        for setting, of_images in others.items():
            mine = changed.setdefault(setting, {})
            mine.update({first + image: counts for image, counts in of_images.items()})
    tried = [Tried({}, np.stack(base))]
    for (kind, name, size), of_images in sorted(changed.items()):
        counts = np.stack([of_images.get(image, plain) for image, plain in enumerate(base)])
        tried.append(Tried({f"decode.{kind}": {name: size}}, counts))
    return tried


_Setting = tuple[str, str, int]  # kind, class, pixels


def _swept(
    part: Part, split: str, kinds: Sequence[str], sizes: Sequence[int]
) -> tuple[dict[int, Counts], dict[_Setting, dict[int, Counts]]]:
    """{image: counts} without post-processing, and with each setting of the images it changes."""
    task, model = _opened(part)
    assert isinstance(task, SegmentationTask)
    task.config = task.config.replace({f"decode.{kind}": {} for kind in kinds})
    names, off = task.data.spec.class_names, task.config.decode

    def sweep() -> tuple[dict[int, Counts], dict[_Setting, dict[int, Counts]]]:
        base: dict[int, Counts] = {}
        changed: dict[_Setting, dict[int, Counts]] = {}
        for image, raw, truth in _class_maps(task, model, split):
            found = postprocess(raw, off, names)
            base[image] = _counts(task, found, truth)
            for kind, (index, name) in itertools.product(kinds, enumerate(names)):
                for size in reversed(sizes) if (raw == index).any() else ():
                    decode = off.model_copy(update={kind: {name: size}})
                    result = postprocess(raw, decode, names)
                    if np.array_equal(result, found):
                        break  # a smaller size changes less
                    of_images = changed.setdefault((kind, name, size), {})
                    of_images[image] = _counts(task, result, truth)
        return base, changed

    return task.with_less(split, sweep)


def _opened(part: Part) -> tuple[SegmentationTask | TextDetectionTask, nn.Module]:
    task, model = load_task(part.model, part.config, part.data)
    assert isinstance(task, SegmentationTask | TextDetectionTask)
    return task, model


@torch.no_grad()
def _first_batch(task: SegmentationTask | TextDetectionTask, model: nn.Module, split: str) -> None:
    """Have the images read, and let the device meet new shapes, before time is taken."""
    model.eval()
    if isinstance(task, SegmentationTask):
        task.with_less(split, lambda: next(task.found(model, split)))
    else:
        next(task.outputs(model, split))


@torch.no_grad()
def _class_maps(
    task: SegmentationTask, model: nn.Module, split: str
) -> Iterator[tuple[int, np.ndarray, Tensor]]:
    """Yield (index, classes (h, w) uint8, true classes (h, w)) of each image at its own size."""
    model.eval()
    for indices, found, truth in task.found(model, split):
        if task.binary:
            found = found >= task.config.decode.threshold
        yield from zip(indices, found.byte().cpu().numpy(), truth, strict=True)


def _counts(task: SegmentationTask, found: np.ndarray, truth: Tensor) -> Counts:
    """(K, 3) of one image, by the study's metric."""
    counter = task.counter()
    prediction = torch.from_numpy(found).to(truth.device)
    counter.update((prediction.float() if task.binary else prediction.long())[None], truth[None])
    counts: Counts = counter.images()[0].numpy()
    return counts[0] if task.binary else counts  # at its one threshold


def _sizes(parts: Sequence[Part], split: str) -> list[int]:
    """Sizes that are tried, in pixels, ascending."""
    pixels = [pixels_of(sample.image) for part in parts for sample in part.data.split(split)]
    return sorted({max(2, round(share * float(np.median(pixels)))) for share in SHARES})
