"""Training augmentation in three strengths, from torchvision.transforms.v2.

A sample's augmentation is a function of (seed, epoch, index) alone, so that a resumed run sees
what the uninterrupted one would have seen, with any number of loader processes.
"""

from __future__ import annotations

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from trainers.losses import IGNORE


def build_augment(strength: str, size: tuple[int, int]) -> v2.Transform | None:
    """Return the transform of a (tv_tensors.Image, tv_tensors.Mask) pair, or None for `none`.

    Args:
        strength: light (flip, brightness), medium (+ scale 0.5-1 crop, colour), strong (+ rotation
            of up to 10 degrees, scale 0.25-1, blur, grey).
        size: (height, width) of the network input, kept.

    New pixels at the border are black in the image and IGNORE in the mask.
    """
    if strength == "none":
        return None
    flip = v2.RandomHorizontalFlip()
    if strength == "light":
        return v2.Compose([flip, v2.ColorJitter(brightness=0.2, contrast=0.2)])
    if strength == "medium":
        return v2.Compose(
            [
                flip,
                _crop(size, 0.5),
                v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3),
            ]
        )
    assert strength == "strong", strength
    fill = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORE}
    return v2.Compose(
        [
            flip,
            v2.RandomRotation(10, interpolation=v2.InterpolationMode.BILINEAR, fill=fill),
            _crop(size, 0.25),
            v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.05),
            v2.RandomGrayscale(0.1),
            v2.RandomApply([v2.GaussianBlur(5, (0.1, 1.5))], p=0.2),
        ]
    )


def augment_sample(
    transform: v2.Transform | None,
    image: torch.Tensor,
    mask: torch.Tensor,
    key: tuple[int, int, int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one augmented pair: image (3, H, W) uint8, mask (H, W) uint8.

    Args:
        key: (seed, epoch, index) of the sample; the global generator is left as it was.
    """
    if transform is None:
        return image, mask
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_mix(*key))
        pair = transform(tv_tensors.Image(image), tv_tensors.Mask(mask))
    return pair[0].as_subclass(torch.Tensor), pair[1].as_subclass(torch.Tensor)


def _crop(size: tuple[int, int], smallest: float) -> v2.Transform:
    """Crop a part of the image, `smallest` to 1 of its area, and scale it back."""
    aspect = size[1] / size[0]
    return v2.RandomResizedCrop(
        size, scale=(smallest, 1.0), ratio=(aspect * 0.9, aspect * 1.1), antialias=True
    )


def _mix(seed: int, epoch: int, index: int) -> int:
    """One 63-bit number from three, well spread (splitmix64)."""
    value = (seed * 0x9E3779B97F4A7C15 + epoch * 0xBF58476D1CE4E5B9 + index + 1) % 2**64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) % 2**64
    return (value ^ (value >> 31)) >> 1
