"""A member sends an image to a study's model and looks at what it sees, as a person does."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import expect

from search.database.store import open_store
from search.files.artifacts import Artifacts
from search.files.results import Results
from search.studies.heartbeats import Registration
from search.studies.job_runs import beat, claim, end, image_of
from search.studies.jobs import DEVICE, ENDED
from spaces.spec import StudySpec
from tests.browser.conftest import serving, valued
from trainers.pictures import painted

KEY = "0" * 8 + "-0000-0000-0000-" + "0" * 12
OWNER = "gpu-host:1:runner"


def test_a_member_tries_the_winner_on_an_image(
    chromium: Any, page: Any, tmp_path: Path, make_spec: Callable[..., StudySpec]
) -> None:
    url, artifacts = f"sqlite:///{tmp_path / 'store.db'}", Artifacts(tmp_path / "artifacts")
    photo = tmp_path / "Straße 7 (1).png"
    noise = Image.effect_noise((640, 480), 60).convert("RGB")
    noise.save(photo)
    with closing(open_store(url)) as store:
        valued(store, make_spec(name="roads", trials=1))
        with serving(store, artifacts.folder) as address:
            browser = page.narrow(chromium)
            page.sign_in(address, "max", "/studies/roads")
            browser.get_by_role("link", name="Try it").click()
            file = browser.get_by_label("File")
            expect(file).to_have_accessible_description(
                re.compile("drop one here: PNG, JPEG, TIFF")
            )
            page.look("try-form")
            file.set_input_files(tmp_path / "store.db")
            browser.get_by_role("button", name="Predict").click()
            expect(browser.locator("main")).to_contain_text("must end in .png, .jpg")
            browser.go_back()
            file.set_input_files(photo)
            browser.get_by_label("Number").fill("0")
            page.look("try-chosen")
            browser.get_by_role("button", name="Predict").click()
            expect(browser.get_by_role("heading", level=1)).to_have_text("Job 1")
            Registration(store, OWNER, DEVICE).enter()
            job = claim(store, OWNER)
            assert job is not None and job.words == "predict Stra_e_7_1.png --trial 0"
            assert image_of(store, job) == photo.read_bytes()  # as Chromium has sent it
            mask = np.zeros((480, 640), np.uint8)
            mask[200:, 100:500] = 1
            shown = io.BytesIO()
            painted(np.asarray(noise), mask, ("road", "car"), photo.name).save(shown, "PNG")
            artifacts.folder.mkdir()
            with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
                archive.writestr("roads/overlays/Stra_e_7_1.png", shown.getvalue())
                archive.writestr("roads/predictions.jsonl", json.dumps({}))
            Results(artifacts).write(KEY, tmp_path / "made.zip")
            beat(store, job, result=KEY)
            assert end(store, job, ENDED, 0, "1 images in 0.2 s, 5.0 a second: roads")
            picture = browser.get_by_role("img")
            expect(picture).to_have_accessible_name(re.compile("with what the model sees"))
            browser.wait_for_function("document.images[0].naturalWidth > 600")
            page.look("try-ended", 390, 1400)
            with browser.expect_download() as download:
                browser.get_by_role("link", name="Download the ZIP").click()
            with zipfile.ZipFile(download.value.path()) as archive:
                assert "roads/overlays/Stra_e_7_1.png" in archive.namelist()
    assert [one for one in page.errors if "400 (Bad Request)" not in one] == []  # as it was to be
