"""Many workers from the command line: launched, detached, watched, stopped, resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from search.samples.streets import write_streets
from tests.waiting import until

Segtune = Callable[..., str]

STUDY = """\
name: many
task: segmentation
data:
  train: {images: data/train/images, masks: data/train/masks}
  val: {images: data/val/images, masks: data/val/masks}
  classes: data/classes.json
space:
  train.epochs: 40
  train.batch_size: 4
  train.patience: 0
  data.resolution: 32x32
  model.arch: Unet
  model.encoder: mobilenet_v2
  model.encoder_weights: null
  health.grad_norm: 0
budget: {trials: 2}
confirm: none
pruner: none
"""


def test_detached_workers_are_watched_stopped_and_followed_by_others(
    segtune: Segtune, tmp_path: Path
) -> None:
    write_streets(tmp_path / "data", train=8, val=4, size=(40, 48))
    (tmp_path / "study.yaml").write_text(STUDY)
    out = segtune("launch", "study.yaml", "--workers", "1", "--detach", cwd=tmp_path)
    assert "watch: segtune status many" in out and "stop:  segtune stop many" in out

    def status(*words: str) -> Any:
        return json.loads(segtune("status", *words, "--json", cwd=tmp_path))

    def running() -> bool:
        found = status()["workers"]
        return [(w["study"], w["state"]) for w in found] == [("many", "running")]

    until(running, every=1.0)
    assert "many" in segtune("status", cwd=tmp_path)
    assert "segtune resume many" in segtune("stop", "many", "--now", cwd=tmp_path)
    until(lambda: not status()["workers"], every=1.0)
    found = status("many")
    assert found["slots"]["RUNNING"] == 0 and found["stopped"] == "now"
    interrupted = [t["number"] for t in found["trials"] if t["state"] == "INTERRUPTED"]
    segtune("resume", "many", cwd=tmp_path)
    segtune("worker", "--study", "many", "--until-idle", cwd=tmp_path)
    found = status("many")
    assert found["slots"]["COMPLETE"] == 2 and interrupted
    assert all(t["reason"] for t in found["trials"])
