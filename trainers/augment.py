"""Training augmentation of images with masks, a batch at a time on the device that trains.

What happens to a sample is a function of (seed, epoch, index) alone, so that a resumed run sees
what the uninterrupted one would have seen, in whatever batches and however its pixels are loaded.
All numbers are drawn on the host, an epoch at once; a batch then costs one sampling grid and one
3 x 3 colour matrix, and no wait for the device.

The ranges of flip, rotation and crop and their distributions are those of torchvision.transforms.v2
(RandomHorizontalFlip, RandomRotation, RandomResizedCrop), but the three are one affine map with one
interpolation. What changes no more than colours: photometric.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trainers.draws import Floats, Uniform
from trainers.losses import IGNORE
from trainers.photometric import PHOTOMETRIC, Changes, Ranges, change, draw_changes, of_channels

CROP_TRIES = 10  # as torchvision's RandomResizedCrop; then the whole image


@dataclass(frozen=True)
class Strength:
    """Ranges of one strength; 0 switches a change off."""

    smallest_crop: float = 1.0
    """Least share of the image's area that is cut out and scaled back."""
    degrees: float = 0.0
    photometric: Ranges = field(default_factory=Ranges)
    """Where `data.photometric` says nothing."""

    @property
    def warps(self) -> bool:
        """Tell whether pixels move by more than a flip."""
        return self.smallest_crop < 1 or self.degrees > 0


STRENGTHS = {
    "light": Strength(photometric=Ranges(0.2, 0.2)),
    "medium": Strength(0.5, photometric=Ranges(0.3, 0.3, 0.3)),
    "strong": Strength(0.25, 10.0, Ranges(0.4, 0.4, 0.4, hue=0.05, grey=0.1, blur=0.2)),
}


@dataclass(frozen=True)
class Plan:
    """What happens to each of N samples, drawn on the host.

    Attributes:
        strength: None moves no pixel.
        flip: (N,) bool.
        warp: (N, 2, 3) from output to input coordinates in -1..1, flip included; None: no warp.
        changes: of their colours.
    """

    strength: Strength | None
    flip: Tensor
    warp: Tensor | None
    changes: Changes

    def part(self, start: int, stop: int, device: torch.device) -> Plan:
        """The plan of samples start..stop, on the device."""

        def put(values: Tensor) -> Tensor:
            return values[start:stop].to(device, non_blocking=True)

        return Plan(
            self.strength,
            put(self.flip),
            None if self.warp is None else put(self.warp),
            self.changes.part(start, stop),
        )


def plan(
    strength: str,
    photometric: str | None,
    size: tuple[int, int],
    seed: int,
    epoch: int,
    indices: Sequence[int],
    channels: int = 3,
) -> Plan:
    """Draw what happens to samples in an epoch.

    Args:
        strength: none, light (flip), medium (+ a crop of 0.5-1 of the area), strong (+ rotation of
            up to 10 degrees, crop of 0.25-1).
        photometric: a key of PHOTOMETRIC; None: what `strength` has.
        size: (height, width) of the network input, kept.
        indices: of the samples in their split.
        channels: of images; as `of_channels` says.
    """
    drawn = Uniform(seed, epoch, indices)
    chosen = STRENGTHS.get(strength)
    assert chosen is not None or strength == "none", strength
    found = chosen or Strength()
    flip = drawn.next() < (0.5 if chosen else 0.0)
    angle = np.radians(drawn.between(-found.degrees, found.degrees))
    warp = _warps(flip, angle, _crops(drawn, found.smallest_crop, size), size)
    ranges = found.photometric if photometric is None else PHOTOMETRIC[photometric]
    return Plan(
        chosen,
        torch.from_numpy(flip),
        torch.from_numpy(warp.astype(np.float32)) if found.warps else None,
        draw_changes(drawn, of_channels(ranges, channels)),
    )


