"""What the reports share, the decode sweep's arithmetic, and the table of all benchmarks."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import decode_sweep, text, text_detection
from benchmarks.report import heading, publish, spread, table
from trainers.dbnet.icdar import TextAnnotation
from trainers.dbnet.score import Scores
from trainers.text_data import Page
from trainers.text_detection import PageOutput

ROOT = Path(__file__).resolve().parents[3]


def test_spread_is_the_median_with_its_range() -> None:
    assert spread([3.0, 1.0, 2.25], 1) == "2.2 (1.0 to 3.0)"
    assert spread([1234.5], 0, "ms") == "1,234 ms (1,234 to 1,234)"


def test_heading_has_date_machine_and_command() -> None:
    text = heading("A title", "name --option")
    assert text.startswith("# A title\n\n") and " cores; " in text
    assert datetime.date.today().isoformat() in text
    assert "`python -m benchmarks.name --option`" in text


def test_table_and_publish(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = table(["a", "b"], [["1", "2"]])
    assert text == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    publish(text, tmp_path / "report.md")
    assert (tmp_path / "report.md").read_text() == text
    assert capsys.readouterr().out == text + "\n"


def test_the_decode_sweep_finds_what_evaluations_find() -> None:
    probability = np.zeros((60, 80), np.float32)
    for row, value in ((5, 0.9), (20, 0.55), (40, 0.35)):
        probability[row : row + 8, 10:70] = value
    box = np.array([[7.0, 2], [73, 2], [73, 16], [7, 16]])
    truth = TextAnnotation([box, box + np.array([0, 15])], np.zeros(2, bool), ["", ""])
    page = PageOutput(Page("page.jpg", "page.txt"), truth, (60, 80), (1.0, 1.0), probability)
    seconds = decode_sweep.measure([page], 1.5, rounds=2)
    assert {name: len(taken) for name, taken in seconds.items()} == dict.fromkeys(
        (decode_sweep.SEPARATE, decode_sweep.SWEEP, decode_sweep.BOTH), 2
    )
    hmeans = [s.hmean for s in decode_sweep.evaluate([page], [1.5], [0.3, 0.5, 0.8])]
    assert len(set(hmeans)) > 1, hmeans  # the threshold matters on this map


def test_the_decode_sweep_report_pairs_rounds() -> None:
    seconds = {
        decode_sweep.SEPARATE: [1.0, 3.0, 2.0],
        decode_sweep.SWEEP: [0.1, 0.1, 0.4],
        decode_sweep.BOTH: [0.5, 0.5, 0.5],
    }
    text = decode_sweep.report(seconds, 10)
    assert f"| {decode_sweep.SEPARATE} | 200.0 (100.0 to 300.0) | 1.0 (1.0 to 1.0) |" in text
    assert f"| {decode_sweep.SWEEP} | 10.0 (10.0 to 40.0) | 10.0 (5.0 to 30.0) |" in text


def test_the_detectors_are_rows() -> None:
    text = text_detection.report([("ours", Scores(3, 4, 6), [0.1, 0.3, 0.2])])
    assert "| ours | 0.6000 | 0.7500 | 0.5000 | 0.20 (0.10 to 0.30) |" in text


def test_every_benchmark_is_in_the_table() -> None:
    listed = set(
        re.findall(r"python -m benchmarks\.(\w+)", (ROOT / "docs/benchmarks.md").read_text())
    )
    commands = {
        path.stem
        for path in (ROOT / "benchmarks").glob("*.py")
        if '__name__ == "__main__"' in path.read_text()
    }
    assert listed == commands


def test_a_page_does_not_choose_for_itself() -> None:
    """Each half of the pages is best at another setting; crossed, both lose."""
    counts = np.zeros((4, 1, 1, 2, 3), np.int64)
    counts[..., 1:] = 10  # truths and detections
    counts[::2, ..., 0, 0], counts[1::2, ..., 1, 0] = 10, 8
    best, place, crossed = text.chosen_and_crossed(counts)
    assert (best, place, crossed) == (0.5, (0, 0, 0), 0.0)


def test_the_text_report_pairs_seeds() -> None:
    runs = [
        text.Trained(
            photometric,
            seed,
            {way: [0.5, hmean + seed / 10] for way in text.WAYS},
            {way: [0.4, hmean - 0.2] for way in text.WAYS},
            {way: {"thresh": 0.3} for way in text.WAYS},
            {way: [0.1] for way in text.WAYS},
        )
        for photometric, hmean in (("none", 0.7), ("strong", 0.75))
        for seed in (0, 1)
    ]
    report = text.report(runs, {"as they are taught": [0.5] * len(text.RATIOS)}, "text")
    assert "| none | 0.7500 (0.7000 to 0.8000) |" in report
    assert "| strong | 0.5500 (0.5500 to 0.5500) |" in report
    assert (
        "| strong | unclip from 1.5 | +0.0500 | +0.0500 | +0.0500 (+0.0500 to +0.0500) |" in report
    )
