"""The tables of docs/data.md: a row is an input, its outcome, and the message word for word."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "data.md"


class Row(NamedTuple):
    input: str
    outcome: str
    message: str
    """Without its backticks; empty where nothing is said."""


def rows(section: str) -> list[Row]:
    """Return the rows of all tables of a section."""
    text = DOCUMENT.read_text(encoding="utf-8").split(f"\n## {section}\n")[1]
    found = []
    for line in text.split("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and cells[:2] != ["input", "outcome"]:
            message = cells[2].strip("| `") if len(cells) > 2 else ""
            found.append(Row(cells[0], cells[1], message))
    return found


def each_has_its_case(section: str, cases: Mapping[str, Any]) -> None:
    """Assert that the rows begin as the cases are called, in their order."""
    for row, begins in zip(rows(section), cases, strict=True):
        assert row.input.startswith(begins)


def parameters(section: str, cases: Mapping[str, Any]) -> list[Any]:
    """(row, its case), for pytest."""
    return [
        pytest.param(row, case, id=re.sub(r"[^\w -]", "", row.input)[:50])
        for row, case in zip(rows(section), cases.values(), strict=False)
    ]
