"""Checkpoints and models in a bucket, so that a trial's next attempt resumes on any machine.

    <study>/<trial>/checkpoint/<epoch>-<random>/   one checkpoint; its last.json is written last
    <study>/<trial>/model-<epoch>/                 the best epoch's weights, of trials that ended

A worker that has lost its slot may still be copying. So no two copies share a key, and of those
that are whole the one of the latest epoch counts.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from search.database.retry import Backoff
from search.files.bucket import Bucket
from spaces.paths import unfinished
from trainers.checkpoint import LAST, files
from trainers.folds import RESULT, checkpoint_files

CHECKPOINT = "checkpoint"
_EPOCH = re.compile(r"(\d{6})-[0-9a-f]{8}/(.+)")


def latest(bucket: Bucket, key: str) -> tuple[int, str] | None:
    """(epoch, key) of the latest whole checkpoint of a trial, or None."""
    under = f"{key}/{CHECKPOINT}/"
    return _latest(bucket.keys(under), under)


def _latest(names: Iterable[str], under: str) -> tuple[int, str] | None:
    """The same among these names, all of which begin with `under`."""
    found = []
    for name in names:
        match = _EPOCH.fullmatch(name.removeprefix(under))
        if match and match[2] == LAST:
            found.append((int(match[1]), name.rpartition("/")[0]))
    return max(found, default=None)


def fetch_checkpoint(bucket: Bucket, key: str, workdir: Path) -> bool:
    """Bring the bucket's checkpoint of a trial where it is later than the one that is here."""
    there = latest(bucket, key)
    if there is None or there[0] <= _epoch_here(workdir):
        return False
    _, folder = there
    names = [name.removeprefix(f"{folder}/") for name in bucket.keys(f"{folder}/")]
    workdir.mkdir(parents=True, exist_ok=True)
    for name in sorted(names, key=lambda name: name == LAST):  # which commits it here too
        _download(bucket, f"{folder}/{name}", workdir / name)
    return True


def fetch_model(bucket: Bucket, key: str, model: Path) -> bool:
    """Bring the weights of a trial that has ended; False where the bucket has none."""
    names = list(bucket.keys(f"{key}/{model.name}/"))
    if not names:
        return False
    whole = unfinished(model)
    whole.mkdir(parents=True)
    try:
        for name in names:
            file = whole / name.removeprefix(f"{key}/{model.name}/")
            file.parent.mkdir(parents=True, exist_ok=True)
            bucket.download(name, file)
        shutil.rmtree(model, ignore_errors=True)
        whole.rename(model)
    except BaseException:
        shutil.rmtree(whole, ignore_errors=True)
        raise
    return True


