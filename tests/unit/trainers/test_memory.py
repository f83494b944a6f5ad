"""Freed blocks stay with the process: counted in page faults, in processes of their own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

ALLOCATE = """
import resource, sys
import numpy as np
if sys.argv[1] == "keep":
    from trainers.memory import keep_freed_memory
    keep_freed_memory()
np.ones(100_000_000, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(100_000_000, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_freed_block_is_used_again_without_new_page_faults() -> None:
    faults = {
        mode: int(
            subprocess.run(
                [sys.executable, "-c", ALLOCATE, mode], capture_output=True, text=True, check=True
            ).stdout
        )
        for mode in ("keep", "plain")
    }
    assert faults["keep"] * 10 < faults["plain"], faults
