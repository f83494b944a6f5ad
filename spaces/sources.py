"""Files that the `data:` section names: their paths made absolute, class files read."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

from spaces.errors import InputError
from spaces.yamlfile import Document

_IS_FOLDER = {"images": True, "masks": True, "list": False}


def resolve_paths(data: dict[str, Any], document: Document, folder: Path) -> None:
    """Make the data set's paths absolute (relative to the study file) and read a class file."""
    section = data.get("data")
    if not isinstance(section, dict):
        return
    for split in ("train", "val", "test"):
        paths = section.get(split)
        for key in (*_IS_FOLDER, "labels"):  # labels may be either
            if isinstance(paths, dict) and isinstance(paths.get(key), str):
                where = document.where(("data", split, key))
                found = _existing(folder, paths[key], f"data.{split}.{key}", where)
                if found.is_dir() != _IS_FOLDER.get(key, found.is_dir()):
                    kind = "a folder" if found.is_dir() else "not a folder"
                    raise InputError(f"data.{split}.{key}: {found} is {kind} ({where})")
                paths[key] = str(found)
    if isinstance(section.get("classes"), str):
        where = document.where(("data", "classes"))
        path = _existing(folder, section["classes"], "data.classes", where)
        section["classes"], ignore = _read_classes(path, where)
        if ignore is not None:
            section.setdefault("ignore_index", ignore)


def _existing(folder: Path, given: str, name: str, where: str) -> Path:
    """Return the absolute path of a file or folder; relative ones start at `folder`."""
    try:
        path = (folder / Path(given).expanduser()).resolve()
        if path.exists():
            return path
        missing = next(p for p in (*reversed(path.parents), path) if not p.exists())
        siblings = [p.name for p in missing.parent.iterdir()] if missing.parent.is_dir() else []
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{name}: {given!r} cannot be read: {error} ({where})") from None
    near = difflib.get_close_matches(missing.name, siblings, n=1)
    hint = f"; did you mean {missing.parent / near[0]}?" if near else ""
    raise InputError(f"{name}: {path} does not exist{hint} ({where})")


def _read_classes(path: Path, where: str) -> tuple[list[str], int | None]:
    """Read class names (and an ignore_index) from .json or from a text file, one a line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"data.classes: cannot read {path}: {error.strerror} ({where})") from None
    except UnicodeDecodeError:
        raise InputError(f"data.classes: {path} is not UTF-8 text ({where})") from None
    if path.suffix.lower() != ".json":
        return [line.strip() for line in text.splitlines() if line.strip()], None
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"data.classes: {path} is not JSON: {error} ({where})") from None
    names = tree.get("classes") if isinstance(tree, dict) else tree
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(
            f'data.classes: {path} must hold a list of names, or {{"classes": [...]}} ({where})'
        )
    ignore = tree.get("ignore_index") if isinstance(tree, dict) else None
    return names, ignore
