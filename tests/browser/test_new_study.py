"""A member writes a study file, mends it, has it checked and launches it, as a person does."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from search.database.store import Store, open_store
from search.files.artifacts import Artifacts
from search.files.results import Results
from search.studies.heartbeats import Registration
from search.studies.job_kinds import FILE_LENGTH
from search.studies.job_runs import beat, claim, end
from search.studies.jobs import DEVICE, ENDED
from search.studies.study import create_or_resume
from spaces.spec import StudySpec
from tests.browser.conftest import serving
from tests.service.test_new_study import FILE
from tests.service.test_take_away import KEY

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
            expect(browser.get_by_role("alert")).to_contain_text("did you mean train.epochs?")
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
        if script:  # said while somebody writes
            expect(browser.get_by_role("status").first).to_contain_text("The text is a study file.")
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


def test_an_editor_offers_what_may_go_on(chromium: Any, page: Any, tmp_path: Path) -> None:
    """With the keyboard alone, and with a press; both can be undone."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with closing(open_store(url)) as store, serving(store, tmp_path / "artifacts") as address:
        browser = page.narrow(chromium)
        page.sign_in(address, "max", "/new")
        editor = browser.get_by_label("Study file")
        words = browser.locator("#words").get_by_role("button")
        editor.fill("# 😀\n" + FILE)
        expect(browser.locator("#offered")).to_contain_text("words fit here")
        page.look("new-study-offers", 390, 1400)
        editor.press("Control+End")
        editor.press_sequentially("  sched")
        expect(words).to_have_text(["optim.schedule: constant, cosine, poly, step"])
        editor.press("Tab")
        expect(words).to_be_focused()
        words.press("Enter")
        expect(editor).to_have_value(f"# 😀\n{FILE}  optim.schedule: ")
        expect(editor).to_be_focused()
        expect(words).to_have_text(["constant", "cosine", "poly", "step"])
        page.look("new-study-values", 390, 1400)
        words.get_by_text("cosine").click()
        expect(words).to_have_count(0)
        expect(editor).to_have_value(f"# 😀\n{FILE}  optim.schedule: cosine")
        editor.press("Control+z")
        expect(editor).to_have_value(f"# 😀\n{FILE}  optim.schedule: ")
    assert [error for error in page.errors if "400 (Bad Request)" not in error] == []


def test_a_file_that_is_picked_before_the_script_came_is_read(
    chromium: Any, page: Any, tmp_path: Path
) -> None:
    url, waiting = f"sqlite:///{tmp_path / 'store.db'}", []
    (tmp_path / "mine.yaml").write_text(FILE)
    with closing(open_store(url)) as store, serving(store, tmp_path / "artifacts") as address:
        browser = page.narrow(chromium)
        page.sign_in(address, "max")
        browser.route("**/page.js", lambda route: waiting.append(route), times=1)
        browser.goto(f"{address}/new", wait_until="commit")
        picked = browser.get_by_label("Take a file")
        picked.set_input_files(tmp_path / "mine.yaml")
        expect(picked).to_have_value(re.compile("mine.yaml"))
        waiting[0].continue_()
        expect(browser.get_by_label("Study file")).to_have_value(FILE)
        expect(picked).to_have_value("")
        (tmp_path / "large.yaml").write_text("#" * (FILE_LENGTH + 1))
        picked.set_input_files(tmp_path / "large.yaml")
        expect(picked).to_have_js_property(
            "validationMessage", f"A study file has at most {FILE_LENGTH} characters"
        )
        with browser.expect_navigation(timeout=20_000):  # what is written can be sent all the same
            browser.get_by_role("button", name="Check the text").click()
        expect(browser.get_by_label("Study file")).to_have_value(FILE)
    assert page.errors == []


def test_a_member_finds_the_data_of_the_server(
    chromium: Any, page: Any, tmp_path: Path, streets: Path
) -> None:
    """With the keyboard, from the editor and back to it with a study file."""
    url, artifacts = f"sqlite:///{tmp_path / 'store.db'}", tmp_path / "artifacts"
    root = tmp_path / "data"
    shutil.copytree(streets, root / "streets")
    (root / "streets" / ("a-long-name-" * 12)).mkdir()
    options = ("--data-root", root)
    with closing(open_store(url)) as store, serving(store, artifacts, *options) as address:
        browser = page.narrow(chromium)
        page.sign_in(address, "max", "/new")
        for name in ("Look for data", "streets", "train", "images"):
            browser.get_by_role("link", name=name, exact=True).press("Enter")
            expect(browser.get_by_role("heading", level=1)).to_have_text("Look for data")
        pictures = browser.get_by_role("main").get_by_role("img")
        assert pictures.count() == 8
        for picture in pictures.all():
            picture.scroll_into_view_if_needed()
            expect(picture).to_have_js_property("naturalWidth", 48)
        page.look("data-images", 390, 1400)
        trail = browser.get_by_role("navigation", name="Folders")
        trail.get_by_role("link", name="streets").press("Enter")
        expect(browser.get_by_role("row", name="train 0")).to_be_visible()
        page.look("data-folder", 390, 1400)
        browser.get_by_role("button", name="Use this folder").press("Enter")
        expect(browser.get_by_role("heading", level=1)).to_have_text("Job 1")
        with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
            archive.writestr("result/study.yaml", FILE)
        Results(Artifacts(artifacts)).write(KEY, tmp_path / "made.zip")
        done(store, "init", "looks like images and masks", KEY)
        page.says("looks like images and masks")
        page.look("data-job", 390)
        browser.get_by_role("link", name="Open in the editor").click()
        expect(browser.get_by_label("Study file")).to_have_value(FILE)
    assert page.errors == []


def done(store: Store, kind: str, said: str, result: str | None = None) -> None:
    """As a runner would end the job that waits."""
    job = claim(store, OWNER)
    assert job is not None and job.kind == kind
    assert beat(store, job, result=result) == "ours"
    assert end(store, job, ENDED, 0, said)
