"""Text detection from the command line, on drawn receipts and on real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from search.samples.receipts import write_receipts
from spaces.run_config import load_run_config
from trainers.dbnet.decode import Candidates
from trainers.dbnet.head import DBNet
from trainers.dbnet.score import sweep
from trainers.tasks import load_data
from trainers.text_data import TextData

ROOT = Path(__file__).resolve().parents[2]

Segtune = Callable[..., str]


STUDY = """\
name: receipts
task: text_detection
data:
  train: {images: data/train/images, labels: data/train/labels}
  val: {images: data/val/images, labels: data/val/labels}
space:
  train.epochs: 2
  train.batch_size: 2
  data.resolution: 160
  data.augment: none
  model.encoder: resnet18
  model.encoder_weights: null
  model.inner: 32
  model.out: 8
  health.grad_norm: 0
  optim.lr: {low: 5e-4, high: 5e-3, log: true}
budget: {trials: 2}
confirm: none
pruner: none
"""


def test_a_study_from_launch_to_evaluation(segtune: Segtune, tmp_path: Path) -> None:
    """Drawn receipts; what a network learns of them, the demo's test says."""
    write_receipts(tmp_path / "data", train=6, val=10, size=(260, 180))
    (tmp_path / "study.yaml").write_text(STUDY)
    out = segtune("launch", "study.yaml", cwd=tmp_path)
    assert "receipts: best trials" in out and "Hmean" in out
    segtune("export", "receipts", "--to", "best", cwd=tmp_path)
    best = tmp_path / "best"
    facts = json.loads((best / "provenance.json").read_text())
    status = json.loads(segtune("status", "receipts", "--json", cwd=tmp_path))
    assert facts["metric"] == "Hmean" and facts["value"] == status["best"]["value"]
    _, config = load_run_config(best / "config.yaml")
    flat = config.flat()
    for name in ("decode.box_thresh", "decode.unclip_ratio"):  # chosen, shown and exported
        assert flat[name] == status["best"]["params"][name]
    answer = segtune("evaluate", "best", "--data", "val", cwd=tmp_path)
    assert hmean(answer) == pytest.approx(facts["value"], abs=1e-4)
    pictures = sorted((best / "evaluation-val").iterdir())
    assert len(pictures) == 10
    with Image.open(pictures[0]) as picture:
        assert picture.width > 2 * 180
    with Image.open(best / "curves.png") as picture:
        assert picture.width > picture.height
    # on other pages it does what it did on these: the same score, from files
    segtune("predict", "best", "data/val/images", "--to", "out", cwd=tmp_path)
    assert predicted(tmp_path) == pytest.approx(facts["value"], abs=1e-6)
    # another setting, without training; its pictures replace the earlier ones
    segtune("evaluate", "best", "--set", "decode.box_thresh=0.95", cwd=tmp_path)
    assert len(list((best / "evaluation-val").iterdir())) == 10
    probability, _ = DBNet.from_pretrained(best / "model")(torch.zeros(1, 3, 64, 64))
    assert probability.shape == (1, 1, 64, 64)
    segtune("train", str(best / "config.yaml"), "--to", "again", cwd=tmp_path)
    again = json.loads((tmp_path / "again" / "provenance.json").read_text())
    # the settings that the study chose: nothing is free in a single run
    assert again["epochs"] == 2 and again["metric"] == "Hmean"
    answer = segtune("evaluate", "again", cwd=tmp_path)
    assert hmean(answer) == pytest.approx(again["value"], abs=1e-4)


def predicted(folder: Path) -> float:
    """Hmean of the boxes in `out/predictions.jsonl` on the val pages of `best`."""
    spec, _ = load_run_config(folder / "best" / "config.yaml")
    data = load_data(spec)
    assert isinstance(data, TextData)
    lines = (folder / "out" / "predictions.jsonl").read_text().splitlines()[1:]
    boxes = {one["name"]: one["boxes"] for one in map(json.loads, lines)}
    pages = []
    for page in data.split("val"):
        found = np.array([box["polygon"] for box in boxes[page.stem]]).reshape(1, -1, 4, 2)
        scores = np.array([box["score"] for box in boxes[page.stem]])
        kept = np.ones(found.shape[:2], bool)
        ranks = np.arange(len(scores))
        known = Candidates(scores, found, kept, (1.0,), False, ranks)
        pages.append((known, data.truth(page)))
        icdar = (folder / "out" / "boxes" / f"{page.stem}.txt").read_text().splitlines()
        assert [list(map(int, line.split(","))) for line in icdar] == np.rint(found).reshape(
            -1, 8
        ).tolist()
    return sweep(pages, [0.0]).at(0, 0).hmean


def test_check_tells_how_small_the_text_of_real_receipts_is(
    segtune: Segtune, sroie: Path, tmp_path: Path
) -> None:
    text = (
        (ROOT / "examples" / "sroie.yaml")
        .read_text()
        .replace("../../shared/data/sroie", str(sroie))
    )
    text = text.replace("data.resolution: 640", "data.resolution: [640, 1536]")
    (tmp_path / "study.yaml").write_text(text)
    out = segtune("check", "study.yaml", cwd=tmp_path)
    rows = {line.split()[1]: line for line in out.splitlines() if line.startswith(("│  ", "│ "))}
    assert rows["val"].replace("│", " ").split() == ["val", "1325", "0", "21%", "1%"]
    small, large = (
        [float(cell) for cell in rows[size].replace("│", " ").split()[1:]]
        for size in ("640", "1536")
    )
    assert max(small) < 0.95 < max(large)
    assert len(small) == 9
    assert f"at data.resolution 640: perfect targets decode to {max(small):.3f} there" in out
    assert "at data.resolution 1536" not in out


def hmean(answer: str) -> float:
    return float(answer.split("Hmean ")[1].split(",")[0])
