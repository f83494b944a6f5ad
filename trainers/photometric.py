"""Photometric augmentation, of both tasks: colours, blur, noise and JPEG, where no pixel moves.

What happens to a sample is drawn on the host from uniform columns, one number a sample. Masks'
images are changed a batch at a time on the device that trains, without a wait for it; a page of
text is changed alone, on the host that cuts it, by OpenCV.

Ranges and distributions are those of torchvision.transforms.v2 (ColorJitter, RandomGrayscale,
GaussianBlur, GaussianNoise, JPEG), with two differences, both for one pass over the pixels: colours
are clipped once, at the end, and not after each change; hue turns about the grey axis (in YIQ) and
not in HSV. Why it is not torchvision's own code: docs/decisions/0044-jpeg-on-the-device.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trainers.draws import Floats, Uniform

BLUR_TAPS = 5  # px, of the Gaussian kernel

_LUMA = np.array([0.2989, 0.587, 0.114])  # ITU-R BT.601, as torchvision's rgb_to_grayscale
_YIQ = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263],
                 [0.211456, -0.522591, 0.311135]])  # fmt: skip


@dataclass(frozen=True)
class Ranges:
    """What one strength may do; 0 switches a change off."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """In turns."""
    grey: float = 0.0
    """Probability."""
    blur: float = 0.0
    """Probability."""
    noise: float = 0.0
    """Probability."""
    jpeg: float = 0.0
    """Probability."""
    sigma: tuple[float, float] = (0.1, 1.5)  # px, of the blur
    levels: tuple[float, float] = (1.0, 10.0)  # of 255, deviation of the noise
    quality: tuple[float, float] = (60.0, 95.0)  # of the JPEG


PHOTOMETRIC = {
    "none": Ranges(),
    "light": Ranges(0.2, 0.2),
    "medium": Ranges(0.3, 0.3, 0.3, blur=0.1, noise=0.1, jpeg=0.1),
    "strong": Ranges(0.4, 0.4, 0.4, 0.05, 0.1, 0.2, 0.2, 0.2, levels=(1.0, 20.0), quality=(30, 95)),
}


def of_channels(ranges: Ranges, channels: int) -> Ranges:
    """What a strength may do to images of so many channels: other than 3 are no colours."""
    if channels == 3:
        return ranges
    return replace(ranges, saturation=0.0, hue=0.0, grey=0.0, jpeg=0.0)


@dataclass(frozen=True)
class Changes:
    """What happens to the colours of each of N samples, drawn on the host.

    Attributes:
        colour, offset: (N, 3, 3); a colour x becomes `colour @ x + offset @ mean colour`.
        sigma: of the blur in pixels, 0 for a sample that stays sharp.
        levels: deviation of the noise in grey levels, 0 for none.
        seeds: of each sample's noise.
        quality: of the JPEG, 0 for none.
    """

    colour: Floats
    offset: Floats
    sigma: Floats
    levels: Floats
    seeds: NDArray[np.uint64]
    quality: Floats

    @property
    def recolours(self) -> bool:
        """Tell whether any colour changes by more than blur, noise and JPEG."""
        return bool(np.abs(self.colour - np.eye(3)).max() > 1e-9 or self.offset.any())

    def part(self, start: int, stop: int) -> Changes:
        """Those of samples start..stop."""
        return Changes(*(getattr(self, one.name)[start:stop] for one in fields(self)))


def draw_changes(drawn: Uniform, ranges: Ranges) -> Changes:
    """Draw what happens to each sample of these columns."""
    colour, offset = _colours(drawn, ranges)
    blurred, sigma = drawn.next() < ranges.blur, drawn.between(*ranges.sigma)
    noisy, levels = drawn.next() < ranges.noise, drawn.between(*ranges.levels)
    saved, quality = drawn.next() < ranges.jpeg, drawn.between(*ranges.quality)
    return Changes(
        colour,
        offset,
        np.where(blurred, sigma, 0.0),
        np.where(noisy, levels, 0.0),
        drawn.bits(),
        np.where(saved, quality.round(), 0.0),
    )


def change(pixels: Tensor, changes: Changes) -> Tensor:
    """Change the images of a batch on their device, without a wait for it.

    Args:
        pixels: (B, C, H, W) fp32 in 0..255, contiguous; changes: of these B samples, drawn from
            ranges `of_channels`.

    Returns:
        The same shape and range.
    """
    if changes.recolours:
        pixels = _recolour(pixels, changes)
    for values, changed in (
        (changes.sigma, _blur),
        (changes.levels, _add_noise),
        (changes.quality, _compress),
    ):
        if values.any():
            rows = np.flatnonzero(values)
            at = _put(rows, pixels)
            found = changed(pixels.index_select(0, at), changes, rows)
            pixels = pixels.index_copy(0, at, found)
    return pixels


def change_page(page: NDArray[np.uint8], changes: Changes) -> NDArray[np.uint8]:
    """Change one image on the host: `change` by OpenCV, (H, W, C) uint8.

    Args:
        changes: of one sample, drawn from ranges `of_channels`.
    """
    [colour], [offset] = changes.colour, changes.offset
    [sigma], [levels], [quality] = changes.sigma, changes.levels, changes.quality
    if changes.recolours and page.shape[2] != 3:
        factor, shift = colour[0, 0], offset[0].sum() * page.mean()
        page = _bytes(np.clip(np.rint(page * np.float32(factor) + np.float32(shift)), 0, 255))
    elif changes.recolours:
        shift = offset @ np.array(cv2.mean(page)[:3])
        page = _bytes(cv2.transform(page, np.column_stack([colour, shift])))
    if sigma:
        taps = (BLUR_TAPS, BLUR_TAPS)
        page = four_by_four(page, lambda part: cv2.GaussianBlur(part, taps, sigma))
    if levels:
        noise = _noise(page.shape, changes.seeds[0], torch.device("cpu")).numpy()
        page = _bytes(np.clip(np.rint(page + noise * np.float32(levels)), 0, 255))
    if quality:
        blue_first = cv2.cvtColor(page, cv2.COLOR_RGB2BGR)
        _, saved = cv2.imencode(".jpg", blue_first, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
        page = _bytes(cv2.cvtColor(_bytes(cv2.imdecode(saved, 1)), cv2.COLOR_BGR2RGB))
    return page


def four_by_four(
    image: NDArray[np.uint8], of: Callable[[NDArray[np.uint8]], Any]
) -> NDArray[np.uint8]:
    """What OpenCV makes of an image (H, W, C): it takes four channels at most, and drops a single
    one's axis."""
    parts = [of(image[..., start : start + 4]) for start in range(0, image.shape[2], 4)]
    parts = [part.reshape(*part.shape[:2], -1) for part in parts]
    return np.asarray(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2), np.uint8)


