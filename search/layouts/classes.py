"""What the values of masks mean: a file beside them that names classes, or what the masks hold."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from spaces.data import SegmentationDataSpec
from spaces.errors import InputError
from spaces.sources import CLASS_FILE_BYTES
from spaces.textfile import read_bytes
from trainers.data import each_decoded, find_splits
from trainers.images import identified
from trainers.masks import mask_values
from trainers.pairs import listing

CLASS_FILES = (
    *("classes.json", "classes.txt", "class_names.txt", "class_dict.csv", "label_colors.txt"),
    *("labelmap.txt", "label_map.txt", "labels.txt", "labels.json", "codes.txt", "names.txt"),
)
VOID = {"void", "unlabelled", "unlabeled", "ignore", "ignored", "__ignore__", "dontcare"}
IGNORED = 255  # a value of masks that means, where no file says so, that a pixel does not count
MOST = 64  # classes of masks that no file names; more are no classes
BLACK = (0, 0, 0)

Colour = tuple[int, int, int]
Value = int | Colour


@dataclass(frozen=True)
class ClassFile:
    """A file of class names.

    Attributes:
        colours: of each name, where the file has them.
        readable: whether `data.classes` reads it as it is.
    """

    path: Path
    names: list[str]
    colours: list[Colour]
    ignore_index: int | None = None
    readable: bool = False


def class_file(folder: Path) -> ClassFile | None:
    """Return the file of class names in a folder; the first of CLASS_FILES that holds some.

    Raises:
        InputError: it cannot be read.
    """
    there = {path.name.lower(): path for path in listing(folder)}
    for name in CLASS_FILES:
        if name in there:
            try:
                text = read_bytes(there[name], CLASS_FILE_BYTES).decode("utf-8-sig")
            except OSError as error:
                raise InputError(f"{there[name]}: cannot be read: {error.strerror}") from None
            except UnicodeDecodeError:
                raise InputError(f"{there[name]}: is not UTF-8 text") from None
            found = (_json if name.endswith(".json") else _text)(there[name], text)
            if found is not None and found.names:
                return found
    return None


def meaning(
    splits: dict[str, Any], file: ClassFile | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Read every mask; return what a `data:` section says of their values, and the comments.

    Raises:
        InputError: images without masks, masks that are none, or values that the file lacks.
    """
    of = SegmentationDataSpec.model_validate({**splits, "classes": ["0", "1"]})
    samples = [(name, sample) for name, found in find_splits(of).items() for sample in found]
    colours = _have_colours(samples[0][1].mask, file)
    most = of.max_pixels
    each = each_decoded(
        [sample for _, sample in samples], lambda _, s: mask_values(s.mask, most, colours=colours)
    )
    seen: dict[str, set[Value]] = {name: set() for name, _ in samples}
    first: dict[Value, str] = {}
    for (name, sample), held in zip(samples, each, strict=True):
        seen[name] |= held
        first |= {value: sample.mask for value in held if value not in first}
    data, comments, values = (_by_colour if colours else _by_value)(first, file)
    named = dict(zip(data["names"], values, strict=True))
    lost = [n for n, v in named.items() if v in seen.get("val", set()) and v not in seen["train"]]
    if lost and len(named) > 1:
        data["ignore_classes"] = lost
        comments["ignore_classes"] = "val has them, and train has none"
    data = {"classes": data.pop("names"), **data}
    if file is not None and file.readable and data["classes"] == file.names:
        data["classes"] = str(file.path)
    return data, comments


def _have_colours(mask: str, file: ClassFile | None) -> bool:
    """Whether masks are read by colour: those of colours, and tables of them that a file names."""
    with identified(mask) as found:
        mode = found.image.mode if isinstance(found.image, Image.Image) else ""
    return mode in ("RGB", "RGBA") or (mode == "P" and file is not None and bool(file.colours))


Found = tuple[dict[str, Any], dict[str, str], list[Value]]
"""A `data:` section with `names` in place of `classes`, comments, and the value of each class."""


def _by_colour(first: dict[Value, str], file: ClassFile | None) -> Found:
    seen: list[Any] = sorted(first)
    if file is not None and file.colours:
        known = dict(zip(file.colours, file.names, strict=True))
        if unknown := [colour for colour in seen if colour not in known]:
            raise InputError(
                f"{first[unknown[0]]}: holds the colour {unknown[0]}, which {file.path} lacks"
            )
        void = [colour for colour, name in known.items() if name.lower() in VOID]
        classes = {colour: name for colour, name in known.items() if colour not in void}
        data: dict[str, Any] = {"names": list(classes.values()), "palette": list(classes)}
        data |= {"palette_ignore": void} if void else {}
        return data, {"classes": f"as {file.path.name} has them"}, list(classes)
    _few(seen, first)
    if len(seen) == 2 and BLACK in seen:
        thing = next(colour for colour in seen if colour != BLACK)
        return {"names": ["thing"], "palette": [thing]}, _unnamed("colour"), [thing]
    names = ["colour_{:02x}{:02x}{:02x}".format(*colour) for colour in seen]
    return {"names": names, "palette": seen}, _unnamed("colour"), seen


