"""Training augmentation in three strengths, a batch at a time on the device that trains.

What happens to a sample is a function of (seed, epoch, index) alone, so that a resumed run sees
what the uninterrupted one would have seen, in whatever batches and however its pixels are loaded.
All numbers are drawn on the host, an epoch at once; a batch then costs one sampling grid and one
3 x 3 colour matrix, and no wait for the device.

The ranges and their distributions are those of torchvision.transforms.v2 (RandomHorizontalFlip,
RandomRotation, RandomResizedCrop, ColorJitter, RandomGrayscale, GaussianBlur), with three
differences, all for one pass over the pixels: flip, rotation and crop are one affine map with one
interpolation; colours are clipped once, at the end, and not after each change; hue turns about the
grey axis (in YIQ) and not in HSV.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trainers.losses import IGNORE

Floats = NDArray[np.float64]

BLUR_TAPS = 5  # px, of the Gaussian kernel
CROP_TRIES = 10  # as torchvision's RandomResizedCrop; then the whole image

_LUMA = np.array([0.2989, 0.587, 0.114])  # ITU-R BT.601, as torchvision's rgb_to_grayscale
_YIQ = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263],
                 [0.211456, -0.522591, 0.311135]])  # fmt: skip


@dataclass(frozen=True)
class Strength:
    """Ranges of one strength; 0 switches a change off."""

    smallest_crop: float = 1.0
    """Least share of the image's area that is cut out and scaled back."""
    degrees: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """In turns."""
    grey: float = 0.0
    """Probability."""
    blur: float = 0.0
    """Probability."""
    sigma: tuple[float, float] = (0.1, 1.5)  # px, of the blur

    @property
    def warps(self) -> bool:
        """Tell whether pixels move by more than a flip."""
        return self.smallest_crop < 1 or self.degrees > 0


STRENGTHS = {
    "light": Strength(brightness=0.2, contrast=0.2),
    "medium": Strength(0.5, brightness=0.3, contrast=0.3, saturation=0.3),
    "strong": Strength(
        0.25, 10.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.05, grey=0.1, blur=0.2
    ),
}


@dataclass(frozen=True)
class Plan:
    """What happens to each of N samples, drawn on the host.

    Attributes:
        strength: None changes nothing.
        flip: (N,) bool.
        warp: (N, 2, 3) from output to input coordinates in -1..1, flip included; None: no warp.
        colour, offset: (N, 3, 3); a colour x becomes `colour @ x + offset @ mean colour`.
        kernels: (N, BLUR_TAPS), of those that are blurred; blurred: which these are, on the host.
    """

    strength: Strength | None
    flip: Tensor
    warp: Tensor | None
    colour: Tensor
    offset: Tensor
    kernels: Tensor
    blurred: NDArray[np.bool_] = field(repr=False)

    def part(self, start: int, stop: int, device: torch.device) -> Plan:
        """The plan of samples start..stop, on the device."""

        def put(values: Tensor) -> Tensor:
            return values[start:stop].to(device, non_blocking=True)

        return Plan(
            self.strength,
            put(self.flip),
            None if self.warp is None else put(self.warp),
            put(self.colour),
            put(self.offset),
            put(self.kernels),
            self.blurred[start:stop],
        )


