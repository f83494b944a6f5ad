"""Drawn receipts, small enough to train on in tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.samples.receipts import write_receipts
from spaces.data import TextDetectionDataSpec
from trainers.text_data import TextData, load_text_data


def spec_of(folder: Path, **settings: object) -> TextDetectionDataSpec:
    splits = {
        split: {"images": f"{folder}/{split}/images", "labels": f"{folder}/{split}/labels"}
        for split in ("train", "val")
    }
    return TextDetectionDataSpec.model_validate({**splits, **settings})


@pytest.fixture(scope="session")
def receipts_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5 + 3 receipts of 288 x 180."""
    folder = tmp_path_factory.mktemp("receipts")
    return write_receipts(folder, train=5, val=3, size=(288, 180))


@pytest.fixture(scope="session")
def receipts(receipts_folder: Path) -> TextData:
    return load_text_data(spec_of(receipts_folder))
