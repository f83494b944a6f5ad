"""An owner stops and resumes a study as a person does, and reads in the audit that she did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from search.database.store import open_store
from search.studies.study import create_or_resume
from spaces.spec import StudySpec
from tests.browser.conftest import serving


@pytest.fixture
def address(tmp_path: Path, make_spec: Callable[..., StudySpec]) -> Iterator[str]:
    """A dashboard with people, of a study that waits for workers."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with closing(open_store(url)) as store:
        create_or_resume(store, make_spec(name="roads", trials=3, epochs=4), "f" * 64, None)
        with serving(store, tmp_path / "artifacts") as address:
            yield address


@pytest.mark.parametrize("script", [True, False])
def test_an_owner_stops_a_study_and_lets_it_go_on(
    chromium: Any, page: Any, address: str, script: bool
) -> None:
    browser = page.narrow(chromium, script)
    page.sign_in(address, "olga", "/studies/roads")
    browser.get_by_role("link", name="Stop").click()
    browser.get_by_label("save their state and return").check()
    page.look("actions-stop")
    browser.get_by_role("button", name="Stop").click()
    expect(browser.locator("p.under")).to_contain_text("stopped by a user, at once")
    browser.get_by_role("link", name="Resume").click()
    page.look("actions-resume")
    browser.get_by_role("button", name="Resume").click()
    expect(browser.locator("p.under")).to_contain_text("waiting for workers")
    for name in ("People", "Audit"):
        browser.get_by_role("link", name=name).click()
        expect(browser.get_by_role("heading", level=1)).to_have_text(name)
        page.look(f"actions-{name.lower()}")
    expect(browser.locator("tbody tr").first).to_contain_text("resume")
    expect(browser.locator("tbody tr").nth(1)).to_contain_text("stop now")
    browser.get_by_role("link", name="Sign out").click()
    browser.get_by_role("button", name="Sign out", exact=True).click()
    page.sign_in(address, "ray", "/studies/roads")
    expect(browser.get_by_role("link", name="Stop")).to_have_count(0)
    expect(browser.get_by_role("link", name="Audit")).to_have_count(0)
    assert page.errors == []
