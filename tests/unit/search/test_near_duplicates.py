"""Images that are nearly the same in two splits: the hash, the pairs, and what is said."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from search.near_duplicates import near_duplicates
from search.samples.receipts import write_receipts
from spaces.data import SegmentationDataSpec
from tests.scenes import scene
from trainers.data import load_segmentation_data
from trainers.near_duplicates import (
    BYTES,
    COPY,
    FRAME,
    Pair,
    from_text,
    group_of,
    nearest,
    picture_hash,
    to_text,
)


def encoded(picture: Image.Image, quality: int) -> Image.Image:
    file = BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def distance(one: Image.Image, other: Image.Image) -> int:
    paths = {"one": one, "other": other}
    hashes = {name: picture_hash(np.asarray(image)) for name, image in paths.items()}
    return nearest(["one"], ["other"], hashes, 8 * BYTES)[0].distance


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Image.Image]:
    """Two scenes and two receipts."""
    folder = write_receipts(tmp_path_factory.mktemp("receipts"), train=2, val=1)
    receipts = [opened(path) for path in sorted((folder / "train/images").iterdir())]
    return [scene(0, (480, 360)), scene(1, (480, 360)), *receipts]


def test_copies_are_near_and_other_pictures_are_not(pictures: list[Image.Image]) -> None:
    for index, picture in enumerate(pictures):
        half = picture.resize((picture.width // 2, picture.height // 2))
        darker = picture.point(lambda value: int(0.8 * value))
        for copy in (encoded(picture, 50), half, encoded(half, 50), darker, picture.convert("L")):
            assert distance(picture, copy.convert("RGB")) < COPY / 2
        for other in pictures[:index]:
            assert distance(picture, other) > FRAME


def test_a_picture_of_one_colour_is_near_to_none() -> None:
    hashes = {str(shade): picture_hash(np.full((60, 80, 3), shade, np.uint8)) for shade in (0, 200)}
    assert nearest(["0"], ["200"], hashes, 8 * BYTES) == []


def test_the_nearest_is_that_of_the_fewest_bits_that_differ() -> None:
    rng = np.random.default_rng(0)
    hashes = {str(number): rng.bytes(BYTES) for number in range(700)}
    images, others = list(hashes)[:300], list(hashes)[300:]

    def bits(names: list[str]) -> NDArray[np.uint8]:
        return np.array([np.frombuffer(hashes[name], np.uint8) for name in names])

    differ = np.bitwise_count(bits(images)[:, None] ^ bits(others)[None]).sum(-1)  # (300, 400)
    most = int(np.median(differ.min(axis=1)))
    found = nearest(images, others, hashes, most)
    assert {pair.image: pair.distance for pair in found} == {
        name: int(row.min()) for name, row in zip(images, differ, strict=True) if row.min() <= most
    }
    assert all(differ[int(p.image), int(p.other) - 300] == p.distance for p in found)
    assert from_text(to_text(list(hashes.values()))) == list(hashes.values())


@pytest.mark.parametrize(
    ("names", "pairs", "expected"),
    [
        ("a_001 a_002 b_001 b_002", "a_001 a_002", r"^(.+?)[_-]?\d+$"),
        ("frame-7 frame-8 other-1", "frame-7 frame-8", r"^(.+?)[_-]?\d+$"),
        ("bonn_01_000_left bonn_02_000_left", "", r"^(.+)[_-]\d+"),
        ("bonn_1_left bonn_1_right ulm_1_left", "bonn_1_left bonn_1_right", r"^(.+)[_-]\d+"),
        ("p1-day p1-night p2-day", "p1-day p1-night", r"^([^-]+)"),
        ("001 002 003", "001 002", None),  # no name of a video
        ("a_001 a_002 b_001", "a_001 b_001", None),  # the names say that these are two
        ("frame1 frame2", "frame1 frame2", None),  # a single group
    ],
)
def test_a_group_is_recommended_that_keeps_the_pairs_together(
    names: str, pairs: str, expected: str | None
) -> None:
    found = [Pair(*(f"/a/{name}.png" for name in pairs.split()), 0)] if pairs else []
    assert group_of([f"/a/{name}.png" for name in names.split()], found) == expected


def videos(folder: Path) -> Path:
    """Three videos of four frames, whose camera moves by two pixels at a time."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for video in range(3):
        view = scene(video, (220, 120))
        for frame in range(4):
            name = f"drive{video}_{frame:04d}.png"
            view.crop((2 * frame, 0, 160 + 2 * frame, 120)).save(folder / "images" / name)
            Image.new("L", (160, 120), frame % 2).save(folder / "masks" / name)
    return folder


def test_frames_of_one_video_are_named_and_the_group_that_is_recommended_parts_them(
    tmp_path: Path,
) -> None:
    folder = videos(tmp_path / "train")
    whole = {"images": f"{folder}/images", "masks": f"{folder}/masks"}

    def said(**divided: object) -> list[str]:
        tree = {"train": whole, "classes": ["road", "sky"], **divided}
        data = load_segmentation_data(SegmentationDataSpec.model_validate(tree))
        return [line.replace(f"{folder}/images/", "") for line in near_duplicates(data)]

    (warning,) = said(val={"fraction": 0.25})
    assert warning.startswith(
        "warning: data.val: 3 of 3 images are nearly the same as images of train (frames of one "
        "video): drive"
    )
    pattern = r"^(.+?)[_-]?\d+$"
    assert warning.endswith(
        f"Their score is partly memory; keep such images on one side with data.val.group: "
        f"'{pattern}'"
    )
    assert said(val={"fraction": 0.25, "group": pattern}) == []

    (warning,) = said(folds={"count": 3})
    assert "data.folds: 9 of 12 images" in warning and "of another fold" in warning
    assert f"data.folds.group: '{pattern}'" in warning
    assert said(folds={"count": 3, "group": pattern}) == []

    videos(tmp_path / "val")  # other names for the same pictures
    for path in sorted((tmp_path / "val").glob("*/*.png")):
        image = Image.open(path)
        path.unlink()
        image.save(path.with_name(f"x{path.name[-5]}{path.name[5:]}"), compress_level=1)
    (warning,) = said(val={key: f"{tmp_path}/val/{key}" for key in ("images", "masks")})
    assert "data.val: 12 of 12 images are all but copies of images of train (encoded, " in warning
    assert warning.endswith(
        ", and 9 more. Their score is partly memory; remove them from one of the two"
    )
