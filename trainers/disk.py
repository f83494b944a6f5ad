"""Telling a full disk from other failures, whoever reports it and however."""

from __future__ import annotations

import errno

_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_full(error: BaseException) -> bool:
    """Tell whether an error, or what caused it, is a disk or quota that is full."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _FULL:
            return True
        if "No space left on device" in str(seen):  # safetensors has an error of its own
            return True
        seen = seen.__cause__ or seen.__context__
    return False
