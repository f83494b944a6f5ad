"""`segtune demo`: the first five minutes, on drawn streets or receipts."""

from __future__ import annotations

import itertools
from pathlib import Path

from rich.console import Console

from search.database.store import Store
from search.files.artifacts import Artifacts
from search.findings.export import check_target, export_study
from search.launch import launch
from search.samples.receipts import write_receipts
from search.samples.streets import write_streets
from search.studies.study import open_study, study_names
from spaces.difference import spec_difference
from spaces.errors import DONE
from spaces.spec import StudySpec
from trainers.tasks import load_data

SEGMENTATION = """\
# Drawn streets with the class imbalance of real ones; small enough for two CPU cores.
name: {name}
task: segmentation
data:
  train: {{images: data/train/images, masks: data/train/masks}}
  val: {{images: data/val/images, masks: data/val/masks}}
  classes: data/classes.json
space:
  train.epochs: 8
  train.batch_size: [8, 16]
  data.resolution: [48x64, 64x96]
  model.arch: [Unet, FPN]
  model.encoder: resnet18
  model.encoder_weights: null       # nothing to download
  optim.lr: {{low: 1e-4, high: 1e-2, log: true}}
  optim.encoder_lr_ratio: {{low: 0.3, high: 1.0, log: true}}
budget: {{trials: 12}}
confirm: {{top: 2, seeds: 1}}        # the best two and the best recipe, on a fresh seed
"""

TEXT_DETECTION = """\
# Drawn receipts; small enough for two CPU cores.
name: {name}
task: text_detection
data:
  train: {{images: data/train/images, labels: data/train/labels}}
  val: {{images: data/val/images, labels: data/val/labels}}
space:
  train.epochs: 8
  train.batch_size: [2, 4]
  data.resolution: 320
  data.augment: [none, light]
  model.encoder: resnet18
  model.encoder_weights: null       # nothing to download
  model.decoder: [fpn, unet]
  model.inner: 64
  model.out: 16
  optim.lr: {{low: 5e-4, high: 5e-3, log: true}}
  optim.encoder_lr_ratio: {{low: 0.3, high: 1.0, log: true}}
  # box_thresh and unclip_ratio are searched by default, in every trial, without training
budget: {{trials: 12}}
confirm: {{top: 2, seeds: 1}}        # the best two and the best recipe, on a fresh seed
"""


def run_demo(
    task: str, to: Path, trials: int, store: Store, artifacts: Artifacts, console: Console
) -> int:
    """Draw data, launch the study, export the best trial; return the exit code."""
    check_target(to / "best")
    to.mkdir(parents=True, exist_ok=True)
    if task == "segmentation":
        write_streets(to / "data", train=48, val=24)
    else:
        write_receipts(to / "data", train=32, val=12)
    spec = write_study(task, to / "study.yaml", store)
    console.print(f"drew sample data and wrote {to / 'study.yaml'}", highlight=False)
    code = launch(spec, store, artifacts, console, trials)
    if code != DONE:
        return code
    export_study(open_study(store, spec.name), artifacts, to / "best")
    images = to / "data" / "val" / "images"
    console.print(
        f"exported the best trial to {to / 'best'}\n"
        f"watch it:     segtune dashboard\n"
        f"share it:     segtune report {spec.name} --to {to / 'report.html'}\n"
        f"score it:     segtune evaluate {to / 'best'} --data val\n"
        f"use it:       segtune predict {to / 'best'} {images} --to {to / 'out'}\n"
        f"train it:     segtune train {to / 'best' / 'config.yaml'} --to {to / 'again'}\n"
        "your data:    segtune init --from FOLDER",
        highlight=False,
    )
    return DONE


def write_study(task: str, path: Path, store: Store) -> StudySpec:
    """Write the study file, under a name that no other demo of this store has."""
    base, text = ("demo", SEGMENTATION) if task == "segmentation" else ("demo-text", TEXT_DETECTION)
    for number in itertools.count(1):
        name = base if number == 1 else f"{base}-{number}"
        path.write_text(text.format(name=name))
        spec = StudySpec.load(path)
        if name not in study_names(store):
            return spec
        known = open_study(store, name)
        same_data = known.fingerprint == load_data(spec.data).fingerprint
        if same_data and not spec_difference(known.spec, spec):
            return spec
    raise AssertionError("itertools.count has no end")
