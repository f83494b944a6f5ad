"""A member writes a study file, mends it, has it checked and launches it, as a person does."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from search.database.people import add_user
from search.database.store import Store, open_store
from search.studies.heartbeats import Registration
from search.studies.job_runs import claim, end
from search.studies.jobs import DEVICE, ENDED
from search.studies.study import create_or_resume
from spaces.spec import StudySpec
from tests.browser.conftest import PASSWORD
from tests.service.test_new_study import FILE
from tests.waiting import Running

OWNER = "gpu-host:1:runner"
WRONG = FILE.replace("train.epochs", "train.epoch") + "".join(f"# {n}\n" for n in range(40))


@pytest.mark.parametrize("script", [True, False])
def test_a_member_launches_a_study(
    chromium: Any, page: Any, tmp_path: Path, make_spec: Callable[..., StudySpec], script: bool
) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with closing(open_store(url)) as store:
        add_user(store, "olga", "owner", PASSWORD, "test")
        add_user(store, "max", "member", PASSWORD, "test")
        environment = {"SEGTUNE_STORE": url, "SEGTUNE_ARTIFACTS": str(tmp_path / "artifacts")}
        server = Running.segtune("dashboard", "--port", "0", "--allow-writes", env=environment)
        found = re.search(r"http://127\.0\.0\.1:\d+", server.line("dashboard: http"))
        assert found
        context = chromium.new_context(
            java_script_enabled=script, viewport={"width": 390, "height": 800}
        )
        context.set_default_timeout(120_000)
        page.page = browser = context.new_page()
        browser.on("console", lambda m: page.errors.append(m.text) if m.type == "error" else None)

        def look(name: str) -> None:
            browser.wait_for_load_state()  # with its style
            for scheme, width in (("light", 390), ("dark", 390), ("light", 1400)):
                browser.set_viewport_size({"width": width, "height": 800})
                browser.emulate_media(color_scheme=scheme)
                if script:
                    assert page.barriers() == [], (name, scheme)
                    wide = browser.evaluate("document.documentElement.scrollWidth")
                    assert wide <= width, name
                page.screenshot(f"new-study-{name}-{scheme}-{width}-{script}")

        def says(text: str) -> None:
            """The page says it, of itself where it has its script."""
            if not script:
                browser.reload()
            expect(browser.locator("main")).to_contain_text(text, timeout=120_000)

        browser.goto(f"{found[0]}/studies")
        browser.get_by_label("Name").fill("max")
        browser.get_by_label("Password").fill(PASSWORD)
        browser.get_by_role("button", name="Sign in").click()
        Registration(store, OWNER, DEVICE).enter()
        browser.get_by_role("link", name="New study").click()
        browser.get_by_label("Begin with").select_option("segmentation: lanes")
        browser.get_by_role("button", name="Fill the editor").click()
        editor = browser.get_by_label("Study file")
        expect(editor).to_have_value(re.compile("name: lanes"))
        look("begun")
        if script:
            (tmp_path / "mine.yaml").write_text(WRONG)
            browser.get_by_label("Take a file").set_input_files(tmp_path / "mine.yaml")
            expect(editor).to_have_value(WRONG)
        else:
            expect(browser.get_by_label("Take a file")).to_be_hidden()
            editor.fill(WRONG)
        browser.get_by_role("button", name="Check", exact=True).click()
        expect(browser.locator("mark")).to_have_text("  train.epoch: 3")
        expect(browser.get_by_role("alert")).to_contain_text("did you mean train.epochs?")
        if script:
            expect(editor).to_be_focused()
            chosen = "[text.value.substring(text.selectionStart, text.selectionEnd)]"
            assert browser.evaluate(chosen) == ["  train.epoch: 3"]
        look("wrong")
        editor.fill(WRONG.replace("train.epoch:", "train.epochs:"))
        browser.get_by_role("button", name="Check the text").click()
        expect(browser.get_by_role("status").first).to_contain_text("The text is a study file.")
        look("fine")
        browser.get_by_role("button", name="As a form").click()
        browser.get_by_label("Epochs").fill("5")
        look("form")
        browser.get_by_role("button", name="Write into the text").click()
        expect(editor).to_have_value(re.compile(r"train\.epochs: 5"))
        browser.get_by_role("button", name="Check", exact=True).click()
        expect(browser.get_by_role("heading", level=1)).to_have_text("Job 1")
        done(store, "check", "ok: 8 train and 4 val images")
        says("ok: 8 train and 4 val images")
        look("checked")
        browser.get_by_role("button", name="Launch").click()
        browser.wait_for_url(f"{found[0]}/jobs/2")
        create_or_resume(store, make_spec(name="lanes"), "f" * 64, None)
        done(store, "launch", "left to the workers of this store")
        says("left to the workers of this store")
        look("launched")
        browser.get_by_role("link", name="Open the study").click()
        expect(browser.get_by_role("heading", level=1)).to_have_text("lanes")
        context.close()
        server.send(signal.SIGTERM)
        server.finish()
    assert [error for error in page.errors if "400 (Bad Request)" not in error] == []


def done(store: Store, kind: str, said: str) -> None:
    """As a runner would end the job that waits."""
    job = claim(store, OWNER)
    assert job is not None and job.kind == kind
    assert end(store, job, ENDED, 0, said)
