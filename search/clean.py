"""`segtune clean`: what takes room and nothing needs any more.

Nothing here is in use: what a process holds has a lock (a cache entry, a trial's folder, a worker's
log), and is asked again when it is removed. Models, pictures and trials' logs stay.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from search.database.store import Store
from search.files.artifacts import OF_STORE, Artifacts, store_here, trial_name
from search.files.sizes import bytes_under
from search.studies.ended_trials import ended_trials
from search.work.child import LOCK
from spaces.paths import take_away
from trainers import cache_folder, checkpoint

QUIET_SECONDS = 24 * 3600.0  # a file that nobody has finished for so long never will be
LOG_SECONDS = 30 * 24 * 3600.0  # since a worker's last line

Kind = Literal["cache", "checkpoints", "studies", "temporary files", "logs"]


@dataclass(frozen=True)
class Leftover:
    """Something that may go.

    Attributes:
        kind: `cache`: an entry that nobody uses now, made again when it is needed; `checkpoints`:
            of a trial that has ended; `studies`: all files of a study that this store had, and
            knows no more; `temporary files`: of processes that died; `logs`: of workers that ended.
        size: in bytes.
    """

    kind: Kind
    path: Path
    size: int

    def remove(self) -> bool:
        """Remove it; False, and it stays, where somebody has begun to use it."""
        if self.kind == "cache":
            return cache_folder.remove_unused(self.path)
        with contextlib.ExitStack() as held:
            for lock in _locks(self.path):
                if not held.enter_context(_free(lock)):
                    return False
            if self.kind == "checkpoints":
                checkpoint.remove_last(self.path)
            elif self.path.is_dir():
                take_away(self.path, strict=False)  # what is left is found as a temporary file
            else:
                self.path.unlink(missing_ok=True)
        return True


def leftovers(artifacts: Artifacts, store: Store | None) -> list[Leftover]:
    """Look for what may go.

    Args:
        store: None: there is none, and so nothing is known of studies.
    """
    found = [Leftover("cache", path, bytes_under(path)) for path in cache_folder.unused()]
    folders = _study_folders(artifacts)  # first: a study is stored before it has a folder
    if store is not None:
        found += _of_studies(folders, store)
    gone = {one.path for one in found if one.kind == "studies"}
    for path in artifacts.folder.rglob("*.tmp"):
        if not gone.intersection(path.parents) and _age(path) > QUIET_SECONDS:
            found.append(Leftover("temporary files", path, bytes_under(path)))
    for path in (artifacts.folder / "workers").glob("*.log*"):
        if _age(path) > LOG_SECONDS:
            found.append(Leftover("logs", path, bytes_under(path)))
    return [one for one in found if one.kind == "cache" or _is_free(one.path)]


def checkpoints_needed(artifacts: Artifacts, store: Store) -> list[int]:
    """Bytes of the checkpoint of each trial that has not ended: it goes on from there."""
    numbers = {uid[:8]: ended for uid, ended in ended_trials(store).items()}
    found = []
    for folder in _study_folders(artifacts):
        ended = numbers.get(folder.name[-8:])
        if ended is not None:
            over = {trial_name(number) for number in ended}
            trials = (path for path in folder.glob("trial-*") if path.name not in over)
            found += [sum(map(bytes_under, _whole_checkpoint(trial))) for trial in trials]
    return [size for size in found if size]


def _whole_checkpoint(trial: Path) -> list[Path]:
    return [*checkpoint.last_paths(trial), *trial.glob("model-*")]


def _of_studies(folders: list[Path], store: Store) -> Iterator[Leftover]:
    numbers = {uid[:8]: ended for uid, ended in ended_trials(store).items()}
    here = store_here(store)  # a study of another store is not ours to judge
    for folder in folders:
        ended = numbers.get(folder.name[-8:])
        if ended is not None:
            for trial in (folder / trial_name(number) for number in sorted(ended)):
                size = sum(map(bytes_under, checkpoint.last_paths(trial)))
                if size:
                    yield Leftover("checkpoints", trial, size)
        elif (folder / OF_STORE).read_text() == here and _age(folder) > QUIET_SECONDS:
            yield Leftover("studies", folder, bytes_under(folder))


def _study_folders(artifacts: Artifacts) -> list[Path]:
    """Folders of studies that say which store they are of."""
    return [path.parent for path in artifacts.folder.glob(f"*-????????/{OF_STORE}")]


def _age(path: Path) -> float:
    """Seconds since something was written there."""
    with contextlib.suppress(OSError):
        times = [path.lstat().st_mtime, *(one.lstat().st_mtime for one in path.rglob("*"))]
        return time.time() - max(times)
    return 0.0


def _locks(path: Path) -> list[Path]:
    """The files whose locks say that something is in use."""
    trials = [one for one in (path, *path.parents) if one.name.startswith("trial-")]
    own = [path] if path.is_file() else list(path.glob(f"trial-*/{LOCK}"))
    return [*own, *(lock for trial in trials if (lock := trial / LOCK).exists())]


def _is_free(path: Path) -> bool:
    with contextlib.ExitStack() as held:
        return all(held.enter_context(_free(lock)) for lock in _locks(path))


@contextlib.contextmanager
def _free(lock: Path) -> Iterator[bool]:
    """Hold a lock; False where somebody else does."""
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        yield True
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)
