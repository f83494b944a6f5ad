"""A soak: trials that train nothing, by four workers; is the last hundred as quick as the first?

    python -m benchmarks.service [--trials 2000] [--workers 4] [--to benchmarks/service.md]

Everything but the training is real: the embedded Postgres, slots, leases, reports, results. Workers
are processes; their memory is what the kernel says it is.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import time
from pathlib import Path

from benchmarks.home import own_home
from tests.noop import crew, noop_study
from tests.waiting import Running

EPOCHS = 3


def main() -> None:
    """Run the soak and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--to", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    with own_home() as folder:
        text = report(*soak(folder, given.trials, given.workers), given.workers)
    print(text)
    if given.to is not None:
        given.to.write_text(text)


def soak(folder: Path, trials: int, workers: int) -> tuple[list[float], list[list[int]]]:
    """Return when each trial ended, in seconds, and each sample of the workers' memory in KiB."""
    from search.database.store import open_store

    store = open_store()
    study = noop_study(folder, store, trials, EPOCHS)
    url = store.engine.url.render_as_string(hide_password=False)
    running = Running.fork(crew, url, folder / "artifacts", "soak", EPOCHS, 0.0, 60, workers)
    ended: list[float] = []
    memory: list[list[int]] = []
    for _ in range(trials):
        running.line("ended")
        ended.append(time.monotonic())
        if len(ended) % 50 == 0:
            memory.append([_resident(pid) for pid in _children(running.pid)])
    running.finish()
    counts = study.slots.counts()
    assert counts["COMPLETE"] == trials, counts
    store.close()
    return ended, memory


def report(ended: list[float], memory: list[list[int]], workers: int) -> str:
    """The figures as Markdown."""
    tenth = len(ended) // 10
    rates = [
        tenth / (ended[i + tenth - 1] - ended[i]) for i in range(0, len(ended) - tenth + 1, tenth)
    ]
    early, late = (max(row) / 1024 for row in (memory[len(memory) // 10], memory[-2]))
    return "\n".join(
        [
            "# The service under load",
            "",
            f"{len(ended)} trials of {EPOCHS} epochs that train nothing, {workers} workers, "
            f"embedded Postgres, {os.cpu_count()} cores, {datetime.date.today().isoformat()};",
            "`python -m benchmarks.service`.",
            "",
            "| what | measured |",
            "|---|---|",
            f"| trials a second, all workers | {len(ended) / (ended[-1] - ended[0]):.1f} |",
            f"| in the second tenth, in the last | {rates[1]:.1f}, {rates[-1]:.1f} "
            f"(ratio {rates[1] / rates[-1]:.2f}) |",
            f"| in each tenth | {', '.join(f'{rate:.1f}' for rate in rates)} |",
            f"| resident memory of the largest supervisor, after a tenth and at the end | "
            f"{early:.0f} MiB, {late:.0f} MiB |",
            "",
        ]
    )


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in found.split()]


def _resident(pid: int) -> int:
    """KiB, 0 for a process that has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    match = re.search(r"VmRSS:\s+(\d+)", status)
    return int(match[1]) if match else 0


if __name__ == "__main__":
    main()
