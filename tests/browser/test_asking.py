"""A member extends the study that they launched, and deletes it by its name, as a person does."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from search.database.people import add_user
from search.database.store import Store, open_store
from search.database.tables import AFTER
from search.delete import delete_study
from search.files.artifacts import Artifacts
from search.studies.heartbeats import Registration
from search.studies.job_runs import claim, end
from search.studies.jobs import DEVICE, ENDED, Job
from search.studies.limits import close
from search.studies.owners import LAUNCHED_BY
from search.studies.slots import Result
from search.studies.study import create_or_resume
from spaces.spec import StudySpec
from tests.browser.conftest import PASSWORD
from tests.waiting import Running

OWNER = "gpu-host:1:runner"


def taken(store: Store, words: str) -> Job:
    """The job that waits, which a runner has begun."""
    job = claim(store, OWNER)
    assert job is not None and job.words == words
    return job


def test_a_member_extends_their_study_and_deletes_it_by_its_name(
    chromium: Any, page: Any, tmp_path: Path, make_spec: Callable[..., StudySpec]
) -> None:
    url, artifacts = f"sqlite:///{tmp_path / 'store.db'}", Artifacts(tmp_path / "artifacts")
    with closing(open_store(url)) as store:
        study = create_or_resume(store, make_spec(name="roads", trials=2), "f" * 64, None)
        trial = study.slots.claim(study.ask)
        assert trial and study.slots.end(trial, Result("COMPLETE", 0.5, "completed", {}))
        store.storage.set_study_user_attr(study.study_id, LAUNCHED_BY, "max")
        add_user(store, "olga", "owner", PASSWORD, "test")
        add_user(store, "max", "member", PASSWORD, "test")
        environment = {"SEGTUNE_STORE": url, "SEGTUNE_ARTIFACTS": str(artifacts.folder)}
        server = Running.segtune("dashboard", "--port", "0", "--allow-writes", env=environment)
        found = re.search(r"http://127\.0\.0\.1:\d+", server.line("dashboard: http"))
        assert found
        browser = page.page
        browser.set_viewport_size({"width": 390, "height": 800})

        def shot(name: str) -> None:
            browser.wait_for_load_state()  # with its style
            for scheme in ("light", "dark"):
                browser.emulate_media(color_scheme=scheme)
                assert browser.evaluate("document.documentElement.scrollWidth") <= 390, name
                page.screenshot(f"asking-{name}-{scheme}")
                assert page.barriers() == [], name

        browser.goto(f"{found[0]}/studies/roads")
        browser.get_by_label("Name").fill("max")
        browser.get_by_label("Password").fill(PASSWORD)
        browser.get_by_role("button", name="Sign in").click()
        browser.get_by_role("link", name="Extend").click()
        expect(browser.get_by_label("In all")).to_have_accessible_description(
            "It has 2 now, open ones included; 100,000 at most."
        )
        shot("extend")
        browser.get_by_label("In all").fill("5")
        browser.get_by_role("button", name="Extend").click()
        expect(browser.get_by_role("heading", level=1)).to_have_text("Job 1")
        Registration(store, OWNER, DEVICE).enter()
        job = taken(store, "resume --trials 5")
        study.slots.extend(5)
        assert end(store, job, ENDED, 0, "study roads is open; workers serve it")
        expect(browser.locator("main")).to_contain_text("study roads is open", timeout=120_000)
        shot("extended")
        close(store, study.study_id, AFTER)
        browser.get_by_role("link", name="roads").click()
        browser.get_by_role("link", name="Confirm").click()
        shot("confirm")
        browser.get_by_role("link", name="Cancel").click()
        shot("study")
        browser.get_by_role("link", name="Delete").click()
        shot("delete")
        browser.get_by_label("Its name").fill("road")
        browser.get_by_role("button", name="Delete").click()
        expect(browser.locator("main")).to_contain_text("must be typed as it is, roads")
        browser.go_back()
        browser.get_by_label("Its name").fill("roads")
        browser.get_by_role("button", name="Delete").click()
        expect(browser.get_by_role("heading", level=1)).to_have_text("Job 2")
        job = taken(store, "delete")
        assert delete_study(study, artifacts) == []
        assert end(store, job, ENDED, 0, "deleted study roads of sqlite: 5 trials")
        expect(browser.locator("main")).to_contain_text("deleted study roads", timeout=120_000)
        shot("deleted")
        browser.get_by_role("link", name="Studies").click()
        expect(browser.locator("main")).not_to_contain_text("roads")
        server.send(signal.SIGTERM)
        server.finish()
    assert [one for one in page.errors if "400 (Bad Request)" not in one] == []  # as it was to be
