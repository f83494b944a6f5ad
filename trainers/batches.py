"""What all tasks share between a data set on the host and batches on the device."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spaces.config import TrainConfig

MEAN = (0.485, 0.456, 0.406)  # ImageNet's, which every pretrained encoder of smp expects
STD = (0.229, 0.224, 0.225)


def batch_sizes(samples: int, batch_size: int) -> list[int]:
    """Return an epoch's batch sizes; a last image that would be alone joins its neighbours."""
    sizes = [batch_size] * (samples // batch_size)
    rest = samples % batch_size
    if rest == 1 and sizes:
        sizes[-1] += 1
    elif rest:
        sizes.append(rest)
    return sizes


def epoch_loader(
    dataset: Dataset[Any],
    samples: int,
    config: TrainConfig,
    epoch: int,
    device: torch.device,
    collate: Callable[[list[Any]], Any] | None = None,
    worker_init: Callable[[int], None] | None = None,
) -> DataLoader[Any]:
    """Return the loader of an epoch's shuffled batches; the data set is asked for (epoch, index).

    The order is a function of `config.seed` and the epoch, so that a resumed run sees it again.
    """
    order = torch.randperm(
        samples, generator=torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
    ).tolist()
    sizes = batch_sizes(samples, config.batch_size)
    batches = [
        [(epoch, index) for index in order[end - size : end]]
        for end, size in zip(accumulate(sizes), sizes, strict=True)
    ]
    cuda = device.type == "cuda"
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=config.workers if config.workers is not None else (4 if cuda else 0),
        pin_memory=cuda,
        collate_fn=collate,
        worker_init_fn=worker_init,
    )


def normalise(images: Tensor, device: torch.device, layout: torch.memory_format) -> Tensor:
    """(B, 3, H, W) uint8 on the host -> float with ImageNet's mean 0 and deviation 1, on device."""
    images = images.to(device, non_blocking=True).float().div_(255)
    mean = torch.tensor(MEAN, device=device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=device).view(1, 3, 1, 1)
    return images.sub_(mean).div_(std).contiguous(memory_format=layout)


def layout(config: TrainConfig) -> torch.memory_format:
    """Memory layout of images and weights."""
    return torch.channels_last if config.channels_last else torch.contiguous_format
