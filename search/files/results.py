"""The files that jobs have made, one ZIP each, beside the files of trials."""

from __future__ import annotations

import contextlib
import os
import shutil
import zipfile
from pathlib import Path
from typing import BinaryIO

from optuna.artifacts.exceptions import ArtifactNotFound

from search.files.artifacts import Artifacts
from search.files.shown import FolderFiles, checked_key
from spaces.paths import inside, no_link

FOLDER = "jobs"  # in folder and bucket


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
