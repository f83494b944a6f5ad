"""`--cleval` gives what the command of CLEval's authors gives, file in, scores out.

The package has a part in C without wheels; where it is not installed this test is skipped.
"""

from __future__ import annotations

import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spaces.errors import InputError
from spaces.space import Free
from spaces.text_detection import TextDetectionConfig, TextMetric
from trainers.cleval import cleval_counts, cleval_sweep
from trainers.dbnet.decode import Candidates, Detections
from trainers.dbnet.icdar import TextAnnotation
from trainers.tasks import check_metric, evaluate
from trainers.text_data import Page, TextData
from trainers.text_detection import PageOutput
from trainers.text_evaluate import cleval_scores
from trainers.train import train

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


def test_a_sweep_counts_every_setting_as_if_it_were_alone() -> None:
    rng = np.random.default_rng(2)
    images, ratios, cuts = [], (1.5, 2.0), (0.1, 0.4, 0.5, 0.9)
    for found, output in pages(rng):
        boxes = np.stack([found.boxes, found.boxes + 1])  # (R, N, 4, 2)
        kept = rng.random(boxes.shape[:2]) < 0.9
        scores = rng.integers(0, 10, len(found.boxes)) / 10
        images.append(
            (Candidates(scores, boxes, kept, ratios, False, np.arange(len(scores))), output.truth)
        )
    counts = cleval_sweep(images, cuts)
    assert counts.shape == (4, 2, 4, 2, 3)
    for row, ratio in enumerate(ratios):
        for column, cut in enumerate(cuts):
            for index, (found, truth) in enumerate(images):
                alone = cleval_counts(found.cut(cut, ratio).boxes, truth)
                assert (counts[index, row, column] == alone).all()


def test_a_run_is_scored_by_cleval_and_evaluated_alike(receipts: TextData, tmp_path: Path) -> None:
    config = TextDetectionConfig().replace(
        {
            "metric.name": "cleval",
            "model.encoder_weights": None,
            "model.inner": 16,
            "model.out": 8,
            "data.resolution": 288,
            "train.epochs": 1,
            "train.batch_size": 2,
            "train.precision": "fp32",
            "optim.lr": 3e-3,
            "optim.encoder_lr_ratio": 1.0,
        }
    )
    free = {"decode.box_thresh": Free(0.1, 0.7, 0.3), "decode.unclip_ratio": Free(1.5, 2.0, 0.5)}
    result = train(config, receipts, tmp_path / "run", lambda report: None, free=free)
    assert result.model is not None and result.value is not None
    fixed = config.replace(result.decode)
    found = evaluate(result.model, fixed, receipts, "val", tmp_path / "pictures", cleval=True)
    assert found.cleval is not None and found.metric == "CLEval"
    assert found.cleval["hmean"] == pytest.approx(found.scores.metric) == result.value
    assert set(result.history[-1].metrics) == {"Hmean", "CLEval"}


def test_labels_without_texts_have_no_characters_to_count(receipts: TextData) -> None:
    check_metric(TextMetric(name="cleval"), receipts)
    data = TextData(receipts.spec, receipts.splits, receipts.sizes, "none", {})
    truth = receipts.truth
    bare = lambda page: replace(truth(page), texts=[""] * len(truth(page).texts))  # noqa: E731
    object.__setattr__(data, "truth", bare)
    with pytest.raises(InputError, match="no box of val has a text"):
        check_metric(TextMetric(name="cleval"), data)
    apart = {**receipts.splits, "test": receipts.split("train")[:1]}
    data = TextData(receipts.spec, apart, receipts.sizes, "none", {})
    last = apart["test"][0].image
    some = lambda page: bare(page) if page.image == last else truth(page)  # noqa: E731
    object.__setattr__(data, "truth", some)
    with pytest.raises(InputError, match="no box of test has a text"):
        check_metric(TextMetric(name="cleval"), data)
