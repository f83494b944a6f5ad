"""Files that the `data:` section names: their paths made absolute, class files read.

A study file may come from a stranger and name a file of yours. What a message quotes of such a file
is short, and only class names go from it into the store.
"""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path
from typing import Any

from spaces.errors import InputError
from spaces.paths import ROOTS
from spaces.textfile import read_bytes
from spaces.yamlfile import Document, read_yaml

CLASS_FILE_BYTES = 200_000
NAME_LENGTH = 100  # characters of a class name
QUOTED = 12  # characters of a line that is none
_IS_FOLDER = {"images": True, "masks": True, "list": False}
_IN_NO_NAME = set(':=<>{}[]|\\"`$@#!*^~')


def resolve_paths(
    data: dict[str, Any], document: Document, folder: Path, *, splits: bool = True
) -> None:
    """Make the data set's paths absolute (relative to the study file) and read a class file.

    Args:
        splits: whether those of images, masks and labels, too; then they must exist.
    """
    section = data.get("data")
    if not isinstance(section, dict):
        return
    for split in ("train", "val", "test") if splits else ():
        paths = section.get(split)
        for key in (*_IS_FOLDER, "labels"):  # labels may be either
            if isinstance(paths, dict) and isinstance(paths.get(key), str):
                where = document.where(("data", split, key))
                found = existing(folder, paths[key], f"data.{split}.{key}", where)
                if found.is_dir() != _IS_FOLDER.get(key, found.is_dir()):
                    kind = "a folder" if found.is_dir() else "not a folder"
                    raise InputError(f"data.{split}.{key}: {found} is {kind} ({where})")
                paths[key] = str(found)
    if isinstance(section.get("classes"), str):
        where = document.where(("data", "classes"))
        path = existing(folder, section["classes"], "data.classes", where)
        section["classes"], ignore = _read_classes(path, where)
        if ignore is not None:
            section.setdefault("ignore_index", ignore)


def without_class_file(data: dict[str, Any]) -> dict[str, Any]:
    """A study file's content without what only the names in its class file could tell.

    One class stands in for them: all that a task of many may have, one of a single class may have.
    """
    section = data.get("data")
    if not isinstance(section, dict) or not isinstance(section.get("classes"), str):
        return data
    by_name = ("palette", "palette_ignore", "values", "ignore_values", "ignore_index")
    left = {key: value for key, value in section.items() if key not in (*by_name, "ignore_classes")}
    rest = {key: value for key, value in data.items() if key != "metric"}
    return {**rest, "data": {**left, "classes": ["a"]}}


def files_elsewhere(study: Path) -> dict[str, Path]:
    """{setting: text file that it reads} of those that lie outside of a study file's folder.

    Images and masks are not among them: they usually do, and nothing quotes them.
    """
    document, folder = read_yaml(study), study.resolve().parent
    section = document.data["data"]
    named = {"data.classes": section.get("classes")}
    for split in ("train", "val", "test"):
        paths = section.get(split) or {}
        named |= {f"data.{split}.{key}": paths.get(key) for key in ("list", "labels")}
    found = {
        name: existing(folder, given, name, document.source)
        for name, given in named.items()
        if isinstance(given, str)
    }
    return {
        name: path
        for name, path in found.items()
        if path.is_file() and not path.is_relative_to(folder)
    }


def short_start(line: str) -> str:
    """How a line that may be anyone's is quoted."""
    return repr(line if len(line) <= QUOTED else f"{line[:QUOTED]}...")


def existing(folder: Path, given: str, name: str, where: str) -> Path:
    """Return the absolute path of a file or folder; relative ones start at `folder`.

    Raises:
        InputError: it does not exist, or lies outside of the folders of ROOTS.
    """
    named = os.environ.get(ROOTS)
    roots = [Path(root).resolve() for root in named.split(os.pathsep)] if named else []
    try:
        path = (
            Path(given) if roots else Path(given).expanduser()
        )  # whose homes are here is not told
        tried = [(start / path).resolve() for start in roots or [folder]]
        outside = roots and not all(any(map(one.is_relative_to, roots)) for one in tried)
        if not outside:
            for one in tried:
                if one.exists():
                    return one
            path = tried[0]
            missing = next(p for p in (*reversed(path.parents), path) if not p.exists())
            siblings = [p.name for p in missing.parent.iterdir()] if missing.parent.is_dir() else []
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{name}: {given!r} cannot be read: {error} ({where})") from None
    if outside:
        raise InputError(
            f"{name}: {given!r} lies outside of the folders that study files may name here: "
            f"{', '.join(map(str, roots))} ({where})"
        )
    near = difflib.get_close_matches(missing.name, siblings, n=1)
    hint = f"; did you mean {missing.parent / near[0]}?" if near else ""
    raise InputError(f"{name}: {path} does not exist{hint} ({where})")


def _read_classes(path: Path, where: str) -> tuple[list[str], int | None]:
    """Read class names (and an ignore_index) from .json or from a text file, one a line."""
    try:
        text = read_bytes(path, CLASS_FILE_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"data.classes: cannot read {path}: {error.strerror} ({where})") from None
    except UnicodeDecodeError:
        raise InputError(f"data.classes: {path} is not UTF-8 text ({where})") from None
    if path.suffix.lower() != ".json":
        lines = {n: line.strip() for n, line in enumerate(text.splitlines(), 1) if line.strip()}
        for number, line in lines.items():
            _check_name(line, f"{path} line {number}", where)
        return list(lines.values()), None
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"data.classes: {path} is not JSON: {error} ({where})") from None
    names = tree.get("classes") if isinstance(tree, dict) else tree
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(
            f'data.classes: {path} must hold a list of names, or {{"classes": [...]}} ({where})'
        )
    for index, name in enumerate(names):
        _check_name(name, f"{path} item {index}", where)
    ignore = tree.get("ignore_index") if isinstance(tree, dict) else None
    if ignore is not None and type(ignore) is not int:
        raise InputError(f"data.classes: ignore_index of {path} must be a whole number ({where})")
    return names, ignore


def _check_name(name: str, place: str, where: str) -> None:
    """Refuse a line that is no class name, as in a file that is no class file."""
    fits = 1 <= len(name) <= NAME_LENGTH and name.isprintable() and not _IN_NO_NAME & set(name)
    if not fits or not (name[0].isalnum() or name[0] == "_"):
        raise InputError(
            f"data.classes: {place}: {short_start(name)} is no class name; one has at most "
            f"{NAME_LENGTH} letters, digits, spaces, and signs as in - _ . , ; / ( ); other names "
            f"can stand in the study file itself ({where})"
        )
