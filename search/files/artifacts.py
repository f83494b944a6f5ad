"""Where the files of trials are, and those of them that the dashboard shows: pictures and charts.

Optuna's own upload registers a file before it writes it, and opens whatever a name leads to. Here a
file is whole before its name is known, and nothing outside of the folder can be read.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from search.database.store import Store
from search.files.bucket import SCHEME, Bucket, open_bucket
from search.files.shown import FOLDER, BucketFiles, FolderFiles, ShownFiles
from search.studies.study import Study
from spaces.paths import artifacts_dir, check_locks, inside

OF_STORE = "store"  # in a study's folder: which store it is of; `segtune clean` asks it


@dataclass(frozen=True)
class Artifacts:
    """Where the files of trials are kept.

    Attributes:
        folder: on this machine; where there is a bucket, what is needed of it here.
        bucket: what all machines share, if there is one.
    """

    folder: Path
    bucket: Bucket | None = None

    @property
    def name(self) -> str:
        """As `--artifacts` takes it."""
        return str(self.folder) if self.bucket is None else self.bucket.url

    def workdir(self, study: Study, number: int) -> Path:
        """The folder of a trial's files on this machine.

        Raises:
            InputError: it leads out of the artifacts folder, through a link.
        """
        return inside(self.folder, self.key(study, number))

    def mark(self, study: Study) -> None:
        """Say in a study's folder which store it is of."""
        path = self.workdir(study, 0).parent / OF_STORE
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(store_here(study.store))

    def key(self, study: Study, number: int) -> str:
        """What a trial's files are under, in folder and bucket."""
        return trial_key(study.spec.name, study.uid, number)

    @property
    def shown(self) -> ShownFiles:
        """The files that the dashboard shows."""
        if self.bucket is not None:
            return BucketFiles(self.bucket)
        return FolderFiles(inside(self.folder, FOLDER))


def trial_key(name: str, uid: str, number: int) -> str:
    """The same of a study that is not open."""
    return f"{name}-{uid[:8]}/{trial_name(number)}"


def trial_name(number: int) -> str:
    """The name of a trial's folder in its study's."""
    return f"trial-{number:04d}"


def store_here(store: Store) -> str:
    """A name of a store that no other has: `localhost` is not the same on two machines."""
    database = store.shown if store.postgres else Path(str(store.engine.url.database)).resolve()
    return f"{socket.gethostname()} {database}"


def open_artifacts(named: str | None = None, *, write: bool = True) -> Artifacts:
    """Return where trial files are: `named`, $SEGTUNE_ARTIFACTS, or a folder in the home.

    Args:
        named: a folder, or s3://bucket/prefix.
        write: a folder must be writable.

    Raises:
        InputError: it is no folder and cannot become one, or the bucket cannot be had.
    """
    given = named or os.environ.get("SEGTUNE_ARTIFACTS")
    bucket = open_bucket(given) if given is not None and "://" in given else None
    if bucket is None:
        folder = artifacts_dir(given, write=write)
    else:
        folder = artifacts_dir(write=write) / SCHEME / bucket.name / bucket.prefix
    if write:
        check_locks(folder)
    return Artifacts(folder, bucket)
