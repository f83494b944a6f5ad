"""Folders as data sets have them: which one holds the images of a split, and which their masks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spaces.errors import InputError
from trainers.pairs import by_stem, listing, suffix_rule

SPLITS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
IMAGES = ("images", "image", "imgs", "img", "img_dir", "jpegimages", "rgb", "photos", "pages")
OTHERS = (
    *("masks", "mask", "labels", "label", "annotations", "annotation", "annots", "annot"),
    *("ann_dir", "anno", "gt", "groundtruth", "ground_truth", "segmentationclass"),
    *("segmentations", "segmentation", "seg", "targets", "target"),
)
MASK_ENDS = ("_mask", "_masks", "_label", "_labels", "_gt", "_GT", "_seg", "_L", "_M", "_P")
FRACTION = 0.2  # of train, where there is no val
FEWEST_GROUPS = 3  # that a share of whole groups makes sense of
GROUPS = ("^([^_]+)_", "([^/]+)/[^/]+$")  # what frames of one video, or of one folder, share


@dataclass(frozen=True)
class Layout:
    """What a folder was recognised as.

    Attributes:
        data: the `data:` section of a study file, paths absolute.
        comments: {key of data: what is said beside it}.
    """

    name: str
    task: str
    data: dict[str, Any]
    comments: dict[str, str] = field(default_factory=dict)


def folders_of(folder: Path) -> dict[str, Path]:
    """{name in small letters: path} of the folders in a folder."""
    return {path.name.lower(): path for path in listing(folder) if path.is_dir()}


def paired_folders(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Return {split: (folder of images, folder of masks or labels)}; without splits all is train.

    Known are `train/images`, `images/train`, `train` beside `train_masks`, and `images` alone, each
    with other words for them.
    """
    there = folders_of(folder)
    found = dict(_by_split(there))
    if "train" in found:
        return found
    images, others = _first(there, IMAGES), _first(there, OTHERS)
    return {"train": (images, others)} if images and others else {}


def split_of(images: Path, masks: Path) -> dict[str, Any]:
    """Return a split of a study file: two folders, and how the names of their files pair."""
    recursive = not by_stem(images)
    own, others = by_stem(images, recursive=recursive), by_stem(masks, recursive=recursive)
    found: dict[str, Any] = {"images": str(images), "masks": str(masks)}
    if own and not all(key in others for key in own):
        rule = suffix_rule(list(own), list(others)) or ("", "")
        found |= {
            key: value
            for key, value in zip(("image_suffix", "mask_suffix"), rule, strict=True)
            if value
        }
    return found | ({"recursive": True} if recursive else {})


def together(folder: Path) -> dict[str, Any] | None:
    """Return a split of one folder that holds images and masks, which their names tell apart."""
    files = [path for path in listing(folder) if not path.is_dir()]
    stems = [path.stem for path in files]
    both = {"images": str(folder), "masks": str(folder)}
    for end in MASK_ENDS:
        masks = [stem for stem in stems if stem.endswith(end)]
        images = [stem for stem in stems if not stem.endswith(end)]
        if masks and images and (rule := suffix_rule(sorted(images), sorted(masks))):
            return both | {"image_suffix": rule[0], "mask_suffix": rule[1]}
    for kind in (".jpg", ".jpeg"):
        photos = {path.stem for path in files if path.suffix.lower() == kind}
        if photos and photos == {path.stem for path in files if path.suffix.lower() == ".png"}:
            return both | {"image_suffix": kind, "mask_suffix": ".png"}
    return None


def share(images: Sequence[Path]) -> dict[str, Any]:
    """Return the val split that is a share of train: whole videos, where names tell them."""
    for group in GROUPS:
        names = [path.stem if "/" not in group else path.as_posix() for path in images]
        matches = [re.search(group, name) for name in names]
        groups = {match[1] for match in matches if match}
        if all(matches) and FEWEST_GROUPS <= len(groups) <= len(images) / 2:
            return {"fraction": FRACTION, "group": group}
    return {"fraction": FRACTION}


def share_comment(val: Mapping[str, Any]) -> str:
    """What is said beside a val split that is a share of train."""
    if "group" in val:
        return "a share of train; images of one group stay together"
    return "a share of train; frames of a video need a group: '^([^_]+)_' keeps each together"


def not_these(folder: Path, error: InputError, name: str) -> InputError:
    """Say that a folder looks like a layout, and what is wrong with it."""
    return InputError(f"{folder} looks like {name}, but: {error}")


def _by_split(there: Mapping[str, Path]) -> Iterator[tuple[str, tuple[Path, Path]]]:
    """(split, (images, others)) of each split that the folders have; the first way that fits."""
    roots = _first(there, IMAGES), _first(there, OTHERS)
    for split, names in SPLITS.items():
        for name in names:
            pair = _of_name(there, roots, name)
            if pair is not None:
                yield split, pair
                break


def _of_name(
    there: Mapping[str, Path], roots: tuple[Path | None, Path | None], name: str
) -> tuple[Path, Path] | None:
    inside = folders_of(there[name]) if name in there else {}
    pair = _first(inside, IMAGES), _first(inside, OTHERS)  # train/images
    if pair[0] is None or pair[1] is None:
        below = [folders_of(root).get(name) if root else None for root in roots]  # images/train
        pair = below[0], below[1]
    if pair[0] is None or pair[1] is None:
        beside = [f"{name}{sign}" for sign in ("", "_", "-")]  # train, trainannot
        images = _first(there, [name, *(f"{at}{word}" for at in beside for word in IMAGES)])
        others = _first(there, [f"{at}{word}" for at in beside for word in OTHERS])
        pair = images, others
    return (pair[0], pair[1]) if pair[0] and pair[1] else None


def _first(there: Mapping[str, Path], names: Sequence[str]) -> Path | None:
    return next((there[name] for name in names if name in there), None)