def augment(images: Tensor, masks: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
    """Return augmented images, still to be normalised, and the target.

    New pixels at the border are black in the image and IGNORE in the mask.

    Args:
        images: (B, C, H, W) uint8; masks: (B, H, W) uint8.
        plan: of these B samples.

    Returns:
        (B, C, H, W) fp32 in 0..255; (B, H, W) int64.
    """
    pixels = images.float().contiguous()  # planes: colours are a matrix product over them
    if plan.strength is not None and plan.warp is not None:
        turns = plan.strength.degrees > 0
        pixels, masks = _warp(pixels, masks, plan.warp, turns)
    elif plan.strength is not None:
        flip = plan.flip.view(-1, 1, 1)
        pixels = torch.where(flip.unsqueeze(1), pixels.flip(3), pixels)
        masks = torch.where(flip, masks.flip(2), masks)
    return change(pixels, plan.changes), masks.long()


# ---------------------------------------------------------------- drawing, on the host


def _crops(drawn: Uniform, smallest: float, size: tuple[int, int]) -> Floats:
    """(N, 4): width and height as shares of the image, and the centre in -1..1 along x and y.

    Area uniform in smallest..1, aspect ratio log-uniform within a tenth of the image's own.
    """
    shares = np.ones((len(drawn.state), 2))
    found = np.zeros(len(drawn.state), bool)
    for _ in range(CROP_TRIES):
        area = drawn.between(smallest, 1.0)
        ratio = np.exp(drawn.between(math.log(0.9), math.log(1.1)))
        tried = np.stack([np.sqrt(area * ratio), np.sqrt(area / ratio)], axis=1)
        fits = ~found & (tried <= 1).all(axis=1) & (smallest < 1)
        shares[fits] = tried[fits]
        found |= fits
    place = np.stack([drawn.between(-1, 1), drawn.between(-1, 1)], axis=1)
    return np.concatenate([shares, place * (1 - shares)], axis=1)


def _warps(flip: NDArray[np.bool_], angle: Floats, crop: Floats, size: tuple[int, int]) -> Floats:
    """(N, 2, 3): output coordinates -> those in the crop -> before rotation -> before the flip."""
    height, width = size
    cos, sin = np.cos(angle), np.sin(angle)
    aspect = height / width
    turn = np.stack(
        [np.stack([cos, -sin * aspect], -1), np.stack([sin / aspect, cos], -1)], -2
    )  # (N, 2, 2): a rotation of pixels, written in coordinates of -1..1
    turn[:, 0] *= np.where(flip, -1.0, 1.0)[:, None]
    scale, centre = crop[:, None, :2], crop[:, 2:, None]
    return np.concatenate([turn * scale, turn @ centre], axis=2)


# ---------------------------------------------------------------- pixels, on the device


def _warp(pixels: Tensor, masks: Tensor, warp: Tensor, turns: bool) -> tuple[Tensor, Tensor]:
    """Sample pixels bilinearly and masks at the nearest place, (B, C, H, W) and (B, H, W)."""
    grid = _grid(warp, *masks.shape[1:])
    pixels = F.grid_sample(pixels, grid, "bilinear", "border", align_corners=False)
    labels = F.grid_sample(
        masks.unsqueeze(1).float(), grid, "nearest", "border", align_corners=False
    )
    masks = labels.squeeze(1).to(masks.dtype)
    if turns:  # else a crop lies inside
        inside = (grid.abs() <= 1).all(dim=3)
        pixels, masks = pixels * inside.unsqueeze(1), torch.where(inside, masks, IGNORE)
    return pixels, masks


def _grid(warp: Tensor, height: int, width: int) -> Tensor:
    """(B, H, W, 2) input coordinates in -1..1, edge to edge, of every output pixel."""
    x = (torch.arange(width, device=warp.device) * 2 + 1) / width - 1
    y = (torch.arange(height, device=warp.device) * 2 + 1) / height - 1
    along_x = x.view(1, 1, -1, 1) * warp[:, None, None, :, 0]
    along_y = y.view(1, -1, 1, 1) * warp[:, None, None, :, 1] + warp[:, None, None, :, 2]
    return along_x + along_y
