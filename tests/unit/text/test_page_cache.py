"""Decoded pages: kept once, the same pixels with and without room for them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spaces.errors import InputError
from spaces.paths import cache_dir
from spaces.text_detection import TextDetectionConfig
from tests.unit.text.conftest import spec_of
from trainers.page_cache import load_pages
from trainers.text_augment import resize_page
from trainers.text_data import TextData, load_text_data
from trainers.text_detection import TextDetectionTask

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.mark.parametrize("longest", [144, 288, 600])
def test_pages_are_the_images_shrunk_and_never_enlarged(longest: int, receipts: TextData) -> None:
    pages = load_pages(receipts, "train", longest)
    assert pages.entry is not None
    for index, sample in enumerate(receipts.split("train")):
        image = receipts.image(sample)
        page, scale = pages.page(index)
        if longest >= 288:
            assert np.array_equal(page, image) and scale == (1.0, 1.0)
        else:
            expected, expected_scale = resize_page(image, longest)
            assert np.array_equal(page, expected) and scale == expected_scale


def test_pages_are_decoded_once_for_all_trials(
    receipts: TextData, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "val"):
        load_pages(receipts, split, 200)
    monkeypatch.setattr(TextData, "image", lambda *args: pytest.fail("a page was decoded"))
    for split in ("train", "val"):
        pages = load_pages(receipts, split, 200)
        assert isinstance(pages.page(0)[0], np.memmap)  # shared through the page cache
        assert all(max(pages.page(i)[0].shape) == 200 for i in range(len(receipts.split(split))))


@pytest.mark.parametrize("strength", ["none", "light", "medium", "strong"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_split_without_room_streams_the_same_batches(
    strength: str,
    workers: int,
    receipts: TextData,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = config_of(
        **{"data.augment": strength, "data.photometric": strength, "train.workers": workers}
    )
    cached = list(task_of(config, receipts).batches(1))
    assert (cache_dir() / "pages").is_dir() and not caplog.text
    shutil.rmtree(cache_dir() / "pages")
    monkeypatch.setenv("SEGTUNE_CACHE_BYTES", "10")
    task = task_of(config, receipts)
    for (images, target), (others, truth) in zip(cached, task.batches(1), strict=True):
        assert torch.equal(images, others) and torch.equal(target.maps, truth.maps)
        assert target.negatives == truth.negatives
    assert caplog.text.count("streaming: the pages of the train split") == 1
    list(task.batches(2))
    assert caplog.text.count("streaming") == 1


@pytest.mark.parametrize("resolution", [192, 352])
def test_scores_do_not_know_where_pages_come_from(
    resolution: int, receipts: TextData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shrunk pages and enlarged ones: maps, sizes and scales as of the image itself."""
    config = config_of(**{"data.resolution": resolution})
    task = task_of(config, receipts)
    torch.manual_seed(0)
    model = task.build_model()
    cached = list(task.outputs(model, "val"))
    monkeypatch.setenv("SEGTUNE_CACHE_BYTES", "10")
    shutil.rmtree(cache_dir() / "pages")
    streamed = list(task_of(config, receipts).outputs(model, "val"))
    for (one, losses), (other, same) in zip(cached, streamed, strict=True):
        image = receipts.image(one.page)
        resized, scale = resize_page(image, resolution)
        assert one.probability.shape == resized.shape[:2] and one.size == image.shape[:2]
        assert one.scale == pytest.approx(scale) and one.scale == other.scale
        assert np.array_equal(one.probability, other.probability) and losses == same


def config_of(**changes: Any) -> TextDetectionConfig:
    settings = {
        "model.encoder_weights": None,
        "model.inner": 16,
        "model.out": 8,
        "data.resolution": 224,
        "train.batch_size": 2,
        "train.precision": "fp32",
    }
    return TextDetectionConfig().replace({**settings, **changes})


def task_of(config: TextDetectionConfig, data: TextData) -> TextDetectionTask:
    return TextDetectionTask(config, data, CPU, "fp32", {})


def test_all_folds_share_one_entry(receipts_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_text_data(spec_of(receipts_folder, val=None, folds={"count": 2}))
    assert sorted(len(fold.split("val")) for fold in data.folds) == [2, 3]
    load_pages(data.folds[0], "train", 200)
    decoded = {page.image: resize_page(data.image(page), 200)[0] for page in data.split("train")}
    monkeypatch.setattr(TextData, "image", lambda *args: pytest.fail("a page was decoded"))
    for fold in data.folds:
        train, val = fold.split("train"), fold.split("val")
        assert sorted(page.image for page in train + val) == sorted(decoded)
        for split, samples in (("train", train), ("val", val)):
            pages = load_pages(fold, split, 200)
            for index, sample in enumerate(samples):
                assert np.array_equal(pages.page(index)[0], decoded[sample.image])


def test_a_fold_without_text_is_refused(receipts_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "receipts"
    shutil.copytree(receipts_folder / "train", folder / "train")
    path = next((folder / "train" / "labels").iterdir())
    lines = path.read_text().splitlines()
    path.write_text("".join(",".join(line.split(",")[:8]) + ",###\n" for line in lines))
    spec = spec_of(folder, val=None, folds={"count": 5})
    with pytest.raises(InputError, match=r"data\.folds: val of fold \d: no text that counts"):
        load_text_data(spec)
