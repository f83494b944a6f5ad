"""Readers of text annotations: ICDAR text files, one an image, and COCO-Text-like JSON."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spaces.sources import short_start
from spaces.textfile import read_bytes

ICDAR_BYTES = 10_000_000  # of one image's file
JSON_BYTES = 500_000_000  # of a data set's; COCO-Text has 60 million
DONT_CARE = "###"
TEXT_KEYS = ("utf8_string", "text", "transcription")
POLYGON_KEYS = ("segmentation", "polygon", "mask")
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)\s*", re.ASCII)


@dataclass(frozen=True, eq=False)
class TextAnnotation:
    """The text of one image, in image pixels."""

    polygons: list[NDArray[np.float64]]
    """(K, 2) arrays of x, y, K >= 3, in file order."""
    ignore: NDArray[np.bool_]
    """(N,) true for don't-care text: neither a miss nor a hit."""
    texts: list[str]

    def __post_init__(self) -> None:
        assert len(self.polygons) == len(self.ignore) == len(self.texts)


def read_icdar(path: Path, points: int | None = 4) -> TextAnnotation:
    """Read a file of lines `x1,y1,...,xK,yK,text`, in UTF-8 with or without BOM.

    The text is all that follows the coordinates, commas included; `###` means don't-care; a line
    of coordinates alone has an empty text. Blank lines are skipped.

    Args:
        path: the file.
        points: K of every line. None finds it line by line: the longest even run of numbers, at
            least 8, that leaves one field for the text. A text such as `12,34,56` then looks like
            another point, so None is for files of curved text only.

    Raises:
        ValueError: a line that is not of that form, with file and line number.
        OSError: the file cannot be read.
    """
    if points is not None and points < 3:
        raise ValueError(f"points must be at least 3 or None, but got {points}")
    polygons, texts = [], []
    for number, line in _lines(path):
        try:
            polygon, text = _parse(line, points)
        except ValueError as error:
            raise ValueError(f"{path} line {number}: {error}") from None
        polygons.append(polygon)
        texts.append(text)
    return TextAnnotation(polygons, np.array([t == DONT_CARE for t in texts], bool), texts)


def read_coco_text(path: Path) -> dict[str, TextAnnotation]:
    """Read a COCO-Text-like JSON file into one annotation an image, by file name.

    Understood are `images` + `annotations` (COCO) and `imgs` + `anns` (COCO-Text), as lists or as
    objects by id. An annotation names its `image_id` and has a `segmentation`, `polygon` or `mask`
    (x1, y1, ...), or else a `bbox` (x, y, width, height). It is don't-care where `iscrowd` or
    `ignore` is true, `legibility` is `illegible` or its text is `###`; the text is `utf8_string`,
    `text` or `transcription`. An image without annotations is an image without text.

    Raises:
        ValueError: not such a file; names the line of a syntax error, else the annotation.
        OSError: the file cannot be read.
    """
    content = _load_json(path)
    images = _entries(path, content, "images", "imgs")
    names = {str(_field(path, name, i, "id")): _file_name(path, name, i) for name, i in images}
    found: dict[str, list[tuple[NDArray[np.float64], bool, str]]] = {n: [] for n in names.values()}
    if len(found) != len(images):
        raise ValueError(f"{path}: two images have the same id or the same file_name")
    for name, entry in _entries(path, content, "annotations", "anns"):
        image = names.get(str(_field(path, name, entry, "image_id")))
        if image is None:
            raise ValueError(f"{path}: {name}: there is no image with id {entry['image_id']!r}")
        try:
            found[image].append((_outline(entry), _dont_care(entry), _text(entry)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {name}: {error}") from None
    return {
        image: TextAnnotation(
            [polygon for polygon, _, _ in rows],
            np.array([ignore for _, ignore, _ in rows], bool),
            [text for _, _, text in rows],
        )
        for image, rows in found.items()
    }


# ---------------------------------------------------------------- ICDAR lines


def _lines(path: Path) -> list[tuple[int, str]]:
    """Numbered lines, from 1, without blank ones; only newlines end a line, texts may hold more."""
    content = read_bytes(path, ICDAR_BYTES)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path} line {line}: the file must be UTF-8, but holds the byte "
            f"0x{content[error.start]:02x}"
        ) from None
    numbered = [(i, line.rstrip("\r")) for i, line in enumerate(text.split("\n"), start=1)]
    return [(i, line) for i, line in numbered if line.strip()]


