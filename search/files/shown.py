"""The files that the dashboard shows with studies and trials: pictures and charts.

Optuna's own upload registers a file before it writes it, and opens whatever a name leads to. Here a
file is whole before its name is known, and nothing outside of the folder can be read.
"""

from __future__ import annotations

import contextlib
import io
import json
import mimetypes
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from optuna.artifacts import ArtifactMeta
from optuna.artifacts.exceptions import ArtifactNotFound
from PIL import Image

from search.files.bucket import Bucket
from search.studies.catalogue import OF_TRIALS
from search.studies.study import Study
from spaces.errors import InputError
from spaces.paths import inside, no_link, unfinished

FOLDER = "shown"  # within the artifacts folder

# where optuna-dashboard looks for a study's own files; for its trials' it is OF_TRIALS
OF_STUDY = "artifacts:"

_NAME = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

PICTURE = "image/png"  # what workers draw

_SPACE = uuid.UUID("5e9d7a52-6f3b-4f0e-9a53-0b6a3f6f8c11")


class ShownFiles(Protocol):
    """Optuna's artifact store protocol."""

    def open_reader(self, artifact_id: str) -> BinaryIO: ...

    def write(self, artifact_id: str, content_body: BinaryIO) -> None: ...

    def remove(self, artifact_id: str) -> None: ...


@dataclass(frozen=True)
class BucketFiles:
    """Optuna's artifact store protocol over objects of a bucket named by UUIDs."""

    bucket: Bucket

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Return an object's content; raises ArtifactNotFound where there is none."""
        with contextlib.closing(self.bucket.read(self._key(artifact_id))) as body:
            return io.BytesIO(body.read())  # pictures and charts: about a megabyte

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Write an object, whole or not at all."""
        self.bucket.write(self._key(artifact_id), content_body)

    def remove(self, artifact_id: str) -> None:
        """Delete an object."""
        self.bucket.remove([self._key(artifact_id)])

    def _key(self, artifact_id: str) -> str:
        return f"{FOLDER}/{checked_key(artifact_id)}"


class FolderFiles:
    """Optuna's artifact store protocol over one flat folder of files named by UUIDs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open a file; raises ArtifactNotFound for anything that is not a plain file there."""
        try:
            return open(self._path(artifact_id), "rb", opener=no_link)
        except (OSError, InputError) as error:
            raise ArtifactNotFound(artifact_id) from error

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Write a file, whole or not at all."""
        path = self._path(artifact_id)
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = unfinished(path)
        try:
            with open(temporary, "wb") as file:
                shutil.copyfileobj(content_body, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def remove(self, artifact_id: str) -> None:
        """Delete a file; raises ArtifactNotFound for one that is not there."""
        try:
            self._path(artifact_id).unlink()
        except OSError as error:
            raise ArtifactNotFound(artifact_id) from error

    def _path(self, artifact_id: str) -> Path:
        return self.folder / checked_key(artifact_id)


def checked_key(artifact_id: str) -> str:
    """Return a file's name as it is; raises ArtifactNotFound where it is none of ours."""
    if not _NAME.fullmatch(artifact_id):
        raise ArtifactNotFound(artifact_id)
    return artifact_id


def attach(files: ShownFiles, study: Study, trial_id: int | None, path: Path) -> str:
    """Show a file with a trial, or with its study where `trial_id` is None; returns its id.

    The same file name again takes the place of the earlier one. A trial that has ended takes no
    attributes any more, so the entry stands with the study, where optuna-dashboard finds it too.
    """
    # stores that share the folder do not share the study's uid
    artifact_id = str(uuid.uuid5(_SPACE, f"{study.uid}/{trial_id}/{path.name}"))
    with open(path, "rb") as body:
        files.write(artifact_id, body)
    mimetype, encoding = mimetypes.guess_type(path.name)
    meta = ArtifactMeta(artifact_id, path.name, mimetype or "application/octet-stream", encoding)
    known = asdict(meta) | (_size(path) if mimetype == PICTURE else {})
    key = _prefix(trial_id) + artifact_id
    study.store.storage.set_study_system_attr(study.study_id, key, json.dumps(known))
    return artifact_id


def detach(files: ShownFiles, study: Study, trial_id: int) -> None:
    """Show no file with a trial any more, and delete those that are here."""
    prefix = _prefix(trial_id)
    for key in study.store.study_attrs(study.study_id, f"{prefix}%"):
        with contextlib.suppress(ArtifactNotFound):  # on another machine, or removed by hand
            files.remove(key.removeprefix(prefix))
    study.store.replace_study_attrs(study.study_id, [prefix], {})


def bring(files: ShownFiles, study: Study, trial_id: int, to: Path) -> None:
    """Write the files that are shown with a trial into a folder."""
    for _, artifact_id, meta in _stored(study, _prefix(trial_id)):
        name = Path(meta["filename"]).name
        with contextlib.suppress(ArtifactNotFound), files.open_reader(artifact_id) as body:
            to.mkdir(parents=True, exist_ok=True)
            with open(inside(to, name), "wb", opener=no_link) as file:
                file.write(body.read())


def shown_trials(study: Study) -> set[int]:
    """Ids of the trials that files are shown with."""
    keys = study.store.study_attrs(study.study_id, f"{OF_TRIALS}%")
    return {int(key.removeprefix(OF_TRIALS).partition(":")[0]) for key in keys}


@dataclass(frozen=True)
class ShownPicture:
    """A picture that is shown with a trial.

    Attributes:
        name: of its file.
        size: (width, height) in pixels; None where an earlier version has attached it.
    """

    artifact_id: str
    name: str
    size: tuple[int, int] | None


def shown_pictures(study: Study) -> dict[int, list[ShownPicture]]:
    """{trial id: the PNG files that are shown with it, by name}; one statement."""
    found: dict[int, list[ShownPicture]] = {}
    for trial_id, artifact_id, meta in _stored(study, OF_TRIALS):
        if meta["mimetype"] == PICTURE and _NAME.fullmatch(artifact_id):
            width, height = meta.get("width"), meta.get("height")
            size = (int(width), int(height)) if width and height else None
            picture = ShownPicture(artifact_id, str(meta["filename"]), size)
            found.setdefault(trial_id, []).append(picture)
    return {
        trial_id: sorted(pictures, key=lambda one: one.name) for trial_id, pictures in found.items()
    }


def _stored(study: Study, prefix: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(trial id, artifact id, what is stored of it) of the files of trials, by their keys.

    Of a file that somebody has removed in optuna-dashboard nothing is stored.
    """
    for key, stored in study.store.study_attrs(study.study_id, f"{prefix}%").items():
        trial_id, _, artifact_id = key.removeprefix(OF_TRIALS).partition(":")
        if meta := json.loads(stored):
            yield int(trial_id), artifact_id, meta


def _size(path: Path) -> dict[str, int]:
    """The width and height of a picture in pixels; nothing of a file that is none."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return {"width": picture.width, "height": picture.height}
    except Exception:  # whatever a broken file makes of its decoder
        return {}


def _prefix(trial_id: int | None) -> str:
    return OF_STUDY if trial_id is None else f"{OF_TRIALS}{trial_id}:"
