"""Augmentation of document images with their text polygons: one affine map moves both.

As in augment.py, a sample is a function of (seed, epoch, index) alone. Then its colours change
(photometric.py), as those of a photograph do, whichever way the page lies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from spaces.text_detection import TextDataConfig
from trainers.dbnet.targets import fit_long_side
from trainers.draws import Uniform
from trainers.photometric import (
    PHOTOMETRIC,
    change_page,
    draw_changes,
    four_by_four,
    of_channels,
)

SCALES = {"none": (1.0, 1.0), "light": (1.0, 1.0), "medium": (0.75, 1.5), "strong": (0.5, 3.0)}
DEGREES = {"none": 0.0, "light": 0.0, "medium": 10.0, "strong": 10.0}
MIN_SIDE = 32  # px of a page that a random scale has shrunk


def augment_page(
    image: NDArray[np.uint8],
    polygons: Sequence[NDArray[np.float64]],
    config: TextDataConfig,
    key: tuple[int, int, int],
) -> tuple[NDArray[np.uint8], list[NDArray[np.float64]]]:
    """Return a network input and its polygons.

    The page is resized so that its longer side is `resolution` times a random scale, turned by
    quarters, flipped and turned on black; of what exceeds `resolution` on either side a random
    window is cut out.

    Args:
        image: (H, W, C) uint8.
        polygons: (K, 2) arrays of x, y in image pixels.
        config: `augment` is a key of SCALES: light (flip), medium (+ up to 10 degrees, scale
            0.75-1.5), strong (scale 0.5-3, the recipe of Liao et al. 2020).
        key: (seed, epoch, index) of the sample.

    Returns:
        The page (h, w, C) uint8, both sides at most `resolution` pixels, and one polygon for each
        given, in its pixels; a polygon may lie outside of the window in part or whole.
    """
    random = np.random.default_rng(key)
    strength, resolution = config.augment, config.resolution
    low, high = SCALES[strength]
    scale = float(np.exp(random.uniform(np.log(low), np.log(high))))
    angle = float(random.uniform(-DEGREES[strength], DEGREES[strength]))
    flip = strength != "none" and bool(random.random() < 0.5)
    place = random.random(2)
    quarters = int(random.integers(1, 4)) if random.random() < config.quarter_turns else 0
    long_side = max(MIN_SIDE, round(resolution * scale))
    resized, (x_scale, y_scale) = resize_page(image, long_side)
    polygons = [polygon / (x_scale, y_scale) for polygon in polygons]
    if quarters:
        resized, polygons = _quarter_turned(resized, polygons, quarters)
    turn = _turn(resized.shape[:2], angle, flip)
    matrix, (height, width) = _window(turn, resized.shape[:2], resolution, place)
    if scale == 1.0 and angle == 0.0:  # nothing between pixels to look up
        page = resized[:, ::-1] if flip else resized
    else:
        page = four_by_four(resized, lambda part: cv2.warpAffine(part, matrix, (width, height)))
    page = np.ascontiguousarray(page, np.uint8)
    moved = [polygon @ matrix[:, :2].T + matrix[:, 2] for polygon in polygons]
    if config.photometric == "none":
        return page, moved
    seed, epoch, index = key
    ranges = of_channels(PHOTOMETRIC[config.photometric], page.shape[2])
    return change_page(page, draw_changes(Uniform(seed, epoch, [index]), ranges)), moved


def resize_page(
    image: NDArray[np.uint8], long_side: int
) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """Return the image at a longer side of `long_side` pixels, and image pixels a new pixel (x, y).

    By area where it shrinks, else bilinear.
    """
    size = (image.shape[0], image.shape[1])
    (height, width), scale = fit_long_side(size, long_side)
    how = cv2.INTER_AREA if long_side < max(size) else cv2.INTER_LINEAR
    return four_by_four(
        image, lambda part: cv2.resize(part, (width, height), interpolation=how)
    ), scale


def _quarter_turned(
    page: NDArray[np.uint8], polygons: Sequence[NDArray[np.float64]], quarters: int
) -> tuple[NDArray[np.uint8], list[NDArray[np.float64]]]:
    """A page and its polygons, turned clockwise by 1 to 3 quarters."""
    turned = np.ascontiguousarray(np.rot90(page, -quarters))
    moved = list(polygons)
    height, width = page.shape[:2]
    for _ in range(quarters):
        moved = [np.stack([height - 1 - p[:, 1], p[:, 0]], axis=1) for p in moved]
        height, width = width, height
    return turned, moved


def _turn(size: tuple[int, ...], angle: float, flip: bool) -> NDArray[np.float64]:
    """The 3 x 3 matrix of a mirror image turned by `angle` degrees."""
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    matrix = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
    if flip:
        matrix = matrix @ np.array([[-1.0, 0.0, size[1] - 1], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    return matrix


def _window(
    turn: NDArray[np.float64],
    size: tuple[int, ...],
    resolution: int,
    place: NDArray[np.float64],
) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """The 2 x 3 matrix into a window over the turned page, and the window's (height, width).

    Args:
        place: where the window lies in what is left over, 0..1 along x and y.
    """
    right, bottom = size[1] - 1, size[0] - 1
    corners = np.array([[0, 0, 1], [right, 0, 1], [right, bottom, 1], [0, bottom, 1]]) @ turn.T
    low, high = corners[:, :2].min(axis=0), corners[:, :2].max(axis=0)
    whole = np.ceil(high - low - 1e-6).astype(int) + 1  # width, height of the turned page
    window = np.minimum(whole, resolution)
    matrix = turn[:2].copy()
    matrix[:, 2] -= low + np.rint(place * (whole - window))
    return matrix, (int(window[1]), int(window[0]))
