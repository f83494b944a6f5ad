"""What photometric augmentation costs an image, beside torchvision.transforms.v2.

    python -m benchmarks.augment --to benchmarks/augment.md

A drawn image, one thread. A page of text is changed alone, on the host; images with masks are
changed in batches, on the device that trains. torchvision takes images one by one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

import cv2
import numpy as np
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from benchmarks.report import called, heading, parser, publish, spread, table
from trainers.devices import pick_device
from trainers.draws import Uniform
from trainers.photometric import PHOTOMETRIC, Changes, Ranges, change, change_page, draw_changes

PAGE, IMAGE, BATCH = (640, 452), (512, 512), 8
ROUNDS = 15  # each of other samples
SIGMA, LEVELS, QUALITY = 1.0, 5.0, 60  # of each change alone
NOTHING = draw_changes(Uniform(0, 0, range(BATCH)), Ranges())

T = TypeVar("T")
Peer = Callable[[torch.Tensor], torch.Tensor]
ALONE: dict[str, tuple[Changes, Peer]] = {
    "colours": (
        draw_changes(Uniform(0, 0, range(BATCH)), Ranges(0.4, 0.4, 0.4, hue=0.05)),
        v2.ColorJitter(0.4, 0.4, 0.4, 0.05),
    ),
    "blur": (
        replace(NOTHING, sigma=np.full(BATCH, SIGMA)),
        partial(tv.gaussian_blur, kernel_size=[5, 5], sigma=[SIGMA, SIGMA]),
    ),
    "noise": (
        replace(NOTHING, levels=np.full(BATCH, LEVELS)),
        partial(tv.gaussian_noise, sigma=LEVELS / 255),
    ),
    "JPEG": (
        replace(NOTHING, quality=np.full(BATCH, float(QUALITY))),
        partial(tv.jpeg, quality=QUALITY),
    ),
}
"""{change: for all samples of a batch, and torchvision's}."""


def main() -> None:
    """Measure and publish the report."""
    options = parser(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    random, device = np.random.default_rng(0), pick_device()
    page = random.integers(0, 256, (*PAGE, 3), np.uint8)
    images = torch.from_numpy(random.integers(0, 256, (BATCH, 3, *IMAGE), np.uint8))
    pixels = images.float().to(device)

    def in_batch(changes: Changes) -> None:
        change(pixels, changes)
        if device.type == "cuda":
            torch.cuda.synchronize()

    rows = []
    for name, (changes, peer) in ALONE.items():
        same = [changes] * ROUNDS
        planes = torch.from_numpy(page).permute(2, 0, 1).contiguous()
        pages = milliseconds(lambda one: change_page(page, one.part(0, 1)), same)
        batches = [t / BATCH for t in milliseconds(in_batch, same)]
        peers = [milliseconds(peer, [image] * ROUNDS) for image in (planes, images[0])]
        rows.append([name, *map(spread, (pages, peers[0], batches, peers[1]))])
    for name, ranges in PHOTOMETRIC.items():
        epoch = draw_changes(Uniform(0, 0, range(ROUNDS * BATCH)), ranges)
        each = [epoch.part(i, i + 1) for i in range(ROUNDS * BATCH)]
        some = [epoch.part(i, i + BATCH) for i in range(0, ROUNDS * BATCH, BATCH)]
        alone = milliseconds(lambda one: change_page(page, one), each)
        together = milliseconds(in_batch, some)
        means = np.mean(alone), np.mean(together) / BATCH
        rows.append([f"`{name}`, mean", f"{means[0]:.2f}", "", f"{means[1]:.2f}", ""])
    publish(report(rows, device.type, called("augment")), options.to)


def milliseconds(work: Callable[[T], object], over: list[T]) -> list[float]:
    """How long the work takes with each item, after a first time that does not count."""
    work(over[0])
    found = []
    for one in over:
        began = time.perf_counter()
        work(one)
        found.append(1000 * (time.perf_counter() - began))
    return found


def report(rows: list[list[str]], device: str, command: str) -> str:
    """The Markdown report."""
    columns = ["", "page", "page, torchvision", f"image of a batch, on {device}", "torchvision"]
    return f"""\
{heading("Photometric augmentation", command, gpu=True)}
Milliseconds an image, median (lowest to highest), one thread: a page of {PAGE[0]}x{PAGE[1]} on the
host; an image of {IMAGE[0]}x{IMAGE[1]} in a batch of {BATCH}; torchvision.transforms.v2 on the same
image, uint8, on the host. A row of a change: it happens to every image. A row of a strength of
`data.photometric`: what it draws, over {ROUNDS * BATCH} images.

{table(columns, rows)}
"""


if __name__ == "__main__":
    main()
