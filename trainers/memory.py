"""Host memory of a CPU run: freed blocks are kept for the next step instead of given back."""

from __future__ import annotations

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc
_MOST = 2**31 - 1


def keep_freed_memory() -> None:
    """Let glibc's malloc reuse large blocks; without effect on other C libraries.

    Activations are allocated and freed each step. By default a block of some MB is mapped anew
    each time, and the kernel clears every page of it again: a tenth of a CPU epoch.
    """
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, _MOST)
