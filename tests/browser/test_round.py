"""The whole round as a team member makes it: launch, watch, confirm, take away, and use it."""

from __future__ import annotations

import json
import re
import signal
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from search.database.store import open_store
from search.samples.streets import write_streets
from tests.browser.conftest import serving
from tests.stores import small_study
from tests.waiting import Running

LONG = 300_000  # ms: processes begin, and models are trained
RIGHT = small_study(Path("streets"), name="roads", trials=2)  # below the data root
WRONG = RIGHT.replace("optim.lr: {low: 1e-4", "optim.lr: {lo: 1e-4")


def test_a_member_makes_the_whole_round(page: Any, postgres_url: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_streets(root / "streets", train=8, val=4, size=(40, 48))
    environment = {
        "SEGTUNE_STORE": postgres_url,
        "SEGTUNE_ARTIFACTS": str(tmp_path / "artifacts"),
        "SEGTUNE_HOME": str(tmp_path / "home"),
    }
    with (
        closing(open_store(postgres_url, create=True)) as store,
        serving(store, tmp_path / "artifacts") as url,
    ):
        runner = Running.segtune("jobs", "--data-root", root, env=environment)
        worker = Running.segtune("worker", env=environment)
        browser = page.page
        main = browser.locator("main")

        def job(button: str) -> None:
            """Ask for a job, and see it end without asking again."""
            browser.get_by_role("button", name=button, exact=True).click()
            browser.wait_for_url(re.compile(f"{url}/jobs/[0-9]+"))
            state = main.locator(".state").first
            expect(state).to_have_text(re.compile("ended|failed|lost|cancelled"), timeout=LONG)
            assert state.text_content() == "ended", main.text_content()

        page.sign_in(url, "max")
        browser.get_by_role("link", name="New study").click()
        (tmp_path / "mine.yaml").write_text(WRONG)
        browser.get_by_label("Take a file").set_input_files(tmp_path / "mine.yaml")
        editor = browser.get_by_label("Study file")
        expect(editor).to_have_value(WRONG)
        browser.get_by_role("button", name="Check the text").click()
        expect(browser.locator("mark")).to_have_text(re.compile(r"optim\.lr: \{lo: 1e-4"))
        editor.fill(RIGHT)
        job("Check")
        expect(main).to_contain_text("ok: segtune launch")
        job("Launch")
        browser.get_by_role("link", name="Open the study").click()
        browser.wait_for_url(f"{url}/studies/roads")
        trials = browser.get_by_role("region", name="Trials, a wide table").locator("tbody .state")
        expect(trials).to_have_text(["complete", "complete"], timeout=LONG)
        expect(main.locator(".state").first).to_have_text("ended", timeout=LONG)
        page.screenshot("round-ended")
        browser.get_by_role("link", name="Confirm", exact=True).click()
        browser.get_by_label("Best trials").fill("1")
        browser.get_by_label("Fresh seeds of each").fill("1")
        job("Confirm")
        expect(main).to_contain_text("left to the workers of this store")
        browser.goto(f"{url}/studies/roads")
        runs = browser.get_by_role("region", name="Runs on fresh seeds, a wide table")
        expect(runs.locator("tbody .state").first).to_have_text("complete", timeout=LONG)
        expect(main.locator(".state").first).to_have_text("ended", timeout=LONG)
        page.screenshot("round-confirmed")
        browser.get_by_role("link", name="Take away").click()
        job("Prepare the ZIP")
        with browser.expect_download() as download:
            browser.get_by_role("link", name="Download the ZIP").click()
        with zipfile.ZipFile(download.value.path()) as archive:
            archive.extractall(tmp_path / "taken")
        best = tmp_path / "taken" / "roads"
        value = json.loads((best / "provenance.json").read_text())["value"]
        said = Running.segtune("evaluate", best, "--data", "val", env=environment).finish()
        scored = re.search(r"mIoU ([\d.]+)", said)
        assert scored and float(scored[1]) == pytest.approx(value, abs=5e-5), said

        browser.context.clear_cookies()
        page.sign_in(url, "ray", "/studies/roads")
        offered = browser.get_by_role("link").all_text_contents()
        assert not {"New study", "Take away", "Stop", "Extend", "Confirm", "Delete"} & set(offered)
        for path in (
            "/new",
            "/studies/roads/export",
            "/studies/roads/delete",
            "/studies/roads/stop",
        ):
            answer = browser.goto(f"{url}{path}")
            assert answer.status == 403, path
        for process in (worker, runner):
            process.send(signal.SIGTERM)
            process.finish(130)
    assert [error for error in page.errors if "status of 40" not in error] == []
