"""Whole runs: resumed, out of memory, sick, patient, binary; all on the CPU in seconds."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from spaces.config import SegmentationConfig
from spaces.data import SegmentationDataSpec
from spaces.errors import InputError
from spaces.space import Free
from tests.blobs import write_blobs
from trainers import health, image_counts
from trainers import train as train_module
from trainers.checkpoint import LAST, load_model
from trainers.data import SegmentationData
from trainers.durable import read_json, write_json
from trainers.image_counts import ImageCounts
from trainers.report import Scores
from trainers.tasks import evaluate, load_data, make_task, score_model
from trainers.train import TrialResult, train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def small(**changes: Any) -> SegmentationConfig:
    """A config that trains in a second, in fp32."""
    settings = {
        "model.encoder": "resnet18",
        "model.encoder_weights": None,
        "data.resolution": "32x32",
        "train.epochs": 3,
        "train.batch_size": 4,
        "train.precision": "fp32",
        "train.patience": 0,
        "optim.encoder_lr_ratio": 1.0,
        "loss.warmup_epochs": 1,
        "loss.ramp_epochs": 1,
        "health.grad_norm": 0,
    }
    return SegmentationConfig().replace({**settings, **changes})


def run(data: SegmentationData, workdir: Path, **changes: Any) -> TrialResult:
    return train(small(**changes), data, workdir, lambda report: None)


def curve(result: TrialResult) -> list[tuple[float, float, float]]:
    return [(r.train.total, r.metric, r.grad_norm) for r in result.history]


@pytest.mark.parametrize(
    "changes",
    [
        {"data.augment": "strong", "data.photometric": "strong", "loss.weighting": "uncertainty"},
        {
            "loss.normalize": "ema",
            "loss.weighting": "gradnorm",
            "optim.name": "sgd",
            "optim.lr": 0.01,
            "train.ema": 0.2,
            "train.micro_batch": 3,
        },
    ],
)
@pytest.mark.parametrize(("word", "steps"), [("preempted", 1), ("preempted", 4), ("paused", 2)])
def test_a_resumed_run_is_the_uninterrupted_one(
    word: str, changes: dict[str, Any], steps: int, data: SegmentationData, tmp_path: Path
) -> None:
    """Stopped in the first epoch (nothing saved yet), in the third, and where the last epoch is
    the best one: then the weights of a paused trial are there once."""
    whole = run(data, tmp_path / "whole", **changes)
    taken = 0

    def stop() -> str | None:
        nonlocal taken
        taken += 1
        return word if taken > steps else None

    part = train(small(**changes), data, tmp_path / "part", lambda report: None, stop)
    assert part.reason == word
    assert len(part.history) == steps // 2  # two steps an epoch: 4, and 4 with the odd one
    states = [path.name for path in (tmp_path / "part").glob("state-*")]
    assert states == (["state-1-shared.pt"] if word == "paused" else ["state-2.pt"][: steps // 2])
    reports: list[int] = []
    repeated: list[int] = []
    resumed = train(
        small(**changes),
        data,
        tmp_path / "part",
        lambda report: reports.append(report.epoch),
        on_resumed=lambda: repeated.extend(reports),
    )
    assert reports == [1, 2, 3] and repeated == reports[: len(part.history)]
    assert curve(resumed) == curve(whole)
    weights = [report.loss_weights for report in whole.history]
    assert weights == [report.loss_weights for report in resumed.history]
    assert weights[0] == pytest.approx({"pixel": 0.6, "region": 0.4})  # the warm-up's
    assert weights[1] != weights[0] and weights[2] != weights[1]
    assert resumed.model is not None and whole.model is not None
    one, other = load_model(resumed.model).state_dict(), load_model(whole.model).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_finished_run_is_not_trained_again(data: SegmentationData, tmp_path: Path) -> None:
    """A result that was lost between training and telling costs nothing to get again."""
    first = run(data, tmp_path)
    again = train(small(), data, tmp_path, lambda report: None, lambda: pytest.fail("a step"))
    assert (again.reason, again.value) == (first.reason, first.value)


def test_golden_curve(data: SegmentationData, tmp_path: Path) -> None:
    """Loss and gradient norm of the first epochs; a change here is a change of the method."""
    result = run(data, tmp_path, **{"data.augment": "none", "train.epochs": 2})
    losses = [report.train.pixel for report in result.history]
    assert losses[0] == pytest.approx(2.2524, rel=2e-3)
    assert losses[1] == pytest.approx(1.83, rel=2e-2)  # rounding has grown by then


def test_reports_hold_what_people_watch(data: SegmentationData, tmp_path: Path) -> None:
    result = run(data, tmp_path, **{"train.epochs": 1})
    report = json.loads(json.dumps(result.history[0].to_json()))
    assert set(report) == {
        "epoch", "metric", "metrics", "per_class", "pixel_accuracy", "train", "val", "grad_norm",
        "grad_norm_max", "lr", "images_per_s", "peak_memory_mb", "micro_batch", "seconds",
    }  # fmt: skip
    assert set(report["train"]) == {"total", "pixel", "region", "share"}
    assert set(report["val"]) == {"total", "pixel", "region"}
    assert len(report["per_class"]) == 8
    assert result.value == report["metric"] == pytest.approx(np.nanmean(report["per_class"]))
    assert set(report["metrics"]) == {"mIoU", "mDice"}
    assert report["metrics"]["mIoU"] == report["metric"] < report["metrics"]["mDice"]


class Crowded:
    """Raises out-of-memory for more than `room` images at once, in training only."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.sizes: list[int] = []

    def __call__(self, model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        if model.training:
            self.sizes.append(len(images))
            if len(images) > self.room:
                raise torch.OutOfMemoryError("no room")
        logits: torch.Tensor = model(images)
        return logits


def test_out_of_memory_halves_the_micro_batch_of_its_trial(
    data: SegmentationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowded = Crowded(room=2)
    monkeypatch.setattr("trainers.segmentation.forward", crowded)
    changes = {"train.epochs": 1, "data.resolution": "64x64"}
    result = run(data, tmp_path / "first", **changes)
    assert result.reason in ("completed", "health:trivial")
    assert result.hardware["micro_batch"] == 2
    assert max(crowded.sizes) == 4 and max(crowded.sizes[1:]) <= 2  # one failure, one retry
    crowded.sizes.clear()
    given = run(data, tmp_path / "second", **{**changes, "train.micro_batch": 2})
    assert max(crowded.sizes) == 2
    crowded.room = 5  # a neighbour has left: the next trial tries the whole batch
    assert run(data, tmp_path / "third", **changes).hardware["micro_batch"] == 4
    assert curve(result) == curve(given)  # the failed step was taken again, from the same state


def test_out_of_memory_with_a_single_image_is_oom(
    data: SegmentationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainers.segmentation.forward", Crowded(room=0))
    result = run(data, tmp_path)
    assert (result.reason, result.value, result.model) == ("oom", None, None)


def test_validation_survives_out_of_memory(
    data: SegmentationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run(data, tmp_path / "plain", **{"train.epochs": 1})
    sizes: list[int] = []

    def crowded(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        if not model.training:
            sizes.append(len(images))
            if len(images) > 1:
                raise torch.OutOfMemoryError("no room")
        logits: torch.Tensor = model(images)
        return logits

    monkeypatch.setattr("trainers.segmentation.forward", crowded)
    result = run(data, tmp_path / "crowded", **{"train.epochs": 1})
    assert sizes == [4, 2, 1, 1, 1, 1]
    assert result.value == pytest.approx(plain.value, abs=1e-6)


def test_a_loss_that_turns_nan_ends_the_run_and_keeps_the_best(
    data: SegmentationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = train_module.TrainingRun.train_epoch

    def poisoned(self: Any, should_stop: Any) -> Any:
        if self.epoch == 1:
            next(self.model.parameters()).data.fill_(float("nan"))
        return original(self, should_stop)

    monkeypatch.setattr(train_module.TrainingRun, "train_epoch", poisoned)
    result = run(data, tmp_path)
    assert (result.reason, result.best_epoch, len(result.history)) == ("nonfinite", 1, 1)
    assert result.model is not None and result.model.is_dir()


def test_an_alarm_is_a_reason(data: SegmentationData, tmp_path: Path) -> None:
    result = run(data, tmp_path, **{"health.grad_norm": 1e-3})
    assert (result.reason, len(result.history)) == ("health:exploding", 1)


def test_patience_ends_a_run(data: SegmentationData, tmp_path: Path) -> None:
    frozen = {"optim.lr": 1e-12, "train.patience": 2, "train.epochs": 30, "optim.clip_norm": 1e-6}
    result = run(data, tmp_path, **frozen)
    settled = small().settled_epoch
    assert result.reason == "patience"
    assert len(result.history) - 1 - max((result.best_epoch or 0) - 1, settled) == 2


def test_another_config_in_the_folder_is_refused(data: SegmentationData, tmp_path: Path) -> None:
    run(data, tmp_path, **{"train.epochs": 1})
    with pytest.raises(InputError, match="checkpoint of another config"):
        run(data, tmp_path, **{"train.epochs": 2})


def test_a_checkpoint_of_an_older_version_is_taken_up(
    data: SegmentationData, tmp_path: Path
) -> None:
    """It does not know settings that have come since; what it does know must be the same."""
    stopped: list[str | None] = [None]

    def until_first(report: dict[str, Any]) -> None:
        stopped[0] = "preempted"

    config = small(**{"train.epochs": 2})
    train(config, data, tmp_path, until_first, should_stop=lambda: stopped[0])
    last = tmp_path / LAST
    state = json.loads(last.read_text())
    assert state["config"]["train"].pop("compile") is False
    assert state["config"]["train"].pop("ema") is None
    del state["files"], state["sha256"]
    last.write_text(json.dumps(state))
    reports: list[int] = []
    train(config, data, tmp_path, lambda report: reports.append(report.epoch))
    assert reports == [1, 2]


def flip(path: Path) -> None:
    """A bit in the middle that fell over on disk."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def edit(path: Path) -> None:
    path.write_text(path.read_text().replace('"epoch": 1', '"epoch": 2'))


def other_names(path: Path) -> None:
    """What somebody writes who writes a SHA-256 that fits."""
    facts = read_json(path)
    facts["files"]["../../../etc/hostname"] = "0" * 64
    write_json(path, facts)


def other_epochs(path: Path) -> None:
    facts = read_json(path)
    facts["history"][0]["epoch"] = "1/../../../home"
    write_json(path, facts)


def test_a_damaged_checkpoint_is_said_and_the_run_begins_anew(
    data: SegmentationData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left = iter(range(3))
    config, whole = small(**{"train.epochs": 2}), tmp_path / "whole"
    train(
        config,
        data,
        whole,
        lambda report: None,
        lambda: None if next(left, None) is not None else "preempted",
    )
    damages = [
        ("state-1.pt", flip),
        ("state-1.pt", cut),
        ("state-1.pt", Path.unlink),
        ("model-1/model.safetensors", flip),
        ("model-1/config.json", cut),
        ("model-1/images.npz", Path.unlink),
        ("last.json", cut),
        ("last.json", edit),
        ("last.json", other_names),
        ("last.json", other_epochs),
    ]
    for number, (name, damage) in enumerate(damages):
        workdir = shutil.copytree(whole, tmp_path / str(number))
        assert train_module.TrainingRun(config, data, workdir, {}).epoch == 1
        assert "begins anew" not in capsys.readouterr().out
        damage(workdir / name)
        assert train_module.TrainingRun(config, data, workdir, {}).epoch == 0
        said = capsys.readouterr().out
        assert f"{workdir / name} " in said and "; this run begins anew" in said, said
        assert not list(workdir.glob("state-*")) and not (workdir / LAST).exists()
    reports: list[int] = []
    train(config, data, workdir, lambda report: reports.append(report.epoch))
    assert reports == [1, 2]


def test_pooled_batch_norm_needs_two_images(data: SegmentationData, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="DeepLabV3Plus needs at least 2 images at once"):
        run(data, tmp_path, **{"model.arch": "DeepLabV3Plus", "train.batch_size": 1})


def test_a_last_image_that_would_be_alone_joins_its_neighbours(
    data: SegmentationData, tmp_path: Path
) -> None:
    """9 images in batches of 4 are 4 + 5, which DeepLabV3Plus can train on."""
    result = run(data, tmp_path, **{"model.arch": "DeepLabV3Plus", "train.epochs": 1})
    assert result.reason in ("completed", "health:trivial")


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> SegmentationDataSpec:
    """A binary data set: dark blobs on light ground."""
    folder = tmp_path_factory.mktemp("blobs")
    write_blobs(folder, train=8, val=4)
    splits = {
        split: {"images": f"{folder}/{split}/images", "masks": f"{folder}/{split}/masks"}
        for split in ("train", "val")
    }
    return SegmentationDataSpec.model_validate({**splits, "classes": ["blob"]})


def test_a_free_threshold_is_chosen_inside_the_run(
    blobs: SegmentationDataSpec, tmp_path: Path
) -> None:
    data = load_data(blobs)
    config = small(**{"loss.pixel": "bce", "optim.lr": 3e-3, "train.epochs": 4})
    free = {"decode.threshold": Free(0.05, 0.95, 0.05)}
    result = train(config, data, tmp_path / "run", lambda report: None, free=free)
    threshold = result.decode["decode.threshold"]
    best = result.history[(result.best_epoch or 0) - 1]
    assert best.binary is not None and best.binary["threshold"] == threshold
    assert result.model is not None and result.value is not None
    # evaluated on its own, each threshold of the grid scores at most the chosen one
    scores = {}
    for other in (0.05, 0.5, 0.95, threshold):
        fixed = config.replace({"decode.threshold": other})
        found = evaluate(result.model, fixed, data, "val", tmp_path / "pictures")
        scores[other] = found.scores.metric
    assert scores[threshold] == pytest.approx(result.value, abs=1e-6)
    assert max(scores.values()) == scores[threshold]


def test_images_of_many_sizes_are_counted_in_the_order_of_the_split(tmp_path: Path) -> None:
    for name in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / name / kind).mkdir(parents=True)
        for index, size in enumerate([(40, 32), (32, 40), (40, 32), (32, 40)]):
            noise = np.random.default_rng(index + 9 * (name == "val"))
            image = noise.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / name / "images" / f"{index}.png")
            mask = noise.integers(0, 3, size, dtype=np.uint8)
            Image.fromarray(mask).save(tmp_path / name / "masks" / f"{index}.png")
    splits = {
        split: {"images": f"{tmp_path}/{split}/images", "masks": f"{tmp_path}/{split}/masks"}
        for split in ("train", "val")
    }
    spec = SegmentationDataSpec.model_validate({**splits, "classes": ["a", "b", "c"]})
    data = load_data(spec)
    assert isinstance(data, SegmentationData)
    task = make_task(small(), data, torch.device("cpu"), "fp32", {})
    counts = task.validate(task.build_model()).images.counts
    for sample, own in zip(data.split("val"), counts, strict=True):
        mask = np.asarray(Image.open(sample.mask))
        assert own[:, 1].tolist() == np.bincount(mask.ravel(), minlength=3).tolist()


def test_evaluation_repeats_the_runs_value_and_draws(
    data: SegmentationData, tmp_path: Path
) -> None:
    changes = {"data.resolution": "40x56", "train.ema": 0.3}  # padded to 64 x 64; averaged
    result = run(data, tmp_path / "run", **changes)
    assert result.model is not None and result.value is not None
    assert result.reason == "completed" and result.value > (result.trivial_score or 1)
    config = small(**changes)
    found = evaluate(result.model, config, data, "val", tmp_path / "pictures")
    assert found.scores.metric == pytest.approx(result.value, abs=1e-7)
    counts = ImageCounts.from_bytes((result.model / image_counts.FILE).read_bytes()).counts
    assert len(counts) == len(data.split("val"))
    score = image_counts.score_of(config.metric, data.spec)
    assert score(counts.sum(0)) == pytest.approx(result.value, abs=1e-7)
    alone = score_model(result.model, config, data, "val")
    assert alone.scores.metric == found.scores.metric
    assert (alone.images.counts == counts).all() and (found.images.counts == counts).all()
    assert [path.name[:7] for path in found.pictures] == [
        "best-1-",
        "best-2-",
        "worst-1",
        "worst-2",
    ]
    for path in found.pictures:
        with Image.open(path) as picture:
            assert picture.size[0] > 3 * 48


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "health:trivial"),
        ({"train.patience": 1, "train.epochs": 9, "loss.warmup_epochs": 0}, "health:trivial"),
        ({"health.trivial": 0}, "completed"),
        ({"decode.threshold": 0.999}, "health:trivial"),  # nothing found is below all foreground
    ],
)
def test_a_run_that_ends_no_better_than_a_constant_answer_is_trivial(
    changes: dict[str, Any], reason: str, blobs: SegmentationDataSpec, tmp_path: Path
) -> None:
    """At this threshold everything is foreground, whatever the network says."""
    everything = {"loss.pixel": "bce", "optim.lr": 1e-6, "decode.threshold": 1e-4}
    everything["train.epochs"] = 1
    config = small(**everything | changes)
    result = train(config, load_data(blobs), tmp_path, lambda report: None)
    assert result.reason == reason
    assert result.value is not None and result.trivial_score == pytest.approx(14 * 16 / (40 * 48))
    assert result.value <= result.trivial_score + 1e-9


@pytest.mark.parametrize("metric", [{"name": "dice"}, {"name": "boundary_iou"}])
def test_a_sweep_finds_the_best_threshold_of_the_chosen_metric(
    metric: dict[str, Any], blobs: SegmentationDataSpec, tmp_path: Path
) -> None:
    data = load_data(blobs)
    assert isinstance(data, SegmentationData)
    chosen = {f"metric.{key}": value for key, value in metric.items()}
    config = small(**{"loss.pixel": "bce", "optim.lr": 3e-3, "train.epochs": 2, **chosen})
    free = {"decode.threshold": Free(0.05, 0.95, 0.05)}
    result = train(config, data, tmp_path / "run", lambda report: None, free=free)
    assert result.model is not None and result.value is not None
    scores = {}
    for threshold in (0.2, 0.5, 0.8, result.decode["decode.threshold"]):
        fixed = config.replace({"decode.threshold": threshold})
        found = evaluate(result.model, fixed, data, "val", tmp_path / "pictures")
        scores[threshold] = found.scores.metric
    assert scores[result.decode["decode.threshold"]] == pytest.approx(result.value, abs=1e-6)
    assert max(scores.values()) == pytest.approx(result.value, abs=1e-6)
    names = {"IoU", "F1"} | ({"boundary IoU"} if metric["name"] == "boundary_iou" else set())
    assert set(result.history[-1].metrics) == names
    counts = ImageCounts.from_bytes((result.model / image_counts.FILE).read_bytes()).counts
    score = image_counts.score_of(config.metric, data.spec)
    assert score(counts.sum(0)) == pytest.approx(result.value, abs=1e-6)


def test_a_class_without_train_pixels_is_never_dead(data: SegmentationData) -> None:
    poor = replace(data, counts=[0, *data.counts[1:]])
    task = make_task(small(), poor, torch.device("cpu"), "fp32", {})
    view = task.dead_class_view(Scores(metric=0.0, per_class=[0.0] * data.classes))
    assert view[0] != view[0] and view[1:] == [0.0] * (data.classes - 1)
    alive = [1.0 if iou == 0 else iou for iou in view]
    vitals = health.Vitals(0.0, 1.0, 1.0, 1.0, alive)
    assert health.alarm([vitals] * 40, small().health, 0) is None
