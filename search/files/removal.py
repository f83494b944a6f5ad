"""The files of a whole study: how much room they take, and their removal."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path

from optuna.artifacts.exceptions import ArtifactNotFound

from search.files.artifacts import Artifacts
from search.files.shown import OF_STUDY
from search.files.sizes import bytes_under
from search.studies.catalogue import OF_TRIALS
from search.studies.study import Study
from spaces.errors import InputError
from spaces.paths import inside, take_away


def files_size(artifacts: Artifacts, study: Study) -> int:
    """Bytes of a study's trials: those in the bucket where there is one, else those here."""
    return size_of(artifacts, study.spec.name, study.uid)


def size_of(artifacts: Artifacts, name: str, uid: str) -> int:
    """The same of a study that is not open.

    Raises:
        InputError: its name leads out of the artifacts folder.
    """
    if (key := _key(name, uid)) is None:
        return 0
    if artifacts.bucket is not None:
        return artifacts.bucket.size(f"{key}/")
    return bytes_under(inside(artifacts.folder, key))


def shown_files(study: Study) -> list[str]:
    """Ids of the files that the dashboard shows with a study and its trials."""
    keys = study.store.study_attrs(study.study_id, f"{OF_STUDY}%", f"{OF_TRIALS}%")
    return [key.rpartition(":")[2] for key in keys]


def remove_files(artifacts: Artifacts, study: Study, shown: Iterable[str]) -> None:
    """Remove the files of a study's trials, here and in the bucket, and those that were shown.

    Args:
        shown: ids, as of `shown_files`.

    Raises:
        OSError, botocore's errors: something is left.
        InputError: the study's uid is none.
    """
    if (key := _key(study.spec.name, study.uid)) is None:
        raise InputError(
            f"{study.store.shown} gives study {study.spec.name} the uid {study.uid!r}, which is "
            f"none; look for its files in {artifacts.name}"
        )
    if artifacts.bucket is not None:
        artifacts.bucket.remove(list(artifacts.bucket.keys(f"{key}/")))
    for artifact_id in shown:
        with contextlib.suppress(ArtifactNotFound):  # on another machine, or removed by hand
            artifacts.shown.remove(artifact_id)
    for folder in (artifacts.folder / key, _events(artifacts, key)):
        take_away(folder)


def _key(name: str, uid: str) -> str | None:
    """What a study's files are under; None where the store, which others write, has no uid."""
    if not re.fullmatch("[0-9a-f]{32}", uid):
        return None
    return f"{name}-{uid[:8]}"


def _events(artifacts: Artifacts, key: str) -> Path:
    """Where TensorBoard's files of a study are."""
    return artifacts.folder / "tensorboard" / key
