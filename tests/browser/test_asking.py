"""A member extends the study that they launched, and deletes it by its name, as a person does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from search.database.store import Store, open_store
from search.database.tables import AFTER
from search.delete import delete_study
from search.files.artifacts import Artifacts
from search.studies.heartbeats import Registration
from search.studies.job_runs import claim, end
from search.studies.jobs import DEVICE, ENDED, Job
from search.studies.limits import close
from search.studies.owners import LAUNCHED_BY
from spaces.spec import StudySpec
from tests.browser.conftest import serving, valued

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
        study = valued(store, make_spec(name="roads", trials=2))
        store.storage.set_study_user_attr(study.study_id, LAUNCHED_BY, "max")
        with serving(store, artifacts.folder) as address:
            browser = page.narrow(chromium)
            page.sign_in(address, "max", "/studies/roads")
            browser.get_by_role("link", name="Extend").click()
            expect(browser.get_by_label("In all")).to_have_accessible_description(
                "It has 2 now, open ones included; 100,000 at most."
            )
            page.look("asking-extend")
            browser.get_by_label("In all").fill("5")
            browser.get_by_role("button", name="Extend").click()
            expect(browser.get_by_role("heading", level=1)).to_have_text("Job 1")
            Registration(store, OWNER, DEVICE).enter()
            job = taken(store, "resume --trials 5")
            study.slots.extend(5)
            assert end(store, job, ENDED, 0, "study roads is open; workers serve it")
            page.says("study roads is open")
            page.look("asking-extended")
            close(store, study.study_id, AFTER)
            browser.get_by_role("link", name="roads").click()
            browser.get_by_role("link", name="Confirm").click()
            page.look("asking-confirm")
            browser.get_by_role("link", name="Cancel").click()
            page.look("asking-study")
            browser.get_by_role("link", name="Delete").click()
            page.look("asking-delete")
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
            page.says("deleted study roads")
            page.look("asking-deleted")
            browser.get_by_role("link", name="Studies").click()
            expect(browser.locator("main")).not_to_contain_text("roads")
    assert [one for one in page.errors if "400 (Bad Request)" not in one] == []  # as it was to be
