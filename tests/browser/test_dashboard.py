"""What a person sees: the sign-in, a study, its note, its graphs, a trial and its pictures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

from playwright.sync_api import expect


def sign_in(page: Any, site: Any, path: str = "/dashboard") -> None:
    page.page.goto(site.url + path)
    page.page.get_by_label("Password").fill(site.password)
    page.page.get_by_role("button", name="Sign in").click()
    page.page.wait_for_url(site.url + path)


def test_a_study_at_a_glance(page: Any, site: Any) -> None:
    sign_in(page, site)
    page.page.get_by_text("scripted-segmentation").first.click()
    page.page.wait_for_url(re.compile(r"/dashboard/studies/1"))
    body = page.page.locator("body")
    for heading in ("History", "Hyperparameter Importance", "Intermediate values", "Best Trial"):
        expect(body).to_contain_text(heading, timeout=120_000)
    for title in (
        "Early stopping: every trial's curve and its end",
        "mIoU against cost",
        "IoU of each class across trials",
        "Loss parts of the best trials",
    ):
        expect(page.page.locator(".gtitle", has_text=title)).to_be_visible(timeout=120_000)
    history = page.page.locator(".plotly-graph-div, .js-plotly-plot").first
    expect(history.locator(".trace.scatter path.point")).to_have_count(22, timeout=120_000)
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 1400
    page.screenshot("study")
    assert page.errors == []


def test_the_note_tells_what_was_found(page: Any, site: Any) -> None:
    sign_in(page, site, "/dashboard/studies/1/note")
    note = page.page.locator("body")
    expect(note).to_contain_text("22 of 22 trials have ended", timeout=120_000)
    for text in ("one seed", "What matters", "Why trials ended", "optim.lr"):
        expect(note).to_contain_text(text)
    page.screenshot("note")
    assert page.errors == []


def test_the_best_trial_with_its_pictures(page: Any, site: Any) -> None:
    sign_in(page, site, "/dashboard/studies/1")
    page.page.get_by_role("link", name="Details").click()
    body = page.page.locator("body")
    expect(body).to_contain_text("Effective config", timeout=120_000)
    for name in ("curves.png", "per-class.png", "best-1-", "worst-1-"):
        expect(body).to_contain_text(name)
    shown = page.page.locator("img")
    page.page.wait_for_function(
        "[...document.images].length >= 6 && [...document.images].every(i => i.complete)"
    )
    widths = shown.evaluate_all("images => images.map(i => i.naturalWidth)")
    assert len(widths) >= 6 and min(widths) > 100, widths
    page.screenshot("trial")
    shown.first.scroll_into_view_if_needed()
    page.page.wait_for_timeout(500)  # it scrolls smoothly
    page.screenshot("trial-pictures")
    assert page.errors == []


def test_anonymous_and_wrong_passwords_see_nothing(page: Any, site: Any) -> None:
    page.page.goto(site.url + "/dashboard/studies/1")
    assert "/login" in page.page.url
    page.screenshot("login")
    assert "scripted-segmentation" not in page.page.inner_text("body")
    page.page.get_by_label("Password").fill("no such password")
    page.page.get_by_role("button", name="Sign in").click()
    expect(page.page.get_by_text("This password is wrong.")).to_be_visible()
    assert page.page.request.get(f"{site.url}/api/studies").status == 401


def test_reading_is_all_that_a_reader_can_do(page: Any, site: Any) -> None:
    sign_in(page, site)
    for method in ("POST", "PUT", "DELETE"):
        ask = f"fetch('/api/studies/1', {{method: '{method}'}}).then(r => r.status)"
        assert page.page.evaluate(ask) == 403
    assert page.page.evaluate("fetch('/api/studies').then(r => r.status)") == 200


# every text of this study would run, if it were taken for a page
SCRIPT = """
import json, os, sys
from pathlib import Path
import optuna
import plotly.graph_objects as go
from optuna_dashboard import save_note, save_plotly_graph_object
from search.files.artifacts import Artifacts
from search.database.store import open_store

store = open_store()
attack = "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'>"
study = optuna.create_study(study_name=f"evil {attack}", storage=store.storage)
trial = study.ask()
trial.suggest_categorical(f"p {attack}", [attack, "b"])
trial.set_user_attr(f"k {attack}", attack)
study.set_user_attr(f"k {attack}", attack)
study.tell(trial, 1.0)
save_note(study, f"{attack}\\n\\n[link](javascript:window.ran=1)\\n\\n<b onclick='x'>b</b>")
save_note(trial, attack)
save_plotly_graph_object(study, go.Figure(layout={"title": {"text": attack}}))
files = Artifacts(Path(os.environ["SEGTUNE_ARTIFACTS"])).shown
for index, name in enumerate((f"{attack}.html", "page.html", "drawing.svg")):
    i = f"00000000-0000-0000-0000-00000000000{index}"
    files.folder.mkdir(parents=True, exist_ok=True)
    (files.folder / i).write_text(f"<svg xmlns='http://www.w3.org/2000/svg'>{attack}</svg>")
    meta = {"artifact_id": i, "filename": name, "encoding": None,
            "mimetype": "image/svg+xml" if name.endswith("svg") else "text/html"}
    key = f"dashboard:artifacts:{trial._trial_id}:{i}"
    store.storage.set_study_system_attr(study._study_id, key, json.dumps(meta))
print(study._study_id, trial._trial_id)
store.close()
"""


def test_no_text_of_a_study_runs(page: Any, site: Any) -> None:
    made = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, **site.environment},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    study, trial = made.stdout.split()
    sign_in(page, site)
    for path in ("", f"/studies/{study}", f"/studies/{study}/note", f"/studies/{study}/trials"):
        page.page.goto(f"{site.url}/dashboard{path}")
        expect(page.page.locator("body")).to_contain_text("evil", timeout=120_000)
        page.page.wait_for_load_state("networkidle")
        assert page.page.evaluate("window.ran") is None, path
    for index in range(3):  # pages and drawings are downloaded, not opened
        address = f"{site.url}/artifacts/{study}/{trial}/00000000-0000-0000-0000-00000000000{index}"
        with page.page.expect_download() as download:
            page.page.evaluate("url => { window.location.href = url }", address)
        assert download.value.suggested_filename
