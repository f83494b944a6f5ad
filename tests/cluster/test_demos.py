"""The demos, as long as users see them, and a launch of several workers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from search.samples.streets import write_streets
from spaces.run_config import load_run_config
from tests.stores import small_study

Segtune = Callable[..., str]


@pytest.mark.timeout(1500)
def test_demo_then_train_the_exported_config(segtune: Segtune, tmp_path: Path) -> None:
    out = segtune("demo", "--trials", "2", cwd=tmp_path)
    folder = tmp_path / "segtune-demo"
    assert "exported the best trial" in out
    assert {path.name for path in (folder / "best").iterdir()} == {
        "README.md",
        "config.yaml",
        "model",
        "provenance.json",
        "curves.png",
        "manifest.json",
    }
    assert "2 of 2 trials ended" in segtune("demo", "--trials", "2", cwd=tmp_path)  # resumed
    config = (folder / "best" / "config.yaml").read_text()
    short = tmp_path / "short.yaml"
    short.write_text(config.replace("epochs: 8", "epochs: 1"))
    _, trial = load_run_config(short)
    assert trial.train.epochs == 1
    segtune("train", str(short), "--to", "again", cwd=tmp_path)
    facts = json.loads((tmp_path / "again" / "provenance.json").read_text())
    assert facts["epochs"] == 1
    answer = segtune("evaluate", "again", "--data", "val", cwd=tmp_path)
    assert float(answer.split("mIoU ")[1].split(",")[0]) == pytest.approx(facts["value"], abs=1e-4)


@pytest.mark.timeout(1500)
def test_text_demo_export_and_evaluate(segtune: Segtune, tmp_path: Path) -> None:
    out = segtune("demo", "--task", "text_detection", "--trials", "1", cwd=tmp_path)
    assert "exported the best trial" in out and "Hmean" in out
    folder = tmp_path / "segtune-demo"
    best = folder / "best"
    facts = json.loads((best / "provenance.json").read_text())
    status = json.loads(segtune("status", "demo-text", "--json", cwd=tmp_path))
    fresh = status["answer"]["fresh_seeds"]
    assert facts["metric"] == "Hmean" and facts["value"] == fresh[str(facts["seed"])] > 0.3
    _, config = load_run_config(best / "config.yaml")
    flat = config.flat()
    assert 0.1 <= flat["decode.box_thresh"] <= 0.9  # the run's own, as it is evaluated below
    answer = segtune("evaluate", str(best), "--data", "val", cwd=tmp_path)
    assert hmean(answer) == pytest.approx(facts["value"], abs=1e-4)
    other = segtune("evaluate", str(best), "--set", "decode.box_thresh=0.95", cwd=tmp_path)
    assert hmean(other) < facts["value"]


def test_two_workers_share_a_study(segtune: Segtune, tmp_path: Path) -> None:
    write_streets(tmp_path / "data", train=8, val=4, size=(40, 48))
    (tmp_path / "study.yaml").write_text(
        small_study(tmp_path / "data", name="many", trials=4, confirm="{top: 2, seeds: 1}")
    )
    out = segtune("launch", "study.yaml", "--workers", "2", cwd=tmp_path)
    assert "2 workers started" in out and "many: best trials" in out
    status = json.loads(segtune("status", "many", "--json", cwd=tmp_path))
    assert status["slots"]["COMPLETE"] == 4 and status["stopped"] is None
    assert len(status["answer"]["fresh_seeds"]) == 1 and status["answer"]["confirmation_runs"] == 2
    assert out.count("on a fresh seed COMPLETE") == 2
    assert "4 of 4 trials ended" in segtune("launch", "study.yaml", cwd=tmp_path)


def hmean(answer: str) -> float:
    return float(answer.split("Hmean ")[1].split(",")[0])
