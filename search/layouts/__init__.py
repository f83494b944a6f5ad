"""Data sets as folders have them: what a folder looks like, and a study file for it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from search.layouts.folders import Layout, folders_of
from search.layouts.masks import camvid, cityscapes, pairs, voc
from search.layouts.text import coco_text, icdar, pages
from spaces.errors import InputError
from spaces.sources import existing
from trainers.pairs import SUFFIXES, kinds, listing

LAYOUTS: dict[str, Callable[[Path], Layout | None]] = {
    "Cityscapes (leftImg8bit, gtFine)": cityscapes,
    "VOC (JPEGImages, SegmentationClass, ImageSets/Segmentation)": voc,
    "CamVid (train, trainannot; or 701_StillsRaw_full, LabeledApproved_full)": camvid,
    "COCO-Text (a JSON of texts, train2014)": coco_text,
    "ICDAR (..._training_images, ..._training_..._gt)": icdar,
    "images and masks (images, masks; in train and val, or not)": pairs,
    "pages and labels (images, labels; in train and val, or not)": pages,
}
"""{what a user is told of it: finds it in a folder, else None}; the first that fits."""

PATHS = ("images", "masks", "labels", "list")
WIDTH = 100  # of a line


def recognise(folder: Path) -> Layout:
    """Return what a folder, or the only one in it that is a data set, looks like.

    Raises:
        InputError: none of LAYOUTS, or several data sets; or one that has something wrong.
    """
    if not folder.is_dir():
        raise InputError(f"--from {folder}: is not a folder")
    folder = Path(os.path.abspath(folder))
    if (layout := _of(folder)) is not None:
        return layout
    below = [found for one in folders_of(folder).values() if (found := _of(one)) is not None]
    if len(below) == 1:
        return below[0]
    there = listing(folder)
    what = f"it has {kinds(there)}" if there else "it is empty"
    if below:
        what = f"it has {len(below)} data sets: name one of them"
    raise InputError(
        f"--from {folder}: no layout of a data set that is known; {what}. Known are: "
        f"{'; '.join(LAYOUTS)}. For any other, segtune init TASK FOLDER writes a file to fill in"
    )


def check_links(folder: Path) -> None:
    """Refuse links in a folder that lead out of the folders of `spaces.paths.ROOTS`.

    Else names of classes, and of files, would come from there. Links of images may lead anywhere,
    as in the folders that a study file names: nothing quotes an image.

    Raises:
        InputError: there is one, or one that leads to nothing.
    """
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [name for name in folders if not name.startswith(".") and real not in seen]
        seen.add(real)
        others = [name for name in files if not name.lower().endswith(SUFFIXES)]
        for path in (Path(place, name) for name in (*folders, *others)):
            if path.is_symlink():
                existing(folder, str(path), "--from", "segtune init")


def _of(folder: Path) -> Layout | None:
    return next((found for of in LAYOUTS.values() if (found := of(folder)) is not None), None)


def study_of(layout: Layout, template: str, place: Path, name: str) -> str:
    """Return a study file: a template whose name and `data:` section are those of a layout.

    Args:
        place: the folder of the study file; paths below it become relative.
    """
    lines = [f"data:                         # {layout.name}"]
    for key, value in layout.data.items():
        lines += _lines(key, _relative(value, place), layout.comments.get(key))
    section = "\n".join(lines) + "\n"
    text, sections = re.subn(r"(?ms)^data:.*?\n(?=\n)", lambda _: section, template)
    named = f"name: {study_name(name)}".ljust(30)
    text, count = re.subn(r"(?m)^name: \S+ *", lambda _: named, text)
    assert count == sections == 1, "the template has one name and one data section"
    return text


def study_name(name: str) -> str:
    """A study's name from a folder's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:100] or "my-study"


def _relative(value: Any, place: Path) -> Any:
    """The value with its paths relative to `place` where they lie below it."""
    if isinstance(value, dict):
        return {
            key: _path(one, place) if key in PATHS else one
            for key, one in value.items()
            if one != ""
        }
    return _path(value, place) if isinstance(value, str) else value


def _path(given: str, place: Path) -> str:
    path = Path(given)
    return path.relative_to(place).as_posix() if path.is_relative_to(place) else given


def _lines(key: str, value: Any, comment: str | None) -> list[str]:
    """A key of the data section with its comment: on one line, or what is too long for it below."""
    said = f"   # {comment}" if comment else ""
    line = f"  {key}: {_flow(value)}"
    if "\n" not in line and len(line + said) <= WIDTH:
        return [line + said]
    above = [f"  # {comment}"] if comment else []
    if isinstance(value, dict) and len(line) > WIDTH:
        return [*above, f"  {key}:", *(f"    {name}: {_flow(one)}" for name, one in value.items())]
    return [*above, *line.split("\n")]


def _flow(value: Any) -> str:
    """A value as YAML on a line; long lists go on below."""
    text = yaml.safe_dump(
        _plain(value),
        default_flow_style=True,
        sort_keys=False,
        width=WIDTH - 20,
        allow_unicode=True,
    )
    return text.removesuffix("...\n").strip().replace("\n", "\n   ")


def _plain(value: Any) -> Any:
    """Tuples as lists: YAML has no others."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
