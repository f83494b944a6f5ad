"""The page of the research names every command, and what it links to is there."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[3] / "research/early-stopping"
PAGE = (FOLDER / "README.md").read_text()


def test_every_command_is_on_the_page() -> None:
    commands = {p.name for p in FOLDER.glob("*.py") if '__name__ == "__main__"' in p.read_text()}
    assert set(re.findall(r"`python research/early-stopping/(\w+\.py)", PAGE)) == commands


def test_every_report_is_on_the_page_and_every_link_leads_somewhere() -> None:
    links = set(re.findall(r"\]\(([^)]+)\)", PAGE))
    assert {p.name for p in FOLDER.glob("*.md")} - {"README.md"} <= links
    assert all((FOLDER / link).exists() for link in links), links
