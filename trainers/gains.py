"""What views and post-processing come to on a split, with models that have been trained."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from spaces.config import DecodeConfig, TrialConfig
from trainers.ensemble import SegmentationEnsemble, TextEnsemble
from trainers.image_counts import Counts
from trainers.images import pixels_of
from trainers.members import Ensemble
from trainers.postprocess import KINDS, ClassMap, postprocess
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
        members = task.tasks if isinstance(task, SegmentationEnsemble | TextEnsemble) else ()
        for value in values:
            for one in (task, *members):
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
    swept: list[Swept] = []
    for part in parts:
        task, model = _opened(part)
        assert isinstance(task, SegmentationTask)
        swept += task.with_less(
            split, partial(_swept_of, task, model, split=split, kinds=kinds, sizes=sizes)
        )
    return together(swept)


Setting = tuple[str, str, int]  # kind, class, pixels


class Swept(NamedTuple):
    """Counts (K, 3) of an image without post-processing, and with the settings that change it."""

    base: Counts
    changed: dict[Setting, Counts]


def swept(
    found: ClassMap,
    decode: DecodeConfig,
    names: Sequence[str],
    kinds: Sequence[str],
    sizes: Sequence[int],
    count: Callable[[ClassMap], Counts],
) -> Swept:
    """Try each kind of post-processing at each size, of one class at a time.

    Args:
        found: (H, W) of an image, before any.
        decode: without the kinds that are tried.
        sizes: in pixels, ascending.
        count: a class map -> counts (K, 3).
    """
    plain, changed = postprocess(found, decode, names), dict[Setting, Counts]()
    for kind, name in itertools.product(kinds, (names[i] for i in np.unique(found))):
        for size in reversed(sizes):
            result = postprocess(found, decode.model_copy(update={kind: {name: size}}), names)
            if np.array_equal(result, plain):
                break  # a smaller size changes less
            changed[kind, name, size] = count(result)
    return Swept(count(plain), changed)


def together(images: Sequence[Swept]) -> list[Tried]:
    """What each setting comes to on all images, the first one without any."""
    settings = sorted(set().union(*(image.changed for image in images)))
    return [
        Tried({}, np.stack([image.base for image in images])),
        *(
            Tried(
                {f"decode.{kind}": {name: size}},
                np.stack([image.changed.get((kind, name, size), image.base) for image in images]),
            )
            for kind, name, size in settings
        ),
    ]


def _swept_of(
    task: SegmentationTask,
    model: nn.Module,
    *,
    split: str,
    kinds: Sequence[str],
    sizes: Sequence[int],
) -> list[Swept]:
    """Of the images of a split, in its order."""
    names = task.data.spec.class_names
    decode = task.config.replace({f"decode.{kind}": {} for kind in kinds}).decode
    images = {
        index: swept(found, decode, names, kinds, sizes, partial(_counts, task, truth))
        for index, found, truth in _class_maps(task, model, split)
    }
    return [images[index] for index in range(len(images))]


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
) -> Iterator[tuple[int, ClassMap, Tensor]]:
    """Yield (index, classes (h, w) uint8, true classes (h, w)) of each image at its own size."""
    model.eval()
    for indices, found, truth in task.found(model, split):
        if task.binary:
            found = found >= task.config.decode.threshold
        yield from zip(indices, found.byte().cpu().numpy(), truth, strict=True)


def _counts(task: SegmentationTask, truth: Tensor, found: ClassMap) -> Counts:
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
