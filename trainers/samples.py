"""Where a segmentation run's samples come from: device memory, mapped files, or a decoder.

All three give the same pixels in the same order; which one it is, is a matter of room.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from spaces.config import TrainConfig
from trainers.batches import Reader
from trainers.cache import Arrays, decode, load_arrays
from trainers.data import SegmentationData
from trainers.devices import sharers
from trainers.memory import free_memory, is_out_of_memory

DEVICE_SHARE = 0.25  # of a GPU's free memory, that a split may fill


class Batch(NamedTuple):
    """Samples at network size, on the device.

    `originals` are B masks (h, w) uint8 at the images' own sizes; none of the train split.
    """

    images: Tensor
    """(B, 3, H, W) uint8."""
    masks: Tensor
    """(B, H, W) uint8."""
    originals: list[Tensor]


class Samples(Protocol):
    """One split at one resolution."""

    order: Sequence[int]
    """All indices, those of one original size together where the sizes are known."""

    def batches(self, batches: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """Yield the samples of each list of indices."""
        ...


def open_samples(
    data: SegmentationData,
    split: str,
    size: tuple[int, int],
    config: TrainConfig,
    device: torch.device,
    stay: bool = True,
) -> Samples:
    """Return a split at (height, width): in GPU memory where it fits well, from the cache, or
    decoded anew in each epoch (which the cache says in the log).

    Args:
        stay: whether it may stay in GPU memory.
    """
    arrays = load_arrays(data, split, size)
    if arrays is None:
        order = range(len(data.split(split)))
        return Loaded(_Decoded(data, split, size), order, config, device)
    if device.type == "cpu" or (stay and fits(arrays.nbytes, device)):
        try:
            return Resident(arrays, device)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        free_memory()
    return Loaded(_Mapped(arrays), _by_size(arrays), config, device)


def fits(needed: int, device: torch.device) -> bool:
    """Tell whether that many bytes leave a GPU's memory to the network and to other workers."""
    free, total = torch.cuda.mem_get_info(device)
    return needed < DEVICE_SHARE * min(free, total / sharers())


class Resident:
    """A split as tensors: in GPU memory, or on a CPU the mapped files themselves."""

    def __init__(self, arrays: Arrays, device: torch.device) -> None:
        self.arrays = arrays  # keeps the files from being evicted
        self.device = device
        self.order: Sequence[int] = _by_size(arrays)
        images, masks = arrays.chosen()
        self.images = torch.from_numpy(images).to(device)  # (N, H, W, 3)
        self.masks = torch.from_numpy(masks).to(device)
        self.originals = [torch.from_numpy(mask).to(device) for mask in arrays.originals]

    def batches(self, batches: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """Yield the samples of each list of indices; the device is told all of them at once."""
        rows = torch.tensor([index for batch in batches for index in batch])
        rows = rows.to(self.device, non_blocking=True)
        for chosen, batch in zip(rows.split([len(b) for b in batches]), batches, strict=True):
            images = self.images.index_select(0, chosen).permute(0, 3, 1, 2)
            originals = [self.originals[index] for index in batch] if self.originals else []
            yield Batch(images, self.masks.index_select(0, chosen), originals)


class Loaded:
    """A split that loader processes read and pinned memory carries to the device."""

    def __init__(
        self,
        dataset: Dataset[_Sample],
        order: Sequence[int],
        config: TrainConfig,
        device: torch.device,
    ) -> None:
        self.order, self.device = order, device
        self._reader = Reader(dataset, config, device, _together)

    def batches(self, batches: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """Yield the samples of each list of indices, read ahead."""
        for read in self._reader.read(batches):
            images, masks = (part.to(self.device, non_blocking=True) for part in read[:2])
            originals = [mask.to(self.device, non_blocking=True) for mask in read[2]]
            yield Batch(images.permute(0, 3, 1, 2), masks, originals)


_Sample = tuple[np.ndarray, np.ndarray, np.ndarray | None]


class _Mapped(Dataset[_Sample]):
    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays

    def __getitem__(self, index: int) -> _Sample:
        arrays = self.arrays
        original = arrays.originals[index] if arrays.originals else None
        row = arrays.rows[index]
        return arrays.images[row], arrays.masks[row], original


class _Decoded(Dataset[_Sample]):
    def __init__(self, data: SegmentationData, split: str, size: tuple[int, int]) -> None:
        self.data, self.split, self.size = data, split, size

    def __getitem__(self, index: int) -> _Sample:
        sample = self.data.split(self.split)[index]
        image, mask, original = decode(sample, self.data.spec, self.size)
        return image, mask, None if self.split == "train" else original


def _together(samples: list[_Sample]) -> tuple[Tensor, Tensor, list[Tensor]]:
    images, masks, originals = zip(*samples, strict=True)
    kept = [torch.from_numpy(np.array(mask)) for mask in originals if mask is not None]
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(masks)), kept


def _by_size(arrays: Arrays) -> list[int]:
    """Indices, images of one original size together, else in the order of the split."""
    if not arrays.originals:
        return list(range(len(arrays)))
    return sorted(range(len(arrays)), key=lambda index: arrays.originals[index].shape)
