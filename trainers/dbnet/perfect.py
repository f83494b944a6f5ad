"""What perfect kernel maps decode to at an input size: a hint whether text is large enough for it.

A kernel is a few pixels high, so resizing, rounding and too small an unclip_ratio cost IoU, and the
smallest text is lost altogether. It is no bound on a network, which may draw larger kernels than it
was taught: those of 126 SROIE receipts at 640, grown by one pixel, decode to a Hmean of .967 at
unclip_ratio 1.0, where the perfect ones come to .826, at 2.0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np

from trainers.dbnet.decode import MAX_CANDIDATES, Candidates, Output, candidates
from trainers.dbnet.icdar import TextAnnotation
from trainers.dbnet.score import Scores, sweep
from trainers.dbnet.targets import SHRINK_RATIO, fit_long_side, kernel_map


def perfect_scores(
    images: Iterable[tuple[tuple[int, int], TextAnnotation]],
    long_side: int,
    unclip_ratios: Sequence[float],
    *,
    shrink_ratio: float = SHRINK_RATIO,
    subpixel: bool = False,
    grown: int = 0,
    max_candidates: int = MAX_CANDIDATES,
    output: Output = "quad",
) -> list[Scores]:
    """Score the decoded target maps of a split, once an unclip ratio.

    Text that is masked out for its size is drawn all the same, since a network may find it.

    Args:
        images: ((H, W), truth) of each image, in image pixels; may be a generator.
        long_side: longer side of the network's input, in pixels.
        unclip_ratios: each > 0.
        shrink_ratio, subpixel: of the targets, as in `make_targets`.
        grown: pixels by which each kernel is larger than it is taught, on all sides.
        max_candidates, output: of the decoder, as in `candidates`.

    Raises:
        ValueError: no images, or an argument out of range.
    """

    def decoded() -> Iterator[tuple[Candidates, TextAnnotation]]:
        for size, truth in images:
            network_size, scale = fit_long_side(size, long_side)
            polygons = [polygon / scale for polygon in truth.polygons]
            perfect = kernel_map(
                polygons,
                truth.ignore,
                network_size,
                shrink_ratio=shrink_ratio,
                subpixel=subpixel,
            )
            if grown:
                square = np.ones((3, 3), np.uint8)
                perfect = np.asarray(cv2.dilate(perfect, square, iterations=grown), np.uint8)
            found = candidates(
                perfect.astype(np.float32),
                size,
                scale,
                unclip_ratios=unclip_ratios,
                max_candidates=max_candidates,
                output=output,
            )
            yield found, truth.on_page(size)

    result = sweep(decoded(), [0.0])  # every kernel is text, whatever it scores
    return [result.at(row, 0) for row in range(len(unclip_ratios))]
