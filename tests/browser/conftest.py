"""A headless Chromium, a study of real trials, and its dashboard."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from search.samples.streets import write_streets

PASSWORD = "correct horse battery"
SEGTUNE = str(Path(sys.executable).with_name("segtune"))
STUDY = """\
name: browser
task: segmentation
data:
  train: {{images: {data}/train/images, masks: {data}/train/masks}}
  val: {{images: {data}/val/images, masks: {data}/val/masks}}
  classes: {data}/classes.json
space:
  train.epochs: 4
  train.precision: fp32
  train.patience: 0
  health.grad_norm: 0
  train.batch_size: [4, 8]
  data.resolution: 32x32
  data.augment: none
  model.arch: Unet
  model.encoder: mobilenet_v2
  model.encoder_weights: null
  loss.warmup_epochs: {{low: 0, high: 2}}
  loss.region_share: {{low: 0.2, high: 0.8}}
  optim.lr: {{low: 1e-4, high: 1e-2, log: true}}
use_default_space: false
use_starting_points: false
sampler: random
budget: {{trials: 22}}
pruner: {{name: median, startup_trials: 10, min_epochs: 2}}
"""


@dataclass
class Page:
    """A browser page that keeps what went wrong on it.

    Attributes:
        errors: console errors and uncaught exceptions.
        requests: every URL that was asked for.
    """

    page: Any
    folder: Path
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def screenshot(self, name: str) -> Path:
        """Write a PNG of the whole page, into $SEGTUNE_SCREENSHOTS where it is set."""
        path = Path(os.environ.get("SEGTUNE_SCREENSHOTS") or self.folder) / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path, full_page=True)
        return path


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Debian's Chromium, driven by Playwright; CI installs it."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is not installed; .ci/run installs it")
        pytest.skip("chromium is not installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, tmp_path: Path) -> Iterator[Page]:
    """A fresh page in a browser profile of its own, at a laptop's size."""
    context = chromium.new_context(viewport={"width": 1400, "height": 900})
    opened = Page(context.new_page(), tmp_path)
    opened.page.on("console", lambda m: opened.errors.append(m.text) if m.type == "error" else None)
    opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.page.on("request", lambda request: opened.requests.append(request.url))
    yield opened
    context.close()


@dataclass(frozen=True)
class Site:
    """A dashboard of a finished study; other processes reach its store by `environment`."""

    url: str
    environment: dict[str, str]
    password: str = PASSWORD
    study_id: int = 1


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """22 trials, really trained, and `segtune dashboard` with a password."""
    folder = tmp_path_factory.mktemp("site")
    data = write_streets(folder / "data", train=8, val=6, size=(40, 48))
    (folder / "study.yaml").write_text(STUDY.format(data=data))
    environment = {
        **os.environ,
        "SEGTUNE_HOME": str(folder / "home"),
        "SEGTUNE_DASHBOARD_PASSWORD": PASSWORD,
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    subprocess.run(
        [SEGTUNE, "launch", str(folder / "study.yaml")],
        env=environment,
        check=True,
        capture_output=True,
        timeout=400,
    )
    with subprocess.Popen(
        [SEGTUNE, "dashboard", "--port", "0"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        assert server.stdout is not None
        seen = []
        for line in server.stdout:
            seen.append(line)
            if match := re.search(r"(http://127\.0\.0\.1:\d+)/dashboard", line):
                yield Site(match[1], environment)
                break
        else:
            raise AssertionError("".join(seen))
        server.terminate()
        assert server.wait(timeout=30) == 0
