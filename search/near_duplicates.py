"""What `check` and `launch` say of images that are nearly the same in two splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from spaces.data import AnyDataSpec
from trainers.data import SegmentationData, recalled
from trainers.near_duplicates import COPY, FRAME, Pair, group_of, nearest
from trainers.text_data import TextData

Data = SegmentationData | TextData

NAMED = 3  # pairs


def near_duplicates(data: Data) -> list[str]:
    """Warnings, a sentence each: copies of one picture in two splits, and frames of one video.

    Pages of text are looked through for copies alone: two receipts of one shop look alike, and are
    no leak.
    """
    found = recalled(data.spec, data.splits, lambda: _compare(data), kind="-near")
    copy = "encoded, scaled or lit anew" + (", or the next frame of a video" * _has_scenes(data))
    lines = []
    for name, other, images, both in _compared(data):
        pairs = [Pair(**pair) for pair in found[f"{name} {other}"]]
        copies = [pair for pair in pairs if pair.distance <= COPY]
        frames = [pair for pair in pairs if pair.distance > COPY]
        for some, what in (
            (copies, f"all but copies of images of {other} ({copy})"),
            (frames, f"nearly the same as images of {other} (frames of one video)"),
        ):
            if some:
                lines.append(
                    f"warning: data.{name}: {len(some)} of {len(images)} images are {what}: "
                    f"{_named(some)}. Their score is partly memory; "
                    f"{_advice(data.spec, name, some, both)}"
                )
    return lines


def _compared(data: Data) -> Iterator[tuple[str, str, list[str], list[str]]]:
    """(split, other, the split's images, the images of both), of each pair of splits."""
    if data.folds:
        yield "folds", "another fold", _paths(data, "train"), _paths(data, "train")
    for name, other in (("val", "train"), ("test", "train"), ("test", "val")):
        if name in data.splits and not (data.folds and "val" in (name, other)):
            images = _paths(data, name)
            yield name, other, images, images + _paths(data, other)


def _compare(data: Data) -> dict[str, list[dict[str, str | int]]]:
    """{`split other`: pairs}, as JSON has them."""
    most = FRAME if _has_scenes(data) else COPY
    found = {}
    for name, other, _, _ in _compared(data):
        pairs: list[Pair] = []
        if name == "folds":
            for fold in data.folds:
                pairs += nearest(_paths(fold, "val"), _paths(fold, "train"), data.hashes, most)
        else:
            pairs = nearest(_paths(data, name), _paths(data, other), data.hashes, most)
        pairs.sort(key=lambda pair: pair.distance)
        found[f"{name} {other}"] = [asdict(pair) for pair in pairs]
    return found


def _has_scenes(data: Data) -> bool:
    return isinstance(data, SegmentationData)


def _paths(data: Data, split: str) -> list[str]:
    return [sample.image for sample in data.split(split)]


def _named(pairs: Sequence[Pair]) -> str:
    named = ", ".join(f"{pair.image} and {pair.other}" for pair in pairs[:NAMED])
    more = len(pairs) - NAMED
    return named + (f", and {more} more" if more > 0 else "")


def _advice(spec: AnyDataSpec, name: str, pairs: Sequence[Pair], both: Sequence[str]) -> str:
    """How to keep such images on one side."""
    drawn = name == "folds" or (name == "val" and spec.val is not None and spec.val.fraction)
    pattern = None if name == "test" else group_of(both, pairs)
    if drawn and pattern is not None:
        return f"keep such images on one side with data.{name}.group: '{pattern}'"
    if drawn:
        return (
            f"keep such images on one side: let their names begin alike, as in video1_0001.png, "
            f"with data.{name}.group: '^([^_]+)_'"
        )
    if pattern is not None:
        return (
            "move all images into data.train, and divide them by group, with data.val: "
            f"{{fraction: 0.2, group: '{pattern}'}}"
        )
    return "remove them from one of the two"
