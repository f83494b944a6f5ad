"""Images and masks on disk: finding pairs, decoding them, and the preflight that reads every file.

Inside segtune a mask is uint8, its values are class indices in the order of `data.classes`, and
255 is void, whatever the files use.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Condition
from typing import Any, Generic, TypeVar

import numpy as np

from spaces.data import FoldsSpec, SegmentationDataSpec, SegmentationSplitSpec, Share
from spaces.errors import InputError
from spaces.paths import cache_dir, unfinished
from spaces.settings import Section
from trainers.durable import file_digest
from trainers.image_notes import image_notes
from trainers.images import Seen, bytes_of, see_image
from trainers.masks import class_counts, decode_mask
from trainers.near_duplicates import from_text, to_text
from trainers.pairs import find_pairs, not_read, plain_file

HASHED = "-hashed"  # memos of a data set whose images have been hashed

POOL_BYTES = 2_000_000_000  # that all threads of a pool decode in, together


class Imaged:
    """A sample of any task; a dataclass whose first field is the image's absolute path."""

    image: str

    @property
    def stem(self) -> str:
        return Path(self.image).stem

    @property
    def pixel_files(self) -> tuple[str, ...]:
        """What has to be decoded of it."""
        return (self.image,)


S = TypeVar("S", bound=Imaged)
P = TypeVar("P", bound=Share)
R = TypeVar("R")


@dataclass(frozen=True)
class Kept(Generic[S]):
    """The samples that the cache keeps together, and which rows of them a split is.

    Attributes:
        fingerprint: of the data set that they are of.
        rows: None for all, in their order.
    """

    fingerprint: str
    name: str
    samples: Sequence[S]
    rows: list[int] | None = None


class Splits(Generic[S]):
    """A data set of any task; a dataclass with `splits`.

    Attributes:
        fold: which fold of its data set this is, from 1; None for a whole data set.
        notes: what was mended, and what is not used: a sentence each.
        hashes: {image path: its `picture_hash`}.
    """

    splits: dict[str, list[S]]
    fingerprint: str
    fold: int | None
    notes: tuple[str, ...] = ()
    hashes: dict[str, bytes]

    def kept(self, split: str) -> Kept[S]:
        """Return how the cache keeps a split: all folds share one entry, whoever fills it."""
        samples = self.split(split)
        if self.fold is None or split not in ("train", "val"):
            return Kept(self.fingerprint, split, samples)
        whole = sorted(self.splits["train"] + self.splits["val"], key=lambda s: s.image)
        rows = {sample.image: row for row, sample in enumerate(whole)}
        fingerprint = self.fingerprint.partition("/")[0]  # all ways to divide share it too
        return Kept(fingerprint, "folds", whole, [rows[sample.image] for sample in samples])

    def split(self, name: str) -> list[S]:
        """Return a split's samples; raises InputError for one that the data set lacks."""
        if name not in self.splits:
            raise InputError(
                f"the data set has no split {name!r}; it has {', '.join(sorted(self.splits))}"
            )
        return self.splits[name]


@dataclass(frozen=True)
class Sample(Imaged):
    """One image and its mask, absolute paths."""

    image: str
    mask: str

    @property
    def pixel_files(self) -> tuple[str, ...]:
        return (self.image, self.mask)


