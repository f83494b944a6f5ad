"""Crops in training, and windows in validation and prediction: one rule from end to end."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from spaces.config import SegmentationConfig
from spaces.data import SegmentationDataSpec
from spaces.paths import MODEL
from spaces.run_config import dump_run_config
from spaces.space import Free
from tests.blobs import write_blobs
from trainers import cache, predict, segmentation
from trainers.cache import load_arrays
from trainers.crops import Cropper, draw_crops
from trainers.data import SegmentationData
from trainers.masks import decode_mask
from trainers.metrics import ClassCounts
from trainers.predict import Predictor
from trainers.samples import Loaded, ResidentImages, open_samples
from trainers.tasks import evaluate, load_data, make_task, score_model
from trainers.train import train
from trainers.windows import scaled_size

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

CPU = torch.device("cpu")


def crops(**changes: Any) -> SegmentationConfig:
    settings = {
        "model.encoder": "resnet18",
        "model.encoder_weights": None,
        "data.mode": "crop",
        "data.resolution": "32x32",
        "train.epochs": 2,
        "train.batch_size": 4,
        "train.precision": "fp32",
        "train.patience": 0,
        "loss.warmup_epochs": 0,
        "loss.ramp_epochs": 0,
        "health.grad_norm": 0,
    }
    return SegmentationConfig().replace({**settings, **changes})


@pytest.fixture
def mixed(streets: Any, tmp_path: Path) -> SegmentationData:
    """Images of three sizes in both splits, some smaller than a window."""
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            to = tmp_path / "mixed" / split / kind
            to.mkdir(parents=True)
            for index, path in enumerate(
                sorted(Path(getattr(getattr(streets, split), kind)).iterdir())
            ):
                size = [(48, 40), (24, 90), (70, 28)][index % 3]
                method = Image.Resampling.NEAREST
                Image.open(path).resize(size, method).save(to / path.name)
    spec = streets.model_dump()
    for split in ("train", "val"):
        spec[split]["images"] = str(tmp_path / "mixed" / split / "images")
        spec[split]["masks"] = str(tmp_path / "mixed" / split / "masks")
    return load_data(type(streets).model_validate(spec))


def test_the_cache_holds_images_at_their_scale(mixed: SegmentationData) -> None:
    for split in ("train", "val"):
        arrays = load_arrays(mixed, split, 0.5)
        assert arrays is not None
        for index, sample in enumerate(mixed.split(split)):
            image, mask, original = cache.decode(sample, mixed.spec, 0.5)
            assert image.shape[:2] == scaled_size(original.shape, 0.5)
            assert np.array_equal(arrays.images[index], image)
            assert np.array_equal(arrays.masks[index], mask)
            if split == "val":
                assert np.array_equal(arrays.originals[index], original)
        assert bool(arrays.originals) == (split == "val")


@pytest.mark.parametrize("how", ["random", "balanced"])
def test_a_crop_is_the_same_wherever_pixels_come_from(
    how: str, mixed: SegmentationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = crops(**{"data.crops": how, "data.scale": 0.75, "train.workers": 0})
    order = [3, 1, 4, 0, 8]
    drawn = draw_crops(config.train.seed, 2, order)
    assert draw_crops(config.train.seed, 2, order[::-1])[0] == drawn[-1]  # in whatever batches
    opened = [open_samples(mixed, "train", config.data, config.train, CPU)]
    arrays = load_arrays(mixed, "train", 0.75)
    assert arrays is not None
    monkeypatch.setenv("SEGTUNE_CACHE_BYTES", "0")
    unkept = replace(mixed, fingerprint="another")
    opened.append(open_samples(unkept, "train", config.data, config.train, CPU))
    workers = config.train.model_copy(update={"workers": 1})
    opened.append(open_samples(unkept, "train", config.data, workers, CPU))
    assert [type(one) for one in opened] == [ResidentImages, Loaded, Loaded]
    first, *others = [list(one.batches([drawn[:2], drawn[2:]])) for one in opened]
    assert [batch.images.shape for batch in first] == [(2, 3, 32, 32), (3, 3, 32, 32)]
    for other in others:
        for one, same in zip(first, other, strict=True):
            assert torch.equal(one.images, same.images) and torch.equal(one.masks, same.masks)
    again = next(iter(opened[0].batches([draw_crops(config.train.seed, 3, order)[:2]])))
    assert not torch.equal(again.images, first[0].images)


def test_random_crops_are_everywhere_and_balanced_ones_at_every_class() -> None:
    mask = np.zeros((60, 90), np.uint8)
    mask[5, 5:8] = 1  # 3 pixels of 5400
    mask[50:, :] = 255
    mask[30:34, 60:64] = 2

    def places(how: Any) -> list[tuple[int, int]]:
        cropper = Cropper((20, 30), how)
        return [cropper.place(draw_crops(0, epoch, [0])[0], mask) for epoch in range(2000)]

    def share(found: list[tuple[int, int]], label: int) -> float:
        return float(np.mean([(mask[y : y + 20, x : x + 30] == label).any() for y, x in found]))

    random, balanced = places("random"), places("balanced")
    assert {top for top, _ in random} == set(range(41)) == {top for top, _ in balanced} | {39, 40}
    assert {left for _, left in random} == set(range(61))
    assert share(random, 1) < 0.1 and share(balanced, 1) > 1 / 3 - 0.03
    assert share(balanced, 2) > 1 / 3 - 0.03
    at = Counter(top for top, left in balanced if (mask[top:, left:][:20, :30] == 1).any())
    assert len(at) == 6  # the pixel may lie anywhere in its window
    void = np.full((60, 90), 255, np.uint8)
    assert Cropper((20, 30), "balanced").place(draw_crops(0, 0, [0])[0], void) == Cropper(
        (20, 30), "random"
    ).place(draw_crops(0, 0, [0])[0], void)


@pytest.fixture
def exported(mixed: SegmentationData, tmp_path: Path) -> tuple[Path, SegmentationConfig]:
    """A network that has been trained for two epochs, on random crops at three quarters."""
    config = crops(**{"data.scale": 0.75})
    result = train(config, mixed, tmp_path / "run", lambda report: None)
    folder = tmp_path / "best"
    folder.mkdir()
    (folder / "config.yaml").write_text(dump_run_config(mixed.spec, config))
    assert result.model is not None
    result.model.rename(folder / MODEL)
    assert result.history[1].val.total == pytest.approx(
        score_model(folder / MODEL, config, mixed, "val").losses.total, abs=1e-5
    )
    return folder, config


def test_validate_evaluate_and_predict_agree(
    exported: tuple[Path, SegmentationConfig],
    mixed: SegmentationData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, config = exported
    scored = score_model(folder / MODEL, config, mixed, "val").scores
    found = evaluate(folder / MODEL, config, mixed, "val", tmp_path / "pictures")
    assert found.scores.metric == scored.metric > 0
    samples = mixed.split("val")
    predictor = Predictor(folder)
    masks = predictor.predict([sample.image for sample in samples])
    counter = ClassCounts(mixed.classes, CPU)
    for sample, mask in zip(samples, masks, strict=True):
        truth = torch.from_numpy(decode_mask(sample.mask, mixed.spec))
        counter.update(torch.from_numpy(np.asarray(mask))[None], truth[None])
    task: Any = make_task(config, mixed, CPU, "fp32", {})
    assert task.score(counter.images().numpy().sum(0)) == pytest.approx(scored.metric, abs=1e-6)
    arrays = [np.asarray(Image.open(sample.image)) for sample in samples]  # not writable
    unscaled = Predictor(folder, config.replace({"data.scale": 1.0}))
    for one, two in zip(
        unscaled.predict(arrays), unscaled.predict([s.image for s in samples]), strict=True
    ):
        assert np.array_equal(one, two)
    prepared = [predictor.prepare(sample.image) for sample in samples]
    for one, mask in zip(predictor.run(prepared, probabilities=True), masks, strict=True):
        assert one.probabilities is not None and np.array_equal(one.prediction, mask)
        assert one.probabilities.shape == (mixed.classes, *mask.shape)
        assert (one.probabilities.argmax(0) == mask).mean() > 0.95  # ties of float16

    real, sizes = segmentation.network_logits, []

    def full(model: Any, pixels: torch.Tensor, *others: Any) -> torch.Tensor:
        sizes.append(len(pixels))
        if len(pixels) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, pixels, *others)

    monkeypatch.setattr(segmentation, "network_logits", full)
    monkeypatch.setattr(predict, "network_logits", full)
    assert score_model(folder / MODEL, config, mixed, "val").scores.metric == pytest.approx(
        scored.metric, abs=1e-4
    )
    less = predictor.predict([sample.image for sample in samples])
    assert sizes[-1] == 1 and all(
        (one == other).mean() > 0.999 for one, other in zip(less, masks, strict=True)
    )


def test_a_resumed_run_sees_the_same_crops(mixed: SegmentationData, tmp_path: Path) -> None:
    config = crops(**{"data.crops": "balanced", "data.augment": "strong"})
    whole = train(config, mixed, tmp_path / "whole", lambda report: None)
    taken = 0

    def stop() -> str | None:
        nonlocal taken
        taken += 1
        return "preempted" if taken > 2 else None

    part = train(config, mixed, tmp_path / "part", lambda report: None, stop)
    assert part.reason == "preempted"
    resumed = train(config, mixed, tmp_path / "part", lambda report: None)
    assert [r.train.total for r in resumed.history] == [r.train.total for r in whole.history]
    assert resumed.value == whole.value


def test_a_binary_task_finds_its_threshold_over_windows(tmp_path: Path) -> None:
    write_blobs(tmp_path, train=4, val=3)
    splits = {
        split: {"images": f"{tmp_path}/{split}/images", "masks": f"{tmp_path}/{split}/masks"}
        for split in ("train", "val")
    }
    data: Any = load_data(SegmentationDataSpec.model_validate({**splits, "classes": ["blob"]}))
    config = crops(**{"loss.pixel": "bce", "metric.name": "boundary_iou"})
    free = {"decode.threshold": Free(0.1, 0.9, 0.1)}
    task: Any = make_task(config, data, CPU, "fp32", free)
    torch.manual_seed(0)
    model = task.build_model()
    found = task.validate(model).scores
    threshold = found.binary["threshold"]
    assert found.decode == {"decode.threshold": threshold}
    fixed = config.replace({"decode.threshold": threshold})
    same = make_task(fixed, data, CPU, "fp32", {}).validate(model).scores
    assert same.metric == found.metric > 0


def test_one_window_over_all_is_the_image_itself(data: SegmentationData) -> None:
    """At scale 1 and a resolution of the images' own size both modes are the same network input."""
    scores = []
    for mode in ("resize", "crop"):
        config = crops(**{"data.mode": mode, "data.resolution": "40x48"})
        task: Any = make_task(config, data, CPU, "fp32", {})
        torch.manual_seed(0)
        model = task.build_model()
        scores.append(task.validate(model))
    assert scores[0].scores.metric == pytest.approx(scores[1].scores.metric, abs=1e-6)
    assert scores[0].losses.pixel == pytest.approx(scores[1].losses.pixel, rel=1e-4)
