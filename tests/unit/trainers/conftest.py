"""A tiny drawn data set for tests that really train."""

from __future__ import annotations

from typing import Any

import pytest

from search.samples.streets import CLASSES, write_streets
from spaces.data import SegmentationDataSpec
from trainers import cache
from trainers.data import SegmentationData
from trainers.tasks import load_data


@pytest.fixture(scope="session")
def streets(tmp_path_factory: pytest.TempPathFactory) -> SegmentationDataSpec:
    """9 + 4 drawn images of 40 x 48: 9 leaves a last image alone in batches of 4."""
    folder = write_streets(tmp_path_factory.mktemp("streets"), train=9, val=4, size=(40, 48))
    splits = {
        split: {"images": f"{folder}/{split}/images", "masks": f"{folder}/{split}/masks"}
        for split in ("train", "val")
    }
    return SegmentationDataSpec.model_validate(
        {**splits, "classes": list(CLASSES), "ignore_index": 255}
    )


@pytest.fixture
def data(streets: SegmentationDataSpec) -> SegmentationData:
    return load_data(streets)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the cache's entries of arrays, as they are built."""
    names: list[str] = []
    original = cache._build

    def count(*args: Any) -> None:
        names.append(args[0].name)
        original(*args)

    monkeypatch.setattr(cache, "_build", count)
    return names
