"""What all tasks share between a data set on the host and batches on the device."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from spaces.config import TrainConfig
from trainers.devices import gpus_here, sharers

MEAN = (0.485, 0.456, 0.406)  # ImageNet's, which every pretrained encoder of smp expects
STD = (0.229, 0.224, 0.225)
GPU_WORKERS = 8  # loader processes for a GPU, at most, where nothing else is said


def batch_sizes(samples: int, batch_size: int) -> list[int]:
    """Return an epoch's batch sizes; a last image that would be alone joins its neighbours."""
    sizes = [batch_size] * (samples // batch_size)
    rest = samples % batch_size
    if rest == 1 and sizes:
        sizes[-1] += 1
    elif rest:
        sizes.append(rest)
    return sizes


def epoch_batches(samples: int, config: TrainConfig, epoch: int) -> list[list[int]]:
    """Return the indices of an epoch's shuffled batches.

    The order is a function of `config.seed` and the epoch, so that a resumed run sees it again.
    """
    order: list[int] = torch.randperm(
        samples, generator=torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
    ).tolist()
    sizes = batch_sizes(samples, config.batch_size)
    return [order[end - size : end] for end, size in zip(accumulate(sizes), sizes, strict=True)]


class Reader:
    """Reads batches of keys of a data set, ahead of whoever trains, into pinned memory for a GPU.

    Its loader processes live as long as it does: to start them takes longer than a short epoch.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        config: TrainConfig,
        device: torch.device,
        collate: Callable[[list[Any]], Any],
        worker_init: Callable[[int], None] | None = None,
    ) -> None:
        cuda = device.type == "cuda"
        workers = config.workers if config.workers is not None else _gpu_loaders() if cuda else 0
        self._batches = _Batches()
        self._loader = DataLoader(
            dataset,
            batch_sampler=self._batches,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=cuda,
            collate_fn=collate,
            worker_init_fn=worker_init,
            generator=torch.Generator(),  # else each reading would take from the run's random state
        )

    def read(self, batches: Sequence[Sequence[Any]]) -> Iterator[Any]:
        """Yield what is collated of each batch of keys."""
        self._batches.keys = batches
        yield from self._loader


class _Batches(Sampler[list[Any]]):
    """The batches of an epoch, which change."""

    keys: Sequence[Sequence[Any]] = ()

    def __iter__(self) -> Iterator[list[Any]]:
        return (list(batch) for batch in self.keys)

    def __len__(self) -> int:
        return len(self.keys)


@cache
def _gpu_loaders() -> int:
    """Loader processes of a worker with a GPU: its share of the machine's cores."""
    cores = len(os.sched_getaffinity(0)) // (max(1, len(gpus_here())) * sharers())
    return min(GPU_WORKERS, max(1, cores))


def normalise(images: Tensor, device: torch.device, layout: torch.memory_format) -> Tensor:
    """(B, 3, H, W) in 0..255 -> float of ImageNet's mean 0 and deviation 1, on the device.

    Floats on the device are changed in place.
    """
    images = images.to(device, non_blocking=True).float().div_(255)
    mean, std = _statistics(device)
    return images.sub_(mean).div_(std).contiguous(memory_format=layout)


def layout(config: TrainConfig) -> torch.memory_format:
    """Memory layout of images and weights."""
    return torch.channels_last if config.channels_last else torch.contiguous_format


@lru_cache
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """MEAN and STD as (1, 3, 1, 1), copied once: each copy would wait for the device."""
    mean, std = torch.tensor(MEAN, device=device), torch.tensor(STD, device=device)
    return mean.view(1, 3, 1, 1), std.view(1, 3, 1, 1)
