"""A trained text detector scored on a split, and pictures of its best and worst pages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import nn

from spaces.metric import metric_name
from trainers.cleval import cleval_counts
from trainers.dbnet.decode import Detections
from trainers.dbnet.score import match
from trainers.evaluate import PICTURES, Evaluation
from trainers.image_counts import cleval_hmean, cleval_parts, score_of
from trainers.images import as_rgb
from trainers.pictures import MAX_SIDE, Colour, best_and_worst, picture_folder, sheet, shown_size
from trainers.text_detection import DECODE, PageOutput, TextDetectionTask

FOUND, MISSED, FALSE, DONT_CARE = (
    ("found", (20, 150, 40)),
    ("missed", (220, 30, 30)),
    ("false alarm", (235, 130, 0)),
    ("don't care", (120, 120, 120)),
)


def evaluate_text(
    task: TextDetectionTask, model: nn.Module, split: str, to: Path, *, cleval: bool = False
) -> Evaluation:
    """Score a DBNet on a split as its training did, and write overlays into `to`.

    Args:
        task: of the effective config, with the chosen decode settings.
        to: folder for `best-1-<stem>.png` .. and `worst-1-<stem>.png` ..; made here,
            with its parent.
        cleval: also score with CLEval (Baek et al. 2020), which needs the extra `cleval`.
    """
    config, data = task.config, task.data
    outputs = list(task.outputs(model, split))
    scored = task.score(outputs)
    pages = [(detections(task, output), output) for output, _ in outputs]
    characters = cleval_scores(pages) if cleval else None
    metric = metric_name(config.metric, data.spec)
    values = score_of(config.metric, data.spec)(scored.images.counts).tolist()
    picture_folder(to)
    written = []
    for name, index in best_and_worst(values, PICTURES).items():
        found, output = pages[index]
        caption = f"{output.page.stem}   {metric} {values[index]:.3f}"
        path = to / f"{name}-{output.page.stem}.png"
        overlay(as_rgb(data.image(output.page)), output, found, caption).save(path)
        written.append(path)
    return Evaluation(metric, scored.scores, scored.images, written, characters)


def detections(task: TextDetectionTask, output: PageOutput) -> Detections:
    """The boxes of a page at the config's decode settings."""
    decode = task.config.decode
    grids = {name: [value] for name, value in task.config.flat().items() if name in DECODE}
    found = task.found(output, grids, decode.thresh)
    return found.cut(decode.box_thresh, decode.unclip_ratio)


def overlay(image: np.ndarray, output: PageOutput, found: Detections, caption: str) -> Image.Image:
    """Return ground truth and detections side by side, coloured by how they meet.

    Args:
        image: (H, W, 3) uint8 RGB.
    """
    met = match(list(found.boxes), output.truth)
    hit_truths, hit_boxes = set(met.pairs[:, 0].tolist()), set(met.pairs[:, 1].tolist())
    truth = [
        (polygon, _colour(counts, index in hit_truths, MISSED))
        for index, (polygon, counts) in enumerate(
            zip(output.truth.polygons, met.truth_counts, strict=True)
        )
    ]
    boxes = [
        (box, _colour(counts, index in hit_boxes, FALSE))
        for index, (box, counts) in enumerate(zip(found.boxes, met.detection_counts, strict=True))
    ]
    panels = [
        (f"ground truth: {len(hit_truths)} of {int(met.truth_counts.sum())} found", truth),
        (f"detections: {len(hit_boxes)} of {int(met.detection_counts.sum())} right", boxes),
    ]
    drawn = [(title, _outlined(image, shapes)) for title, shapes in panels]
    return sheet(drawn, caption, [FOUND, MISSED, FALSE, DONT_CARE])


def painted_boxes(image: np.ndarray, found: Detections, caption: str) -> Image.Image:
    """Return a page with what was found on it."""
    page = _outlined(image, [(box, FOUND[1]) for box in found.boxes])
    return sheet([(f"{len(found.boxes)} boxes", page)], caption, [])


def _colour(counts: bool, hit: bool, otherwise: tuple[str, Colour]) -> Colour:
    if not counts:
        return DONT_CARE[1]
    return FOUND[1] if hit else otherwise[1]


def _outlined(image: np.ndarray, shapes: list[tuple[np.ndarray, Colour]]) -> Image.Image:
    """The page, paler, with outlines; no larger than MAX_SIDE."""
    picture = Image.fromarray((image * 0.6 + 255 * 0.4).astype(np.uint8))
    scale = min(1.0, MAX_SIDE / max(picture.size))
    if scale < 1:
        picture = picture.resize(shown_size((image.shape[0], image.shape[1])))
    draw = ImageDraw.Draw(picture)
    for corners, colour in shapes:
        points = [(float(x), float(y)) for x, y in np.asarray(corners) * scale]
        draw.line([*points, points[0]], fill=colour, width=2)
    return picture


def cleval_scores(pages: list[tuple[Detections, PageOutput]]) -> dict[str, float]:
    """Character-level recall, precision and Hmean of detection (Baek et al. 2020).

    Raises:
        InputError: the extra is not installed.
    """
    counts = sum(cleval_counts(found.boxes, output.truth) for found, output in pages)
    pooled = np.asarray(counts)
    recall, precision = cleval_parts(pooled).tolist()
    return {"recall": recall, "precision": precision, "hmean": float(cleval_hmean(pooled))}
