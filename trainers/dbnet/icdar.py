"""Readers of text annotations: ICDAR text files, one an image, and COCO-Text-like JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spaces.sources import short_start
from spaces.textfile import read_bytes
from trainers.dbnet.outlines import clipped, in_order

ICDAR_BYTES = 10_000_000  # of one image's file
JSON_BYTES = 500_000_000  # of a data set's; COCO-Text has 60 million
DONT_CARE = "#"  # a text of these alone
SEPARATORS = {",": "comma", "\t": "tab", " ": "space"}
SCRIPTS = [
    "Arabic",
    "Latin",
    "Chinese",
    "Japanese",
    "Korean",
    "Bangla",
    "Hindi",
    "Symbols",
    "Mixed",
    "None",
]
"""The column before the text in files of MLT (Nayef et al. 2019)."""
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
    reordered: tuple[int, ...] = ()
    """Indices of boxes whose corners crossed and were put in order."""
    size: tuple[int, int] | None = None
    """(H, W) that the file says its image has."""
    set: str | None = None
    """The split that the file puts its image in."""

    def __post_init__(self) -> None:
        assert len(self.polygons) == len(self.ignore) == len(self.texts)

    def on_page(self, size: tuple[int, int]) -> TextAnnotation:
        """Return it with what of each polygon lies on a page of (H, W), as it is scored."""
        return replace(self, polygons=[clipped(polygon, size) for polygon in self.polygons])


def read_icdar(path: Path, points: int | None = 4) -> TextAnnotation:
    """Read a file of lines `x1,y1,...,xK,yK,text`, in UTF-8 with or without BOM.

    Tabs or single spaces may stand in place of the commas. The text is all that follows the
    coordinates, commas included; a line of coordinates alone has an empty text. Text of `#` alone,
    in quotes or not, means don't-care. Where each line names a script before its text, as in MLT's
    files (`Latin,word`), the script is left out. Blank lines are skipped. Corners that cross are
    put in order, where there is one order; see `outlines.in_order`.

    Args:
        path: the file.
        points: K of every line; 2 are the top left and the bottom right corner of a rectangle. None
            finds it line by line: the longest even run of numbers, at least 8, that leaves one
            field for the text. A text such as `12,34,56` then looks like another point, so None is
            for files of curved text only.

    Raises:
        ValueError: a line that is not of that form, a box without area, or one that crosses itself
            for good, with file and line number.
        OSError: the file cannot be read.
    """
    if points is not None and points < 2:
        raise ValueError(f"points must be at least 2 or None, but got {points}")
    rows = []
    for number, line in _lines(path):
        try:
            polygon, text = _parse(line, points)
            rows.append((*in_order(polygon), text))
        except ValueError as error:
            raise ValueError(f"{path} line {number}: {error}") from None
    texts = _without_scripts([text for _, _, text in rows])
    polygons, crossed = [row[0] for row in rows], [row[1] for row in rows]
    return _annotation(polygons, crossed, texts, [is_dont_care(text) for text in texts])


def is_dont_care(text: str) -> bool:
    """Whether a text says that nobody can read it: `###`, `#`, ` ### `, `"###"`."""
    bare = _unquoted(text.strip()).strip()
    return bool(bare) and not bare.strip(DONT_CARE)


def read_coco_text(path: Path) -> dict[str, TextAnnotation]:
    """Read a COCO-Text-like JSON file into one annotation an image, by `file_name`.

    Understood are `images` + `annotations` (COCO) and `imgs` + `anns` (COCO-Text), as lists or as
    objects by id. An annotation names its `image_id` and has a `segmentation`, `polygon` or `mask`
    (x1, y1, ...), or else a `bbox` (x, y, width, height). It is don't-care where `iscrowd` or
    `ignore` is 1 or true, `legibility` is `illegible` or its text is of `#` alone; the text is
    `utf8_string`, `text` or `transcription`. An image without annotations is an image without text.

    Raises:
        ValueError: not such a file, or a box as in `read_icdar`; names the line of a syntax error,
            else the annotation.
        OSError: the file cannot be read.
    """
    content = _load_json(path)
    images = _entries(path, content, "images", "imgs")
    names = {str(_field(path, name, i, "id")): _file_name(path, name, i) for name, i in images}
    sizes = {_file_name(path, name, entry): _size(path, name, entry) for name, entry in images}
    sets = {_file_name(path, name, entry): entry.get("set") for name, entry in images}
    found: dict[str, list[tuple[NDArray[np.float64], bool, bool, str]]]
    found = {name: [] for name in names.values()}
    if len(found) != len(images):
        raise ValueError(f"{path}: two images have the same id or the same file_name")
    for name, entry in _entries(path, content, "annotations", "anns"):
        image = names.get(str(_field(path, name, entry, "image_id")))
        if image is None:
            raise ValueError(f"{path}: {name}: there is no image with id {entry['image_id']!r}")
        try:
            outline, crossed = in_order(_outline(entry))
            found[image].append((outline, crossed, _dont_care(entry), _text(entry)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {name}: {error}") from None
    return {
        image: _annotation(
            [row[0] for row in rows],
            [row[1] for row in rows],
            [row[3] for row in rows],
            [row[2] for row in rows],
            sizes[image],
            None if sets[image] is None else str(sets[image]),
        )
        for image, rows in found.items()
    }


def _annotation(
    polygons: list[NDArray[np.float64]],
    crossed: Sequence[bool],
    texts: list[str],
    ignore: Sequence[bool],
    size: tuple[int, int] | None = None,
    set: str | None = None,
) -> TextAnnotation:
    reordered = tuple(index for index, one in enumerate(crossed) if one)
    return TextAnnotation(polygons, np.array(ignore, bool), texts, reordered, size, set)


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
    separator = next((s for s in SEPARATORS if NUMBER.fullmatch(line.split(s)[0])), ",")
    fields = line.split(separator)
    numeric = next((i for i, f in enumerate(fields) if not NUMBER.fullmatch(f)), len(fields))
    # the last field is the text, unless there are just the four points and nothing else
    even = max(8, min(numeric, len(fields) - 1) // 2 * 2)
    wanted = even if points is None else 2 * points
    if numeric < wanted:
        there = numeric < len(fields)
        given = f"field {numeric + 1} is {short_start(fields[numeric])}" if there else "it ends"
        hint = "; for rectangles of two corners write data.points: 2" if numeric == 4 else ""
        raise ValueError(
            f"a line must start with {wanted} {SEPARATORS[separator]}-separated numbers, but "
            f"after {numeric} {given}{hint}"
        )
    corners = np.array([float(f) for f in fields[:wanted]]).reshape(-1, 2)
    text = separator.join(fields[wanted:])
    return (corners, text) if points != 2 else (_rectangle(*corners), _unquoted(text.strip()))


def _rectangle(first: NDArray[np.float64], last: NDArray[np.float64]) -> NDArray[np.float64]:
    """(4, 2) of the top left and the bottom right corner."""
    if (last <= first).any():
        raise ValueError(
            f"the second corner must lie right of and below the first, but got "
            f"{first[0]:g},{first[1]:g} and {last[0]:g},{last[1]:g}; data.points: 2 reads "
            "left, top, right, bottom"
        )
    return np.array([first, [last[0], first[1]], last, [first[0], last[1]]])


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _without_scripts(texts: list[str]) -> list[str]:
    """The texts of a file without their column of scripts, where each has one."""
    columns = [text.partition(",") for text in texts]
    if not all(script in SCRIPTS and comma for script, comma, _ in columns):
        return texts
    return [text for _, _, text in columns]


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


def _size(path: Path, name: str, entry: dict[str, Any]) -> tuple[int, int] | None:
    """(H, W) of an image's entry; None where it does not say."""
    size = entry.get("height"), entry.get("width")
    if None in size:
        return None
    if not all(isinstance(side, int | float) and side > 0 for side in size):
        raise ValueError(f"{path}: {name}: height and width must be numbers, but are {size}")
    return int(size[0]), int(size[1])  # type: ignore[arg-type]


def _outline(entry: dict[str, Any]) -> NDArray[np.float64]:
    """(K, 2) polygon of an annotation."""
    given = next((entry[k] for k in POLYGON_KEYS if entry.get(k)), None)
    if given is None:
        x, y, width, height = _numbers("bbox", entry.get("bbox"), 4)
        return np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])
    if isinstance(given, dict):
        raise ValueError(
            "the segmentation is a mask in run-length encoding (RLE), which has no corners; "
            "export polygons, or leave it out and give a bbox"
        )
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
        _flag(entry, "iscrowd")
        or _flag(entry, "ignore")
        or entry.get("legibility") == "illegible"
        or is_dont_care(_text(entry))
    )


def _flag(entry: dict[str, Any], key: str) -> bool:
    """A yes or no as people write it; `"0"` is no."""
    value = entry.get(key)
    plain = value.strip().lower() if isinstance(value, str) else value
    if plain in (None, False, "", "0", "false", "no"):  # 0 is False
        return False
    if plain in (True, "1", "true", "yes"):
        return True
    raise ValueError(f"{key} must be 0 or 1, but is {short_start(str(value))}")
