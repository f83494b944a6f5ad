"""The folder of decoded splits: built once, checked, bounded, least recently used out first.

An entry is a folder of .npy files with a manifest. Processes that use it hold a shared flock on the
manifest; only an entry whose exclusive lock can be had without waiting is ever evicted. Sums over
the folder and changes to it are made under one lock; builds of different entries run side by side.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from spaces.errors import InputError
from spaces.paths import NO_LOCKS, cache_dir, take_away, unfinished
from trainers.disk import is_full

BYTES = "SEGTUNE_CACHE_BYTES"  # environment variable: most bytes of the whole cache folder
FREE_SHARE = 0.5  # without it: this share of what the disk would have free without the cache

MANIFEST = "manifest.json"
_RESERVED = "reserved.json"  # in a folder that is being built, locked by who builds it
_LAYOUT = 2  # raise it when the files' layout changes
_READING = 2  # raise it when trainers/images.py makes other pixels of a file
_PROBES, _PROBE_BYTES = 16, 4096  # places of each file that are compared on opening

Make = Callable[[str, tuple[int, ...], Any], np.ndarray]
"""Allocate an array (name, shape, dtype) of the entry, to be filled in place."""

_log = logging.getLogger("segtune.cache")


@dataclass(frozen=True)
class Entry:
    """A whole entry, mapped; it is not evicted while this object lives.

    Attributes:
        arrays: {name: array}, shared with other processes through the page cache. Writing to one
            would change a private copy.
    """

    folder: Path
    arrays: dict[str, np.ndarray]
    _lock: int  # descriptor of the manifest

    def __reduce__(self) -> tuple[Callable[[Path], Entry | None], tuple[Path]]:
        return _open, (self.folder,)  # a loader process maps the files anew

    def __del__(self) -> None:
        os.close(self._lock)


def entry(
    kind: str, key: str, needed: Callable[[], int], build: Callable[[Make], None], what: str
) -> Entry | None:
    """Return an entry, building it where it is missing or damaged.

    None, and a line in the log, where the cache folder has no room for it.

    Args:
        kind: folder under the cache folder.
        key: names content and layout.
        needed: bytes of its arrays; asked only where it must be built.
        build: allocates arrays with the function that it is given, and fills them.
        what: the entry in words, for messages.

    Raises:
        InputError: $SEGTUNE_CACHE_BYTES is no size.
    """
    try:
        return _entry(kind, key, needed, build, what)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        _log.warning(
            "streaming: %s is on a file system without file locks (flock: %s), so %s is decoded "
            "again in each epoch; point SEGTUNE_HOME at another disk",
            cache_dir(),
            error.strerror,
            what,
        )
        return None


def _entry(
    kind: str, key: str, needed: Callable[[], int], build: Callable[[Make], None], what: str
) -> Entry | None:
    folder = cache_dir() / kind / f"{key}-{_LAYOUT}"
    found = _open(folder)
    if found is not None:
        return found
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_suffix(".lock")):
        found = _open(folder)  # by another process, while this one waited
        if found is not None:
            return found
        if folder.exists():
            _log.warning("the cache of %s was damaged; building it again: %s", what, folder)
            take_away(folder, strict=False)
        size = needed()
        try:
            with _Half.begin(folder, size) as half:
                if half is not None:
                    build(half.make)
                    half.finish()
                    return _open(folder)
        except OSError as error:
            if not is_full(error):
                raise
        _say_streaming(what, size)
        return None


def split_key(fingerprint: str, split: str, size: object) -> str:
    """The key of a split's entry: data, split and size decide its content.

    A fingerprint knows `data.range` and `data.channels`.
    """
    facts = [fingerprint, split, size, _READING]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def most_bytes() -> int:
    """Return the most bytes that the cache folder may hold, from $SEGTUNE_CACHE_BYTES or the disk.

    Raises:
        InputError: the variable is no size.
    """
    given = asked_bytes()
    if given is not None:
        return given
    free = shutil.disk_usage(next(p for p in (cache_dir(), *cache_dir().parents) if p.exists()))
    return int(FREE_SHARE * (free.free + held_bytes()))


def asked_bytes() -> int | None:
    """Return what $SEGTUNE_CACHE_BYTES says, None where it is not set; InputError for nonsense."""
    text = os.environ.get(BYTES)
    return _bytes(text) if text else None


def held_bytes() -> int:
    """Return the bytes of all files in the cache folder; of what is being built, its final size."""
    total = 0
    for folder, _, names in os.walk(cache_dir()):
        with suppress(OSError, ValueError, KeyError):  # gone meanwhile
            if _RESERVED in names:
                total += json.loads((Path(folder) / _RESERVED).read_text())["bytes"]
                continue
        for name in names:
            with suppress(OSError):
                total += os.stat(os.path.join(folder, name)).st_size
    return total


def unused() -> list[Path]:
    """Folders of the cache that no process uses: whole entries, and what dead builders left."""
    found = []
    for folder in cache_dir().glob("*/*"):
        held = folder / (MANIFEST if (folder / MANIFEST).exists() else _RESERVED)
        if folder.is_dir() and held.exists():
            with suppress(OSError), open(held) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found.append(folder)
    return found


def remove_unused(folder: Path) -> bool:
    """Remove one of `unused`; False where a process has begun to use it."""
    with _locked(cache_dir() / "folder.lock"):
        if (folder / MANIFEST).exists():
            return _evicted(folder / MANIFEST)
        _sweep()
        return not folder.exists()


class _Half:
    """An entry that is being built in a folder of its own, renamed when it is whole."""

    def __init__(self, folder: Path, temporary: Path) -> None:
        self.folder, self.temporary = folder, temporary
        self.arrays: dict[str, np.memmap[Any, Any]] = {}

    @classmethod
    @contextmanager
    def begin(cls, folder: Path, needed: int) -> Iterator[Self | None]:
        """Make room, reserve it, and clean up behind a build that fails; None without room."""
        with _locked(cache_dir() / "folder.lock"):
            _sweep()
            if not _make_room(needed):
                lock = None
            else:
                half = cls(folder, unfinished(folder))
                half.temporary.mkdir()
                lock = open(half.temporary / _RESERVED, "w")  # noqa: SIM115
                json.dump({"bytes": needed}, lock)
                lock.flush()
                fcntl.flock(lock, fcntl.LOCK_EX)
        if lock is None:
            yield None
            return
        try:
            yield half
        finally:
            shutil.rmtree(half.temporary, ignore_errors=True)
            lock.close()

    def make(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """A new array on disk, its blocks allocated: a mapped hole on a full disk is a SIGBUS.

        Raises:
            OSError: the disk is full.
        """
        path = self.temporary / f"{name}.npy"
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        with open(path, "r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a disk that cannot
                    raise
        self.arrays[name] = array
        return array

    def finish(self) -> None:
        """Make the arrays durable, write the manifest, and give the entry its name."""
        files = {}
        for name, array in self.arrays.items():
            array.flush()
            path = self.temporary / f"{name}.npy"
            files[name] = {
                "shape": list(array.shape),
                "dtype": str(array.dtype),
                "bytes": path.stat().st_size,
                "crc32": _probe(path),
            }
        with open(self.temporary / MANIFEST, "w") as manifest:
            json.dump({"files": files}, manifest)
            manifest.flush()
            os.fsync(manifest.fileno())
        self.temporary.rename(self.folder)
        (self.folder / _RESERVED).unlink()  # only now: without it a half is swept away


def _open(folder: Path) -> Entry | None:
    """Map an entry and mark it as used now; None for one that is missing or damaged."""
    path = folder / MANIFEST
    try:
        lock = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
    except OSError:
        os.close(lock)
        raise
    try:
        if os.fstat(lock).st_ino != path.stat().st_ino:
            raise FileNotFoundError(path)  # evicted, and built again, between the two lines above
        arrays = {
            name: _mapped(folder / f"{name}.npy", facts)
            for name, facts in json.loads(path.read_text())["files"].items()
        }
        os.utime(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        os.close(lock)
        return None
    return Entry(folder, arrays, lock)


def _mapped(path: Path, facts: dict[str, Any]) -> np.ndarray:
    """Map one file; raises ValueError where it is not what the manifest says."""
    if path.stat().st_size != facts["bytes"] or _probe(path) != facts["crc32"]:
        raise ValueError(f"{path} is damaged")
    # copy-on-write: torch wants arrays that could be written, and pages stay shared until then
    array: np.ndarray = np.load(path, mmap_mode="c")
    if list(array.shape) != facts["shape"] or str(array.dtype) != facts["dtype"]:
        raise ValueError(f"{path} is damaged")
    return array


def _probe(path: Path) -> int:
    """CRC-32 over pieces at even distances, the first and the last bytes among them.

    Finds a file that was cut, overwritten or never reached the disk, at the price of 64 kB.
    """
    size, crc = path.stat().st_size, 0
    with open(path, "rb") as file:
        for index in range(_PROBES):
            file.seek(max(0, size - _PROBE_BYTES) * index // (_PROBES - 1))
            crc = zlib.crc32(file.read(_PROBE_BYTES), crc)
    return crc


def _say_streaming(what: str, needed: int) -> None:
    _log.warning(
        "streaming: %s needs %.3g GB, but the cache folder may hold %.3g GB; its files are decoded "
        "again in each epoch. Set %s higher, point SEGTUNE_HOME at a larger disk, or lower "
        "data.resolution, or with data.mode crop data.scale",
        what,
        needed / 1e9,
        most_bytes() / 1e9,
        BYTES,
    )


# ---------------------------------------------------------------- room, under the folder's lock


def _make_room(needed: int) -> bool:
    """Evict entries that nobody uses, the least recently used first, until `needed` bytes fit."""
    most, held = most_bytes(), held_bytes()
    if needed > most:
        return False
    manifests = [path for path in cache_dir().glob(f"*/*/{MANIFEST}") if path.parent.name[0] != "."]
    ages = []
    for path in manifests:
        with suppress(OSError):
            ages.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(ages):
        if held + needed <= most:
            break
        size = sum(file.stat().st_size for file in path.parent.iterdir())
        if _evicted(path):
            held -= size
    return held + needed <= most


def _evicted(manifest: Path) -> bool:
    """Remove an entry unless a process uses it."""
    with suppress(OSError), open(manifest) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        take_away(manifest.parent, strict=False)
        return True
    return False


def _sweep() -> None:
    """Remove what dead processes have left: halves of builds and of removals."""
    for folder in cache_dir().glob("*/.*.tmp"):
        if not folder.is_dir():
            continue
        with suppress(OSError):
            if not (folder / _RESERVED).exists():
                shutil.rmtree(folder, ignore_errors=True)
                continue
            with open(folder / _RESERVED) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock among the processes of this machine."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def _bytes(text: str) -> int:
    """'20GB' -> 20,000,000,000; '1GiB' -> 2**30; '4096' -> 4096."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([KMGT]?)(i?)B?)\s*", text, re.IGNORECASE)
    if match is None or (match[3] and not match[2]):
        raise InputError(f"{BYTES} must be a size such as 20GB or 20000000000, but got {text!r}")
    unit = match[2].upper()
    base = 1024 ** "KMGT".index(unit) * 1024 if match[3] else _UNITS[unit]
    return int(float(match[1]) * base)
