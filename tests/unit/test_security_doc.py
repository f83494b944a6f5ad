"""Every attack of docs/security.md has a test, and it exists."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_attack_has_its_test() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    _, *tables = text.split("| attack | what happens | test |\n|---|---|---|\n")
    assert tables
    for table in tables:
        rows = [line for line in table.split("\n\n")[0].splitlines() if line.startswith("|")]
        assert rows, "an empty table"
        for row in rows:
            attack, happens, tests = (cell.strip() for cell in row.strip("|").split("|"))
            assert attack and happens
            for test in tests.split(", "):
                path, _, name = test.strip("`").partition("::")
                tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
                assert name in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}, test
