"""Decoded pages of text-detection splits, mapped by all; or decoded anew where there is no room.

What is kept is the page at the largest size that a run can ask for, never enlarged, so that every
random scale is cut from it. Target maps are not kept: they follow the page's random scale, turn and
window, and are drawn from the polygons, which are small, inside each polygon's own bounding box.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainers.cache_folder import Entry, Make, entry, split_key
from trainers.data import Kept, each_decoded
from trainers.dbnet.targets import fit_long_side
from trainers.text_augment import resize_page
from trainers.text_data import Page, TextData

Scale = tuple[float, float]


@dataclass(frozen=True)
class Pages:
    """The pages of a split, no side above `longest` pixels.

    Attributes:
        kept: how the cache has them.
    """

    data: TextData
    kept: Kept[Page]
    longest: int
    entry: Entry | None

    def page(self, index: int) -> tuple[np.ndarray, Scale]:
        """Return a page (h, w, C) uint8, and image pixels a pixel of it, (x, y)."""
        index = index if self.kept.rows is None else self.kept.rows[index]
        if self.entry is None:
            return self._decode(index)
        arrays = self.entry.arrays
        height, width = arrays["shapes"][index]
        end, channels = arrays["ends"][index], self.data.spec.channels
        flat = arrays["pages"][end - height * width * channels : end]
        page = flat.reshape(height, width, channels)
        return page, (float(arrays["scales"][index, 0]), float(arrays["scales"][index, 1]))

    def _decode(self, index: int) -> tuple[np.ndarray, Scale]:
        image = self.data.image(self.kept.samples[index])
        if max(image.shape[:2]) <= self.longest:
            return image, (1.0, 1.0)
        return resize_page(image, self.longest)


def load_pages(data: TextData, split: str, longest: int) -> Pages:
    """Return a split's pages, from the cache or after building it.

    Where the cache folder has no room for it, which the log says, each page is decoded when it is
    asked for, to the same pixels.

    Args:
        longest: the longer side of a page in pixels; a larger page is shrunk to it.
    """
    kept = data.kept(split)
    shapes = page_shapes(data, kept, longest)
    bytes_ = [height * width * data.spec.channels for height, width in shapes]

    def build(make: Make) -> None:
        pages = make("pages", (sum(bytes_),), np.uint8)
        make("shapes", (len(shapes), 2), np.int64)[:] = shapes
        ends = make("ends", (len(shapes),), np.int64)
        ends[:] = np.cumsum(bytes_)
        scales = make("scales", (len(shapes), 2), np.float64)
        decoder = Pages(data, kept, longest, None)

        def one(index: int, _: Page) -> None:
            pixels, scales[index] = decoder._decode(index)
            pages[ends[index] - pixels.size : ends[index]] = pixels.ravel()

        each_decoded(kept.samples, one)

    key = split_key(kept.fingerprint, kept.name, longest)
    what = f"the pages of the {split} split at {longest} px"
    return Pages(data, kept, longest, entry("pages", key, lambda: sum(bytes_), build, what))


def page_shapes(data: TextData, kept: Kept[Page], longest: int) -> list[tuple[int, int]]:
    """(height, width) of each page of a split, as the cache has it, with 3 bytes a pixel."""
    return [_shape(data.sizes[page.image], longest) for page in kept.samples]


def _shape(size: tuple[int, int], longest: int) -> tuple[int, int]:
    return size if max(size) <= longest else fit_long_side(size, longest)[0]
