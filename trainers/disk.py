"""Telling a full disk, and files that cannot be opened, from other failures, however reported."""

from __future__ import annotations

import errno

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FILES = (errno.EMFILE, errno.ENFILE)


def is_full(error: BaseException) -> bool:
    """Tell whether an error, or what caused it, is a disk or quota that is full."""
    return _says(error, _FULL, "No space left on device")  # safetensors has an error of its own


def is_out_of_files(error: BaseException) -> bool:
    """Tell whether an error, or what caused it, is that no more files may be open at once."""
    return _says(error, _FILES, "Too many open files")


def _says(error: BaseException, numbers: tuple[int, ...], words: str) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        if (isinstance(seen, OSError) and seen.errno in numbers) or words in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