def _download(bucket: Bucket, key: str, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished(to)
    try:
        bucket.download(key, temporary)
        temporary.replace(to)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _epoch_of(name: str) -> float:
    """Of an object in a trial's checkpoint folder; what is none of ours is of no epoch."""
    match = _EPOCH.fullmatch(name)
    return int(match[1]) if match else math.inf


def _epoch_here(workdir: Path) -> int:
    """The epoch of the checkpoint here; 0 where there is none, or a file of it is missing."""
    try:
        epoch, paths, _ = _committed(workdir)
    except (FileNotFoundError, ValueError, KeyError):
        return 0
    return epoch if all(path.exists() for path in paths) else 0


@dataclass
class Copies:
    """Copies what trials write into the bucket, in a thread that training never waits for.

    Attributes:
        said: told what went wrong; it is tried again.
    """

    bucket: Bucket
    said: Callable[[str], None]
    _jobs: dict[tuple[str, str], Callable[[], None]] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _closing: bool = False
    _thread: threading.Thread | None = None

    def checkpoint(self, key: str, workdir: Path) -> None:
        """Copy a trial's last checkpoint; of several that wait the latest counts."""
        self._put(key, CHECKPOINT, lambda: self._copy_checkpoint(key, workdir))

    def model(self, key: str, folder: Path) -> None:
        """Copy the weights of a trial that has ended."""
        self._put(key, "model", lambda: self._copy_model(key, folder))

    def forget_checkpoints(self, key: str) -> None:
        """Delete the checkpoints of a trial that has ended."""
        self._put(key, CHECKPOINT, lambda: self._remove(f"{key}/{CHECKPOINT}/"))

    def rewind(self, key: str, epoch: int) -> None:
        """Delete a trial's checkpoints of later epochs: it goes on after this one."""
        self._put(key, "rewind", lambda: self._rewind(f"{key}/{CHECKPOINT}/", epoch))

    def forget_models(self, key: str) -> None:
        """Delete the weights of a trial that is no longer among the best."""
        self._put(key, "model", lambda: self._remove(f"{key}/model-"))

    def settle(self, seconds: float) -> bool:
        """Wait until everything has been copied; False where it has not after so long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs, timeout=seconds)

    def _put(self, key: str, kind: str, job: Callable[[], None]) -> None:
        """Take a job, in place of one of its kind for the same trial that has not begun."""
        with self._changed:
            self._jobs.pop((key, kind), None)
            self._jobs[key, kind] = job
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="copies", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        backoff = Backoff()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs)
                name, job = next(iter(self._jobs.items()))
            try:
                job()
            except Exception as error:  # whatever it was, training goes on without the copy
                self.said(f"{self.bucket.url}: {type(error).__name__}: {error}")
                time.sleep(backoff.next())
                continue
            backoff = Backoff()
            with self._changed:
                if self._jobs.get(name) is job:  # else a later one has taken its place
                    del self._jobs[name]
                self._changed.notify_all()

    def _copy_checkpoint(self, key: str, workdir: Path) -> None:
        with contextlib.ExitStack() as opened:
            found = _open_last(workdir, opened)
            if found is None:
                return  # the trial has ended meanwhile
            epoch, files = found
            under = f"{key}/{CHECKPOINT}/"
            before = list(self.bucket.keys(under))
            there = _latest(before, under)
            if there is not None and there[0] >= epoch:
                return
            folder = f"{under}{epoch:06d}-{uuid.uuid4().hex[:8]}"
            for name, file in files:  # last.json comes last
                self.bucket.write(f"{folder}/{name}", file)
        self.bucket.remove(k for k in before if _epoch_of(k.removeprefix(under)) < epoch)

    def _copy_model(self, key: str, folder: Path) -> None:
        if not folder.is_dir():
            return  # overtaken by better trials meanwhile
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            with open(path, "rb") as file:
                self.bucket.write(f"{key}/{folder.name}/{path.relative_to(folder)}", file)

    def _rewind(self, under: str, epoch: int) -> None:
        keys = list(self.bucket.keys(under))
        self.bucket.remove(k for k in keys if epoch < _epoch_of(k.removeprefix(under)) < math.inf)

    def _remove(self, under: str) -> None:
        self.bucket.remove(list(self.bucket.keys(under)))


def _open_last(
    workdir: Path, opened: contextlib.ExitStack
) -> tuple[int, list[tuple[str, BinaryIO]]] | None:
    """(epoch, its open files) of the last checkpoint, last.json at the end; None without one.

    An open file stays whole when the trial, at its next epoch, deletes it.
    """
    while True:
        try:
            epoch, paths, committed = _committed(workdir)
            held: list[tuple[str, BinaryIO]] = []
            for path in paths:
                file = opened.enter_context(path.open("rb"))
                held.append((str(path.relative_to(workdir)), file))
            if _committed(workdir) == (epoch, paths, committed):  # so all are of one epoch
                return epoch, held
        except FileNotFoundError:
            if not (workdir / LAST).exists():
                return None
        opened.pop_all().close()  # a later epoch has taken its place


def _committed(workdir: Path) -> tuple[int, list[Path], list[bytes]]:
    """(Epoch, files, content of those that commit them) of the last checkpoint.

    Raises:
        FileNotFoundError: there is none, or a later epoch has taken its place meanwhile.
    """
    facts = json.loads((workdir / LAST).read_text())
    if "fold" in facts:
        paths = [*checkpoint_files(workdir, facts["fold"]), workdir / LAST]
    else:
        paths = files(workdir)
    committing = [path for path in paths if path.name in (LAST, RESULT)]
    return int(facts["epoch"]), paths, [path.read_bytes() for path in committing]
