"""Where segtune keeps its state: one folder, named by $SEGTUNE_HOME."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
import uuid
from pathlib import Path

from spaces.errors import InputError

ROOTS = "SEGTUNE_DATA_ROOTS"
"""Variable: folders, with `:` between them, outside of which no study file may name anything. It is
set for files that come from a browser, whose relative paths start there."""
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


def private_folder(name: str) -> Path:
    """Return a folder of the home that nobody else can read or write, made here.

    Raises:
        InputError: it is somebody else's, or others may write in the home.
    """
    top = home()
    top.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = top / name
    path.mkdir(mode=0o700, exist_ok=True)
    for folder, others, fix in ((top, 0o022, "go-w"), (path, 0o077, "go-rwx")):
        facts = folder.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid():
            raise InputError(
                f"{folder} must be a folder of yours, as what lies there is run; remove it, or "
                "name another $SEGTUNE_HOME"
            )
        if facts.st_mode & others:
            raise InputError(
                f"{folder} must be closed to others, as what lies there is run; close it with: "
                f"chmod {fix} {folder}"
            )
    return path


def inside(folder: Path, name: str) -> Path:
    """Return the path below `folder` of a name that comes from elsewhere.

    Every name out of a bucket, the store or a file of an export becomes a path here.

    Raises:
        InputError: it is no plain relative path, or leads out of the folder through a link.
    """
    plain = not {"", ".", ".."} & set(name.split("/")) and not any(c in name for c in "\\\0")
    path = folder / name
    if not plain or not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{name!r} must be the name of something in {folder}, but leads out of it; remove it "
            "(or the link on its way)"
        )
    return path


def no_link(path: str | Path, flags: int) -> int:
    """Open a plain file and no other: an `opener` for `open` in folders that others write to.

    A link there could make us overwrite its target, a pipe could make us wait.

    Raises:
        InputError: it is something else.
    """
    descriptor = None
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError:
        if not _is_special(path):
            raise
    if descriptor is None or not stat.S_ISREG(os.fstat(descriptor).st_mode):
        if descriptor is not None:
            os.close(descriptor)
        raise InputError(f"{path} must be a plain file, but is a link or a device; remove it")
    return descriptor


def clear(path: Path) -> None:
    """Delete a file or a folder, if it is there; of a link the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def take_away(folder: Path, *, strict: bool = True) -> None:
    """Delete a folder that somebody may still write into, if it is there.

    It is renamed first, to `.<name>.<random>.tmp`: who writes under its old name finds no folder.

    Args:
        strict: say what cannot be deleted of it; else that is left.

    Raises:
        OSError: it cannot be renamed; or, if strict, something is left.
    """
    gone = unfinished(folder)
    try:
        folder.rename(gone)
    except FileNotFoundError:
        return
    shutil.rmtree(gone, ignore_errors=not strict)


def _is_special(path: str | Path) -> bool:
    """Whether something is there that is neither a file nor a folder."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _folder(given: str, name: str, *, write: bool = True) -> Path:
    """Return an absolute path that is a folder, or can become one."""
    path = Path(given).expanduser().resolve()
    existing = next(p for p in (path, *path.parents) if p.exists())
    if not existing.is_dir():
        raise InputError(f"{name} must be a folder, but {existing} is a file")
    if write and not os.access(existing, os.W_OK):
        raise InputError(f"{name}: {existing} cannot be written; name another folder")
    return path
