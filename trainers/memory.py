"""Memory: what it looks like when it runs out, and what can be had again."""

from __future__ import annotations

import contextlib
import ctypes
import gc

import torch

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


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether a device or its libraries could not get memory; torch says so in four ways.

    Its allocator, a call of the runtime outside of it, cuDNN's and cuBLAS's own workspaces; and the
    allocator of the CPU.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _SAID)


_SAID = (
    "CUDA error: out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "can't allocate memory",
)


def free_memory() -> None:
    """Give back what nobody holds any more; after the error and its traceback are gone."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
