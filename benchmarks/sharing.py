"""Trials that share a GPU: images a second of several at once beside one alone.

`python -m benchmarks.throughput --per-gpu K` runs it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.loops import OURS, run
from benchmarks.plain import BATCH, Setup
from benchmarks.report import heading, spread, table
from benchmarks.turns import Crew, rotated


def measure(setup: Setup, count: int) -> list[tuple[float, float]]:
    """Pairs of seconds: an epoch of one process alone, and of `count` at the same time.

    Both with validation; the latter ends when the last of them has ended it.
    """
    names = [f"{OURS} {number}" for number in range(count)]
    pairs = setup.epochs
    jobs = {
        name: partial(run, OURS, replace(setup, seed=number, epochs=pairs * (2 - (number > 0))))
        for number, name in enumerate(names)
    }
    found = []
    with Crew(jobs) as crew:
        for pair in range(pairs):
            seconds = {}
            for turn in rotated([names[:1], names], pair):
                epochs = crew.turn(turn).values()
                seconds[len(turn)] = max(epoch.seconds for epoch in epochs)
            found.append((seconds[1], seconds[count]))
    return found[1:]


def report(
    found: Sequence[Sequence[tuple[float, float]]], setups: Sequence[Setup], count: int
) -> str:
    """The figures of `--per-gpu` as Markdown."""
    images = len(setups[0].data.split("train"))
    rows = [
        [
            setup.resolution,
            spread([images / alone for alone, _ in pairs], 1),
            spread([count * images / shared for _, shared in pairs], 1),
            spread([count * alone / shared for alone, shared in pairs], 2),
        ]
        for setup, pairs in zip(setups, found, strict=True)
    ]
    pipe = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")) / "control"
    how = "under MPS" if pipe.exists() else "by time slicing (no MPS)"
    columns = ["resolution", "one alone", f"{count} at once, in total", "ratio"]
    return f"""\
{heading(f"{count} trials on one GPU", f"throughput --per-gpu {count}", gpu=True)}
U-Net/resnet18 from scratch, batch {BATCH}, {images} train images, sharing {how}. Train images a
second of whole epochs with validation; an epoch of one process and one of {count} at once take
turns. Medians with ranges of {len(found[0])} pairs.

{table(columns, rows)}
"""
