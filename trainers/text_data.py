"""Document images and their text boxes on disk: pairing, reading, and the preflight."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from spaces.data import TextDetectionDataSpec, TextDetectionSplitSpec
from spaces.errors import InputError
from trainers.data import (
    HASHED,
    Imaged,
    Splits,
    check_overlap,
    divide_folds,
    each_decoded,
    each_split,
    fold_mark,
    fold_splits,
    hashes_of,
    recalled,
)
from trainers.dbnet.icdar import TextAnnotation, read_coco_text, read_icdar
from trainers.dbnet.outlines import LEAST_AREA, area, clipped
from trainers.durable import file_digest
from trainers.image_notes import image_notes
from trainers.images import Seen, decode_image, see_image
from trainers.near_duplicates import to_text
from trainers.pairs import SUFFIXES, by_stem, kinds, listing, nothing_in, same_name

LABELS = (".txt", ".csv")  # of ICDAR files
JSON = ".json"


@dataclass(frozen=True)
class Page(Imaged):
    """One document image, absolute path, and where its boxes stand."""

    image: str
    labels: str
    """An ICDAR text file, or a COCO-Text-like JSON of the whole split."""


@dataclass(frozen=True)
class JsonLabels:
    """The boxes of a JSON, by `file_name`, which may have folders."""

    found: dict[str, TextAnnotation]

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """{name without folders: entries}."""
        entries: dict[str, list[str]] = {}
        for given in self.found:
            entries.setdefault(_parts(given)[-1], []).append(given)
        return entries

    def entry_of(self, image: Path) -> str | None:
        """The `file_name` of an image: the one of its name, or of several that of its folders too.

        Raises:
            InputError: several, and the folders do not tell which.
        """
        entries = self._by_name.get(same_name(image.name), [])
        if len(entries) > 1:
            parts = tuple(map(same_name, image.parts))
            entries = [e for e in entries if parts[-len(_parts(e)) :] == _parts(e)] or entries
        if len(entries) > 1:
            raise InputError(
                f"{image} may be {' or '.join(entries[:3])} of its labels; name the folders of "
                "both alike, or give each split a file of its own"
            )
        return entries[0] if entries else None


def _parts(file_name: str) -> tuple[str, ...]:
    """The folders and the name, of any system's path."""
    return PurePosixPath(same_name(file_name.replace("\\", "/"))).parts or ("",)


@dataclass(frozen=True)
class TextData(Splits[Page]):
    """A checked data set of pages.

    Attributes:
        sizes: {image path: (height, width)} in pixels.
        fingerprint: SHA-256 over the content of every file and the split; that of a fold says
            behind a slash which images are its val.
        folds: a data set for each fold, where there are folds; every image is in one's val, and
            `val` of the whole has them all.
        notes: what was mended, and what of the folders is not used: a sentence each.
    """

    spec: TextDetectionDataSpec
    splits: dict[str, list[Page]]
    sizes: dict[str, tuple[int, int]]
    fingerprint: str
    fold: int | None = None
    folds: tuple[TextData, ...] = ()
    notes: tuple[str, ...] = ()
    hashes: dict[str, bytes] = field(default_factory=dict, repr=False)
    _json: dict[str, JsonLabels] = field(default_factory=dict, repr=False)
    _text: dict[str, TextAnnotation] = field(default_factory=dict, repr=False)

    def image(self, page: Page) -> np.ndarray:
        """Return (H, W, C) uint8 of `data.channels` channels."""
        return decode_image(page.image, self.spec)

    def truth(self, page: Page) -> TextAnnotation:
        """Return the boxes of a page, in image pixels."""
        if page.labels.lower().endswith(JSON):
            known = self.json_labels(page.labels)
            entry = known.entry_of(Path(page.image))
            assert entry is not None
            return known.found[entry]
        if page.labels not in self._text:
            self._text[page.labels] = _read_text(page.labels, self.spec.points)
        return self._text[page.labels]

    def json_labels(self, path: str) -> JsonLabels:
        """Return what a JSON of labels holds, which is read once."""
        if path not in self._json:
            self._json[path] = _read_json(path)
        return self._json[path]


