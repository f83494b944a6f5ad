"""The report in a real browser: offline, without errors, with every graph drawn, and printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search.database.store import open_store
from search.files.artifacts import Artifacts
from search.findings.report import write_report
from search.studies.study import open_study

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


@pytest.fixture(scope="module")
def reports(
    hostile_stores: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """{task: file}, of studies with an ending of each kind and markup for names."""
    folder, files = tmp_path_factory.mktemp("reports"), {}
    for task, url in hostile_stores.items():
        store = open_store(url)
        files[task] = folder / f"{task}.html"
        write_report(open_study(store, f"scripted-{task}"), files[task], "html", Artifacts(folder))
        store.close()
    return files


@pytest.mark.parametrize("task", ["segmentation", "text_detection"])
@pytest.mark.parametrize("width", [400, 1200])
def test_the_report_opens_from_a_file_alone(
    reports: dict[str, Path], page: Any, width: int, task: str
) -> None:
    report = reports[task]
    page.page.set_viewport_size({"width": width, "height": 900})
    page.page.goto(report.as_uri())
    page.page.wait_for_function("document.querySelectorAll('.plotly-graph-div svg').length > 20")
    graphs = page.page.evaluate(DRAWN)
    assert len(graphs) == 11 and all(graph["marks"] for graph in graphs), graphs
    assert all(abs(graph["drawn"] - graph["room"]) < 2 for graph in graphs), graphs
    assert page.page.evaluate(OVERLAPS) == []
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.page.locator("a").count() == 0 and page.page.locator("img").count() == 0
    page.screenshot(f"report-{task}-{width}")
    assert page.barriers() == []
    assert page.requests == [report.as_uri()] and page.errors == []


def test_the_policy_forbids_the_network(reports: dict[str, Path], page: Any) -> None:
    page.page.goto(reports["segmentation"].as_uri())
    tried = page.page.evaluate(
        "fetch('https://example.org').then(() => 'answered', (error) => error.name)"
    )
    assert tried == "TypeError" and any("Content Security Policy" in e for e in page.errors)
    picture = page.page.evaluate(
        "Plotly.toImage('history', {format: 'png'}).then((url) => url.slice(0, 22))"
    )
    assert picture == "data:image/png;base64,"  # what the download button does


def test_graphs_fit_the_paper(reports: dict[str, Path], page: Any, tmp_path: Path) -> None:
    page.page.set_viewport_size({"width": 1400, "height": 900})
    page.page.goto(reports["segmentation"].as_uri())
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
