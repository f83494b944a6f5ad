"""The SROIE study of examples/sroie.yaml: time, cost of an epoch, best Hmean, the export checked.

    python -m benchmarks.sroie [--to FOLDER]

Runs in a temporary SEGTUNE_HOME; `--to` keeps the exported model, for the other text benchmarks.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from benchmarks.home import own_home
from benchmarks.study import run_example, show


def main() -> None:
    """Run the study and print one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, help="new folder that the export is copied to")
    to: Path | None = parser.parse_args().to
    if to is not None and to.exists():
        parser.error(f"--to {to} exists; name a new folder")
    with own_home() as folder:
        outcome = run_example("sroie", folder)
        show(outcome)
        detection = outcome.evaluated.detection
        assert detection is not None
        print(f"precision, recall  {detection.precision:.4f}, {detection.recall:.4f}")
        if to is not None:
            shutil.copytree(outcome.export, to)


if __name__ == "__main__":
    main()
