"""A member asks for a study's export, reads what it prints, and downloads it, as a person does."""

from __future__ import annotations

import re
import signal
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from search.database.people import add_user
from search.database.store import open_store
from search.files.artifacts import Artifacts
from search.files.results import Results
from search.studies.heartbeats import Registration
from search.studies.job_runs import beat, claim, end
from search.studies.jobs import DEVICE, ENDED
from search.studies.slots import Result
from search.studies.study import create_or_resume
from spaces.spec import StudySpec
from tests.browser.conftest import PASSWORD
from tests.waiting import Running

KEY = "0" * 8 + "-0000-0000-0000-" + "0" * 12
OWNER = "gpu-host:1:runner"


@pytest.mark.parametrize("script", [True, False])
def test_a_member_takes_a_study_away(
    chromium: Any, page: Any, tmp_path: Path, make_spec: Callable[..., StudySpec], script: bool
) -> None:
    url, artifacts = f"sqlite:///{tmp_path / 'store.db'}", Artifacts(tmp_path / "artifacts")
    with closing(open_store(url)) as store:
        study = create_or_resume(store, make_spec(name="roads", trials=1), "f" * 64, None)
        trial = study.slots.claim(study.ask)
        assert trial and study.slots.end(trial, Result("COMPLETE", 0.5, "completed", {}))
        add_user(store, "olga", "owner", PASSWORD, "test")
        add_user(store, "max", "member", PASSWORD, "test")
        environment = {"SEGTUNE_STORE": url, "SEGTUNE_ARTIFACTS": str(artifacts.folder)}
        server = Running.segtune("dashboard", "--port", "0", "--allow-writes", env=environment)
        found = re.search(r"http://127\.0\.0\.1:\d+", server.line("dashboard: http"))
        assert found
        context = chromium.new_context(
            java_script_enabled=script, viewport={"width": 390, "height": 800}
        )
        context.set_default_timeout(120_000)
        page.page = browser = context.new_page()
        browser.on("console", lambda m: page.errors.append(m.text) if m.type == "error" else None)

        def shot(name: str) -> None:
            browser.wait_for_load_state()  # with its style
            for scheme in ("light", "dark"):
                browser.emulate_media(color_scheme=scheme)
                wide = browser.evaluate("document.documentElement.scrollWidth") if script else 0
                assert wide <= 390, name
                page.screenshot(f"take-away-{name}-{scheme}")

        def says(text: str) -> None:
            """The page says it, of itself where it has its script."""
            if not script:
                browser.reload()
            expect(browser.locator("main")).to_contain_text(text, timeout=120_000)

        browser.goto(f"{found[0]}/studies/roads")
        browser.get_by_label("Name").fill("max")
        browser.get_by_label("Password").fill(PASSWORD)
        browser.get_by_role("button", name="Sign in").click()
        browser.get_by_role("link", name="Take away").click()
        browser.get_by_label("Also model.onnx").check()
        shot("form")
        browser.get_by_role("button", name="Prepare the ZIP").click()
        expect(browser.get_by_role("heading", level=1)).to_have_text("Job 1")
        says("No runner serves this store now")
        shot("waits")
        Registration(store, OWNER, DEVICE).enter()
        job = claim(store, OWNER)
        assert job is not None and job.words == "export --onnx"
        beat(store, job, lines="\n".join(f"line {number} of many words" for number in range(99)))
        says("line 98 of many words")
        shot("runs")
        artifacts.folder.mkdir()
        with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
            archive.writestr("roads/config.yaml", "a: 1")
        Results(artifacts).write(KEY, tmp_path / "made.zip")
        beat(store, job, result=KEY)
        assert end(store, job, ENDED, 0, "wrote roads: trial 0\nresult: 0 MB")
        says("wrote roads: trial 0")
        with browser.expect_download() as download:
            browser.get_by_role("link", name="Download the ZIP").click()
        assert download.value.suggested_filename == "roads.zip"
        with zipfile.ZipFile(download.value.path()) as archive:
            assert archive.namelist() == ["roads/config.yaml"]
        shot("ended")
        browser.get_by_role("link", name="Jobs").click()
        expect(browser.locator("tbody tr")).to_have_count(1)
        shot("list")
        browser.goto(f"{found[0]}/studies/roads/export")
        browser.get_by_role("button", name="Prepare the ZIP").click()
        browser.get_by_role("link", name="Cancel").click()
        browser.get_by_role("button", name="Cancel").click()
        browser.wait_for_url(f"{found[0]}/jobs/2")
        says("Cancelled by max.")
        context.close()
        server.send(signal.SIGTERM)
        server.finish()
    assert page.errors == []
