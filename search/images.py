"""The image files that a user names: one, a folder's, those of a list, those of a pattern."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spaces.errors import InputError
from spaces.textfile import read_bytes
from trainers.data import Imaged
from trainers.pairs import LIST_BYTES, SUFFIXES


@dataclass(frozen=True)
class Job(Imaged):
    """An image file, and the name of what is written of it: a path without its ending."""

    image: str
    name: str
    stamp: dict[str, int] | None
    """The file's size and time before it was read; None where there is no such file."""


def find_images(
    words: Sequence[str], without: Path, suffixes: Sequence[str] = SUFFIXES
) -> list[Job]:
    """Return what the words name, without what lies in one folder, and names for the results.

    Names are paths below the folder that all images have in common.

    Args:
        suffixes: of images in folders and of patterns; what is named itself may have any.

    Raises:
        InputError: a word names nothing, or there is no image.
    """
    files = [Path(os.path.abspath(path)) for word in words for path in _named(word, suffixes)]
    own = Path(os.path.abspath(without))
    images = [path for path in dict.fromkeys(files) if own not in path.parents]
    if not images:
        raise InputError(f"{', '.join(words)}: no images ({', '.join(suffixes)}) found there")
    folders = [os.path.abspath(word) for word in words if Path(word).is_dir()]
    shared = folders if len(folders) == len(words) else [str(path.parent) for path in images]
    root = os.path.commonpath(shared)
    relative = [os.path.relpath(path, root) for path in images]
    bare = Counter(os.path.splitext(name)[0] for name in relative)
    names = []
    for name in relative:
        stem = os.path.splitext(name)[0]
        names.append(stem if bare[stem] == 1 else name)  # a.jpg beside a.png
    return [Job(str(path), name, _stamp(path)) for path, name in zip(images, names, strict=True)]


def _named(word: str, suffixes: Sequence[str]) -> list[Path]:
    """Files that a word names: one, those of a folder and below it, of a list, of a pattern."""
    path = Path(word)
    if path.is_dir():
        return sorted(
            found
            for found in path.rglob("*")
            if found.suffix.lower() in suffixes
            and not any(part.startswith(".") for part in found.relative_to(path).parts)
        )
    if path.suffix.lower() == ".txt" and path.is_file():
        try:
            lines = read_bytes(path, LIST_BYTES).decode("utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise InputError(f"{path}: a list of images must be UTF-8 text") from None
        return [path.parent / x.strip() for x in lines if x.strip() and not x.startswith("#")]
    if path.exists():
        return [path]
    found = sorted(glob.glob(word, recursive=True))
    if not found:
        raise InputError(f"{word}: no file, folder or pattern of image files; check the path")
    return [Path(one) for one in found if Path(one).suffix.lower() in suffixes]


def _stamp(image: Path) -> dict[str, int] | None:
    try:
        facts = os.stat(image)
    except OSError:
        return None
    return {"bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns}
