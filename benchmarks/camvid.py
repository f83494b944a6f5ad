"""The CamVid study of examples/camvid.yaml: time, best mIoU, epochs saved, and the export checked.

    python -m benchmarks.camvid

Runs in a temporary SEGTUNE_HOME; about a quarter of an hour on two cores.
"""

from __future__ import annotations

from benchmarks.home import own_home
from benchmarks.study import run_example, show


def main() -> None:
    """Run the study and print one line a figure."""
    with own_home() as folder:
        show(run_example("camvid", folder))


if __name__ == "__main__":
    main()
