"""Scripts of examples/ in a process that cannot import torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import onnx

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
ALONE = """
import runpy, sys
sys.modules.update(dict.fromkeys(["torch", "segmentation_models_pytorch", "trainers", "spaces"]))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_example(name: str, *words: str | Path) -> str:
    """Run it, and return what it prints; AssertionError where it fails."""
    done = _run(name, words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def why_refused(name: str, *words: str | Path) -> str:
    """Run it, and return why it ends with exit code 1; AssertionError where it does not."""
    done = _run(name, words)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    return done.stderr


def with_setting(graph: Path, to: Path, name: str, value: object) -> Path:
    """A copy of a model.onnx whose metadata have another setting, such as `decode.tta`."""
    model = onnx.load(graph)
    [facts] = model.metadata_props
    found = json.loads(facts.value)
    section, _, key = name.partition(".")
    found[section][key] = value
    facts.value = json.dumps(found)
    onnx.save(model, to)
    return to


def _run(name: str, words: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ALONE, str(EXAMPLES / name), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)
