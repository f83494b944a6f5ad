"""A member asks for a study's export, reads what it prints, and downloads it, as a person does."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from search.database.store import open_store
from search.files.artifacts import Artifacts
from search.files.results import Results
from search.studies.heartbeats import Registration
from search.studies.job_runs import beat, claim, end
from search.studies.jobs import DEVICE, ENDED
from spaces.spec import StudySpec
from tests.browser.conftest import serving, valued

KEY = "0" * 8 + "-0000-0000-0000-" + "0" * 12
OWNER = "gpu-host:1:runner"


@pytest.mark.parametrize("script", [True, False])
def test_a_member_takes_a_study_away(
    chromium: Any, page: Any, tmp_path: Path, make_spec: Callable[..., StudySpec], script: bool
) -> None:
    url, artifacts = f"sqlite:///{tmp_path / 'store.db'}", Artifacts(tmp_path / "artifacts")
    with closing(open_store(url)) as store:
        valued(store, make_spec(name="roads", trials=1))
        with serving(store, artifacts.folder) as address:
            browser = page.narrow(chromium, script)
            page.sign_in(address, "max", "/studies/roads")
            browser.get_by_role("link", name="Take away").click()
            browser.get_by_label("Also model.onnx").check()
            page.look("take-away-form")
            browser.get_by_role("button", name="Prepare the ZIP").click()
            expect(browser.get_by_role("heading", level=1)).to_have_text("Job 1")
            page.says("No runner serves this store now")
            page.look("take-away-waits")
            Registration(store, OWNER, DEVICE).enter()
            job = claim(store, OWNER)
            assert job is not None and job.words == "export --onnx"
            beat(
                store, job, lines="\n".join(f"line {number} of many words" for number in range(99))
            )
            page.says("line 98 of many words")
            page.look("take-away-runs")
            artifacts.folder.mkdir()
            with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
                archive.writestr("roads/config.yaml", "a: 1")
            Results(artifacts).write(KEY, tmp_path / "made.zip")
            beat(store, job, result=KEY)
            assert end(store, job, ENDED, 0, "wrote roads: trial 0\nresult: 0 MB")
            page.says("wrote roads: trial 0")
            with browser.expect_download() as download:
                browser.get_by_role("link", name="Download the ZIP").click()
            assert download.value.suggested_filename == "roads.zip"
            with zipfile.ZipFile(download.value.path()) as archive:
                assert archive.namelist() == ["roads/config.yaml"]
            page.look("take-away-ended")
            browser.get_by_role("link", name="Jobs").click()
            expect(browser.locator("tbody tr")).to_have_count(1)
            page.look("take-away-list")
            browser.goto(f"{address}/studies/roads/export")
            browser.get_by_role("button", name="Prepare the ZIP").click()
            browser.get_by_role("link", name="Cancel").click()
            browser.get_by_role("button", name="Cancel").click()
            browser.wait_for_url(f"{address}/jobs/2")
            page.says("Cancelled by max.")
    assert page.errors == []
