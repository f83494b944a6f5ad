"""What the labels of a data set hold: how much of each class, or how much text.

`segtune init --from` tells it of a sample, to cost seconds; `segtune check` reads all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spaces.data import SegmentationDataSpec, TextDetectionDataSpec
from spaces.spec import StudySpec
from trainers.class_weights import class_weights
from trainers.data import each_decoded, each_split, find_splits
from trainers.dbnet.outlines import area, clipped
from trainers.dbnet.targets import MIN_SIDE
from trainers.masks import class_counts, decode_mask
from trainers.text_data import TextData, check_page, find_pages
from trainers.text_sizes import split_text

MOST = 100  # masks or pages that are read

S = TypeVar("S")


def say_sample(spec: StudySpec, console: Console) -> None:
    """Print what some train masks or pages of a study hold; raises InputError for a wrong one."""
    if isinstance(spec.data, SegmentationDataSpec):
        _say_masks(spec.data, console)
    elif isinstance(spec.data, TextDetectionDataSpec):
        _say_pages(spec, spec.data, console)


def class_table(
    spec: SegmentationDataSpec,
    counts: Sequence[int],
    methods: Collection[str] = (),
    title: str | None = None,
) -> Table:
    """Share of the pixels of each class, and the weights that methods give it, clipped at 10.

    Args:
        counts: pixels of each class; at least one. Those of `ignore_classes` are not known.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("class")
    for column in ("share", *methods):
        table.add_column(column, justify="right")
    total = sum(counts)
    weights = [class_weights(counts, method, 10.0) for method in methods]
    for index, name in enumerate(spec.class_names):
        share = "-" if name in spec.ignore_classes else f"{counts[index] / total:.3%}"
        table.add_row(
            escape(name), share, *(f"{float(w[index]):.2f}" for w in weights if w is not None)
        )
    return table


def _say_masks(spec: SegmentationDataSpec, console: Console) -> None:
    train = find_splits(spec)["train"]
    some = _sample(train)
    each = each_decoded(some, lambda _, one: class_counts(decode_mask(one.mask, spec), spec))
    counts = [sum(column) for column in zip(*each, strict=True)]
    of = f"{len(some)} of {len(train)} train masks"
    if sum(counts):
        console.print(f"pixels of {of}; segtune check reads all", highlight=False)
        console.print(class_table(spec, counts))
    else:
        console.print(f"no pixel of {of} counts; segtune check reads all", highlight=False)


def _say_pages(spec: StudySpec, own: TextDetectionDataSpec, console: Console) -> None:
    train = each_split(own.train, own.val, None, find_pages)["train"]
    some = _sample(train)
    data = TextData(own, {"train": some}, {}, "")
    seen = each_decoded(some, lambda _, page: check_page(page, data)[1])
    data = replace(data, sizes={page.image: one.size for page, one in zip(some, seen, strict=True)})
    resolutions = sorted(spec.search_space().values("data.resolution"))
    text = split_text(data, "train", resolutions)
    covered = pixels = 0.0
    for page in some:
        size, truth = data.sizes[page.image], data.truth(page)
        counting = zip(truth.polygons, truth.ignore, strict=True)
        covered += sum(area(clipped(box, size)) for box, ignored in counting if not ignored)
        pixels += size[0] * size[1]
    counts = [len(data.truth(page).polygons) for page in some]
    small = (f"{text.small_share(size):.1%} at data.resolution {size}" for size in resolutions)
    for line in (
        f"text of {len(some)} of {len(train)} train pages; segtune check reads all",
        f"boxes: {text.boxes / len(some):.1f} a page, {min(counts)} to {max(counts)}; "
        f"{text.dont_care / max(1, text.boxes):.1%} of them are don't-care",
        f"those that count: {covered / pixels:.1%} of the area; lower than {MIN_SIDE:g} px are "
        f"{', '.join(small)}",
    ):
        console.print(line, highlight=False, soft_wrap=True)


def _sample(samples: list[S]) -> list[S]:
    """At most MOST of them, from all over the list."""
    return samples[:: -(-len(samples) // MOST)]
