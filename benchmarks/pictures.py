"""The pictures of README and docs, of what `make demo` leaves in the store and in demo/.

python -m benchmarks.pictures [--study demo]       needs Debian's chromium
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

SEGTUNE = str(Path(sys.executable).with_name("segtune"))
TO = Path(__file__).resolve().parents[1] / "docs" / "pictures"
SETTLE_MS = 3000  # graphs move into place


def main() -> None:
    """Take all, at the size in which they are shown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", default="demo")
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="the demo's folder")
    options = parser.parse_args()
    study = options.study
    predicted(options.demo, TO / "predicted.png")
    server = subprocess.Popen([SEGTUNE, "dashboard", "--port", "0"], stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        lines = (re.search(r"http://127\.0\.0\.1:\d+", line.decode()) for line in server.stdout)
        address = next(found[0] for found in lines if found)
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.html"
            subprocess.run([SEGTUNE, "report", study, "--to", str(report)], check=True)
            take(f"{address}/dashboard", study, (1300, 1700), TO / "dashboard.png")
            take(report.as_uri(), None, (1000, 900), TO / "report.png")
    finally:
        server.terminate()
        server.wait()


def predicted(demo: Path, to: Path) -> None:
    """Predict drawn images with the exported model; lay three of the overlays out side by side."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        words = ["predict", demo / "best", demo / "data/val/images", "--to", out, "--overlay"]
        subprocess.run([SEGTUNE, *map(str, words)], check=True)
        panels = [Image.open(path) for path in sorted((out / "overlays").glob("*.png"))[:3]]
        sheet = Image.new(
            "RGB", (sum(p.width for p in panels), max(p.height for p in panels)), "white"
        )
        left = 0
        for panel in panels:
            sheet.paste(panel, (left, 0))
            left += panel.width
    save(sheet, to)


def take(url: str, link: str | None, size: tuple[int, int], to: Path) -> None:
    """Open a page, follow the link of that name, and write what is to be seen."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        page.goto(url)
        if link is not None:
            page.get_by_text(re.compile(rf"^\d+\. {re.escape(link)}$")).first.click()
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(SETTLE_MS)
        page.screenshot(path=to)
        browser.close()
    save(Image.open(to).convert("RGB"), to)


def save(image: Image.Image, to: Path) -> None:
    """Write a picture in the size in which pages show it."""
    image.thumbnail((1000, 1400))
    image.quantize(128).save(to, optimize=True)


if __name__ == "__main__":
    main()
