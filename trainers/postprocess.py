"""What is done to a class map after the network: small areas and small holes (`decode`).

It works on maps at the image's own size, the last thing before they are scored or written. Off by
default: on thin structures it costs more than it gains, so that `segtune evaluate
--postprocess` measures it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spaces.config import DecodeConfig, SegmentationConfig
from spaces.data import SegmentationDataSpec
from spaces.errors import InputError, did_you_mean
from spaces.space import Free

KINDS = ("smallest_area", "fill_holes")
ClassMap = NDArray[np.uint8]


def check_postprocessing(
    config: SegmentationConfig, spec: SegmentationDataSpec, free: Mapping[str, Free]
) -> None:
    """Refuse what cannot be done to the masks of a data set.

    Raises:
        InputError: a class that there is none of; or the threshold of a binary task is searched,
            which counts pixels alone.
    """
    for kind in KINDS:
        of_class = getattr(config.decode, kind)
        for name in of_class:
            if name not in spec.class_names:
                known = f"; known: {', '.join(spec.class_names)}"
                hint = did_you_mean(name, spec.class_names) or known
                raise InputError(f"decode.{kind}: {name} is no class of these data{hint}")
        if any(of_class.values()) and "decode.threshold" in free:
            raise InputError(
                f"decode.{kind} needs a fixed threshold, but decode.threshold is searched inside "
                "each trial; pin it to one number, or leave this out and let `segtune evaluate "
                "--postprocess all` find it for the winner"
            )


def postprocessed(
    found: Tensor, decode: DecodeConfig, names: Sequence[str], *, binary: bool
) -> Tensor:
    """Apply what `decode` asks for to predictions of one size; as they are where that is nothing.

    Args:
        found: (B, h, w) class indices, or of a binary task probabilities, which become 0 and 1.
        names: of the classes, in the order of their indices.
    """
    if not any((*decode.smallest_area.values(), *decode.fill_holes.values())):
        return found
    maps = found >= decode.threshold if binary else found
    changed = [postprocess(one, decode, names) for one in maps.byte().cpu().numpy()]
    return torch.from_numpy(np.stack(changed)).to(found)


def postprocess(found: ClassMap, decode: DecodeConfig, names: Sequence[str]) -> ClassMap:
    """Return a class map (H, W) without small areas, then without small holes.

    Classes come in the order of their indices; what one has changed, the next one sees.
    """
    for index, name in enumerate(names):
        if smallest := decode.smallest_area.get(name, 0):
            found = without_small_areas(found, index, smallest)
    for index, name in enumerate(names):
        if smallest := decode.fill_holes.get(name, 0):
            found = without_small_holes(found, index, smallest)
    return found


def without_small_areas(found: ClassMap, index: int, smallest: int) -> ClassMap:
    """Give each area of a class that is below `smallest` pixels to its most frequent neighbour.

    Areas hang together by sides and corners, so that a thin line that runs diagonally is one. What
    fills the whole image has no neighbour and stays.
    """
    result = found.copy()
    for window, area in _parts(found == index, smallest, connectivity=8):
        around = cv2.dilate(area, np.ones((3, 3), np.uint8)) > area
        neighbours = np.bincount(found[window][around])
        if len(neighbours):
            result[window][area > 0] = neighbours.argmax()
    return result


def without_small_holes(found: ClassMap, index: int, smallest: int) -> ClassMap:
    """Fill what a class encloses, of whatever classes it is, where that is below `smallest` pixels.

    A hole hangs together by its sides, and touches no border of the image.
    """
    framed = np.pad(found, 1)
    outside = np.pad(found != index, 1, constant_values=True)  # all that touches a border is one
    for window, hole in _parts(outside, smallest, connectivity=4):
        if window[0].start > 0:
            framed[window][hole > 0] = index
    return framed[1:-1, 1:-1]


def _parts(
    mask: NDArray[np.bool_], smallest: int, connectivity: int
) -> Iterator[tuple[tuple[slice, slice], ClassMap]]:
    """Yield each small part of a mask: a window, a pixel wider, and 1 in it where the part is."""
    count, labels, facts, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=connectivity
    )
    for label in range(1, count):
        if facts[label, cv2.CC_STAT_AREA] >= smallest:
            continue
        left, top, width, height = facts[label, :4].tolist()
        window = (
            slice(max(0, top - 1), top + height + 1),
            slice(max(0, left - 1), left + width + 1),
        )
        yield window, (labels[window] == label).astype(np.uint8)
