"""A trained model scored on a split, and pictures of its best and worst images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from spaces.metric import metric_name
from trainers.image_counts import ImageCounts, score_of
from trainers.images import as_rgb, decode_image
from trainers.losses import IGNORE
from trainers.pictures import best_and_worst, palette, picture_folder, sheet, shown_size
from trainers.report import Scores
from trainers.segmentation import SegmentationTask

PICTURES = 5  # of the best and of the worst images


@dataclass(frozen=True)
class Evaluation:
    """Scores of a split, and the pictures that were written, best and worst first.

    Attributes:
        metric: the name of the metric, as in mIoU.
        cleval: recall, precision and hmean by CLEval, where they were asked for.
    """

    metric: str
    scores: Scores
    images: ImageCounts
    pictures: list[Path]
    cleval: Mapping[str, float] | None = None


def evaluate_segmentation(
    task: SegmentationTask, model: torch.nn.Module, split: str, to: Path
) -> Evaluation:
    """Score a model on a split as its training did, and write overlays into `to`.

    Args:
        task: of the effective config, with the chosen decode settings.
        to: folder for `best-1-<stem>.png` .. and `worst-1-<stem>.png` ..; made here,
            with its parent.
    """
    metric, spec = task.config.metric, task.data.spec
    found = task.validate(model, split)
    alone = score_of(metric, spec, nothing=1.0)(found.images.counts).tolist()
    chosen = best_and_worst(alone, PICTURES)
    picture_folder(to)
    name = metric_name(metric, spec)
    pictures = _draw(task, model, split, chosen, [f"{name} {value:.3f}" for value in alone], to)
    return Evaluation(name, found.scores, found.images, pictures)


@torch.no_grad()
def _predictions(
    task: SegmentationTask, model: torch.nn.Module, split: str
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield (index, predicted classes (h, w), true classes (h, w)) at original size."""
    model.eval()
    for indices, found, truth in task.predicted(model, split):
        yield from zip(indices, found, truth, strict=True)


def _draw(
    task: SegmentationTask,
    model: torch.nn.Module,
    split: str,
    chosen: dict[str, int],
    captions: list[str],
    to: Path,
) -> list[Path]:
    names = {index: name for name, index in chosen.items()}
    samples = task.data.split(split)
    written = {}
    for index, predicted, truth in _predictions(task, model, split):
        if index not in names:
            continue
        sample = samples[index]
        image = as_rgb(decode_image(sample.image, task.data.spec))
        path = to / f"{names[index]}-{sample.stem}.png"
        caption = f"{sample.stem}   {captions[index]}"
        overlay(image, truth, predicted, task.data.spec.class_names, caption).save(path)
        written[names[index]] = path
    return [written[name] for name in chosen]


def overlay(
    image: np.ndarray, truth: Tensor, predicted: Tensor, names: list[str], caption: str
) -> Image.Image:
    """Return truth, prediction and errors side by side, with a legend of the classes shown.

    Args:
        image: (h, w, 3) uint8 RGB; larger ones are shrunk to MAX_SIDE.
        truth, predicted: (h, w) class indices; IGNORE in truth is grey and no error.
    """
    size = shown_size((image.shape[0], image.shape[1]))
    image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    true, guess = (
        np.asarray(
            Image.fromarray(mask.byte().cpu().numpy()).resize(size, Image.Resampling.NEAREST)
        )
        for mask in (truth, predicted)
    )
    colours = palette(len(names))
    void = true == IGNORE
    panels = []
    for classes in (true, guess):
        painted = colours[np.where(classes == IGNORE, 0, classes)].astype(np.float32)
        painted[void] = 128
        panels.append((0.45 * image + 0.55 * painted).astype(np.uint8))
    errors = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    errors[(true != guess) & ~void] = (230, 30, 30)
    panels.append(errors)
    height, width = true.shape
    scale = max(1, round(320 / width))
    shown = [Image.fromarray(p).resize((width * scale, height * scale)) for p in panels]
    present = sorted(set(np.unique(true[~void])) | set(np.unique(guess)))
    titles = ("ground truth", "prediction", "errors (red)")
    legend = [(names[c], tuple(int(v) for v in colours[c])) for c in present]
    return sheet(list(zip(titles, shown, strict=True)), caption, legend)
