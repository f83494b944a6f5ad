"""The report in a real browser: offline, without errors, with every graph drawn, and printed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from search.report import write_report
from search.study import Study

HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
LINK = "<a href='https://evil.example'>x</a>"
DRAWN = """
() => Array.from(document.querySelectorAll(".plotly-graph-div")).map((graph) => ({
  name: graph.id,
  marks: graph.querySelectorAll("svg .trace path, svg .trace .point").length,
  drawn: graph.querySelector("svg.main-svg").getBoundingClientRect().width,
  room: graph.getBoundingClientRect().width,
}))
"""
# legends and axis titles that stand on each other
OVERLAPS = """
() => Array.from(document.querySelectorAll(".plotly-graph-div")).filter((graph) => {
  const box = (name) => graph.querySelector(name)?.getBoundingClientRect();
  const legend = box(".legend"), plot = box(".nsewdrag");
  return legend && plot && legend.height && legend.bottom > plot.top + 2;
}).map((graph) => graph.id)
"""


@pytest.fixture(scope="module", params=["segmentation", "text_detection"])
def report(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    scripted_study: Callable[..., Study],
) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("report")
    study = scripted_study(
        f"sqlite:///{folder / 'store.db'}", request.param, classes=["road", HOSTILE, LINK]
    )
    write_report(study, folder / "report.html", "html", folder)
    study.store.close()
    yield folder / "report.html"


@pytest.mark.parametrize("width", [400, 1200])
def test_the_report_opens_from_a_file_alone(report: Path, page: Any, width: int) -> None:
    page.page.set_viewport_size({"width": width, "height": 900})
    page.page.goto(report.as_uri())
    page.page.wait_for_function("document.querySelectorAll('.plotly-graph-div svg').length > 20")
    graphs = page.page.evaluate(DRAWN)
    assert len(graphs) == 12 and all(graph["marks"] for graph in graphs), graphs
    assert all(abs(graph["drawn"] - graph["room"]) < 2 for graph in graphs), graphs
    assert page.page.evaluate(OVERLAPS) == []
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.page.locator("a").count() == 0 and page.page.locator("img").count() == 0
    page.screenshot(f"report-{report.parent.name}-{width}")
    assert page.requests == [report.as_uri()] and page.errors == []


def test_the_policy_forbids_the_network(report: Path, page: Any) -> None:
    page.page.goto(report.as_uri())
    tried = page.page.evaluate(
        "fetch('https://example.org').then(() => 'answered', (error) => error.name)"
    )
    assert tried == "TypeError" and any("Content Security Policy" in e for e in page.errors)
    assert page.page.evaluate("typeof window.open") == "function"
    picture = page.page.evaluate(
        "Plotly.toImage('history', {format: 'png'}).then((url) => url.slice(0, 22))"
    )
    assert picture == "data:image/png;base64,"  # what the download button does


def test_graphs_fit_the_paper(report: Path, page: Any, tmp_path: Path) -> None:
    page.page.set_viewport_size({"width": 1400, "height": 900})
    page.page.goto(report.as_uri())
    page.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.page.emulate_media(media="print")
    widths = {graph["drawn"] for graph in page.page.evaluate(DRAWN)}
    assert widths == {680, 330}  # pixels, of a page and of two in a row
    page.page.emulate_media(media="screen")
    page.page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.page.wait_for_function(f"({DRAWN.strip()})().every((g) => Math.abs(g.drawn - g.room) < 2)")
    page.page.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True)
    pages = (tmp_path / "report.pdf").read_bytes().count(b"/Type /Page\n")
    assert 5 <= pages <= 16
    assert page.errors == []
