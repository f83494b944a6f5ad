"""The house itself: no circle among files, no file too long to read, nothing imports upwards."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("spaces", "trainers", "search")
LONGEST = 400  # lines, of a file in search/ or spaces/


def modules() -> dict[str, Path]:
    """{dotted name: file} of every module of the product."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the product that a file imports, for types and inside of functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                module = f"{node.module}.{name.name}"
                yield module if module in known else node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def graph() -> dict[str, set[str]]:
    known = modules()
    return {
        name: {other for other in imported(path, known) if other in known and other != name}
        for name, path in known.items()
    }


def test_no_circle_among_files() -> None:
    try:
        order = list(TopologicalSorter(graph()).static_order())
    except CycleError as error:
        pytest.fail(f"files import each other in a circle: {' <- '.join(error.args[1])}")
    assert len(order) > 100  # the graph was read


def test_what_shows_a_study_does_not_know_who_works_on_it() -> None:
    arrows = {
        (name, other)
        for name, others in graph().items()
        for other in others
        if name.startswith(("search.findings", "search.dashboard"))
        and other.startswith("search.work")
    }
    assert not arrows


@pytest.mark.parametrize("package", ["search", "spaces"])
def test_no_file_is_too_long_to_read(package: str) -> None:
    lengths = {p: len(p.read_text().splitlines()) for p in (ROOT / package).rglob("*.py")}
    assert lengths
    assert {p.relative_to(ROOT): n for p, n in lengths.items() if n > LONGEST} == {}
