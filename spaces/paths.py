"""Where segtune keeps its state: one folder, named by $SEGTUNE_HOME."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
import uuid
from pathlib import Path

from spaces.errors import InputError

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # of a file system that knows no flock
MODEL, MODELS = "model", "models"  # folders of an export: the weights, or those of each fold


def home() -> Path:
    """Return $SEGTUNE_HOME, or ~/.segtune where it is not set (not created here).

    Raises:
        InputError: it cannot be a folder.
    """
    return _folder(os.environ.get("SEGTUNE_HOME") or "~/.segtune", "SEGTUNE_HOME")


def cache_dir() -> Path:
    """Return the folder of rebuildable data: decoded images, preflight results, micro-batches."""
    return home() / "cache"


def artifacts_dir(given: str | None = None, *, write: bool = True) -> Path:
    """Return the folder of trial files: the given one, else one in the home.

    Args:
        write: it must be writable.

    Raises:
        InputError: it cannot be a folder, or cannot be written.
    """
    return _folder(given, "--artifacts", write=write) if given else home() / "artifacts"


def check_locks(folder: Path) -> None:
    """Refuse, with InputError, a folder on a file system without file locks, as some mounts are."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise InputError(
                f"{folder} is on a file system without file locks (flock: {error.strerror}); name "
                "a folder on another with --artifacts, or mount it with locks"
            ) from None  # what else is wrong shows where it matters


def unfinished(path: Path) -> Path:
    """A name beside `path` that no other process has, to be renamed to it once it is whole.

    A process id would not do: in containers that share a folder they are often equal.
    """
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def _folder(given: str, name: str, *, write: bool = True) -> Path:
    """Return an absolute path that is a folder, or can become one."""
    path = Path(given).expanduser().resolve()
    existing = next(p for p in (path, *path.parents) if p.exists())
    if not existing.is_dir():
        raise InputError(f"{name} must be a folder, but {existing} is a file")
    if write and not os.access(existing, os.W_OK):
        raise InputError(f"{name}: {existing} cannot be written; name another folder")
    return path
