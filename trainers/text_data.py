"""Document images and their text boxes on disk: pairing, reading, and the preflight."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from spaces.data import TextDetectionDataSpec, TextDetectionSplitSpec
from spaces.errors import InputError
from trainers.data import (
    Imaged,
    Splits,
    by_stem,
    check_overlap,
    decode_image,
    divide_folds,
    each_decoded,
    each_split,
    fold_mark,
    fold_splits,
    recalled,
)
from trainers.dbnet.icdar import TextAnnotation, read_coco_text, read_icdar
from trainers.durable import file_digest


@dataclass(frozen=True)
class Page(Imaged):
    """One document image, absolute path, and where its boxes stand."""

    image: str
    labels: str
    """An ICDAR text file, or a COCO-Text-like JSON of the whole split."""


@dataclass(frozen=True)
class TextData(Splits[Page]):
    """A checked data set of pages.

    Attributes:
        sizes: {image path: (height, width)} in pixels.
        fingerprint: SHA-256 over the content of every file and the split; that of a fold says
            behind a slash which images are its val.
        folds: a data set for each fold, where there are folds; every image is in one's val, and
            `val` of the whole has them all.
    """

    spec: TextDetectionDataSpec
    splits: dict[str, list[Page]]
    sizes: dict[str, tuple[int, int]]
    fingerprint: str
    fold: int | None = None
    folds: tuple[TextData, ...] = ()
    _json: dict[str, dict[str, TextAnnotation]] = field(default_factory=dict, repr=False)
    _text: dict[str, TextAnnotation] = field(default_factory=dict, repr=False)

    def image(self, page: Page) -> np.ndarray:
        """Return (H, W, 3) uint8 RGB."""
        return decode_image(page.image, self.spec.max_pixels)

    def truth(self, page: Page) -> TextAnnotation:
        """Return the boxes of a page, in image pixels."""
        if page.labels.endswith(".json"):
            if page.labels not in self._json:
                self._json[page.labels] = _read_json(page.labels)
            return self._json[page.labels][Path(page.image).name]
        if page.labels not in self._text:
            self._text[page.labels] = _read_text(page.labels, self.spec.points)
        return self._text[page.labels]


def load_text_data(spec: TextDetectionDataSpec) -> TextData:
    """Pair images with their boxes, read every file, and return the checked data set.

    The result is remembered by the files' names, sizes and times, so that the next call is quick.

    Raises:
        InputError: naming the first file (and line) that is wrong, and why.
    """
    splits = each_split(spec.train, spec.val, spec.test, find_pages)
    undivided = spec.model_copy(update={"folds": None})  # one reading for all ways to divide
    facts = recalled(undivided, splits, lambda: _read_all(spec, splits))
    sizes = {path: (height, width) for path, (height, width) in facts["sizes"].items()}
    whole = TextData(spec, splits, sizes, facts["fingerprint"])
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
    for name, pages in splits.items():
        facts = each_decoded(pages, lambda _, page: _check_page(page, data))
        digests[name] = [digest for digest, _ in facts]
        for page, (_, size) in zip(pages, facts, strict=True):
            sizes[page.image] = size
        _check_has_text(name, pages, data)
    check_overlap(splits, digests)
    total = hashlib.sha256()
    for name in sorted(digests):
        total.update(json.dumps([name, digests[name]]).encode())
        for labels in sorted({page.labels for page in splits[name]}):
            total.update(file_digest(labels).encode())
    images = zip(splits["train"], digests["train"], strict=True)
    return {
        "sizes": sizes,
        "digests": {page.image: digest for page, digest in images} if "val" not in splits else {},
        "fingerprint": total.hexdigest(),
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
        raise InputError(f"data.{name}: no images found in {images}; check the path")
    if labels.is_file():
        known = _read_json(str(labels))
        missing = [path for path in found.values() if path.name not in known]
        if missing:
            raise InputError(
                f"data.{name}: {len(missing)} of {len(found)} images stand not in {labels}; the "
                f"first is {missing[0].name}"
            )
        return [Page(str(path), str(labels)) for path in found.values()]
    pages = []
    for stem, path in found.items():
        names = [labels / f"gt_{stem}.txt", labels / f"{stem}.txt"]
        file = next((candidate for candidate in names if candidate.is_file()), None)
        if file is None:
            raise InputError(
                f"data.{name}: {path} has no boxes; they must be in {names[0]} or {names[1].name}"
            )
        pages.append(Page(str(path), str(file)))
    return pages


def _check_page(page: Page, data: TextData) -> tuple[str, tuple[int, int]]:
    image = data.image(page)
    height, width = image.shape[:2]
    truth = data.truth(page)
    for index, polygon in enumerate(truth.polygons):
        low, high = polygon.min(axis=0), polygon.max(axis=0)
        if (high < 0).any() or low[0] > width or low[1] > height:
            raise InputError(
                f"{_place(page.labels, index)}: the box lies wholly outside of {page.image} "
                f"({width}x{height}): x {low[0]:g}..{high[0]:g}, y {low[1]:g}..{high[1]:g}"
            )
    return file_digest(page.image), (height, width)


def _place(labels: str, index: int) -> str:
    """Where the box of that index stands: file and line, of ICDAR files."""
    if labels.endswith(".json"):
        return f"{labels}: box {index + 1} of the image"
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


def _read_json(path: str) -> dict[str, TextAnnotation]:
    try:
        return read_coco_text(Path(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(str(error)) from None
