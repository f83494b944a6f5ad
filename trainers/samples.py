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

from spaces.config import DataConfig, TrainConfig
from trainers.batches import Reader
from trainers.cache import Arrays, Sized, decode, load_arrays
from trainers.crops import Crop, Cropper
from trainers.data import SegmentationData
from trainers.devices import sharers
from trainers.memory import free_memory, is_out_of_memory
from trainers.windows import cut

DEVICE_SHARE = 0.25  # of a GPU's free memory, that a split may fill


class Batch(NamedTuple):
    """Samples at network size, or one whole image at its scale, on the device.

    `originals` are B masks (h, w) uint8 at the images' own sizes; none of the train split.
    """

    images: Tensor
    """(B, 3, H, W) uint8."""
    masks: Tensor
    """(B, H, W) uint8."""
    originals: list[Tensor]


Key = int | Crop
"""A sample, or a window of it."""


class Samples(Protocol):
    """One split at one resolution, or at one scale."""

    order: Sequence[int]
    """All indices, those of one original size together where the sizes are known."""

    def batches(self, batches: Sequence[Sequence[Key]]) -> Iterator[Batch]:
        """Yield the samples of each list; at a scale crops, or one index at a time."""
        ...


def open_samples(
    data: SegmentationData,
    split: str,
    images: DataConfig,
    config: TrainConfig,
    device: torch.device,
    stay: bool = True,
) -> Samples:
    """Return a split at its resolution or scale: in GPU memory where it fits well, from the cache,
    or decoded anew in each epoch (which the cache says in the log).

    Args:
        images: says at which size.
        stay: whether it may stay in GPU memory.
    """
    arrays = load_arrays(data, split, images.sized)
    cropper = Cropper(images.size, images.crops) if images.mode == "crop" else None
    if arrays is None:
        order = range(len(data.split(split)))
        return Loaded(_Decoded(data, split, images.sized, cropper), order, config, device)
    if device.type == "cpu" or (stay and fits(arrays.nbytes, device)):
        try:
            return ResidentImages(arrays, device, cropper) if cropper else Resident(arrays, device)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        free_memory()
    return Loaded(_Mapped(arrays, cropper), _by_size(arrays), config, device)


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

    def batches(self, batches: Sequence[Sequence[Key]]) -> Iterator[Batch]:
        """Yield the samples of each list of indices; the device is told all of them at once."""
        rows = torch.tensor([index for batch in batches for index in batch])
        rows = rows.to(self.device, non_blocking=True)
        for chosen, batch in zip(rows.split([len(b) for b in batches]), batches, strict=True):
            images = self.images.index_select(0, chosen).permute(0, 3, 1, 2)
            whole = [key for key in batch if isinstance(key, int)] if self.originals else []
            originals = [self.originals[index] for index in whole]
            yield Batch(images, self.masks.index_select(0, chosen), originals)


class ResidentImages:
    """A split of images of their own sizes as tensors, in GPU memory or mapped, as above."""

    def __init__(self, arrays: Arrays, device: torch.device, cropper: Cropper) -> None:
        self.arrays, self.device, self.cropper = arrays, device, cropper
        self.order: Sequence[int] = _by_size(arrays)

        def put(pixels: np.ndarray) -> Tensor:
            return torch.from_numpy(pixels).to(device)

        self.images = [put(arrays.images[row]) for row in arrays.rows]  # (H, W, 3) each
        self.masks = [put(arrays.masks[row]) for row in arrays.rows]
        self.originals = [put(mask) for mask in arrays.originals]

    def batches(self, batches: Sequence[Sequence[Key]]) -> Iterator[Batch]:
        """Yield crops, which are chosen on the host and cut on the device, or whole images."""
        for batch in batches:
            pairs = [self._sample(key) for key in batch]
            images, masks = (torch.stack(part) for part in zip(*pairs, strict=True))
            whole = [key for key in batch if isinstance(key, int)] if self.originals else []
            originals = [self.originals[index] for index in whole]
            yield Batch(images.permute(0, 3, 1, 2), masks, originals)

    def _sample(self, key: Key) -> tuple[Tensor, Tensor]:
        if isinstance(key, int):
            return self.images[key], self.masks[key]
        place = self.cropper.place(key, self.arrays.masks[self.arrays.rows[key.sample]])
        image, mask = self.images[key.sample], self.masks[key.sample]
        return cut(image, place, self.cropper.size), cut(mask, place, self.cropper.size)


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

    def batches(self, batches: Sequence[Sequence[Key]]) -> Iterator[Batch]:
        """Yield the samples of each list, read ahead."""
        for read in self._reader.read(batches):
            images, masks = (part.to(self.device, non_blocking=True) for part in read[:2])
            originals = [mask.to(self.device, non_blocking=True) for mask in read[2]]
            yield Batch(images.permute(0, 3, 1, 2), masks, originals)


_Sample = tuple[np.ndarray, np.ndarray, np.ndarray | None]


class _Images(Dataset[_Sample]):
    """Samples by key; a cropper cuts those that a crop is wanted of."""

    cropper: Cropper | None

    def whole(self, index: int) -> _Sample:
        raise NotImplementedError

    def __getitem__(self, key: Key) -> _Sample:
        if isinstance(key, int):
            return self.whole(key)
        assert self.cropper is not None
        image, mask, _ = self.whole(key.sample)
        place = self.cropper.place(key, mask)
        pixels, labels = (
            cut(torch.from_numpy(part), place, self.cropper.size) for part in (image, mask)
        )
        return pixels.numpy(), labels.numpy(), None


class _Mapped(_Images):
    def __init__(self, arrays: Arrays, cropper: Cropper | None = None) -> None:
        self.arrays, self.cropper = arrays, cropper

    def whole(self, index: int) -> _Sample:
        arrays = self.arrays
        original = arrays.originals[index] if arrays.originals else None
        row = arrays.rows[index]
        return arrays.images[row], arrays.masks[row], original


class _Decoded(_Images):
    def __init__(
        self, data: SegmentationData, split: str, size: Sized, cropper: Cropper | None
    ) -> None:
        self.data, self.split, self.size, self.cropper = data, split, size, cropper

    def whole(self, index: int) -> _Sample:
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