def _bytes(page: Any) -> NDArray[np.uint8]:
    return np.asarray(page, np.uint8)


# ---------------------------------------------------------------- drawing, on the host


def _colours(drawn: Uniform, ranges: Ranges) -> tuple[Floats, Floats]:
    """Jitter in random order, then grey: colour and offset, (N, 3, 3) each, see Changes."""
    count = len(drawn.state)
    colour = np.tile(np.eye(3), (count, 1, 1))
    offset = np.zeros((count, 3, 3))
    grey = np.ones((3, 1)) * _LUMA  # every channel becomes the luma
    changes = [
        drawn.between(1 - width, 1 + width)
        for width in (ranges.brightness, ranges.contrast, ranges.saturation)
    ]
    changes.append(drawn.between(-ranges.hue, ranges.hue))
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
    rows = drawn.next() < ranges.grey
    colour[rows], offset[rows] = grey @ colour[rows], grey @ offset[rows]
    return colour, offset


def _hues(turns: Floats) -> Floats:
    """(N, 3, 3): a rotation of I and Q by that many turns."""
    cos, sin = np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)
    spin = np.tile(np.eye(3), (len(turns), 1, 1))
    spin[:, 1, 1], spin[:, 1, 2], spin[:, 2, 1], spin[:, 2, 2] = cos, sin, -sin, cos
    return np.linalg.inv(_YIQ) @ spin @ _YIQ


# ---------------------------------------------------------------- pixels, on the device


def _put(values: NDArray[np.generic], beside: Tensor) -> Tensor:
    """Numbers of the host on the device of `beside`: fp32, or int64 where they are whole."""
    kept = values.astype(np.float32) if values.dtype.kind == "f" else values
    return torch.from_numpy(kept).to(beside.device, non_blocking=True)


def _recolour(pixels: Tensor, changes: Changes) -> Tensor:
    """(B, C, H, W) in 0..255, colours changed and clipped.

    Of other than 3 channels all have one factor, and a share of the mean of all.
    """
    flat = pixels.flatten(2)  # (B, C, H*W)
    if flat.shape[1] != 3:
        factor = _put(changes.colour[:, :1, :1], pixels)
        share = _put(changes.offset[:, :1].sum(axis=2, keepdims=True), pixels)
        shift = share * flat.mean(dim=(1, 2), keepdim=True)
        return (flat * factor + shift).clamp_(0, 255).view(pixels.shape)
    shift = _put(changes.offset, pixels) @ flat.mean(dim=2, keepdim=True)
    changed = torch.baddbmm(shift, _put(changes.colour, pixels), flat)
    return changed.clamp_(0, 255).view(pixels.shape)


