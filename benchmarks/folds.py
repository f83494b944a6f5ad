"""A study of 30 images in 5 folds: what it costs, what folds it saves, and how sure its answer is.

    python -m benchmarks.folds --to benchmarks/folds.md
    python -m benchmarks.folds --record research/folds/folds.json    # nothing is stopped

The images are CamVid's, evenly over its train split, in halves of their size; the one class is
`road`. Where CamVid is absent (../shared/data, or $SEGTUNE_DATA), streets are drawn.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from benchmarks.home import own_home
from benchmarks.report import called, heading, parser, publish, table
from search.database.store import open_store
from search.files.artifacts import Artifacts
from search.findings.answer import answer_of
from search.launch import launch
from search.samples.streets import CLASSES, write_streets
from search.studies.confirmations import with_confirmation
from search.studies.reasons import reason
from search.studies.study import Study, open_study
from search.studies.trial_facts import TrialFacts
from spaces.spec import StudySpec

ROOT = Path(__file__).resolve().parents[1]
CAMVID = Path(os.environ.get("SEGTUNE_DATA", ROOT.parent / "shared" / "data")) / "camvid"
IMAGES, FOLDS, TRIALS, EPOCHS = 30, 5, 16, 5
STUDY = """
name: thirty
task: segmentation
data:
  train: {{images: {folder}/images, masks: {folder}/masks}}
  folds: {{count: {folds}}}
  classes: [road]
space:
  train.epochs: {epochs}
  data.resolution: 32x48
  data.augment: [none, light, medium]
  model.arch: Unet
  model.encoder: resnet18
  model.encoder_weights: null
  train.batch_size: [4, 8]
  optim.lr: {{low: 1e-4, high: 1e-2, log: true}}
budget: {{trials: {trials}}}
"""


def main() -> None:
    """Run the study; publish its report, or write what each trial had on each fold."""
    given = parser(__doc__ or "")
    given.add_argument("--record", type=Path, help="train all folds, and write their values here")
    given.add_argument("--trials", type=int, default=TRIALS)
    options = given.parse_args()
    with own_home() as folder:
        source = write_images(folder)
        text = STUDY.format(folder=folder, folds=FOLDS, epochs=EPOCHS, trials=options.trials)
        if options.record is not None:
            text += "pruner: none\nconfirm: none\n"
        (folder / "study.yaml").write_text(text)
        spec = StudySpec.load(folder / "study.yaml")
        store = open_store()
        began = time.perf_counter()
        assert launch(spec, store, Artifacts(folder / "artifacts"), Console(width=160)) == 0
        seconds = time.perf_counter() - began
        study = open_study(store, spec.name)
        if options.record is not None:
            options.record.write_text(json.dumps(recorded(study, source), indent=1) + "\n")
        else:
            publish(report(study, source, seconds, called("folds")), options.to)
        store.close()


def write_images(folder: Path) -> str:
    """Write IMAGES images and masks of one class into folder/images and folder/masks.

    Returns:
        What they are, in words.
    """
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    source, classes, said = CAMVID / "train", CAMVID / "classes.json", "CamVid"
    if not source.is_dir():
        drawn = write_streets(folder / "streets", train=IMAGES, val=0)
        source, classes, said = drawn / "train", drawn / "classes.json", "drawn streets"
    road = json.loads(classes.read_text())["classes"].index(CLASSES[2])
    paths = sorted((source / "images").iterdir())
    for path in paths[:: len(paths) // IMAGES][:IMAGES]:
        image, mask = Image.open(path), Image.open(source / "masks" / f"{path.stem}.png")
        size = (image.width // 2, image.height // 2)
        image.resize(size).save(folder / "images" / f"{path.stem}.png")
        is_road = np.asarray(mask.resize(size, Image.Resampling.NEAREST)) == road
        Image.fromarray(is_road.astype(np.uint8)).save(folder / "masks" / f"{path.stem}.png")
    return f"{IMAGES} images of {said}, class road"


def recorded(study: Study, source: str) -> dict[str, Any]:
    """What each trial had on each fold, and after each epoch of it."""
    trials = []
    for trial in study.trials():
        facts, history = TrialFacts.of(trial), study.history(trial.number)
        curves = [
            [round(r.metric, 6) for r in history if r.fold == fold] for fold in range(1, FOLDS + 1)
        ]
        trials.append(
            {
                "reason": reason(trial),
                "folds": [round(value, 6) for value in facts.folds or ()],
                "curves": curves,
                "seconds": facts.seconds,
            }
        )
    return {"images": source, "epochs": EPOCHS, "trials": trials}


def report(study: Study, source: str, seconds: float, command: str) -> str:
    """The Markdown report."""
    answer = answer_of(study)
    runs = [trial for one in with_confirmation(study) for trial in one.trials()]
    facts = [TrialFacts.of(trial) for trial in study.trials()]
    spent = sum(f.epochs or 0 for f in facts)
    full = len(facts) * study.full_epochs
    rows = [
        [
            str(trial.number),
            reason(trial),
            "-" if trial.value is None else f"{trial.value:.4f}",
            " ".join(f"{value:.3f}" for value in TrialFacts.of(trial).folds or ()),
            str(TrialFacts.of(trial).epochs or 0),
        ]
        for trial in study.trials()
    ]
    trained = sum(f.seconds or 0 for f in map(TrialFacts.of, runs))
    return "\n".join(
        [
            heading(f"{IMAGES} images in {FOLDS} folds", command),
            f"{source}, at 32x48, U-Net/resnet18 from scratch, {EPOCHS} epochs a fold. "
            f"{len(facts)} trials of the search and {len(runs) - len(facts)} runs of its "
            f"confirmation took {seconds / 60:.1f} minutes, {trained / 60:.1f} of them in "
            f"training. The search trained {spent} of {full} epochs: stopping of all kinds saved "
            f"{1 - spent / full:.0%}.\n",
            *(f"- {line}" for line in answer.lines),
            "",
            table(["trial", "ended", study.metric, "folds", "epochs"], rows),
            "",
        ]
    )


if __name__ == "__main__":
    main()
