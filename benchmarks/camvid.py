"""The CamVid study of examples/camvid.yaml: time, best mIoU, epochs saved, and the export checked.

    python -m benchmarks.camvid

Runs in a temporary SEGTUNE_HOME; about a quarter of an hour on two cores.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.study import run_example, show


def main() -> None:
    """Run the study and print one line a figure."""
    with tempfile.TemporaryDirectory() as folder:
        show(run_example("camvid", Path(folder)))


if __name__ == "__main__":
    main()