def load_text_data(spec: TextDetectionDataSpec) -> TextData:
    """Pair images with their boxes, read every file, and return the checked data set.

    The result is remembered by the files' names, sizes and times, so that the next call is quick.

    Raises:
        InputError: naming the first file (and line) that is wrong, and why.
    """
    splits = each_split(spec.train, spec.val, spec.test, find_pages)
    undivided = spec.model_copy(update={"folds": None})  # one reading for all ways to divide
    facts = recalled(undivided, splits, lambda: _read_all(spec, splits), kind=HASHED)
    sizes = {path: (height, width) for path, (height, width) in facts["sizes"].items()}
    notes = *facts["notes"], *_unused_files(spec), *_in_no_set(spec, splits)
    hashes = hashes_of(splits, facts["hashes"])
    whole = TextData(spec, splits, sizes, facts["fingerprint"], notes=notes, hashes=hashes)
    if spec.folds is None:
        return whole
    whole = replace(whole, splits={**splits, "val": splits["train"]})
    divided = divide_folds(splits["train"], spec.folds, facts["digests"])
    parts = tuple(
        replace(
            whole,
            splits=of,
            fold=fold,
            fingerprint=whole.fingerprint + fold_mark(of["val"], fold),
        )
        for fold, of in enumerate(fold_splits(splits, divided), 1)
    )
    for part in parts:
        for name in ("train", "val"):
            _check_has_text(f"folds: {name} of fold {part.fold}", part.split(name), whole)
    return replace(whole, folds=parts)


def _read_all(spec: TextDetectionDataSpec, splits: dict[str, list[Page]]) -> dict[str, Any]:
    """Read every image and every box; return the images' sizes and the fingerprint."""
    data = TextData(spec, splits, {}, "")
    sizes: dict[str, tuple[int, int]] = {}
    digests: dict[str, list[str]] = {}
    hashes: dict[str, str] = {}
    mended: list[str] = []
    for name, pages in splits.items():
        facts = each_decoded(pages, lambda _, page: check_page(page, data))
        digests[name] = [digest for digest, _ in facts]
        seen = [(page.image, found) for page, (_, found) in zip(pages, facts, strict=True)]
        hashes[name] = to_text([found.picture for _, found in seen])
        sizes |= {path: found.size for path, found in seen}
        mended += image_notes(name, seen, spec)
        mended += _mended(name, pages, data)
        _check_has_text(name, pages, data)
    check_overlap(splits, digests)
    total = hashlib.sha256(json.dumps(spec.reading).encode() if spec.reading else b"")
    for name in sorted(digests):
        total.update(json.dumps([name, digests[name]]).encode())
        for labels in sorted({page.labels for page in splits[name]}):
            total.update(file_digest(labels).encode())
    images = zip(splits["train"], digests["train"], strict=True)
    return {
        "sizes": sizes,
        "digests": {page.image: digest for page, digest in images} if "val" not in splits else {},
        "fingerprint": total.hexdigest(),
        "hashes": hashes,
        "notes": [*mended, *_unused_entries(splits, data)],
    }


def _check_has_text(name: str, pages: list[Page], data: TextData) -> None:
    if all(data.truth(page).ignore.all() for page in pages):
        raise InputError(f"data.{name}: no text that counts; every box is don't-care")


