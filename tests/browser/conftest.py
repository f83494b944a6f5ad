"""A headless Chromium, a scripted study, and its dashboard."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import expect

from search.dashboard.publish import PICTURES, Publisher
from search.database.people import add_user
from search.database.store import Store
from search.files.artifacts import Artifacts
from search.files.logs import LOG
from search.findings.answer import best_trial
from search.findings.facts import gather
from search.studies.slots import Result
from search.studies.study import Study, create_or_resume
from spaces.spec import StudySpec
from tests.waiting import Running

PASSWORD = "correct horse battery"
PEOPLE = {"olga": "owner", "max": "member", "ray": "reader"}
NARROW = 390  # px
TIMEOUT = 120_000  # ms, of a page where nothing moves: a busy host is slow
ENDINGS = (*["completed"] * 14, *["median"] * 8)


@dataclass
class Page:
    """A browser page that keeps what went wrong on it.

    Attributes:
        script: whether it runs scripts.
        errors: console errors and uncaught exceptions.
        requests: every URL that was asked for.
    """

    page: Any
    folder: Path
    script: bool = True
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def screenshot(self, name: str) -> Path:
        """Write a PNG of the whole page, into $SEGTUNE_SCREENSHOTS where it is set."""
        path = Path(os.environ.get("SEGTUNE_SCREENSHOTS") or self.folder) / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path, full_page=True)
        return path

    def narrow(self, chromium: Any, script: bool = True) -> Any:
        """Go on in a window as wide as a phone's, with a profile of its own; returns its page."""
        context = chromium.new_context(
            java_script_enabled=script, viewport={"width": NARROW, "height": 800}
        )
        context.set_default_timeout(TIMEOUT)
        self.page.context.close()
        self.page, self.script = context.new_page(), script
        self.page.on("console", self.hear)
        return self.page

    def hear(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def sign_in(self, address: str, name: str, path: str = "/studies") -> None:
        self.page.goto(address + path)
        self.page.get_by_label("Name").fill(name)
        self.page.get_by_label("Password").fill(PASSWORD)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_url(address + path)

    def look(self, name: str, *widths: int) -> None:
        """Pictures in light and dark, in which nothing juts out and nothing bars the way."""
        self.page.wait_for_load_state()  # with its style
        for width, scheme in product(widths or [NARROW], ("light", "dark")):
            self.page.set_viewport_size({"width": width, "height": 800})
            self.page.emulate_media(color_scheme=scheme)
            self.screenshot(f"{name}-{scheme}-{width}{'' if self.script else '-no-script'}")
            if self.script:
                assert self.page.evaluate("document.documentElement.scrollWidth") <= width, name
                assert self.barriers() == [], (name, scheme, width)

    def says(self, text: str) -> None:
        """Wait until the page says it, of itself where it has its script."""
        if not self.script:
            self.page.reload()
        expect(self.page.locator("main")).to_contain_text(text, timeout=TIMEOUT)

    def barriers(self) -> list[str]:
        """What axe-core calls serious or critical on the page as it is: rule and first element."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        return [
            f"{one['id']}: {one['help']}; {one['nodes'][0]['html'][:200]}"
            for one in found
            if one["impact"] in ("serious", "critical")
        ]


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
    context.set_default_timeout(TIMEOUT)
    opened = Page(context.new_page(), tmp_path)
    opened.page.on("console", opened.hear)
    opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.page.on("request", lambda request: opened.requests.append(request.url))
    yield opened
    opened.page.context.close()


def valued(store: Store, spec: StudySpec) -> Study:
    """A study whose first trial has ended with a value."""
    study = create_or_resume(store, spec, "f" * 64, None)
    trial = study.slots.claim(study.ask)
    assert trial and study.slots.end(trial, Result("COMPLETE", 0.5, "completed", {}))
    return study


@contextlib.contextmanager
def serving(store: Store, artifacts: Path, *options: str | Path) -> Iterator[str]:
    """The address of a dashboard that may write, for PEOPLE."""
    for name, role in PEOPLE.items():
        add_user(store, name, role, PASSWORD, "test")
    url = store.engine.url.render_as_string(hide_password=False)
    environment = {"SEGTUNE_STORE": url, "SEGTUNE_ARTIFACTS": str(artifacts)}
    words = ("dashboard", "--port", "0", "--allow-writes", *options)
    server = Running.segtune(*words, env=environment)
    found = re.search(r"http://127\.0\.0\.1:\d+", server.line("dashboard: http"))
    assert found
    yield found[0]
    server.send(signal.SIGTERM)
    server.finish()


@dataclass(frozen=True)
class Site:
    """A dashboard of a finished study; other processes reach its store by `environment`."""

    url: str
    environment: dict[str, str]
    password: str = PASSWORD
    study_id: int = 1


@pytest.fixture(scope="session")
def site(
    tmp_path_factory: pytest.TempPathFactory, scripted_study: Callable[..., Any]
) -> Iterator[Site]:
    """22 trials that were never trained, drawn pictures of the best, and `segtune dashboard`."""
    folder = tmp_path_factory.mktemp("site")
    environment = {
        "SEGTUNE_STORE": f"sqlite:///{folder / 'store.db'}",
        "SEGTUNE_ARTIFACTS": str(folder / "artifacts"),
        "SEGTUNE_DASHBOARD_PASSWORD": PASSWORD,
    }
    study = scripted_study(environment["SEGTUNE_STORE"], "segmentation", ENDINGS)
    artifacts = Artifacts(folder / "artifacts")
    publisher = Publisher(study, artifacts)
    publisher.refresh(gather(study))
    best = best_trial(study).number
    pictures = artifacts.workdir(study, best) / PICTURES
    pictures.mkdir(parents=True)
    for name in ("curves", "per-class", "best-1-a", "best-2-b", "worst-1-c", "worst-2-d"):
        Image.effect_noise((320, 240), 60).save(pictures / f"{name}.png")
    publisher.show_pictures(best, pictures, gather(study))
    log = artifacts.workdir(study, 0) / LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(f"epoch {epoch}: mIoU 0.{epoch:03d}\n" for epoch in range(200)))
    study.store.close()
    server = Running.segtune("dashboard", "--port", "0", env=environment)
    line = server.line("dashboard: http")
    found = re.search(r"(http://127\.0\.0\.1:\d+)/studies", line)
    assert found, line
    yield Site(found[1], environment)
    server.send(signal.SIGTERM)
    server.finish()
