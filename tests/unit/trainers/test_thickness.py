"""How thin classes are, in an image whose answer can be read off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spaces.data import SegmentationDataSpec
from trainers.data import SegmentationData, load_segmentation_data
from trainers.thickness import MOST, runs, thickness


@pytest.fixture
def poles(tmp_path: Path) -> SegmentationData:
    """Poles of 4 pixels, a square of 20, void below; and a class that is nowhere."""
    mask = np.zeros((120, 200), np.uint8)
    mask[:100, 50:54] = 1
    mask[40:60, 100:120] = 2
    mask[100:] = 255
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True)
        for index in range(6):
            value = np.full((120, 200, 3), 10 * index + 100 * (split == "val"), np.uint8)
            Image.fromarray(value).save(tmp_path / split / "images" / f"{index}.png")
            Image.fromarray(mask).save(tmp_path / split / "masks" / f"{index}.png")
    splits = {
        split: {"images": f"{tmp_path}/{split}/images", "masks": f"{tmp_path}/{split}/masks"}
        for split in ("train", "val")
    }
    return load_segmentation_data(
        SegmentationDataSpec.model_validate(
            {**splits, "classes": ["ground", "pole", "square", "none"], "ignore_index": 255}
        )
    )


def test_runs() -> None:
    mask = np.array([[0, 0, 1], [1, 0, 1]], np.uint8)
    assert runs(mask, 1).tolist() == [[2, 2, 1], [1, 1, 1]]
    assert runs(mask, 0).tolist() == [[1, 2, 2], [1, 2, 2]]


def test_what_is_left_of_each_class(
    poles: SegmentationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = thickness(poles, [1.0, (60, 100), (120, 50), 0.25])
    assert found.images == 6
    assert found.pixels[:, 1].tolist() == [[4, 4], [2, 2], [1, 1], [1, 1]]
    assert found.pixels[:, 2].tolist() == [[20, 20], [10, 10], [5, 5], [5, 5]]
    assert np.isnan(found.pixels[:, 3]).all()
    assert (found.pixels[:, 0] > 10).all() and found.pixels[0, 0, 0] <= MOST
    monkeypatch.setattr("trainers.thickness.PIXELS", 2 * 120 * 200)
    assert thickness(poles, [1.0]).images == 4
