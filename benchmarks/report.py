"""What all benchmark reports share: a date, the hardware by name, medians with ranges, tables."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path


def parser(doc: str) -> argparse.ArgumentParser:
    """Return a command line with `--to FILE`, described by a module's docstring."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--to", type=Path, help="also write the report to this file")
    return made


def called(name: str) -> str:
    """Return a benchmark's name with the options that it was called with, but for files.

    A store's URL is nobody's business; it stands there as URL.
    """
    known = parser("")
    known.add_argument("--store")
    known.add_argument("--runs")
    given, options = known.parse_known_args()
    server = [] if given.store is None else ["--store", "URL"]
    return shlex.join([name, *options, *server])


def publish(text: str, to: Path | None) -> None:
    """Print a report, and write it where that is asked for."""
    print(text)
    if to is not None:
        to.write_text(text)


def heading(title: str, command: str, *, gpu: bool = False, program: str = "-m benchmarks.") -> str:
    """Return a report's first lines: title, machine, date, and the command that measures it.

    Args:
        command: the benchmark's name and options, as they stand behind `program`.
        gpu: the figures are of the GPU, where there is one.
        program: what stands behind `python` and before the command.
    """
    return (
        f"# {title}\n\n{hardware(gpu=gpu)}; {datetime.date.today().isoformat()}; measured by "
        f"`python {program}{command}`.\n"
    )


def hardware(*, gpu: bool = False) -> str:
    """Name the machine: processor and cores, and before them the GPU where it was used."""
    names = [f"{_processor()}, {os.cpu_count()} cores"]
    if gpu:
        import torch

        if torch.cuda.is_available():
            names.insert(0, torch.cuda.get_device_name())
    return ", ".join(names)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, without a newline at its end."""
    assert all(len(row) == len(columns) for row in rows), rows
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float], digits: int = 2, unit: str = "") -> str:
    """Return `median unit (smallest to largest)`."""
    low, middle, high = min(values), statistics.median(values), max(values)
    behind = f" {unit}" if unit else ""
    return f"{middle:,.{digits}f}{behind} ({low:,.{digits}f} to {high:,.{digits}f})"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
