"""`segtune check`: everything that can be known about a study before it costs anything."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from search.launch import preflight, sizes
from search.status import dimension_text
from search.store import Store
from spaces.config import TrialConfig
from spaces.space import Space
from spaces.spec import StudySpec
from trainers.class_weights import METHODS, class_weights
from trainers.data import SegmentationData
from trainers.evaluate import class_names
from trainers.precision import pick_device, resolve_precision
from trainers.train import device_name, probe_memory


def check_study(path: Path, store: Store, console: Console) -> None:
    """Print what a study would run on, and with what; raises InputError for what would fail."""
    spec = StudySpec.load(path)
    space = spec.search_space()
    data = preflight(spec)
    console.print(
        f"study {spec.name}: {spec.budget.trials} trials of {space.base.train.epochs} "
        f"epochs, {spec.sampler.name} and {spec.pruner.name}; store: {store.shown}",
        highlight=False,
        soft_wrap=True,
    )
    images = ", ".join(f"{name} {len(samples)}" for name, samples in sorted(data.splits.items()))
    console.print(f"images: {images}; every file was read", highlight=False)
    console.print(_classes(data))
    console.print(_space(space))
    _device(space, data, console)
    console.print("ok: segtune launch", str(path), highlight=False)


def _classes(data: SegmentationData) -> Table:
    """Pixel share of each class, and the weights that each method gives it, clipped at 10."""
    table = Table(title="train pixels, and class weights at max_ratio 10", title_justify="left")
    table.add_column("class")
    for column in ("share", *METHODS):
        table.add_column(column, justify="right")
    total = sum(data.counts)
    weights = [class_weights(data.counts, method, 10.0) for method in METHODS]
    for index, name in enumerate(class_names(data)):
        row = [f"{float(w[index]):.2f}" for w in weights if w is not None]
        table.add_row(name, f"{data.counts[index] / total:.3%}", *row)
    return table


def _space(space: Space) -> Table:
    table = Table(title="searched", title_justify="left")
    table.add_column("setting")
    table.add_column("values")
    for name, dim in space.dims.items():
        table.add_row(name, dimension_text(dim))
    return table


def _device(space: Space, data: SegmentationData, console: Console) -> None:
    """Name the device; on a GPU, take one step of the largest trial and tell what it needs."""
    device = pick_device()
    precision = resolve_precision(space.base.train.precision, device)
    console.print(f"device: {device_name(device)}, {precision}", highlight=False)
    if device.type != "cuda":
        return
    for arch, encoder in space.model_pairs():
        config = _largest(space, arch, encoder)
        used, micro_batch = probe_memory(config, data)
        free = torch.cuda.get_device_properties(device).total_memory / 2**20
        console.print(
            f"  {arch}/{encoder} at {config.data.resolution}, batch {config.train.batch_size}: "
            f"micro-batch {micro_batch}, {used:.0f} of {free:.0f} MiB",
            highlight=False,
        )


def _largest(space: Space, arch: str, encoder: str) -> TrialConfig:
    height, width = max(sizes(space), key=lambda size: size[0] * size[1])
    return space.base.replace(
        {
            "model.arch": arch,
            "model.encoder": encoder,
            "data.resolution": f"{height}x{width}",
            "train.batch_size": max(space.values("train.batch_size")),
        }
    )