def _parse(line: str, points: int | None) -> tuple[NDArray[np.float64], str]:
    fields = line.split(",")
    numeric = next((i for i, f in enumerate(fields) if not NUMBER.fullmatch(f)), len(fields))
    # the last field is the text, unless there are just the four points and nothing else
    even = max(8, min(numeric, len(fields) - 1) // 2 * 2)
    wanted = even if points is None else 2 * points
    if numeric < wanted:
        there = numeric < len(fields)
        given = f"field {numeric + 1} is {short_start(fields[numeric])}" if there else "it ends"
        raise ValueError(
            f"a line must start with {wanted} comma-separated numbers, but after {numeric} {given}"
        )
    polygon = np.array([float(f) for f in fields[:wanted]]).reshape(-1, 2)
    return polygon, ",".join(fields[wanted:])


# ---------------------------------------------------------------- COCO entries


def _load_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_bytes(path, JSON_BYTES).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: the file must be UTF-8: {error}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} line {error.lineno}: not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # numbers without end, lists in lists
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must hold a JSON object, but holds a {type(content).__name__}")
    return content


def _entries(path: Path, content: dict[str, Any], *keys: str) -> list[tuple[str, dict[str, Any]]]:
    """(name for messages, entry) of a list, or of an object by id, under the first key present."""
    key = next((key for key in keys if key in content), None)
    if key is None:
        found = ", ".join(map(short_start, sorted(content)[:5]))
        raise ValueError(f"{path}: must have {' or '.join(keys)}, but has {found}")
    value = content[key]
    if isinstance(value, dict):
        entries = [(f"{key}.{name}", entry) for name, entry in value.items()]
    elif isinstance(value, list):
        entries = [(f"{key}[{i}]", entry) for i, entry in enumerate(value)]
    else:
        raise ValueError(f"{path}: {key} must be a list or an object")
    for name, entry in entries:
        if not isinstance(entry, dict):
            raise ValueError(f"{path}: {name} must be an object, but is {short_start(str(entry))}")
    return entries


def _field(path: Path, name: str, entry: dict[str, Any], key: str) -> Any:
    if key not in entry:
        raise ValueError(f"{path}: {name} must have {key!r}, but has {sorted(entry)}")
    return entry[key]


def _file_name(path: Path, name: str, entry: dict[str, Any]) -> str:
    return str(_field(path, name, entry, "file_name"))


def _outline(entry: dict[str, Any]) -> NDArray[np.float64]:
    """(K, 2) polygon of an annotation."""
    given = next((entry[k] for k in POLYGON_KEYS if entry.get(k)), None)
    if given is None:
        x, y, width, height = _numbers("bbox", entry.get("bbox"), 4)
        return np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])
    if isinstance(given, list) and isinstance(given[0], list):
        if len(given) != 1:
            raise ValueError(f"text must be one polygon, but has {len(given)} parts")
        given = given[0]
    return np.array(_numbers("polygon", given, None)).reshape(-1, 2)


def _numbers(what: str, given: Any, count: int | None) -> list[float]:
    """Finite numbers: `count` of them, or an even number of at least 6."""
    fits = isinstance(given, list) and (
        len(given) == count if count is not None else len(given) >= 6 and len(given) % 2 == 0
    )
    if not fits:
        wanted = str(count) if count is not None else "an even count of at least 6"
        raise ValueError(f"{what} must be {wanted} numbers, but is {given!r}")
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in given):
        raise ValueError(f"{what} must hold finite numbers only, but is {given!r}")
    return [float(v) for v in given]


def _text(entry: dict[str, Any]) -> str:
    return str(next((entry[k] for k in TEXT_KEYS if entry.get(k) is not None), ""))


def _dont_care(entry: dict[str, Any]) -> bool:
    return (
        bool(entry.get("iscrowd"))
        or bool(entry.get("ignore"))
        or entry.get("legibility") == "illegible"
        or _text(entry) == DONT_CARE
    )
