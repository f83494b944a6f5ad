"""Files that are whole once they have their name, and whose damage is seen when they are read.

Written under a temporary name, synced, renamed. The JSON file that commits a checkpoint or an
export holds the SHA-256 of each of its other files, and one of itself. That finds damage, and edits
that were not meant; whoever may write the files may also write digests that fit.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from spaces.paths import clear, inside, no_link

SEAL = "sha256"  # of the rest of a JSON file, in it


class Damaged(Exception):
    """A file is not as it was written; the message names it."""


def is_damage(error: OSError) -> bool:
    """Whether a file is gone or its disk is broken; else the machine is ill, maybe not for long."""
    return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO)


class Hashed:
    """A file to write to, which takes the SHA-256 of what is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


@contextlib.contextmanager
def durable(path: Path) -> Iterator[Hashed]:
    """A file to write to; it takes `path`'s place, fsynced, when the block ends well."""
    temporary = path.with_name(f"{path.name}.tmp")
    clear(temporary)
    try:
        with open(temporary, "xb", opener=no_link) as file:
            yield Hashed(file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)  # a full disk must not keep the half that did fit
        raise
    temporary.replace(path)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, facts: Mapping[str, Any], indent: int | None = None) -> None:
    """Write a file that is whole and durable once this returns; `read_json` sees its damage."""
    with durable(path) as file:
        file.write(json.dumps({**facts, SEAL: _seal(facts)}, indent=indent).encode())
    sync_folder(path.parent)


def read_json(path: Path) -> dict[str, Any]:
    """Read back what `write_json` wrote; earlier versions wrote no digest into it.

    Raises:
        FileNotFoundError: it is not there.
        Damaged: it is something else.
    """
    try:
        facts = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise Damaged(f"{path} is damaged: it is no JSON") from None
    if not isinstance(facts, dict):
        raise Damaged(f"{path} is damaged: it holds no facts")
    seal = facts.pop(SEAL, None)
    if seal is not None and seal != _seal(facts):
        raise Damaged(f"{path} is damaged: its SHA-256 differs")
    return facts


def _seal(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(folder: Path, paths: Iterable[Path]) -> dict[str, str]:
    """{name in the folder: SHA-256} of files, in the order of their names."""
    return {str(path.relative_to(folder)): file_digest(path) for path in sorted(paths)}


def check_files(folder: Path, expected: Mapping[str, str]) -> None:
    """Compare files with their digests.

    Raises:
        Damaged: one is missing, or is not as it was written.
        InputError: a name leads out of the folder.
    """
    for name, digest in expected.items():
        path = inside(folder, name)
        try:
            found = file_digest(path)
        except OSError as error:
            if not is_damage(error):
                raise
            raise Damaged(f"{path} cannot be read ({error.strerror})") from None
        if found != digest:
            raise Damaged(f"{path} is damaged: its SHA-256 is not that of what was written")
