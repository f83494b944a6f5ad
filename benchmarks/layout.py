"""One training step on the CPU in both memory layouts, interleaved.

python -m benchmarks.layout
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import segmentation_models_pytorch as smp
import torch

from trainers.precision import autocast, resolve_precision

ROUNDS = 9


def main() -> None:
    """Print the median step time of each layout and their ratio."""
    device = torch.device("cpu")
    precision = resolve_precision("auto", device)
    for height, width in ((64, 96), (96, 128)):
        formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
        steps = {
            name: _step(layout, (height, width), precision) for name, layout in formats.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in formats}
        for _ in range(ROUNDS):
            for name, step in steps.items():
                began = time.perf_counter()
                step()
                seconds[name].append(time.perf_counter() - began)
        medians = {name: statistics.median(values[2:]) for name, values in seconds.items()}
        ratio = medians["channels_last"] / medians["contiguous"]
        shown = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in medians.items())
        print(f"{height}x{width} {precision}: {shown}, ratio {ratio:.2f}")


def _step(layout: torch.memory_format, size: tuple[int, int], precision: str) -> Callable[[], None]:
    model = smp.Unet("resnet18", encoder_weights=None, classes=11).to(memory_format=layout)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images = torch.randn(8, 3, *size).contiguous(memory_format=layout)
    target = torch.randint(0, 11, (8, *size))

    def step() -> None:
        optimizer.zero_grad()
        with autocast(torch.device("cpu"), precision):
            logits = model(images)
        torch.nn.functional.cross_entropy(logits.float(), target).backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
