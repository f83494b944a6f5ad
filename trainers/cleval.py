"""CLEval (Baek et al. 2020), the metric of receipt contests, by its authors' package.

It counts characters: those of the truth that lie in a detection, and those of the detections that
are of a truth, each less a penalty for every cut inside a word. The package is the extra `cleval`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from spaces.errors import InputError
from trainers.dbnet.decode import Candidates
from trainers.dbnet.icdar import TextAnnotation
from trainers.image_counts import Counts


def cleval_metric() -> Any:
    """Return a fresh metric of the package; raises InputError where it is not installed."""
    try:
        from cleval import CLEvalMetric
    except ImportError:
        raise InputError(
            "CLEval is not installed; install it with: pip install 'segtune[cleval]'"
        ) from None
    return CLEvalMetric()


def cleval_counts(boxes: NDArray[np.floating], truth: TextAnnotation) -> Counts:
    """Return what an image adds to CLEval's score of detection.

    Args:
        boxes: (D, K, 2) in image pixels; of polygons their minimum-area rectangles count.

    Shape:
        (2, 3): characters of the truth found less penalties, all, all; of the detections likewise.

    Raises:
        InputError: the extra is not installed.
    """
    metric = cleval_metric()
    metric.update(
        _quads(boxes),
        _quads(truth.polygons),
        det_letters=[""] * len(boxes),  # what is read does not count, where it is does
        gt_letters=truth.texts,
        gt_is_dcs=truth.ignore.tolist(),
    )
    sides = []
    for side, of in (("recall", metric.det_num_char_gt), ("precision", metric.det_num_char_det)):
        hits = getattr(metric, f"det_num_char_tp_{side}") - getattr(
            metric, f"det_gran_score_{side}"
        )
        sides.append((round(float(hits)), int(of), int(of)))
    return np.array(sides, np.int64)


def cleval_sweep(
    images: Iterable[tuple[Candidates, TextAnnotation]], box_threshs: Sequence[float]
) -> Counts:
    """Count every box_thresh at every unclip ratio of the candidates, exactly.

    Two values of box_thresh that keep the same boxes are counted once.

    Shape:
        (N, R, T, 2, 3) of N images, R unclip ratios and T values of box_thresh.
    """
    counts = []
    for found, truth in images:
        rows = []
        for ratio in found.unclip_ratios:
            known: dict[int, Counts] = {}
            row = []
            for thresh in box_threshs:
                boxes = found.cut(thresh, ratio).boxes
                if len(boxes) not in known:  # a cut keeps the best boxes: as many are the same
                    known[len(boxes)] = cleval_counts(boxes, truth)
                row.append(known[len(boxes)])
            rows.append(row)
        counts.append(rows)
    return np.array(counts, np.int64)


def _quads(
    polygons: Sequence[NDArray[np.floating]] | NDArray[np.floating],
) -> NDArray[np.float32]:
    """(N, 8) corners; a polygon of more corners is replaced by its minimum-area rectangle."""
    quads = [
        polygon if len(polygon) == 4 else cv2.boxPoints(cv2.minAreaRect(polygon.astype(np.float32)))
        for polygon in polygons
    ]
    return np.array(quads, np.float32).reshape(-1, 8)
