"""Layouts of text detection: COCO-Text, ICDAR, and folders of pages and labels."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from search.layouts.folders import (
    SPLITS,
    Layout,
    folders_of,
    not_these,
    paired_folders,
    share,
    share_comment,
)
from spaces.data import TextDetectionSplitSpec
from spaces.errors import InputError
from spaces.textfile import read_bytes
from trainers.dbnet.icdar import JSON_BYTES, TEXT_KEYS, read_coco_text, read_icdar
from trainers.pairs import by_stem, listing
from trainers.text_data import LABELS, find_pages

TASK = "text_detection"
LOOKED_AT = 50  # label files, to know how their boxes are written
SAYS_TEXT = (*TEXT_KEYS, "legibility")  # keys of annotations that are text, and no other objects


def coco_text(folder: Path) -> Layout | None:
    """A JSON of texts, whose `set` tells the splits, beside a folder of images (`train2014`)."""
    for path in listing(folder):
        if path.suffix.lower() != ".json" or not _says_text(path):
            continue
        known = read_coco_text(path)
        images = {Path(name).stem for name in known}
        candidates = [folder, *folders_of(folder).values()]
        there = next((one for one in candidates if images & by_stem(one).keys()), None)
        if there is None:
            continue
        present = by_stem(there).keys()
        sets = {a.set for name, a in known.items() if Path(name).stem in present}
        one = {"images": str(there), "labels": str(path)}
        if "train" not in sets:
            pages = list(by_stem(there).values())
            return _checked("COCO-Text", folder, {"train": one, "val": share(pages)})
        data: dict[str, Any] = {name: one | {"set": name} for name in SPLITS if name in sets}
        if "val" not in data:
            data = {"train": data["train"], "val": share(list(by_stem(there).values())), **data}
        return _checked("COCO-Text", folder, data)
    return None


def icdar(folder: Path) -> Layout | None:
    """ICDAR's folders: `ch4_training_images`, `ch4_training_localization_transcription_gt`."""
    there = folders_of(folder)
    data: dict[str, Any] = {}
    for split, word in (("train", "train"), ("test", "test")):
        names = [name for name in there if re.search(rf"(^|_){word}(ing)?_", name)]
        images = [there[name] for name in names if re.search(r"images?(_\w+)?$", name)]
        labels = [there[name] for name in names if re.search(r"(^|_)gt(_\w+)?$", name)]
        labels = list(filter(_are_labels, labels))
        if len(images) == len(labels) == 1:
            data[split] = {"images": str(images[0]), "labels": str(labels[0])}
    if "train" not in data:
        return None
    return _checked("ICDAR", folder, data)


def pages(folder: Path) -> Layout | None:
    """Folders of pages and of label files, or a JSON a split, with or without splits."""
    found = {
        split: {"images": str(images), "labels": str(labels)}
        for split, (images, labels) in paired_folders(folder).items()
        if _are_labels(labels)
    }
    there = folders_of(folder)
    for split, names in SPLITS.items() if "train" not in found else ():
        for name in names:
            json_file = next(iter(_jsons(folder, there, name)), None)
            images = _images(there, name)
            if json_file is not None and images is not None:
                found[split] = {"images": str(images), "labels": str(json_file)}
                break
    if "train" not in found:
        return None
    return _checked("pairs of pages and labels", folder, found)


def _jsons(folder: Path, there: dict[str, Path], name: str) -> list[Path]:
    """JSON files of texts that a split of this name may have."""
    inside = [there[name]] if name in there else []
    places = [folder, *(there[word] for word in ("annotations", "labels", "gt") if word in there)]
    named = [place / f"{name}.json" for place in places]
    own = [path for place in inside for path in listing(place) if path.suffix.lower() == ".json"]
    return [path for path in (*named, *own) if path.is_file() and _says_text(path)]


def _images(there: dict[str, Path], name: str) -> Path | None:
    """The folder of a split's images: `train/images`, `images/train` or `train`."""
    roots = [folders_of(there[name]).get("images")] if name in there else []
    roots += [folders_of(there[word]).get(name) for word in ("images", "imgs") if word in there]
    roots += [there.get(name)]
    return next((root for root in roots if root is not None and by_stem(root)), None)


def _says_text(path: Path) -> bool:
    """Whether a JSON file holds annotations of text; of other objects they are no text."""
    try:
        tree = json.loads(read_bytes(path, JSON_BYTES).decode("utf-8-sig"))
        found = tree.get("anns", tree.get("annotations", []))
        entries = list(found.values()) if isinstance(found, dict) else found
        return any(key in entry for entry in entries[:LOOKED_AT] for key in SAYS_TEXT)
    except (OSError, ValueError, RecursionError, AttributeError, TypeError):
        return False


def _checked(name: str, folder: Path, data: dict[str, Any]) -> Layout:
    """A layout whose pages have labels; how their boxes are written is found out."""
    comments = {}
    try:
        found = find_pages(TextDetectionSplitSpec(**data["train"]), "train")
        if "val" not in data:
            val = share([Path(page.image) for page in found])
            data = {"train": data["train"], "val": val, **data}
        if "fraction" in data["val"]:
            comments["val"] = share_comment(data["val"])
        points = _points([page.labels for page in found])
    except InputError as error:
        raise not_these(folder, error, name) from None
    if points != 4:
        data = data | {"points": points}
        comments["points"] = "left, top, right, bottom"
    return Layout(name, TASK, data, comments)


def _points(labels: list[str]) -> int:
    """Corners of a box: 4, or 2 where all lines are rectangles; else InputError, as of 4."""
    files = [Path(path) for path in dict.fromkeys(labels) if not path.lower().endswith(".json")]
    problems = [_problem(files[:LOOKED_AT], points) for points in (4, 2)]
    if None not in problems:
        raise InputError(str(problems[0]))
    return 4 if problems[0] is None else 2


def _problem(files: list[Path], points: int) -> Exception | None:
    """What is wrong with label files whose boxes have so many corners."""
    try:
        for path in files:
            read_icdar(path, points)
    except (OSError, ValueError) as error:
        return error
    return None


def _are_labels(folder: Path) -> bool:
    return any(path.suffix.lower() in LABELS for path in listing(folder))