@dataclass(frozen=True)
class SegmentationData(Splits[Sample]):
    """A checked data set.

    Attributes:
        counts: valid train pixels of each class; for a binary task [background, foreground].
        val_counts: the same of the val split.
        val_images: how many val images each class's pixels are worth, were they spread evenly; see
            `effective_images`.
        fingerprint: SHA-256 over the content of every file, the split and the classes; that of a
            fold says behind a slash which images are its val.
        folds: a data set for each fold, where there are folds; every image is in one's val, and
            `val` of the whole has them all.
        notes: what was assumed of the images' values, what is not read, and which classes val
            lacks: a sentence each.
    """

    spec: SegmentationDataSpec
    splits: dict[str, list[Sample]]
    counts: list[int]
    val_counts: list[int]
    val_images: list[float]
    fingerprint: str
    fold: int | None = None
    folds: tuple[SegmentationData, ...] = ()
    notes: tuple[str, ...] = ()
    hashes: dict[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def classes(self) -> int:
        """Classes that a confusion matrix counts (2 for a binary task)."""
        return len(self.spec.class_names)


def load_segmentation_data(spec: SegmentationDataSpec) -> SegmentationData:
    """Find every pair, read every file, and return the checked data set.

    The result is remembered by the files' names, sizes and times, so that the next call is quick.

    Raises:
        InputError: naming the first file that is wrong, and why.
    """
    splits = find_splits(spec)
    if spec.folds is not None:
        return _load_folds(spec, spec.folds, splits)
    facts = recalled(spec, splits, lambda: _read_all(spec, splits), kind=HASHED)
    return SegmentationData(
        spec,
        splits,
        facts["counts"],
        facts["val_counts"],
        facts["val_images"],
        facts["fingerprint"],
        notes=(*facts["notes"], *_unused(spec, splits), *_lacking(spec, facts["val_counts"])),
        hashes=hashes_of(splits, facts["hashes"]),
    )


def _unused(spec: SegmentationDataSpec, splits: dict[str, list[Sample]]) -> list[str]:
    """What of the folders is not used."""
    named = {"train": spec.train, "val": spec.val, "test": spec.test}
    own = {name: split for name, split in named.items() if split is not None}
    return not_read(own, {f for samples in splits.values() for s in samples for f in s.pixel_files})


def _lacking(spec: SegmentationDataSpec, pixels: Sequence[int]) -> list[str]:
    """Which classes val lacks."""
    counted = zip(spec.class_names, pixels, strict=True)
    names = [name for name, count in counted if not count and name not in spec.ignore_classes]
    if not names:
        return []
    return [
        f"data.val: no mask has a pixel of {', '.join(names)}; what val lacks is left out of the "
        "score, but counts as 0 where a model finds it"
    ]


def _load_folds(
    spec: SegmentationDataSpec, folds: FoldsSpec, splits: dict[str, list[Sample]]
) -> SegmentationData:
    """Divide the train images; each file is read once for all ways to do so."""
    undivided = spec.model_copy(update={"folds": None})
    facts = recalled(undivided, splits, lambda: _read_files(spec, splits), kind=HASHED)
    hashes = hashes_of(splits, facts["hashes"])
    samples = splits["train"]
    pixels = {s.image: count for s, count in zip(samples, facts["pixels"], strict=True)}
    digests = {s.image: digest for s, digest in zip(samples, facts["digests"], strict=True)}
    divided = divide_folds(samples, folds, digests)

    def part(of: dict[str, list[Sample]], fold: int | None = None) -> SegmentationData:
        sizes = {name: np.array([pixels[s.image] for s in of[name]]) for name in ("train", "val")}
        for name, total in sizes.items():
            _check_not_ignored(f"folds: {name} of fold {fold}", total.sum(axis=0))
        return SegmentationData(
            spec,
            of,
            sizes["train"].sum(axis=0).tolist(),
            sizes["val"].sum(axis=0).tolist(),
            effective_images(sizes["val"]).tolist(),
            facts["fingerprint"] + fold_mark(of["val"], fold),
            fold,
            notes=tuple(facts["notes"]),
            hashes=hashes,
        )

    parts = [part(of, fold) for fold, of in enumerate(fold_splits(splits, divided), 1)]
    whole = part({**splits, "val": samples})
    notes = *whole.notes, *_unused(spec, splits), *_lacking(spec, whole.val_counts)
    return replace(whole, folds=tuple(parts), notes=notes)


def recalled(
    spec: Section,
    splits: Mapping[str, Sequence[Any]],
    read: Callable[[], dict[str, Any]],
    kind: str = "",
) -> dict[str, Any]:
    """Return what `read` finds out about a data set: from the last time where no file has changed.

    Args:
        splits: dataclasses whose fields are paths.
        read: reads all files; its answer must fit into JSON.
        kind: which of several things that are found out about these files.
    """
    # a spec that gains a key gives its memos new names: no older version's is read
    memo = cache_dir() / "preflight" / f"{_stat_key(spec, splits)}{kind}.json"
    if memo.exists():
        known: dict[str, Any] = json.loads(memo.read_text())
        return known
    facts = read()
    memo.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished(memo)
    temporary.write_text(json.dumps(facts))
    temporary.replace(memo)
    return facts


def hashes_of(splits: Mapping[str, Sequence[Imaged]], kept: Mapping[str, str]) -> dict[str, bytes]:
    """{image path: hash}, of what a memo keeps: {split: `to_text` of its hashes}."""
    return {
        sample.image: found
        for name, samples in splits.items()
        for sample, found in zip(samples, from_text(kept[name]), strict=True)
    }


def find_splits(spec: SegmentationDataSpec) -> dict[str, list[Sample]]:
    """Return {split: samples sorted by path}; raises InputError for unpaired or empty splits."""
    return each_split(spec.train, spec.val, spec.test, find_samples)


def each_split(
    train: P, val: P | None, test: P | None, find: Callable[[P, str], list[S]]
) -> dict[str, list[S]]:
    """Find the samples of every split; a `val` that is a fraction takes its share of `train`.

    Where there are folds there is no `val` yet.
    """
    splits = {"train": find(train, "train")}
    if val is not None and val.fraction is not None:
        splits["train"], splits["val"] = divide(splits["train"], val)
    elif val is not None:
        splits["val"] = find(val, "val")
    if test is not None:
        splits["test"] = find(test, "test")
    return splits


def find_samples(split: SegmentationSplitSpec, name: str) -> list[Sample]:
    """Return the pairs of one split, sorted by image; raises InputError as `find_pairs` does."""
    pairs = find_pairs(split, name)
    return sorted((Sample(str(image), str(mask)) for image, mask in pairs), key=lambda s: s.image)


def each_decoded(samples: Sequence[S], one: Callable[[int, S], R]) -> list[R]:
    """Call `one` with each index and sample from as many threads as there are cores.

    Together they decode in POOL_BYTES of memory: one whose files are too large for the room that is
    left waits; one that is too large for all of it runs alone.

    Args:
        one: decodes the sample's files, one after another.
    """
    room = _Room(POOL_BYTES)

    def decode(index: int) -> R:
        sample = samples[index]
        with room.taken(max(map(bytes_of, sample.pixel_files))):
            return one(index, sample)

    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        return list(pool.map(decode, range(len(samples))))


# ---------------------------------------------------------------- dividing


def divide(samples: list[S], val: Share) -> tuple[list[S], list[S]]:
    """Draw whole groups for validation until the fraction is reached: (train, val)."""
    assert val.fraction is not None
    groups = _grouped(samples, val.group, "data.val.group")
    names = sorted(groups)
    random.Random(val.seed).shuffle(names)
    wanted = max(1, round(val.fraction * len(samples)))
    chosen: list[S] = []
    while names and len(chosen) < wanted:
        chosen += groups[names.pop()]
    kept = [sample for name in names for sample in groups[name]]
    if not kept:
        raise InputError(
            f"data.val.fraction: {val.fraction} of {len(samples)} images in {len(groups)} groups "
            "leaves none to train on; lower it, or give a val split of its own"
        )
    return sorted(kept, key=lambda s: s.image), sorted(chosen, key=lambda s: s.image)


def divide_folds(samples: list[S], folds: FoldsSpec, digests: Mapping[str, str]) -> list[list[S]]:
    """Divide samples into folds of whole groups: the largest group first, to the smallest fold.

    Args:
        digests: {image path: of its content}; one image in two folds is an error.

    Raises:
        InputError: there are fewer groups than folds, or an image stands in two of them.
    """
    groups = _grouped(samples, folds.group, "data.folds.group")
    if len(groups) < folds.count:
        raise InputError(
            f"data.folds.count: {folds.count} folds need as many groups, but {len(samples)} images "
            f"are in {len(groups)} groups; lower it, or make the groups smaller"
        )
    names = sorted(groups)
    random.Random(folds.seed).shuffle(names)
    names.sort(key=lambda name: -len(groups[name]))  # stable: equal ones stay shuffled
    divided: list[list[S]] = [[] for _ in range(folds.count)]
    for name in names:
        min(divided, key=len).extend(groups[name])
    for fold in divided:
        fold.sort(key=lambda s: s.image)
    named = {f"fold {number}": fold for number, fold in enumerate(divided, 1)}
    check_overlap(named, {name: [digests[s.image] for s in fold] for name, fold in named.items()})
    return divided


def fold_splits(splits: dict[str, list[S]], divided: list[list[S]]) -> Iterator[dict[str, list[S]]]:
    """Yield the splits of each fold: it is `val`, all the others together are `train`."""
    for fold in divided:
        others = [sample for other in divided if other is not fold for sample in other]
        train = sorted(others, key=lambda s: s.image)
        yield {**splits, "train": train, "val": fold}


def fold_mark(val: Sequence[Imaged], fold: int | None) -> str:
    """What a fold's fingerprint has behind that of the whole data set."""
    if fold is None:
        return ""
    return "/" + hashlib.sha256("\n".join(s.image for s in val).encode()).hexdigest()[:16]


def _grouped(samples: list[S], group: str | None, key: str) -> dict[str, list[S]]:
    """{what a group has in common: its samples}; without a pattern each image is its own.

    Args:
        key: that gave the pattern, for messages.
    """
    groups: dict[str, list[S]] = {}
    for sample in samples:
        if group is None:
            groups.setdefault(sample.image, []).append(sample)
            continue
        name = Path(sample.image).with_suffix("").as_posix() if "/" in group else sample.stem
        match = re.search(group, name)
        if match is None:
            raise InputError(
                f"{key}: {group!r} must match every {'path' if '/' in group else 'stem'}, but does "
                f"not match {name} ({sample.image})"
            )
        groups.setdefault(match[1] or "", []).append(sample)
    return groups


# ---------------------------------------------------------------- room for decoders


class _Room:
    """Bytes that threads may have in memory together."""

    def __init__(self, size: int) -> None:
        self._whole = self._free = size
        self._changed = Condition()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Wait until there is room for so many, and hold it; for more than there is, all of it."""
        size = min(size, self._whole)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()


# ---------------------------------------------------------------- preflight


@dataclass(frozen=True)
class _Facts:
    digest: str
    counts: list[int]
    seen: Seen


def _read_all(spec: SegmentationDataSpec, splits: dict[str, list[Sample]]) -> dict[str, Any]:
    """Decode every file; return the class counts of train and val, and the fingerprint."""
    facts = _decode_all(spec, splits)
    totals = {
        name: np.sum([fact.counts for fact in found], axis=0) for name, found in facts.items()
    }
    for name, total in totals.items():
        _check_not_ignored(name, total)
    val = np.array([fact.counts for fact in facts["val"]])  # (N, K)
    return {
        "counts": totals["train"].tolist(),
        "val_counts": totals["val"].tolist(),
        "val_images": effective_images(val).tolist(),
        "fingerprint": _fingerprint(spec, facts),
        "notes": _notes(spec, splits, facts),
        "hashes": _hashes(facts),
    }


def _read_files(spec: SegmentationDataSpec, splits: dict[str, list[Sample]]) -> dict[str, Any]:
    """Decode every file; return what each train image adds to a fold, and the fingerprint."""
    facts = _decode_all(spec, splits)
    return {
        "pixels": [fact.counts for fact in facts["train"]],
        "digests": [fact.digest for fact in facts["train"]],
        "fingerprint": _fingerprint(spec, facts),
        "notes": _notes(spec, splits, facts),
        "hashes": _hashes(facts),
    }


def _hashes(facts: Mapping[str, Sequence[_Facts]]) -> dict[str, str]:
    return {name: to_text([fact.seen.picture for fact in found]) for name, found in facts.items()}


def _decode_all(
    spec: SegmentationDataSpec, splits: dict[str, list[Sample]]
) -> dict[str, list[_Facts]]:
    facts: dict[str, list[_Facts]] = {}
    for name, samples in splits.items():
        facts[name] = each_decoded(samples, lambda _, sample: _check_sample(sample, spec))
    check_overlap(splits, {name: [f.digest for f in found] for name, found in facts.items()})
    return facts


def _notes(
    spec: SegmentationDataSpec, splits: dict[str, list[Sample]], facts: Mapping[str, list[_Facts]]
) -> list[str]:
    return [
        note
        for name, found in facts.items()
        for note in image_notes(
            name, [(s.image, fact.seen) for s, fact in zip(splits[name], found, strict=True)], spec
        )
    ]


def _fingerprint(spec: SegmentationDataSpec, facts: Mapping[str, Sequence[_Facts]]) -> str:
    meaning: list[Any] = [spec.classes, spec.palette, spec.ignore_index]
    if spec.ignore_classes:  # without them the fingerprint is that of older versions
        meaning.append(spec.ignore_classes)
    if spec.values is not None or spec.ignore_values:
        meaning.append({"values": spec.values, "ignore_values": spec.ignore_values})
    meaning += spec.reading
    digest = hashlib.sha256(json.dumps(meaning).encode())
    for name in sorted(facts):
        digest.update(name.encode())
        for fact in facts[name]:
            digest.update(fact.digest.encode())
    return digest.hexdigest()


def _check_not_ignored(name: str, pixels: np.ndarray) -> None:
    if int(pixels.sum()) == 0:
        raise InputError(
            f"data.{name}: every pixel of every mask is ignored; check data.ignore_index, "
            "data.ignore_classes and data.palette_ignore"
        )


def effective_images(sizes: np.ndarray) -> np.ndarray:
    """Return how many images of equal size are worth as much as these: (sum w)^2 / sum w^2.

    The effective sample size of Kish, Survey Sampling (1965), of a mean whose images count by
    their size: 25 pages of which one has half of the boxes are worth fewer than 25.

    Args:
        sizes: (N, K) or (N,), of each image, >= 0: pixels of each class, or boxes.

    Returns:
        (K,) or scalar in 0..N; 0 for a class that no image has.
    """
    sizes = sizes.astype(np.float64)
    squares = (sizes**2).sum(axis=0)
    return np.where(squares > 0, sizes.sum(axis=0) ** 2 / np.where(squares > 0, squares, 1), 0.0)


def _check_sample(sample: Sample, spec: SegmentationDataSpec) -> _Facts:
    seen = see_image(sample.image, spec)
    height, width = seen.size
    mask = decode_mask(sample.mask, spec)
    if mask.shape != (height, width):
        raise InputError(
            f"{sample.mask}: {mask.shape[1]}x{mask.shape[0]} pixels, but its image {sample.image} "
            f"has {width}x{height}; both must be of one size"
        )
    digest = file_digest(sample.image) + file_digest(sample.mask)
    return _Facts(digest, class_counts(mask, spec), seen)


def check_overlap(splits: Mapping[str, Sequence[Imaged]], digests: dict[str, list[str]]) -> None:
    """Refuse an image that stands in two splits: its score would be a memory test.

    Args:
        digests: {split: one text a sample, which begins with the digest of its image}.
    """
    seen: dict[str, tuple[str, str]] = {}
    for name in sorted(splits):
        for sample, digest in zip(splits[name], digests[name], strict=True):
            image = digest[:64]
            other = seen.setdefault(image, (name, sample.image))
            if other[0] != name:
                raise InputError(
                    f"{sample.image} ({name}) is the same image as {other[1]} ({other[0]}); "
                    "remove it from one split"
                )


def _stat_key(spec: Section, splits: Mapping[str, Sequence[Any]]) -> str:
    """SHA-256 over names, sizes and modification times: equal key, unchanged data."""
    digest = hashlib.sha256(spec.model_dump_json().encode())
    for name in sorted(splits):
        digest.update(name.encode())
        for path in _paths(splits[name]):
            found = plain_file(path)
            digest.update(f"{path}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _paths(samples: Sequence[Any]) -> Iterable[str]:
    for sample in samples:
        yield from asdict(sample).values()
