"""Small runs on the GPU that computes nothing: data, configs, and what its numbers stand for."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from search.samples.receipts import write_receipts
from spaces.config import SegmentationConfig
from spaces.data import SegmentationDataSpec, TextDetectionDataSpec
from spaces.text_detection import TextDetectionConfig
from tests.blobs import write_blobs
from trainers.data import SegmentationData
from trainers.tasks import load_data
from trainers.text_data import TextData
from trainers.to_host import EpochSums
from trainers.train import TrialResult, train


@cache
def blobs() -> SegmentationData:
    folder = Path(tempfile.mkdtemp())
    write_blobs(folder, train=4, val=3)
    splits = {
        split: {"images": f"{folder}/{split}/images", "masks": f"{folder}/{split}/masks"}
        for split in ("train", "val")
    }
    data = load_data(SegmentationDataSpec.model_validate({**splits, "classes": ["blob"]}))
    assert isinstance(data, SegmentationData)
    return data


@cache
def receipts() -> TextData:
    folder = write_receipts(Path(tempfile.mkdtemp()), train=4, val=2, size=(96, 64))
    splits = {
        split: {"images": f"{folder}/{split}/images", "labels": f"{folder}/{split}/labels"}
        for split in ("train", "val")
    }
    data = load_data(TextDetectionDataSpec.model_validate(splits))
    assert isinstance(data, TextData)
    return data


SMALL = {
    "model.encoder": "mobilenet_v2",
    "model.encoder_weights": None,
    "train.epochs": 2,
    "train.batch_size": 2,
    "train.workers": 0,
    "train.precision": "fp32",
    "optim.encoder_lr_ratio": 1.0,
    "loss.warmup_epochs": 0,
    "health.trivial": 0.0,
}


def small(**changes: Any) -> SegmentationConfig:
    return SegmentationConfig().replace({**SMALL, "data.resolution": "64x64", **changes})


def small_text(**changes: Any) -> TextDetectionConfig:
    pages = {"model.inner": 16, "model.out": 8, "data.resolution": 96}
    return TextDetectionConfig().replace({**SMALL, **pages, **changes})


def run(config: Any, workdir: Path | None = None, **given: Any) -> TrialResult:
    """Train a config on the data of its task; without a `workdir` nothing of it is kept."""
    data = receipts() if isinstance(config, TextDetectionConfig) else blobs()
    with tempfile.TemporaryDirectory() as folder:
        return train(config, data, workdir or Path(folder), given.pop("on_epoch", print), **given)


def as_if_computed() -> None:
    """Let a gradient scaler's numbers, which nothing has computed, stand for a run that is well."""
    torch.amp.GradScaler.get_scale = lambda self: 65536.0  # type: ignore[method-assign]
    close = EpochSums.close

    def well(self: EpochSums) -> bool:
        self.scaled = False
        return close(self)

    EpochSums.close = well  # type: ignore[method-assign]
