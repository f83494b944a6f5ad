"""The installed script, as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def segtune() -> Callable[..., str]:
    """Run the script in `cwd` and return its output; the exit code must be `code`."""
    script = str(Path(sys.executable).with_name("segtune"))

    def run(*words: str, cwd: Path, code: int = 0, timeout: int = 550) -> str:
        done = subprocess.run(
            [script, *words], cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    return run
