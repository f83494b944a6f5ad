"""How large text is at network size, before any training: what is masked, what is too low."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spaces.errors import InputError
from spaces.space import Space
from trainers.dbnet.icdar import TextAnnotation
from trainers.dbnet.targets import MIN_SIDE, fit_long_side, too_small
from trainers.text_augment import SCALES
from trainers.text_data import Page, TextData

LOWEST_PAGE = 32  # px at network size, the coarsest stride of an encoder


@dataclass(frozen=True)
class SplitText:
    """The text of a split.

    Attributes:
        dont_care: of the boxes.
        curved: boxes that count and have more than four corners.
        small: {resolution: boxes that count and are lower than MIN_SIDE there}: the kernel loss
            does not look at them.
        strips: {resolution: pages that are lower than LOWEST_PAGE there}.
    """

    boxes: int
    dont_care: int
    curved: int
    small: dict[int, int]
    strips: dict[int, list[Page]]

    def small_share(self, resolution: int) -> float:
        """0..1, of the boxes that count."""
        return self.small[resolution] / max(1, self.boxes - self.dont_care)


def split_text(data: TextData, split: str, resolutions: Sequence[int]) -> SplitText:
    """Count the text of a split at each resolution, as it is without augmentation."""
    pages = data.split(split)
    ignore = np.concatenate([data.truth(page).ignore for page in pages])
    return SplitText(
        len(ignore),
        int(ignore.sum()),
        sum(_curved(data.truth(page)) for page in pages),
        {size: sum(_small(data, page, size) for page in pages) for size in resolutions},
        {
            size: [p for p in pages if min(network_size(data, p, size)) < LOWEST_PAGE]
            for size in resolutions
        },
    )


def network_size(data: TextData, page: Page, resolution: int) -> tuple[int, int]:
    """(h, w) of a page at a resolution."""
    return fit_long_side(data.sizes[page.image], resolution)[0]


def check_learnable(space: Space, data: TextData) -> None:
    """Refuse a resolution at which the loss would look at no text.

    Raises:
        InputError: every box of the train split is masked for its size, however augmentation
            enlarges it.
    """
    enlarged = max(SCALES[strength][1] for strength in space.names("data.augment"))
    pages = data.split("train")
    counting = sum(int((~data.truth(page).ignore).sum()) for page in pages)
    for resolution in sorted(space.values("data.resolution")):
        if sum(_small(data, page, round(resolution * enlarged)) for page in pages) == counting:
            first = Path(pages[0].image).name
            height, width = network_size(data, pages[0], resolution)
            raise InputError(
                f"data.resolution {resolution}: nothing can be learned: all {counting} boxes of "
                f"train are lower than {MIN_SIDE:g} pixels there ({first} becomes "
                f"{width}x{height}) and are masked; raise it"
            )


def _curved(truth: TextAnnotation) -> int:
    counting = zip(truth.polygons, truth.ignore, strict=True)
    return sum(len(polygon) > 4 and not ignore for polygon, ignore in counting)


def _small(data: TextData, page: Page, long_side: int) -> int:
    """Boxes of a page that count and are masked for their size."""
    truth = data.truth(page)
    _, scale = fit_long_side(data.sizes[page.image], long_side)
    return int((too_small([p / scale for p in truth.polygons]) & ~truth.ignore).sum())
