"""An epoch's report: its JSON is read back as it was, and older versions' reports can be read."""

from __future__ import annotations

import json
import math
import pickle
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trainers.report import CurvePoint, Detection, EpochReport, Losses

numbers = st.floats(allow_nan=False)
scores = st.floats(0, 1)


def losses(*parts: str) -> st.SearchStrategy[Losses]:
    return st.builds(Losses, **dict.fromkeys((*parts, "pixel", "total"), numbers))


common: dict[str, st.SearchStrategy[Any]] = {
    "epoch": st.integers(1, 1000),
    "metric": scores,
    "metrics": st.dictionaries(st.sampled_from(["mIoU", "mDice", "CLEval"]), scores),
    "grad_norm": numbers,
    "grad_norm_max": numbers,
    "lr": numbers,
    "loss_weights": st.none() | st.dictionaries(st.sampled_from(["pixel", "dice"]), numbers),
    "images_per_s": numbers,
    "peak_memory_mb": numbers,
    "micro_batch": st.integers(1, 64),
    "seconds": numbers,
}
segmentation = st.builds(
    EpochReport,
    **common,
    per_class=st.lists(scores),
    pixel_accuracy=scores,
    train=losses("region", "share"),
    val=losses("region"),
    binary=st.none() | st.fixed_dictionaries({"threshold": scores, "f1": scores}),
    decode=st.dictionaries(st.just("decode.threshold"), scores),
)
text_detection = st.builds(
    EpochReport,
    **common,
    train=losses("threshold", "dice", "share"),
    val=losses("threshold", "dice"),
    decode=st.dictionaries(st.sampled_from(["decode.thresh", "decode.box_thresh"]), scores),
    detection=st.builds(
        Detection,
        precision=scores,
        recall=scores,
        images_over_max_candidates=st.integers(0, 9),
        curve=st.lists(st.builds(CurvePoint, scores, scores, scores, scores)).map(tuple),
    ),
)
# a report of 0.1, which had no `decode` and, of text detection, no report at all
OLD = {
    "epoch": 2,
    "metric": 0.5,
    "per_class": [0.25, math.nan, 0.75],
    "pixel_accuracy": 0.9,
    "train": {"pixel": 1.0, "region": 2.0, "total": 1.5, "share": 0.5},
    "val": {"pixel": 1.25, "region": 2.25, "total": 1.75},
    "grad_norm": 4.0,
    "grad_norm_max": 9.0,
    "lr": 1e-3,
    "images_per_s": 12.0,
    "peak_memory_mb": 900.0,
    "micro_batch": 8,
    "seconds": 60.0,
}
LOOP = {
    "epoch", "metric", "train", "val", "grad_norm", "grad_norm_max", "lr", "images_per_s",
    "peak_memory_mb", "micro_batch", "seconds",
}  # fmt: skip


@given(segmentation | text_detection)
def test_json_and_a_pipe_give_the_same_report_back(report: EpochReport) -> None:
    assert EpochReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    assert pickle.loads(pickle.dumps(report)) == report


def test_stored_keys_stay_as_they_are() -> None:
    """Stores and checkpoints of other versions are read by these names."""
    many = EpochReport(epoch=1, metric=0.5, per_class=[0.5], pixel_accuracy=0.9)
    assert set(many.to_json()) == LOOP | {"per_class", "pixel_accuracy"}
    binary = {"threshold": 0.5, "precision": 0.1, "recall": 0.2, "f1": 0.3}
    one = EpochReport(epoch=1, metric=0.5, per_class=[0.5], pixel_accuracy=0.9, binary=binary)
    assert set(one.to_json()) == LOOP | {"per_class", "pixel_accuracy", "binary", "decode"}
    points = (CurvePoint(0.6, 0.1, 0.2, 0.3),)
    found = Detection(precision=0.1, recall=0.2, images_over_max_candidates=1, curve=points)
    text = EpochReport(epoch=1, metric=0.5, detection=found).to_json()
    assert set(text) == LOOP | {"decode", "detection"}
    assert text["detection"] == {
        "precision": 0.1,
        "recall": 0.2,
        "images_over_max_candidates": 1,
        "curve": [[0.6, 0.1, 0.2, 0.3]],
    }
    beside = EpochReport(epoch=1, metric=0.5, metrics={"IoU": 0.5, "F1": 0.6}).to_json()
    assert set(beside) == LOOP | {"metrics"} and beside["metrics"] == {"IoU": 0.5, "F1": 0.6}
    parts = Losses(pixel=1.0, threshold=2.0, dice=3.0, total=4.0, share=0.5).parts()
    assert list(parts) == ["pixel", "threshold", "dice", "total", "share"]


def test_an_old_report_is_read_and_written_as_it_was() -> None:
    text = json.dumps(OLD)
    report = EpochReport.from_json(json.loads(text))
    assert report.per_class is not None and math.isnan(report.per_class[1])
    assert (report.decode, report.detection, report.val.dice) == ({}, None, None)
    assert json.dumps(report.to_json(), sort_keys=True) == json.dumps(OLD, sort_keys=True)


def test_a_report_of_another_version_may_lack_keys_or_have_more() -> None:
    stored = {"epoch": 3, "metric": 0.5, "mood": "good", "val": {"total": 1.0, "edge": 2.0}}
    report = EpochReport.from_json(stored)
    assert report.val.total == 1.0 and report.val.parts().keys() == {"pixel", "total"}
    assert (report.seconds, report.micro_batch) == (0.0, 0)
    assert math.isnan(report.lr) and math.isnan(report.train.total)
