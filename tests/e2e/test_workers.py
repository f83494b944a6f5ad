"""Many workers from the command line: launched, detached, watched, stopped, resumed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from search.samples.streets import write_streets

Segtune = Callable[..., str]

STUDY = """\
name: many
task: segmentation
data:
  train: {images: data/train/images, masks: data/train/masks}
  val: {images: data/val/images, masks: data/val/masks}
  classes: data/classes.json
space:
  train.epochs: EPOCHS
  train.batch_size: 4
  train.patience: 0
  data.resolution: 32x32
  model.arch: Unet
  model.encoder: mobilenet_v2
  model.encoder_weights: null
  health.grad_norm: 0
budget: {trials: 4}
pruner: none
"""


@pytest.mark.slow
def test_two_workers_share_a_study(segtune: Segtune, tmp_path: Path) -> None:
    write_streets(tmp_path / "data", train=8, val=4, size=(40, 48))
    (tmp_path / "study.yaml").write_text(STUDY.replace("EPOCHS", "2"))
    out = segtune("launch", "study.yaml", "--workers", "2", cwd=tmp_path)
    assert "2 workers started" in out and "many: best trials" in out
    status = json.loads(segtune("status", "many", "--json", cwd=tmp_path))
    assert status["slots"]["COMPLETE"] == 4 and status["stopped"] is None
    assert "4 of 4 trials ended" in segtune("launch", "study.yaml", cwd=tmp_path)


@pytest.mark.slow
def test_detached_workers_are_watched_stopped_and_followed_by_others(
    segtune: Segtune, tmp_path: Path
) -> None:
    write_streets(tmp_path / "data", train=8, val=4, size=(40, 48))
    (tmp_path / "study.yaml").write_text(STUDY.replace("EPOCHS", "20"))
    out = segtune("launch", "study.yaml", "--workers", "1", "--detach", cwd=tmp_path)
    assert "watch: segtune status many" in out and "stop:  segtune stop many" in out
    deadline = time.monotonic() + 60
    while True:
        found = json.loads(segtune("status", "--json", cwd=tmp_path))
        running = [w for w in found["workers"] if w["study"] == "many"]
        if running or time.monotonic() > deadline:
            break
    assert running and running[0]["state"] == "running"
    assert "many" in segtune("status", cwd=tmp_path)
    assert "segtune resume many" in segtune("stop", "many", "--now", cwd=tmp_path)
    while json.loads(segtune("status", "--json", cwd=tmp_path))["workers"]:
        assert time.monotonic() < deadline + 60, "the worker did not end"
    status = json.loads(segtune("status", "many", "--json", cwd=tmp_path))
    assert status["slots"]["RUNNING"] == 0 and status["stopped"] == "now"
    interrupted = [t["number"] for t in status["trials"] if t["state"] == "INTERRUPTED"]
    segtune("resume", "many", cwd=tmp_path)
    segtune("worker", "--study", "many", "--until-idle", cwd=tmp_path)
    status = json.loads(segtune("status", "many", "--json", cwd=tmp_path))
    assert status["slots"]["OPEN"] == 0 and interrupted
    assert all(t["reason"] for t in status["trials"])
