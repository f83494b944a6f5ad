"""What an epoch's report becomes in trackers, and that their table, key and extras agree."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from search.work.trackers import TRACKERS, flatten
from spaces.spec import StudySpec
from trainers.report import CurvePoint, Detection, EpochReport, Losses

ROOT = Path(__file__).resolve().parents[3]

REPORT = EpochReport(
    epoch=3,
    metric=0.5,
    per_class=[0.25, 0.75],
    pixel_accuracy=0.9,
    train=Losses(total=1.5, pixel=1.0, region=2.0, share=0.5),
    val=Losses(total=1.75, pixel=1.25, region=2.25),
    grad_norm=4.0,
    grad_norm_max=5.0,
    lr=1e-3,
    images_per_s=12.0,
    peak_memory_mb=900.0,
    micro_batch=8,
    seconds=60.0,
)
COMMON = {
    "train/total": 1.5,
    "train/pixel": 1.0,
    "train/region": 2.0,
    "train/share": 0.5,
    "val/total": 1.75,
    "val/pixel": 1.25,
    "val/region": 2.25,
    "grad_norm": 4.0,
    "grad_norm_max": 5.0,
    "lr": 1e-3,
    "images_per_s": 12.0,
    "peak_memory_mb": 900.0,
    "micro_batch": 8.0,
    "seconds": 60.0,
}


def spec(classes: list[str], **more: Any) -> StudySpec:
    split = {"list": "never read"}
    data = {"train": split, "val": split, "classes": classes}
    return StudySpec.of({"name": "x", "task": "segmentation", "data": data, **more})


def test_classes_have_their_names() -> None:
    found = flatten(REPORT, spec(["sky", "road"]))
    scores = {"mIoU": 0.5, "IoU/sky": 0.25, "IoU/road": 0.75, "pixel_accuracy": 0.9}
    assert found == COMMON | scores
    assert all(type(value) is float for value in found.values())


def test_metrics_beside_the_chosen_one_have_their_names_too() -> None:
    report = replace(REPORT, metrics={"mIoU": 0.4, "mDice": 0.6}, per_class=None)
    chosen = spec(["sky", "road"], metric="dice")
    assert flatten(report, chosen) == COMMON | {"mIoU": 0.4, "mDice": 0.5, "pixel_accuracy": 0.9}


def test_a_class_that_val_lacks_has_no_entry() -> None:
    found = flatten(replace(REPORT, per_class=[float("nan"), 0.75]), spec(["sky", "road"]))
    assert found == COMMON | {"mIoU": 0.5, "IoU/road": 0.75, "pixel_accuracy": 0.9}


def test_a_binary_task_has_a_background_and_a_threshold() -> None:
    binary = {"threshold": 0.4, "precision": 0.6, "recall": 0.8, "f1": 0.7}
    report = replace(REPORT, binary=binary, decode={"decode.threshold": 0.4})
    assert flatten(report, spec(["crack"])) == COMMON | {
        "IoU": 0.5,
        "IoU/background": 0.25,
        "IoU/crack": 0.75,
        "pixel_accuracy": 0.9,
        "binary/threshold": 0.4,
        "binary/precision": 0.6,
        "binary/recall": 0.8,
        "binary/f1": 0.7,
        "decode.threshold": 0.4,
    }


def test_text_detection_has_precision_and_recall() -> None:
    split = {"images": "never", "labels": "read"}
    text = {"name": "x", "task": "text_detection", "data": {"train": split, "val": split}}
    detection = Detection(precision=0.6, recall=0.4, curve=(CurvePoint(0.1, 0.6, 0.4, 0.48),))
    report = replace(
        REPORT,
        detection=detection,
        decode={"decode.box_thresh": 0.6},
        loss_weights={"pixel": 4.0},
        per_class=None,
        pixel_accuracy=None,
    )
    assert flatten(report, StudySpec.of(text)) == COMMON | {
        "Hmean": 0.5,
        "detection/precision": 0.6,
        "detection/recall": 0.4,
        "detection/images_over_max_candidates": 0.0,
        "decode.box_thresh": 0.6,
        "loss_weights/pixel": 4.0,
    }


def test_each_tracker_has_its_name_in_the_study_file_and_an_extra() -> None:
    annotation: Any = StudySpec.model_fields["trackers"].annotation
    assert set(get_args(get_args(annotation)[0])) == set(TRACKERS)
    with open(ROOT / "pyproject.toml", "rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    assert set(TRACKERS) <= set(extras)
