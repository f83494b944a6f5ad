"""Windows over an image that is larger than the network's input, and their logits as one.

Windows of one size lie over the image at even distances and overlap. Their logits are averaged with
the weights of a Gaussian around each window's centre, of a deviation of an eighth of its side, so
that no seam shows (nnU-Net, Isensee et al. 2021, `sliding_window_prediction.py`; MONAI's
`sliding_window_inference`). Windows go row by row and finished rows are handed on, so that memory
grows with the image's width and not with its area. Validation and prediction both run this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.batches import statistics
from trainers.losses import IGNORE

SIGMA = 1 / 8  # of a window's side
Place = tuple[int, int]
"""(top, left) of a window, in pixels of the image at scale."""
Run = Callable[[Tensor, Sequence[Place]], Tensor]
"""Windows (B, C, h, w) uint8 and their places -> logits (B, C, h, w) fp32."""


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return the (height, width) of an image at a scale, in pixels, at least 1 each."""
    height, width = size
    return max(1, round(height * scale)), max(1, round(width * scale))


def fill(channels: int) -> tuple[int, ...]:
    """Values of a window's pixels outside of its image: the mean of `statistics` in whole numbers,
    so all but the 0 that `models.forward` pads with."""
    return tuple(round(255 * mean) for mean in statistics(channels)[0])


def starts(length: int, window: int, overlap: float) -> list[int]:
    """Return where windows begin along a side: the fewest, at even distances, to the very end.

    Args:
        overlap: least share of a window that the next one has too, in 0..0.9.
    """
    if length <= window:
        return [0]
    step = max(1, int(window * (1 - overlap)))
    gaps = -(-(length - window) // step)
    return [round(index * (length - window) / gaps) for index in range(gaps + 1)]


def cut(pixels: Tensor, place: Place, size: tuple[int, int]) -> Tensor:
    """Return the window (h, w, C) of an image (H, W, C), or the one (h, w) of a mask (H, W).

    What lies below the image or to its right is `fill`, and IGNORE in a mask.
    """
    (top, left), (height, width) = place, size
    found = pixels[top : top + height, left : left + width]
    below, right = height - found.shape[0], width - found.shape[1]
    if not below and not right:
        return found
    pad = (0, right, 0, below)
    if found.ndim == 2:
        return F.pad(found, pad, value=IGNORE)
    channels = zip(found.unbind(2), fill(found.shape[2]), strict=True)
    return torch.stack([F.pad(one, pad, value=value) for one, value in channels], dim=2)


def strips(
    image: Tensor, window: tuple[int, int], run: Run, *, overlap: float, batch: int
) -> Iterator[tuple[int, Tensor]]:
    """Yield (top, logits (C, rows, W) fp32) of an image from above, each row once.

    Args:
        image: (H, W, C) uint8, on the device that blends.
        window: (h, w) of the network's input.
        run: calls the network; what it returns is on the image's device.
        overlap: least share of a window's sides that its neighbours have too.
        batch: windows at once.
    """
    height, width = image.shape[:2]
    tops, lefts = starts(height, window[0], overlap), starts(width, window[1], overlap)
    down, along = (_gaussian(side, image.device) for side in window)
    weight = down[:, None] * along
    norm_down, norm_along = _sums(down, tops, height), _sums(along, lefts, width)
    places = [(top, left) for top in tops for left in lefts]
    first = 0  # row of the image where `strip` begins
    strip: Tensor | None = None  # weighted sums (C, rows, W) of rows that are not finished
    for start in range(0, len(places), batch):
        part = places[start : start + batch]
        cuts = torch.stack([cut(image, place, window) for place in part])
        logits = run(cuts.permute(0, 3, 1, 2), part)
        if strip is None:
            strip = logits.new_zeros(logits.shape[1], 0, width)
        lacking = min(part[-1][0] + window[0], height) - first - strip.shape[1]
        if lacking > 0:
            strip = torch.cat([strip, strip.new_zeros(len(strip), lacking, width)], dim=1)
        for (top, left), one in zip(part, logits, strict=True):
            rows, columns = min(window[0], height - top), min(window[1], width - left)
            strip[:, top - first : top - first + rows, left : left + columns].addcmul_(
                one[:, :rows, :columns], weight[:rows, :columns]
            )
        rest = places[start + batch :][:1]
        until = rest[0][0] if rest else height  # no window is left above this row
        if until > first:
            done, strip = strip[:, : until - first], strip[:, until - first :]
            yield first, done.div_(norm_down[first:until, None]).div_(norm_along)
            first = until


def at_size(
    found: Iterable[tuple[int, Tensor]],
    scaled: tuple[int, int],
    size: tuple[int, int],
    elements: int,
) -> Iterator[tuple[int, Tensor]]:
    """Yield (top, logits (C, rows, W)) at another size, of strips at `scaled` from above.

    The same numbers as F.interpolate(mode="bilinear", align_corners=False) of the whole.

    Args:
        scaled, size: (height, width) before and after.
        elements: logits at once, but at least one row.
    """
    if scaled == size:
        yield from found
        return
    # row y of the result is `share` of row `low` + 1, the rest of row `low`
    y = (torch.arange(size[0], dtype=torch.float64) + 0.5) * scaled[0] / size[0] - 0.5
    y = y.clamp(0, scaled[0] - 1)
    low = y.long().clamp(max=max(0, scaled[0] - 2))
    share = (y - low).float()
    kept: Tensor | None = None  # rows from `first` on
    first = done = 0
    for top, strip in found:
        kept = strip if kept is None else torch.cat([kept, strip], dim=1)
        bottom = top + strip.shape[1]
        ready = size[0] if bottom == scaled[0] else int((low + 1 < bottom).sum())
        most = max(1, elements // (len(kept) * size[1]))
        for start in range(done, ready, most):
            stop = min(start + most, ready)
            rows = low[start:stop].to(kept.device) - first
            by = share[start:stop, None].to(kept.device)
            after = (rows + 1).clamp(max=kept.shape[1] - 1)
            mixed = torch.lerp(kept.index_select(1, rows), kept.index_select(1, after), by)
            wide = F.interpolate(
                mixed[None], (stop - start, size[1]), mode="bilinear", align_corners=False
            )
            yield start, wide[0]
        done = ready
        if done < size[0]:
            used = min(int(low[done]) - first, kept.shape[1])
            kept, first = kept[:, used:], first + used


def _gaussian(side: int, device: torch.device) -> Tensor:
    """(side,) weights, 1 in the middle."""
    x = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    return torch.exp(-0.5 * (x / (SIGMA * side)) ** 2).float().to(device)


def _sums(weights: Tensor, begins: Sequence[int], length: int) -> Tensor:
    """(length,): the sum of the weights that each pixel along a side gets of all windows."""
    total = weights.new_zeros(length)
    for begin in begins:
        part = total[begin : begin + len(weights)]
        part += weights[: len(part)]
    return total
