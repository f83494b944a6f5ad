"""Test-time augmentation: a network sees an image in several views, and their mean counts."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from spaces.errors import InputError
from trainers.memory import is_out_of_memory
from trainers.models import short_message

SCALES = (1.0, 0.75, 1.25)
ACROSS, DOWN = 3, 2  # dimensions of (B, C, H, W)

View = tuple[float, tuple[int, ...]]
"""The scale of an image, and the dimensions along which it is then flipped."""

VIEWS: dict[str, tuple[View, ...]] = {
    "none": ((1.0, ()),),
    "hflip": ((1.0, ()), (1.0, (ACROSS,))),
    "flips": ((1.0, ()), (1.0, (ACROSS,)), (1.0, (DOWN,)), (1.0, (DOWN, ACROSS))),
    "scales": tuple((scale, ()) for scale in SCALES),
    "hflip+scales": tuple((scale, flips) for scale in SCALES for flips in ((), (ACROSS,))),
}
"""The views of each value of `decode.tta`; the first one is the image as it is."""


def mean_over_views(
    run: Callable[[Tensor], Tensor], images: Tensor, tta: str, *, smallest: int = 1
) -> Tensor:
    """Return the mean of the logits of all views, each turned back to the image.

    Args:
        run: a network, images (B, 3, h, w) -> logits (B, C, h, w); any h and w.
        images: (B, 3, H, W), H and W of any size, in whatever values `run` takes.
        tta: a key of VIEWS.
        smallest: no side of a scaled image is shorter, in pixels.

    Shape:
        (B, C, H, W)

    Raises:
        InputError: the network takes inputs of one size alone.
    """
    views = VIEWS[tta]
    total = _logits(run, images, views[0], smallest)
    for view in views[1:]:
        total = total + _logits(run, images, view, smallest)
    return total / len(views) if len(views) > 1 else total


def _logits(run: Callable[[Tensor], Tensor], images: Tensor, view: View, smallest: int) -> Tensor:
    scale, flips = view
    height, width = images.shape[-2:]
    if scale != 1:
        size = [max(smallest, round(side * scale)) for side in (height, width)]
        images = F.interpolate(images.float(), size=size, mode="bilinear", antialias=True)
    try:
        logits = run(images.flip(flips) if flips else images)
    except Exception as error:
        if scale == 1 or is_out_of_memory(error):
            raise
        taken = f"{images.shape[-2]}x{images.shape[-1]}"
        raise InputError(
            f"decode.tta: the network does not run at {scale} of its input's size, {taken}: "
            f"{short_message(error)}; take none, hflip or flips"
        ) from error
    if flips:
        logits = logits.flip(flips)
    if scale != 1:
        logits = F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
    return logits
