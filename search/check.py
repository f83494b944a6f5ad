"""`segtune check`: everything that can be known about a study before it costs anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from search.check_text import say_text
from search.database.store import Store
from search.findings.beginning import earlier_studies, read_beginning
from search.findings.wording import dimension_text, splits_named
from search.label_shares import class_table
from search.near_duplicates import near_duplicates
from search.studies.study import study_names
from search.work.estimate import estimate
from search.work.forkserver import warm_up
from search.work.preflight import limit_lines, preflight, settled
from spaces.config import TrialConfig
from spaces.data import fold_count
from spaces.sources import files_elsewhere
from spaces.space import Space
from spaces.spec import StudySpec
from trainers.cache import Sized
from trainers.class_weights import METHODS
from trainers.data import SegmentationData
from trainers.devices import device_name, pick_device
from trainers.noise import visible_difference
from trainers.precision import resolve_precision
from trainers.segmentation import sizes
from trainers.tasks import Data, initial_weights
from trainers.text_data import TextData
from trainers.thickness import MOST, thickness
from trainers.train import probe_memory
from trainers.trivial import constants

THIN = 3.0  # px: half of a class in parts no thicker is hardly found
GAIN = 1.25  # so much thicker must they be without resizing
FEW_IMAGES, FOLDS = 100, 5  # of train and val together: below so many, so many folds are advised

NO_WEIGHTS = {"model.init": None, "model.encoder_weights": None}  # memory needs none


def check_study(path: Path, store: Store, console: Console) -> None:
    """Print what a study would run on, and with what; raises InputError for what would fail."""
    spec = StudySpec.load(path)
    begins = bool(spec.from_studies) and spec.name not in study_names(store)
    if begins:
        earlier_studies(store, spec, path)
    warm_up()  # while the data are read
    data = preflight(spec)
    spec = settled(spec, data)
    space = spec.search_space()
    console.print(
        f"study {spec.name}: {spec.budget.trials} trials of {space.base.train.epochs} "
        f"epochs, {spec.sampler.name} and {spec.pruner.name}; store: {store.shown}",
        highlight=False,
        soft_wrap=True,
    )
    for name, file in files_elsewhere(path).items():
        console.print(
            f"outside of the study file's folder: {name} reads {file}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    _images(spec, data, console)
    for line in near_duplicates(data):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if isinstance(data, TextData):
        say_text(space, data, console)
    else:
        say_masks(space, data, console)
    _score(spec, data, console)
    console.print(_space(space) if space.dims else "searched: nothing; every setting has one value")
    for name, choices in spec.left_out.items():
        console.print(
            f"not drawn: {name} {', '.join(choices)}; on these data nearly the same as another one",
            highlight=False,
            soft_wrap=True,
        )
    known = read_beginning(store, spec, data.fingerprint).lines if begins else ()
    for line in (*known, *initial_weights(space, data)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    _device(space, data, console)
    for line in limit_lines(spec, data):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for line in estimate(spec, data, spec.budget.trials).lines():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print("ok: segtune launch", str(path), highlight=False)


def say_masks(space: Space, data: SegmentationData, console: Console) -> None:
    """Print what the masks hold: how much of each class, and how thick its parts are."""
    for note in data.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    title = "train pixels, and class weights at max_ratio 10"
    console.print(class_table(data.spec, data.counts, METHODS, title))
    _thin(space, data, console)


def _images(spec: StudySpec, data: Data, console: Console) -> None:
    """How many images each split has; whether they are so few that folds would pay."""
    count = fold_count(spec.data)
    said = splits_named(data.splits, count)
    if count > 1:
        said += f": a trial trains {count} models"
    console.print(f"images: {said}; every file was read", highlight=False)
    val = len(data.split("val"))
    few = len(data.split("train")) + val
    if count == 1 and few < FEW_IMAGES:
        console.print(
            f"only {few} images: {val} of them in val say little of a config. With "
            f"data.folds: {{count: {FOLDS}}} in place of data.val, and all images in data.train, "
            f"each one is validated on. A trial then trains {FOLDS} models, one after another: up "
            f"to {FOLDS} times the time, less where hopeless ones stop after a fold",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _thin(space: Space, data: SegmentationData, console: Console) -> None:
    """How thick the parts of each class are as the network sees them; whether crops would help."""
    modes = space.values("data.mode")
    resized = sorted(set(sizes(space)), key=lambda size: size[0] * size[1])
    scales = [float(scale) for scale in space.values("data.scale")] if "crop" in modes else [1.0]
    columns: dict[str, Sized] = {}
    if "resize" in modes:
        columns = {f"{height}x{width}": (height, width) for height, width in resized}
    columns |= {f"crop at scale {scale:g}": scale for scale in scales}
    found = thickness(data, list(columns.values()))
    names = data.spec.class_names
    table = Table(
        title=f"px that half (a tenth) is no thicker than; {found.images} train images",
        title_justify="left",
    )
    table.add_column("class")
    for column in columns:
        table.add_column(column, justify="right")
    for index, name in enumerate(names):
        if name not in data.spec.ignore_classes:
            table.add_row(name, *(_thick(*one) for one in found.pixels[:, index].tolist()))
    console.print(table)
    half = found.pixels[:, :, 0]
    used = half if "crop" in modes else half[:-1]  # the last one is what a crop would see
    best = used.max(axis=0)
    thin = np.flatnonzero((best < THIN) & (half[-1] > GAIN * best))
    if len(thin) and "crop" not in modes:
        lost = ", ".join(f"{names[index]} {best[index]:g} px" for index in thin)
        seen = ", ".join(f"{half[-1][index]:g}" for index in thin)
        console.print(
            f"thin after resizing to {list(columns)[-2]}: half of the pixels of these classes lie "
            f"in parts of at most {lost}; as the images are, {seen}. Below {THIN:g} px a network "
            "hardly finds them. data.mode: crop takes windows of data.resolution at data.scale in "
            "place of the whole image; data.mode: [resize, crop] compares both in one study",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _thick(half: float, tenth: float) -> str:
    """Two thicknesses in pixels; `-` for a class without any."""
    if half != half:
        return "-"
    return f"{'over ' * (half == MOST)}{half:g} ({tenth:g})"


def _score(spec: StudySpec, data: SegmentationData | TextData, console: Console) -> None:
    """What trials are scored by, what needs no learning, and what val is too small to show."""
    known = ", ".join(
        f"{constant.name} {constant.score:.4f}" for constant in constants(spec.metric, data)[:3]
    )
    console.print(
        f"metric: {spec.metric_name}; answers that look at no image score: {known}. A trial that "
        "ends no better has learned nothing (health:trivial)",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    images, difference = len(data.split("val")), visible_difference(spec.metric, data)
    unit = "pages" if isinstance(data, TextData) else "images"
    console.print(
        f"with {images} val {unit} a difference of {spec.metric_name} below about "
        f"{difference:.2g} cannot be seen (95 %; an estimate before any training, and seeds come "
        "on top)",
        highlight=False,
        soft_wrap=True,
    )


def _space(space: Space) -> Table:
    table = Table(title="searched", title_justify="left")
    table.add_column("setting")
    table.add_column("values")
    for name, dim in space.dims.items():
        table.add_row(name, dimension_text(dim))
    return table


def _device(space: Space, data: Data, console: Console) -> None:
    """Name the device; on a GPU, train and validate the largest trials and tell what they need."""
    device = pick_device()
    precision = resolve_precision(space.base.train.precision, device)
    console.print(f"device: {device_name(device)}, {precision}", highlight=False)
    if device.type != "cuda":
        return
    total = torch.cuda.get_device_properties(device).total_memory / 2**20
    for config in _largest(space):
        probed, flat = probe_memory(config, data), config.flat()
        if probed is None:
            needs = "out of memory with one image at a time: its trials would end as oom"
        else:
            needs = f"micro-batch {probed[1]}, {probed[0]:.0f} of {total:.0f} MiB"
        console.print(
            f"  {flat.get('model.arch', 'DBNet')}/{flat['model.encoder']} at "
            f"{flat['data.resolution']}, batch {config.train.batch_size}: {needs}",
            highlight=False,
        )


def _largest(space: Space) -> Iterator[TrialConfig]:
    """The most demanding config of each network."""
    batch = max(space.values("train.batch_size"))
    if not space.has_archs:
        resolution = max(space.values("data.resolution"))
        for encoder in space.names("model.encoder"):
            yield space.base.replace(
                {
                    "model.encoder": encoder,
                    **NO_WEIGHTS,
                    "data.resolution": resolution,
                    "train.batch_size": batch,
                }
            )
        return
    height, width = max(sizes(space), key=lambda size: size[0] * size[1])
    for arch, encoder in space.model_pairs():
        yield space.base.replace(
            {
                "model.arch": arch,
                "model.encoder": encoder,
                **NO_WEIGHTS,
                "data.resolution": f"{height}x{width}",
                "train.batch_size": batch,
            }
        )