def _blur(pixels: Tensor, changes: Changes, rows: NDArray[np.intp]) -> Tensor:
    """Pixels are reflected at the border."""
    count, channels, height, width = pixels.shape
    kernels = _put(_kernels(changes.sigma[rows]), pixels).repeat_interleave(channels, dim=0)
    groups = count * channels
    pad = BLUR_TAPS // 2
    flat = F.pad(pixels.view(1, groups, height, width), (pad, pad, pad, pad), mode="reflect")
    flat = F.conv2d(flat, kernels.view(groups, 1, 1, BLUR_TAPS), groups=groups)
    flat = F.conv2d(flat, kernels.view(groups, 1, BLUR_TAPS, 1), groups=groups)
    return flat.view(pixels.shape)


def _kernels(sigma: Floats) -> Floats:
    """(N, BLUR_TAPS) Gaussian weights that sum to 1."""
    x = np.arange(BLUR_TAPS) - BLUR_TAPS // 2
    weights = np.exp(-0.5 * (x / sigma[:, None]) ** 2)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _add_noise(pixels: Tensor, changes: Changes, rows: NDArray[np.intp]) -> Tensor:
    """Gaussian, of each pixel and channel; a sample has a generator of its own."""
    own = [_noise(pixels.shape[1:], seed, pixels.device) for seed in changes.seeds[rows]]
    levels = _put(changes.levels[rows], pixels).view(-1, 1, 1, 1)
    return (pixels + torch.stack(own) * levels).clamp_(0, 255)


def _noise(shape: Sequence[int], seed: np.uint64, device: torch.device) -> Tensor:
    """Standard normal; equal seeds give equal numbers on one kind of device."""
    generator = torch.Generator(device).manual_seed(int(seed) >> 1)
    return torch.randn(tuple(shape), generator=generator, device=device)


def _compress(pixels: Tensor, changes: Changes, rows: NDArray[np.intp]) -> Tensor:
    """What JPEG loses (ITU T.81 with 4:2:0 chroma, JFIF colours); its entropy coding loses nothing.

    On the device, as encoder and decoder of a library want each image on the host.
    """
    height, width = pixels.shape[2:]
    planes = F.pad(pixels.round(), (0, -width % 16, 0, -height % 16), mode="replicate")
    to, back = (_put(matrix, pixels) for matrix in _jfif())
    planes = torch.tensordot(planes, to, ([1], [1])).movedim(3, 1).round()
    luma, chroma = planes[:, :1] - 128, F.avg_pool2d(planes[:, 1:], 2).round()
    tables = _quantisers(changes.quality[rows])
    luma = _through_blocks(luma, _put(tables[:, 0], pixels)) + 128
    chroma = _through_blocks(chroma, _put(tables[:, 1], pixels))
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False).round()
    planes = torch.cat([luma, chroma], dim=1)
    decoded = torch.tensordot(planes, back, ([1], [1])).movedim(3, 1)
    return decoded[..., :height, :width].round().clamp_(0, 255)


def _through_blocks(planes: Tensor, tables: Tensor) -> Tensor:
    """Quantise the cosine coefficients of blocks of 8 x 8 pixels, and go back.

    Args:
        planes: (B, C, H, W), sides multiples of 8; tables: (B, 8, 8).
    """
    count, channels, height, width = planes.shape
    cosines = _put(_cosines(), planes)
    blocks = planes.view(count, channels, height // 8, 8, width // 8, 8).movedim(4, 3)
    steps = tables.view(count, 1, 1, 1, 8, 8)
    kept = (cosines @ blocks @ cosines.T / steps).round() * steps
    decoded = (cosines.T @ kept @ cosines).round().clamp(-128, 127)
    return decoded.movedim(3, 4).reshape(planes.shape)


@lru_cache(1)
def _cosines() -> Floats:
    """(8, 8), the orthonormal DCT-II."""
    frequency, place = np.mgrid[:8, :8]
    matrix = np.cos((2 * place + 1) * frequency * np.pi / 16) / 2
    matrix[0] /= np.sqrt(2)
    return matrix


@lru_cache(1)
def _jfif() -> tuple[Floats, Floats]:
    """RGB -> Y, Cb, Cr around 0, and back."""
    to = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    return to, np.linalg.inv(to)


def _quantisers(quality: Floats) -> Floats:
    """(N, 2, 8, 8) of luma and chroma: the tables of T.81, annex K, scaled as libjpeg does."""
    scale = np.where(quality < 50, 5000 // np.maximum(quality, 1), 200 - 2 * quality)
    tables = np.stack([_LUMA_TABLE, _CHROMA_TABLE]) * scale[:, None, None, None]
    return np.clip((tables + 50) // 100, 1, 255).astype(np.float64)


_LUMA_TABLE = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip
_CHROMA_TABLE = np.full((8, 8), 99)
_CHROMA_TABLE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