def find_pages(split: TextDetectionSplitSpec, name: str) -> list[Page]:
    """Return the pages of one split, sorted by image path."""
    assert split.images is not None and split.labels is not None
    images, labels = Path(split.images), Path(split.labels)
    if not images.is_dir():
        raise InputError(f"data.{name}.images: {images} is not a folder")
    found = by_stem(images)
    if not found:
        raise InputError(f"data.{name}: {nothing_in(images, can_recurse=False)}")
    if labels.is_dir():
        if split.set is not None:
            raise InputError(
                f"data.{name}.set: goes with a JSON of labels, but {labels} is a folder"
            )
        return _with_files(found, labels, name)
    if labels.suffix.lower() != JSON:
        raise InputError(
            f"data.{name}.labels: {labels} must be a folder of label files, one an image "
            f"({', '.join(LABELS)}), or one file of COCO-Text's form whose name ends in .json"
        )
    known = _read_json(str(labels))
    if split.set is not None:
        found = _in_set(found, known, split.set, f"data.{name}.set", labels)
    missing = [path for path in found.values() if known.entry_of(path) is None]
    if missing:
        raise InputError(
            f"data.{name}: {len(missing)} of {len(found)} images stand not in {labels}; the "
            f"first is {missing[0].name}"
        )
    return [Page(str(path), str(labels)) for path in found.values()]


def _in_set(
    found: dict[str, Path], known: JsonLabels, wanted: str, key: str, labels: Path
) -> dict[str, Path]:
    """The images that a JSON puts in one set."""
    entries = {stem: known.entry_of(path) for stem, path in found.items()}
    sets = {stem: known.found[entry].set for stem, entry in entries.items() if entry is not None}
    chosen = {stem: path for stem, path in found.items() if sets.get(stem) == wanted}
    if not chosen:
        there = sorted({str(one) for one in sets.values() if one is not None})
        raise InputError(
            f"{key}: none of the {len(found)} images is in set {wanted!r} of {labels}; those that "
            f"have one are in: {', '.join(there) or 'none'}"
        )
    return chosen


def _with_files(found: dict[str, Path], labels: Path, name: str) -> list[Page]:
    """The pages of a folder of label files."""
    files = _label_files(labels)
    pages = []
    for stem, path in found.items():
        own = [file for key in (f"gt_{stem}", stem) for file in files.get(key, [])]
        if not own:
            there = listing(labels) if not files else []
            raise InputError(
                f"data.{name}: {path} has no boxes; they must be in {labels / f'gt_{stem}.txt'} or "
                f"{stem}.txt (or .csv){f', but that folder has {kinds(there)}' if there else ''}"
            )
        if len(own) > 1:
            raise InputError(
                f"data.{name}: {path} has {len(own)} label files, "
                f"{' and '.join(file.name for file in own)} in {labels}; keep one of them"
            )
        pages.append(Page(str(path), str(own[0])))
    return pages


def _label_files(folder: Path) -> dict[str, list[Path]]:
    """{stem: files} of a folder, sorted."""
    files: dict[str, list[Path]] = {}
    for path in listing(folder):
        if path.suffix.lower() in LABELS:
            files.setdefault(same_name(path.stem), []).append(path)
    return files


def _unused_files(spec: TextDetectionDataSpec) -> list[str]:
    """What lies in the folders of images and labels and is not used."""
    given = {"train": spec.train, "val": spec.val, "test": spec.test}
    folders = [
        (name, Path(split.images), Path(split.labels))
        for name, split in given.items()
        if split is not None and split.images is not None and split.labels is not None
    ]
    said = []
    used: dict[Path, set[str]] = {}
    for name, images, labels in folders:
        used.setdefault(labels, set()).update(
            key for stem in by_stem(images) for key in (f"gt_{stem}", stem)
        )
        known = (*SUFFIXES, *LABELS, JSON)
        spare = [
            path
            for path in listing(images)
            if path != labels and (path.is_dir() or path.suffix.lower() not in known)
        ]
        if spare:
            said.append(f"data.{name}: not read in {images}: {kinds(spare)}")
    for labels, keys in used.items():
        if not labels.is_dir():
            continue
        files = _label_files(labels).items()
        lost = [file for key, own in files if key not in keys for file in own]
        if lost:
            said.append(
                f"not used: {len(lost)} label files of {labels}, which have no image; the first "
                f"is {lost[0].name}"
            )
    return said


