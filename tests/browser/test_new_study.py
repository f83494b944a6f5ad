"""A member writes a study file, mends it, has it checked and launches it, as a person does."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from search.database.store import Store, open_store
from search.studies.heartbeats import Registration
from search.studies.job_runs import claim, end
from search.studies.jobs import DEVICE, ENDED
from search.studies.study import create_or_resume
from spaces.spec import StudySpec
from tests.browser.conftest import serving
from tests.service.test_new_study import FILE

OWNER = "gpu-host:1:runner"
WRONG = FILE.replace("train.epochs", "train.epoch") + "".join(f"# {n}\n" for n in range(40))


@pytest.mark.parametrize("script", [True, False])
def test_a_member_launches_a_study(
    chromium: Any, page: Any, tmp_path: Path, make_spec: Callable[..., StudySpec], script: bool
) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with closing(open_store(url)) as store, serving(store, tmp_path / "artifacts") as address:
        browser = page.narrow(chromium, script)
        page.sign_in(address, "max")
        Registration(store, OWNER, DEVICE).enter()
        browser.get_by_role("link", name="New study").click()
        browser.get_by_label("Begin with").select_option("segmentation: lanes")
        browser.get_by_role("button", name="Fill the editor").click()
        editor = browser.get_by_label("Study file")
        expect(editor).to_have_value(re.compile("name: lanes"))
        page.look("new-study-begun", 390, 1400)
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
        page.look("new-study-wrong", 390, 1400)
        editor.fill(WRONG.replace("train.epoch:", "train.epochs:"))
        browser.get_by_role("button", name="Check the text").click()
        expect(browser.get_by_role("status").first).to_contain_text("The text is a study file.")
        page.look("new-study-fine", 390, 1400)
        browser.get_by_role("button", name="As a form").click()
        browser.get_by_label("Epochs").fill("5")
        page.look("new-study-form", 390, 1400)
        browser.get_by_role("button", name="Write into the text").click()
        expect(editor).to_have_value(re.compile(r"train\.epochs: 5"))
        browser.get_by_role("button", name="Check", exact=True).click()
        expect(browser.get_by_role("heading", level=1)).to_have_text("Job 1")
        done(store, "check", "ok: 8 train and 4 val images")
        page.says("ok: 8 train and 4 val images")
        page.look("new-study-checked", 390, 1400)
        browser.get_by_role("button", name="Launch").click()
        browser.wait_for_url(f"{address}/jobs/2")
        create_or_resume(store, make_spec(name="lanes"), "f" * 64, None)
        done(store, "launch", "left to the workers of this store")
        page.says("left to the workers of this store")
        page.look("new-study-launched", 390, 1400)
        browser.get_by_role("link", name="Open the study").click()
        expect(browser.get_by_role("heading", level=1)).to_have_text("lanes")
    assert [error for error in page.errors if "400 (Bad Request)" not in error] == []


def done(store: Store, kind: str, said: str) -> None:
    """As a runner would end the job that waits."""
    job = claim(store, OWNER)
    assert job is not None and job.kind == kind
    assert end(store, job, ENDED, 0, said)
