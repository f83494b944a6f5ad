"""Scripts of examples/ in a process that cannot import torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
ALONE = """
import runpy, sys
sys.modules.update(dict.fromkeys(["torch", "segmentation_models_pytorch", "trainers", "spaces"]))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_example(name: str, *words: str | Path) -> str:
    """Run it, and return what it prints; AssertionError where it fails."""
    command = [sys.executable, "-c", ALONE, str(EXAMPLES / name), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
