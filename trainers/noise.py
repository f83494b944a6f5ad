"""What difference of two configs a val split is large enough to show, before any model is trained.

A pooled score is a mean over images that count by their size (boxes, pixels of a class), so it
varies with the draw of the images like one: sd = s / sqrt(n), n = (sum w)^2 / sum w^2 images (Kish,
Survey Sampling, 1965), s the deviation of single images. Two configs see the same images, and what
is hard for one is hard for the other: with a correlation r their difference has sqrt(2 (1 - r)) of
that. It is visible where it leaves the interval of 95 %.

s and r are measured, not known: SD_OF_AN_IMAGE, SAME_IMAGES_ARE_HARD and CLASSES_FAIL_TOGETHER say
on what. Of another data set they may be half or twice as much, and so may the answer; `segtune
report` gives the interval of a study's own images. Seeds come on top.
"""

from __future__ import annotations

import math

import numpy as np

from spaces.config import MetricConfig, SegmentationMetric
from spaces.metric import class_shares
from trainers.data import SegmentationData, effective_images
from trainers.text_data import TextData

SD_OF_AN_IMAGE = 0.2
SAME_IMAGES_ARE_HARD = 0.5
CLASSES_FAIL_TOGETHER = 0.5
NORMAL_95 = 1.96


def visible_difference(metric: MetricConfig, data: SegmentationData | TextData) -> float:
    """Return the difference of two scores on val below which it may be the draw of the images."""
    if isinstance(data, TextData):
        boxes = np.array([int((~data.truth(page).ignore).sum()) for page in data.split("val")])
        images, shares = [float(effective_images(boxes))], [1.0]
    else:
        assert isinstance(metric, SegmentationMetric)
        images, shares = data.val_images, class_shares(metric, data.spec)
    deviation = SD_OF_AN_IMAGE * _spread(images, shares)
    return NORMAL_95 * deviation * math.sqrt(2 * (1 - SAME_IMAGES_ARE_HARD))


def _spread(images: list[float], shares: list[float]) -> float:
    """The deviation of a mean over classes whose images each have one of 1.

    Args:
        images: that each class is worth; one without images does not count.
        shares: of each class in the mean.
    """
    pairs = [(share, n) for share, n in zip(shares, images, strict=True) if share and n]
    total = sum(share for share, _ in pairs)
    alone = sum((share / total) ** 2 / n for share, n in pairs)
    together = sum(share / total / math.sqrt(n) for share, n in pairs) ** 2
    r = CLASSES_FAIL_TOGETHER
    return math.sqrt((1 - r) * alone + r * together)