def plan(
    strength: str,
    size: tuple[int, int],
    seed: int,
    epoch: int,
    indices: Sequence[int],
    channels: int = 3,
) -> Plan:
    """Draw what happens to samples in an epoch.

    Args:
        strength: none, light (flip, brightness, contrast), medium (+ saturation, a crop of 0.5-1
            of the area), strong (+ rotation of up to 10 degrees, crop of 0.25-1, hue, blur, grey).
        size: (height, width) of the network input, kept.
        indices: of the samples in their split.
        channels: of images; other than 3 are no colours, and get brightness and contrast alone.
    """
    drawn = Uniform(seed, epoch, indices)
    count = len(indices)
    chosen = STRENGTHS.get(strength)
    assert chosen is not None or strength == "none", strength
    found = chosen or Strength()
    if channels != 3:
        found = replace(found, saturation=0.0, hue=0.0, grey=0.0)
    flip = drawn.next() < (0.5 if chosen else 0.0)
    angle = np.radians(drawn.between(-found.degrees, found.degrees))
    warp = _warps(flip, angle, _crops(drawn, found.smallest_crop, size), size)
    colour, offset = _colours(drawn, found, count)
    blurred = drawn.next() < found.blur
    kernels = _kernels(drawn.between(*found.sigma))

    return Plan(
        chosen,
        torch.from_numpy(flip),
        _tensor(warp) if found.warps else None,
        _tensor(colour),
        _tensor(offset),
        _tensor(kernels),
        blurred,
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
    if plan.strength is not None:
        pixels = _recolour(pixels, plan)
    if plan.blurred.any():
        pixels = _blur(pixels, plan)
    return pixels, masks.long()


# ---------------------------------------------------------------- drawing, on the host


class Uniform:
    """Columns of uniform numbers in 0..1, one a sample (splitmix64, Steele et al. 2014).

    Args:
        indices: of the samples; equal (seed, epoch, index) give equal numbers.
    """

    def __init__(self, seed: int, epoch: int, indices: Sequence[int]) -> None:
        row = np.asarray(indices, np.uint64)
        start = np.uint64((seed * _GOLDEN + epoch * 0xBF58476D1CE4E5B9 + 1) % 2**64)
        self.state = _mixed(_mixed(np.full_like(row, start)) + row)

    def next(self) -> Floats:
        """The next column, (N,)."""
        self.state = self.state + np.uint64(_GOLDEN)  # wraps around, as it should
        return (_mixed(self.state) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def between(self, low: float, high: float) -> Floats:
        """The next column, uniform in low..high."""
        return low + (high - low) * self.next()


_GOLDEN = 0x9E3779B97F4A7C15


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


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


def _colours(drawn: Uniform, strength: Strength, count: int) -> tuple[Floats, Floats]:
    """Jitter in random order, then grey: colour and offset, (N, 3, 3) each, see Plan."""
    colour = np.tile(np.eye(3), (count, 1, 1))
    offset = np.zeros((count, 3, 3))
    grey = np.ones((3, 1)) * _LUMA  # every channel becomes the luma
    changes = [
        drawn.between(1 - width, 1 + width)
        for width in (strength.brightness, strength.contrast, strength.saturation)
    ]
    changes.append(drawn.between(-strength.hue, strength.hue))
    order = np.stack([drawn.next() for _ in changes], axis=1).argsort(axis=1)
    for position in range(len(changes)):
        now = order[:, position]
        for kind, factor in enumerate(changes):
            rows = now == kind
            by = factor[rows, None, None]
            if kind == 1:  # towards the mean luma, which is linear in the mean colour
                mean = grey @ (colour[rows] + offset[rows])
                colour[rows] *= by
                offset[rows] = by * offset[rows] + (1 - by) * mean
                continue
            if kind == 0:
                step = by * np.eye(3)
            elif kind == 2:
                step = by * np.eye(3) + (1 - by) * grey
            else:
                step = _hues(factor[rows])
            colour[rows], offset[rows] = step @ colour[rows], step @ offset[rows]
    rows = drawn.next() < strength.grey
    colour[rows], offset[rows] = grey @ colour[rows], grey @ offset[rows]
    return colour, offset


def _hues(turns: Floats) -> Floats:
    """(N, 3, 3): a rotation of I and Q by that many turns."""
    cos, sin = np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)
    spin = np.tile(np.eye(3), (len(turns), 1, 1))
    spin[:, 1, 1], spin[:, 1, 2], spin[:, 2, 1], spin[:, 2, 2] = cos, sin, -sin, cos
    return np.linalg.inv(_YIQ) @ spin @ _YIQ


def _tensor(values: Floats) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _kernels(sigma: Floats) -> Floats:
    """(N, BLUR_TAPS) Gaussian weights that sum to 1."""
    x = np.arange(BLUR_TAPS) - BLUR_TAPS // 2
    weights = np.exp(-0.5 * (x / sigma[:, None]) ** 2)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


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


def _recolour(pixels: Tensor, plan: Plan) -> Tensor:
    """(B, C, H, W) in 0..255, colours changed and clipped."""
    flat = pixels.flatten(2)  # (B, C, H*W)
    if (
        flat.shape[1] != 3
    ):  # of brightness and contrast: `colour` is a number, as is `offset` of grey
        factor = plan.colour[:, :1, :1]
        shift = plan.offset[:, :1].sum(dim=2, keepdim=True) * flat.mean(dim=(1, 2), keepdim=True)
        return (flat * factor + shift).clamp_(0, 255).view(pixels.shape)
    shift = plan.offset @ flat.mean(dim=2, keepdim=True)
    return torch.baddbmm(shift, plan.colour, flat).clamp_(0, 255).view(pixels.shape)


def _blur(pixels: Tensor, plan: Plan) -> Tensor:
    """Blur the samples that are to be; pixels are reflected at the border."""
    rows = torch.from_numpy(np.flatnonzero(plan.blurred)).to(pixels.device, non_blocking=True)
    chosen = pixels.index_select(0, rows)
    count, channels, height, width = chosen.shape
    kernels = plan.kernels.index_select(0, rows).repeat_interleave(channels, dim=0)
    groups = count * channels
    pad = BLUR_TAPS // 2
    flat = F.pad(chosen.view(1, groups, height, width), (pad, pad, pad, pad), mode="reflect")
    flat = F.conv2d(flat, kernels.view(groups, 1, 1, BLUR_TAPS), groups=groups)
    flat = F.conv2d(flat, kernels.view(groups, 1, BLUR_TAPS, 1), groups=groups)
    return pixels.index_copy(0, rows, flat.view(count, channels, height, width))
