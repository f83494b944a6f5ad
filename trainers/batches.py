"""What all tasks share between a data set on the host and batches on the device."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from spaces.config import TrainConfig
from trainers.devices import gpus_here, sharers
from trainers.disk import is_out_of_files

MEAN = (0.485, 0.456, 0.406)  # ImageNet's, which every pretrained encoder of smp expects
STD = (0.229, 0.224, 0.225)

Statistic = tuple[float, ...]
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
    Where one of them dies, or finds no shared memory, this process reads on in their place.
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
        self._loader = self._alone = DataLoader(
            dataset,
            batch_sampler=self._batches,
            pin_memory=cuda,
            collate_fn=collate,
            generator=torch.Generator(),  # else each reading would take from the run's random state
        )
        if workers > 0:
            self._loader = DataLoader(
                dataset,
                batch_sampler=self._batches,
                num_workers=workers,
                persistent_workers=True,
                pin_memory=cuda,
                collate_fn=_Shared(collate),
                worker_init_fn=worker_init,
                generator=torch.Generator(),
            )

    def read(self, batches: Sequence[Sequence[Any]]) -> Iterator[Any]:
        """Yield what is collated of each batch of keys."""
        done = 0
        while self._loader is not self._alone:
            self._batches.keys = batches[done:]
            try:
                for read in _asked_for(iter(self._loader)):
                    done += 1
                    yield read
                return
            except (RuntimeError, EOFError, OSError) as error:
                if not _is_lost(error):
                    raise
                _say_lost(error)
                self._loader = self._alone
        self._batches.keys = batches[done:]
        yield from self._loader


# what torch says of a loader process that died, and of one without room in SHARED
_LOST = ("DataLoader worker (pid", "shared memory(shm)", "ancdata")
SHARED = Path("/dev/shm")


def _is_lost(error: Exception) -> bool:
    """Whether a loader process is gone, or cannot hand a batch on."""
    if is_out_of_files(error):  # a batch is handed on as open files
        return True
    if isinstance(error, RuntimeError):
        return any(word in str(error) for word in _LOST)
    # it died while this process took a batch from it; else the error is one of the data
    gone = isinstance(error, EOFError | ConnectionError | FileNotFoundError)
    return gone and "in DataLoader worker process" not in str(error)


def _asked_for(found: Iterator[Any]) -> Iterator[Any]:
    """The same; a loader process that dies is heard of where the next batch is asked for.

    torch would raise it wherever this process is just then.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return found


def _say_lost(error: Exception) -> None:
    said = str(error).strip().splitlines() or [type(error).__name__]
    room = (
        f"{SHARED} holds {shutil.disk_usage(SHARED).total / 1e6:.0f} MB" if SHARED.exists() else ""
    )
    print(
        f"a loader process is lost ({said[-1]}); goes on without them, "
        f"slower. {room}: in a container give it more with shm_size (docker run --shm-size=8g), or "
        "set train.workers lower",
        flush=True,
    )


class _Shared:
    """Collates into shared memory while the loader still listens: an error is passed on.

    torch would move the batch there in a thread of its own, and lose it where there is no room.
    """

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> Any:
        batch = self.collate(samples)
        _share(batch)
        return batch


def _share(part: Any) -> None:
    if isinstance(part, Tensor):
        part.share_memory_()
    elif isinstance(part, tuple | list):
        for one in part:
            _share(one)


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


def statistics(channels: int) -> tuple[Statistic, Statistic]:
    """Mean and deviation, in 0..1, that images of so many channels are normalised by.

    As smp gives pretrained weights to channels: of grey the mean of ImageNet's three, as its
    weights are their sum; else those of R, G, B, R, G, B, ..., as the weights are.
    """
    if channels == 1:
        return (sum(MEAN) / 3,), (sum(STD) / 3,)
    return tuple(MEAN[c % 3] for c in range(channels)), tuple(STD[c % 3] for c in range(channels))


def normalise(images: Tensor, device: torch.device, layout: torch.memory_format) -> Tensor:
    """(B, C, H, W) in 0..255 -> float of ImageNet's mean 0 and deviation 1, on the device.

    Floats on the device are changed in place.
    """
    images = images.to(device, non_blocking=True).float().div_(255)
    mean, std = _statistics(images.shape[1], device)
    return images.sub_(mean).div_(std).contiguous(memory_format=layout)


def layout(config: TrainConfig) -> torch.memory_format:
    """Memory layout of images and weights."""
    return torch.channels_last if config.channels_last else torch.contiguous_format


@lru_cache
def _statistics(channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """`statistics` as (1, C, 1, 1), copied once: each copy would wait for the device."""
    mean, std = (torch.tensor(part, device=device) for part in statistics(channels))
    return mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)
