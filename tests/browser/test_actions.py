"""An owner stops and resumes a study as a person does, and reads in the audit that she did."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from search.database.people import add_user
from search.database.store import open_store
from search.studies.study import create_or_resume
from spaces.spec import StudySpec
from tests.browser.conftest import PASSWORD
from tests.waiting import Running


@pytest.fixture
def address(tmp_path: Path, make_spec: Callable[..., StudySpec]) -> Iterator[str]:
    """A dashboard with people, of a study that waits for workers."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with closing(open_store(url)) as store:
        create_or_resume(store, make_spec(name="roads", trials=3, epochs=4), "f" * 64, None)
        for name, role in {"olga": "owner", "ray": "reader"}.items():
            add_user(store, name, role, PASSWORD, "test")
    environment = {"SEGTUNE_STORE": url, "SEGTUNE_ARTIFACTS": str(tmp_path / "artifacts")}
    server = Running.segtune("dashboard", "--port", "0", "--allow-writes", env=environment)
    found = re.search(r"http://127\.0\.0\.1:\d+", server.line("dashboard: http"))
    assert found
    yield found[0]
    server.send(signal.SIGTERM)
    server.finish()


@pytest.mark.parametrize("script", [True, False])
def test_an_owner_stops_a_study_and_lets_it_go_on(
    chromium: Any, page: Any, address: str, script: bool
) -> None:
    context = chromium.new_context(
        java_script_enabled=script, viewport={"width": 390, "height": 800}
    )
    page.page = browser = context.new_page()
    browser.on("console", lambda m: page.errors.append(m.text) if m.type == "error" else None)

    def sign_in(name: str) -> None:
        browser.goto(f"{address}/studies/roads")
        browser.get_by_label("Name").fill(name)
        browser.get_by_label("Password").fill(PASSWORD)
        browser.get_by_role("button", name="Sign in").click()
        expect(browser.get_by_role("heading", level=1)).to_have_text("roads")

    def shot(name: str) -> None:
        browser.wait_for_load_state()  # with its style
        for scheme in ("light", "dark"):
            browser.emulate_media(color_scheme=scheme)
            wide = browser.evaluate("document.documentElement.scrollWidth") if script else 0
            assert wide <= 390, name
            page.screenshot(f"actions-{name}-{scheme}")
            if script:
                assert page.barriers() == [], name

    sign_in("olga")
    browser.get_by_role("link", name="Stop").click()
    browser.get_by_label("save their state and return").check()
    shot("stop")
    browser.get_by_role("button", name="Stop").click()
    expect(browser.locator("p.under")).to_contain_text("stopped by a user, at once")
    browser.get_by_role("link", name="Resume").click()
    shot("resume")
    browser.get_by_role("button", name="Resume").click()
    expect(browser.locator("p.under")).to_contain_text("waiting for workers")
    for name in ("People", "Audit"):
        browser.get_by_role("link", name=name).click()
        expect(browser.get_by_role("heading", level=1)).to_have_text(name)
        shot(name.lower())
    expect(browser.locator("tbody tr").first).to_contain_text("resume")
    expect(browser.locator("tbody tr").nth(1)).to_contain_text("stop now")
    browser.get_by_role("link", name="Sign out").click()
    browser.get_by_role("button", name="Sign out", exact=True).click()
    sign_in("ray")
    expect(browser.get_by_role("link", name="Stop")).to_have_count(0)
    expect(browser.get_by_role("link", name="Audit")).to_have_count(0)
    context.close()
    assert page.errors == []