def _in_no_set(spec: TextDetectionDataSpec, splits: dict[str, list[Page]]) -> list[str]:
    """How many images are in no set that is named."""
    given = [split for split in (spec.train, spec.val, spec.test) if split is not None]
    used = {page.image for pages in splits.values() for page in pages}
    said = []
    for folder in sorted({str(split.images) for split in given if split.set is not None}):
        lost = [path for path in by_stem(Path(folder)).values() if str(path) not in used]
        if lost:
            said.append(
                f"not used: {len(lost)} images of {folder}, which are in no data.*.set; the first "
                f"is {lost[0].name}"
            )
    return said


def _unused_entries(splits: dict[str, list[Page]], data: TextData) -> list[str]:
    """The images that a JSON has and no split, and how many boxes they have."""
    used: dict[str, set[str | None]] = {}
    for page in (page for pages in splits.values() for page in pages):
        if page.labels.lower().endswith(JSON):
            entry = data.json_labels(page.labels).entry_of(Path(page.image))
            used.setdefault(page.labels, set()).add(entry)
    said = []
    given = data.spec.train, data.spec.val, data.spec.test
    for labels, entries in used.items():
        known = data.json_labels(labels).found
        lost = [entry for entry in known if entry not in entries]
        if wanted := {split.set for split in given if split and split.labels == labels} - {None}:
            lost = [entry for entry in lost if known[entry].set in wanted]
        if lost:
            boxes = sum(len(known[entry].polygons) for entry in lost)
            said.append(
                f"not used: {len(lost)} of the {len(known)} images of {labels}, with {boxes} "
                f"boxes, which are in no folder of images; the first is {lost[0]}"
            )
    return said


def _mended(name: str, pages: Sequence[Page], data: TextData) -> list[str]:
    """How many boxes had crossed corners, and where the first one stands."""
    crossed = [(page, index) for page in pages for index in data.truth(page).reordered]
    if not crossed:
        return []
    page, index = crossed[0]
    return [
        f"data.{name}: the corners of {len(crossed)} boxes cross and were put in order, as in "
        f"{_place(page, index)}"
    ]


def check_page(page: Page, data: TextData) -> tuple[str, Seen]:
    """Read a page; return the digest of its image, and what was seen of that.

    Raises:
        InputError: its image is broken, or its boxes do not fit to it.
    """
    seen = see_image(page.image, data.spec)
    height, width = seen.size
    truth = data.truth(page)
    if truth.size is not None and truth.size != (height, width):
        raise InputError(
            f"{page.labels}: {Path(page.image).name} is {truth.size[1]}x{truth.size[0]} there, but "
            f"the image {page.image} is {width}x{height}; its boxes would not fit"
        )
    for index, polygon in enumerate(truth.polygons):
        if area(clipped(polygon, (height, width))) < LEAST_AREA:
            low, high = polygon.min(axis=0), polygon.max(axis=0)
            raise InputError(
                f"{_place(page, index)}: the box lies wholly outside of {page.image} "
                f"({width}x{height}): x {low[0]:g}..{high[0]:g}, y {low[1]:g}..{high[1]:g}"
            )
    return file_digest(page.image), seen


def _place(page: Page, index: int) -> str:
    """Where the box of that index stands: file and line, of ICDAR files."""
    labels = page.labels
    if labels.lower().endswith(JSON):
        return f"{labels}: box {index + 1} of {Path(page.image).name}"
    lines = Path(labels).read_text(encoding="utf-8-sig").split("\n")
    filled = [number for number, line in enumerate(lines, 1) if line.strip()]
    return f"{labels} line {filled[index]}"


def _read_text(path: str, points: int | None) -> TextAnnotation:
    try:
        return read_icdar(Path(path), points)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(str(error)) from None


def _read_json(path: str) -> JsonLabels:
    try:
        return JsonLabels(read_coco_text(Path(path)))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(str(error)) from None
