"""The files that jobs have made, one ZIP each, beside the files of trials."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from optuna.artifacts.exceptions import ArtifactNotFound

from search.files.artifacts import Artifacts
from search.files.shown import FolderFiles, checked_key
from spaces.paths import inside, no_link

FOLDER = "jobs"  # in folder and bucket
MOST_BYTES = 32 * 2**20  # of a ZIP whose picture is shown, and of the picture
PICTURES = {".png": "image/png", ".jpg": "image/jpeg"}
PICTURE = r"[^/]+/overlays/([^/]+(\.png|\.jpg))"  # the name of one in a ZIP


class Results:
    """Files by keys, which are UUIDs, in the place of the files of trials."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts

    def write(self, key: str, path: Path) -> None:
        """Keep a file: whole, or not at all."""
        with open(path, "rb") as body:
            if self._artifacts.bucket is not None:
                self._artifacts.bucket.write(self._full(key), body)
            else:
                self._folder.write(key, body)

    def open(self, key: str) -> tuple[BinaryIO, int]:
        """Return a file with its size in bytes; raises ArtifactNotFound where it is not there."""
        if (bucket := self._artifacts.bucket) is not None:
            return bucket.read(self._full(key)), bucket.size(self._full(key))
        file = self._folder.open_reader(key)
        return file, os.fstat(file.fileno()).st_size

    def remove(self, key: str) -> None:
        """Remove a file; one that is not there is no error."""
        if (bucket := self._artifacts.bucket) is not None:
            bucket.remove([self._full(key)])
        else:
            with contextlib.suppress(ArtifactNotFound):
                self._folder.remove(key)

    @property
    def _folder(self) -> FolderFiles:
        return FolderFiles(inside(self._artifacts.folder, FOLDER))

    def _full(self, key: str) -> str:
        return f"{FOLDER}/{checked_key(key)}"


def zip_folder(folder: Path, to: Path) -> None:
    """Write a folder into a ZIP, under its own name; stored, as weights would not get smaller.

    Raises:
        InputError: something in it is no plain file: no link is followed.
    """
    with zipfile.ZipFile(to, "x", zipfile.ZIP_STORED, strict_timestamps=False) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                continue
            entry = zipfile.ZipInfo.from_file(path, path.relative_to(folder.parent))
            with open(path, "rb", opener=no_link) as file, archive.open(entry, "w") as out:
                shutil.copyfileobj(file, out)


def picture_in(file: BinaryIO, size: int) -> tuple[str, str, bytes] | None:
    """Return (name, type, content) of the first overlay in a ZIP; None where none can be shown.

    Args:
        size: of the ZIP, in bytes.
    """
    if (found := _first(file, size, PICTURE, MOST_BYTES)) is None:
        return None
    name, content = found
    return name[1], PICTURES[name[2]], content


def text_in(file: BinaryIO, size: int, name: str, most: int) -> str | None:
    """Return a text that a ZIP holds in its one folder; None where it cannot be read.

    Args:
        size: of the ZIP, in bytes.
        most: characters of the text.
    """
    found = _first(file, size, f"[^/]+/{re.escape(name)}", 4 * most)
    try:
        text = None if found is None else found[1].decode()
    except UnicodeDecodeError:
        return None
    return text if text is not None and len(text) <= most else None


def _first(
    file: BinaryIO, size: int, pattern: str, most: int
) -> tuple[re.Match[str], bytes] | None:
    """(match of its name, content) of the first file in a ZIP that is called so, and not larger."""
    if size > MOST_BYTES:
        return None
    whole = file if file.seekable() else io.BytesIO(file.read(MOST_BYTES))
    try:
        with zipfile.ZipFile(whole) as archive:
            for entry in archive.infolist():
                found = re.fullmatch(pattern, entry.filename)
                if found is None or entry.file_size > most:
                    continue
                with archive.open(entry) as content:
                    return found, content.read(most)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError):
        pass  # somebody else's file: damaged, packed in an unknown way, or encrypted
    return None
