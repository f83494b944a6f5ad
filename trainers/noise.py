"""What difference of two configs a val split is large enough to show, before any model is trained.

A pooled score is a mean over images that count by their size (boxes, pixels of a class), so it
varies with the draw of the images like one: sd = s / sqrt(n), n = (sum w)^2 / sum w^2 images (Kish,
Survey Sampling, 1965), s the deviation of single images. Two configs see the same images, and what
is hard for one is hard for the other: with a correlation r their difference has sqrt(2 (1 - r)) of
that. It is visible where it leaves the interval of 95 %.

s is measured: 0.2 for pages (25 SROIE receipts, whose Hmean has a bootstrap deviation of 0.043,
worth 22.5 equal pages), and 0.1 for a class (U-Net on 51 CamVid images, where the errors of classes
were independent). r = 0.5 is assumed. Of another data set they may be half or twice as much, and so
may the answer. The seed of a training comes on top.
"""

from __future__ import annotations

import math

import numpy as np

from spaces.config import MetricConfig, SegmentationMetric
from spaces.metric import class_shares
from trainers.data import SegmentationData, effective_images
from trainers.text_data import TextData

SD_OF_A_PAGE = 0.2
SD_OF_A_CLASS = 0.1  # in an image
SAME_IMAGES_ARE_HARD = 0.5  # r
NORMAL_95 = 1.96


def visible_difference(metric: MetricConfig, data: SegmentationData | TextData) -> float:
    """Return the difference of two scores on val below which it may be the draw of the images."""
    if isinstance(data, TextData):
        boxes = np.array([int((~data.truth(page).ignore).sum()) for page in data.split("val")])
        deviation = SD_OF_A_PAGE / math.sqrt(float(effective_images(boxes)))
    else:
        assert isinstance(metric, SegmentationMetric)
        rows = zip(class_shares(metric, data.spec), data.val_images, strict=True)
        known = [(share, images) for share, images in rows if share and images]
        total = sum(share for share, _ in known)
        squares = sum((share / total) ** 2 / images for share, images in known)
        deviation = SD_OF_A_CLASS * math.sqrt(squares)
    return NORMAL_95 * deviation * math.sqrt(2 * (1 - SAME_IMAGES_ARE_HARD))
