"""Checkpoints and models in a bucket, so that a trial's next attempt resumes on any machine.

    <study>/<trial>/checkpoint/<epoch>-<random>/   one checkpoint; its last.json is written last
    <study>/<trial>/model-<epoch>/                 the best epoch's weights, of trials that ended

A worker that has lost its slot may still be copying. So no two copies share a key, and of those
that are whole the one of the latest epoch counts. What is fetched is compared with the SHA-256 in
its last.json. A key that no trial writes is never fetched: it is said, and what is whole counts all
the same. To refuse that too would save nobody (whoever may write there can as well replace it), but
let any stray object cost a trial its epochs.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from search.database.retry import Backoff
from search.files.bucket import Bucket
from spaces.errors import InputError
from spaces.paths import clear, no_link, unfinished
from trainers.checkpoint import LAST, trial_file
from trainers.durable import Damaged
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


def fetch_checkpoint(bucket: Bucket, key: str, workdir: Path, said: Callable[[str], None]) -> bool:
    """Bring the bucket's latest checkpoint of a trial, where it is later than the one that is here.

    A damaged one is deleted, as it would hide those that are copied after it, and the one before it
    counts.

    Args:
        said: told what is damaged, and of keys that no trial writes.
    """
    under = f"{key}/{CHECKPOINT}/"
    here = _epoch_here(workdir, said)
    found: dict[tuple[int, str], list[str]] = {}
    for name in bucket.keys(under):
        if match := _EPOCH.fullmatch(name.removeprefix(under)):
            folder = name.removesuffix(f"/{match[2]}")
            found.setdefault((int(match[1]), folder), []).append(match[2])
    for (epoch, folder), names in sorted(found.items(), reverse=True):
        if epoch <= here:
            break
        if LAST not in names:
            continue  # still being copied, or never to be
        ours = _ours(names, f"{bucket.url}/{folder}", workdir, said)
        try:
            _fetch(bucket, folder, ours, epoch, workdir)
        except Damaged as damage:
            said(f"{bucket.url}/{folder} is no checkpoint to go on from, and is deleted: {damage}")
            bucket.remove(f"{folder}/{name}" for name in names)
            continue
        return True
    return False


def _ours(
    names: Iterable[str], where: str, workdir: Path, said: Callable[[str], None]
) -> list[str]:
    """Those of a bucket's names that trials write; the others are said."""
    ours, strange = [], []
    for name in names:
        try:
            trial_file(workdir, name)
        except InputError:
            strange.append(name)
        else:
            ours.append(name)
    if strange:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        said(
            f"{where} holds {strange[0]!r}{more}, which no trial writes: left there unread; "
            "see who else may write into the bucket"
        )
    return ours


def _fetch(bucket: Bucket, folder: str, names: Iterable[str], epoch: int, workdir: Path) -> None:
    """Bring a checkpoint of the bucket, whole or not at all; raises Damaged where it is not."""
    for left in workdir.glob(f".{CHECKPOINT}.*.tmp"):  # by a fetch that was killed
        clear(left)
    whole = unfinished(workdir / CHECKPOINT)
    whole.mkdir(parents=True)
    try:
        for name in names:
            _download(bucket, f"{folder}/{name}", trial_file(whole, name))
        try:
            found, paths = checkpoint_files(whole, check=True)
        except FileNotFoundError as error:
            raise Damaged(f"{Path(error.filename or error.args[0]).name} is missing") from None
        if found != epoch:
            raise Damaged(f"its {LAST} is of epoch {found}")
        for path in paths:  # last.json comes last, which commits it here too
            to = trial_file(workdir, str(path.relative_to(whole)))
            to.parent.mkdir(parents=True, exist_ok=True)
            path.replace(to)
    finally:
        clear(whole)


def fetch_model(bucket: Bucket, key: str, model: Path) -> bool:
    """Bring the weights of a trial that has ended; False where the bucket has none.

    Raises:
        InputError: there is a key among them that no trial writes.
    """
    names = list(bucket.keys(f"{key}/{model.name}/"))
    if not names:
        return False
    whole = unfinished(model)
    try:
        for name in names:
            file = trial_file(model.parent, name.removeprefix(f"{key}/"))
            _download(bucket, name, whole / file.relative_to(model))
        clear(model)
        whole.rename(model)
    except InputError as error:
        raise InputError(f"{bucket.url}/{key}: {error}; delete it from the bucket") from None
    finally:
        clear(whole)
    return True


def _download(bucket: Bucket, key: str, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    bucket.download(key, to)


def _epoch_of(name: str) -> float:
    """Of an object in a trial's checkpoint folder; what is none of ours is of no epoch."""
    match = _EPOCH.fullmatch(name)
    return int(match[1]) if match else math.inf


def _epoch_here(workdir: Path, said: Callable[[str], None]) -> int:
    """Of the last whole checkpoint on this machine; 0 where there is none."""
    while True:
        before = _last_of(workdir)
        if before is None:
            return 0
        try:
            return checkpoint_files(workdir, check=True)[0]
        except (FileNotFoundError, Damaged) as damage:
            if _last_of(workdir) == before:  # else an orphan has ended another epoch meanwhile
                said(f"{damage}; the bucket is asked for another checkpoint")
                return 0


def _last_of(workdir: Path) -> bytes | None:
    path = workdir / LAST
    return path.read_bytes() if path.exists() else None


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
            except InputError as error:  # of what is here: the next try would meet it too
                self.said(f"not copied: {error}")
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
        with contextlib.suppress(FileNotFoundError):  # overtaken meanwhile; forget_models follows
            for path in sorted(path for path in folder.rglob("*") if not path.is_dir()):
                with open(path, "rb", opener=no_link) as file:
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
                file = opened.enter_context(os.fdopen(no_link(path, os.O_RDONLY), "rb"))
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
    epoch, paths = checkpoint_files(workdir)
    committing = [path for path in paths if path.name in (LAST, RESULT)]
    return epoch, paths, [path.read_bytes() for path in committing]
