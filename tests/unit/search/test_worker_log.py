"""The log of a worker that runs for a year."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from search.launchers.engine import WORKER_LOG

SCRIPT = """
import os, sys
from search.work import worker_log
worker_log.MOST_BYTES = 10_000
console = worker_log.worker_console(None)
for line in range(2_000):
    console.print(f"trial {line} ended as it should", highlight=False)
    os.write(2, b"a library's warning\\n")
"""


def test_a_log_is_bounded_and_holds_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "small-0.log"
    with open(log, "ab") as output:
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, WORKER_LOG: str(log)},
            stdout=output,
            stderr=output,
            check=True,
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small-0.log", "small-0.log.1"]
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert max(sizes) < 10_100
    both = (tmp_path / "small-0.log.1").read_text() + log.read_text()
    lines = [line for line in both.splitlines() if line.startswith("trial")]
    numbers = [int(line.split()[1]) for line in lines]
    assert numbers == list(range(numbers[0], 2_000)) and len(numbers) > 200
    assert both.count("a library's warning") >= len(numbers) - 1
