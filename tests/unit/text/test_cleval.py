"""`--cleval` gives what the command of CLEval's authors gives, file in, scores out.

The package has a part in C without wheels; where it is not installed this test is skipped.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from trainers.dbnet.decode import Detections
from trainers.dbnet.icdar import TextAnnotation
from trainers.text_data import Page
from trainers.text_detection import PageOutput
from trainers.text_evaluate import cleval_scores

pytestmark = pytest.mark.slow

pytest.importorskip("cleval", reason="pip install 'segtune[cleval]' needs a C compiler")

TEXTS = ("TOTAL", "12.50", "a, b", "THANK YOU", "x")


def pages(rng: np.random.Generator) -> list[tuple[Detections, PageOutput]]:
    """Lines in rows; detections that are right, shifted, split in two, merged, or made up."""
    result = []
    for index in range(4):
        truths, texts, ignore, boxes = [], [], [], []
        for row in range(8):
            x, y, wide = rng.integers(10, 60), 30 * row + 10, rng.integers(60, 200)
            quad = np.array([[x, y], [x + wide, y], [x + wide, y + 18], [x, y + 18]], float)
            texts.append(TEXTS[int(rng.integers(len(TEXTS)))])
            ignore.append(bool(rng.random() < 0.15))
            truths.append(quad)
            kind = rng.integers(5)
            if kind <= 1:
                boxes.append(quad + rng.integers(-3, 4, 2))
            elif kind == 2:
                middle = x + wide // 2
                left, right = quad.copy(), quad.copy()
                left[1:3, 0] = middle
                right[[0, 3], 0] = middle
                boxes += [left, right]
            elif kind == 3:
                boxes.append(quad + np.array([260, 0]))
        found = Detections(np.array(boxes).reshape(-1, 4, 2), np.ones(len(boxes)))
        truth = TextAnnotation(truths, np.array(ignore), texts)
        page = Page(f"p{index}.png", f"p{index}.txt")
        result.append((found, PageOutput(page, truth, (300, 600), (1, 1), np.zeros((1, 1)))))
    return result


def test_equals_the_authors_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cleval.arg_parser import get_params
    from cleval.main import cleval

    given = pages(np.random.default_rng(0))
    for name in ("gt", "res"):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for found, output in given:
                truth = output.truth
                if name == "gt":
                    rows = [
                        (polygon, "," + ("###" if skip else text))
                        for polygon, text, skip in zip(
                            truth.polygons, truth.texts, truth.ignore, strict=True
                        )
                    ]
                else:
                    rows = [(box, "") for box in found.boxes]
                lines = [
                    ",".join(str(int(v)) for v in corners.ravel()) + text for corners, text in rows
                ]
                archive.writestr(f"{name}_{output.page.stem}.txt", "\n".join(lines))
    arguments = ["-g", "gt.zip", "-s", "res.zip", "-o", "out", "--DEBUG"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["cleval", *arguments])
    theirs = cleval(get_params())["all"]["det"]
    ours = cleval_scores(given)
    assert 0.3 < ours["hmean"] < 0.95
    for name in ("recall", "precision", "hmean"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-5), name


def test_a_split_without_detections_scores_zero() -> None:
    given = [
        (Detections(np.zeros((0, 4, 2)), np.zeros(0)), output)
        for _, output in pages(np.random.default_rng(1))
    ]
    assert cleval_scores(given) == {"recall": 0.0, "precision": 0.0, "hmean": 0.0}