def _by_value(first: dict[Value, str], file: ClassFile | None) -> Found:
    seen: list[Any] = sorted(first)
    if file is not None and len(file.names) > 1:
        count = len(file.names)
        ignore = file.ignore_index
        others = [value for value in seen if value >= count and value != ignore]
        if ignore is None and others in ([IGNORED], [count]):
            ignore, others = others[0], []
        if others:
            raise InputError(
                f"{first[others[0]]}: holds the value {others[0]}, but {file.path} has {count} "
                f"names, of 0 to {count - 1}"
            )
        void = [name for name in file.names if name.lower() in VOID]
        data = {"names": file.names} | ({} if ignore is None else {"ignore_index": ignore})
        data |= {"ignore_classes": void} if void else {}
        return data, {"classes": f"as {file.path.name} has them"}, list(range(count))
    _few(seen, first)
    if len(seen) == 2 and seen[0] == 0:
        plain = {} if seen[1] in (1, IGNORED) else {"values": [seen[1]]}
        names = file.names if file is not None else ["thing"]
        return {"names": names, **plain}, _unnamed("value"), [seen[1]]
    kept = [value for value in seen if value != IGNORED]
    data = {"ignore_index": IGNORED} if IGNORED in seen else {}
    if 2 * len(kept) < kept[-1] + 1:  # 0, 50, 100
        data |= {"names": [f"value_{value}" for value in kept], "values": kept}
        return data, _unnamed("value"), list(kept)
    names = [f"class_{index}" for index in range(kept[-1] + 1)]
    return {"names": names, **data}, _unnamed("value"), list(range(len(names)))


def _few(seen: Sequence[Value], first: dict[Value, str]) -> None:
    """Refuse masks whose values are no classes."""
    if len(seen) > MOST:
        raise InputError(
            f"masks hold {len(seen)} values, too many for classes; the first is in "
            f"{first[seen[0]]}. A file {CLASS_FILES[0]} or label_colors.txt beside them may name "
            "classes"
        )
    if len(seen) == 1:
        raise InputError(f"every pixel of every mask is {seen[0]}: there is nothing to tell apart")


def _unnamed(what: str) -> dict[str, str]:
    return {"classes": f"no file names them: give each {what} its name"}


def _json(path: Path, text: str) -> ClassFile | None:
    """`["road"]`, `{"classes": ["road"]}`, `{"0": "road"}` or `{"road": 0}`; None for others."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON: {error}") from None
    ignore = tree.get("ignore_index") if isinstance(tree, dict) else None
    names = tree.get("classes") if isinstance(tree, dict) else tree
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return ClassFile(path, names, [], ignore if isinstance(ignore, int) else None, True)
    if not isinstance(tree, dict):
        return None
    pairs = [(str(a), b) if isinstance(b, int) else (str(b), a) for a, b in tree.items()]
    numbers = {int(index): name for name, index in pairs if str(index).isdecimal()}
    if sorted(numbers) != list(range(len(tree))):
        return None
    return ClassFile(path, [numbers[index] for index in sorted(numbers)], [])


def _text(path: Path, text: str) -> ClassFile | None:
    """A line a class: its name, its index and name, or its name and colour in any order."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and line[0] != "#"]
    coloured = [found for line in lines if (found := _coloured(line))]
    if coloured and len(coloured) >= len(lines) - 1:  # the first line may be a header
        return ClassFile(path, [name for name, _ in coloured], [colour for _, colour in coloured])
    numbered = [re.fullmatch(r"(\d+)[\s,:]+(.+)", line) for line in lines]
    if all(m and int(m[1]) == index for index, m in enumerate(numbered)):
        return ClassFile(path, [m[2].strip() for m in numbered if m], [])
    return ClassFile(path, lines, [], readable=True)


def _coloured(line: str) -> tuple[str, Colour] | None:
    """The name and colour of `64 128 64 Animal`, `Animal,64,128,64`, `Animal:64,128,64::`."""
    parts = [part for part in re.split(r"[\s,;:]+", line) if part]
    numbers = [int(part) for part in parts if re.fullmatch(r"\d{1,3}", part)]
    words = [part for part in parts if not re.fullmatch(r"\d{1,3}", part)]
    if len(numbers) != 3 or not words or max(numbers) > 255:
        return None
    return " ".join(words), (numbers[0], numbers[1], numbers[2])
