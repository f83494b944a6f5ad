"""Reading data sets: pairs, mask values, splits, and what is remembered. Bad input: tests/e2e."""

from __future__ import annotations

import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Lock
from typing import Any

import numpy as np
import pytest
from PIL import Image

from search.samples.streets import CLASSES, write_streets
from spaces.config import SegmentationMetric
from spaces.data import SegmentationDataSpec
from spaces.errors import InputError
from tests.tiffs import write_tiff
from trainers import data as data_module
from trainers.data import SegmentationData, _Room, find_splits
from trainers.images import PIXEL_BYTES, bytes_of, decode_image
from trainers.losses import IGNORE
from trainers.masks import decode_mask
from trainers.tasks import check_metric, load_data


def spec(folder: Path, **changes: Any) -> SegmentationDataSpec:
    splits = {
        split: {"images": f"{folder}/{split}/images", "masks": f"{folder}/{split}/masks"}
        for split in ("train", "val")
    }
    known = {"classes": list(CLASSES), "ignore_index": 255}
    return SegmentationDataSpec.model_validate({**splits, **known, **changes})


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize(
    ("name", "values", "settings", "expected"),
    [
        ("index.png", [[0, 1], [2, 255]], {"ignore_index": 255}, [[0, 1], [2, IGNORE]]),
        ("index.tif", [[0, 1], [2, 11]], {"ignore_index": 11}, [[0, 1], [2, IGNORE]]),
        ("deep.png", [[0, 1], [2, 60000]], {"ignore_index": 60000}, [[0, 1], [2, IGNORE]]),
        ("binary.png", [[0, 255], [1, 0]], {"classes": ["lane"]}, [[0, 1], [1, 0]]),
        (
            "colour.png",
            [[[0, 0, 0], [128, 64, 128]], [[70, 70, 70], [9, 9, 9]]],
            {
                "palette": [(0, 0, 0), (128, 64, 128), (70, 70, 70)],
                "palette_ignore": [(9, 9, 9)],
            },
            [[0, 1], [2, IGNORE]],
        ),
        ("ignored.png", [[0, 1], [2, 0]], {"ignore_classes": ["b"]}, [[0, IGNORE], [2, 0]]),
        (
            "ignored-colour.png",
            [[[0, 0, 0], [128, 64, 128]], [[70, 70, 70], [0, 0, 0]]],
            {
                "palette": [(0, 0, 0), (128, 64, 128), (70, 70, 70)],
                "ignore_classes": ["c", "a"],
            },
            [[IGNORE, 1], [IGNORE, IGNORE]],
        ),
    ],
)
def test_mask_values_become_class_indices(
    name: str, values: Any, settings: dict[str, Any], expected: Any, tmp_path: Path
) -> None:
    dtype = np.uint16 if name == "deep.png" else np.uint8
    path = save(tmp_path / name, np.array(values, dtype=dtype))
    settings = {"classes": ["a", "b", "c"], "ignore_index": None, **settings}
    split = {"list": "unused"}
    mask = decode_mask(
        str(path), SegmentationDataSpec.model_validate({"train": split, "val": split, **settings})
    )
    assert mask.dtype == np.uint8
    assert mask.tolist() == expected


def test_a_palette_png_is_read_by_index(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), mode="P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(tmp_path / "mask.png")
    split = {"list": "unused"}
    given = {"train": split, "val": split, "classes": ["a", "b", "c"]}
    mask = decode_mask(str(tmp_path / "mask.png"), SegmentationDataSpec.model_validate(given))
    assert mask.tolist() == [[0, 1], [2, 1]]


@pytest.mark.parametrize("kind", ["grey", "rgba", "deep", "jpeg"])
def test_images_of_every_kind_become_rgb(kind: str, tmp_path: Path) -> None:
    values = {
        "grey": np.full((4, 6), 100, np.uint8),
        "rgba": np.full((4, 6, 4), 100, np.uint8),
        "deep": np.full((4, 6), 100 * 256, np.uint16),
        "jpeg": np.full((4, 6, 3), 100, np.uint8),
    }[kind]
    path = save(tmp_path / ("a.jpg" if kind == "jpeg" else "a.png"), values)
    image = decode_image(str(path), spec(tmp_path))
    assert image.shape == (4, 6, 3) and image.dtype == np.uint8
    assert abs(image.astype(int) - 100).max() <= 1


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
DDS = b"DDS " + struct.pack("<7I44x", 124, 0x1007, 8, 8, 0, 0, 1) + b"\x20\0\0\0\4\0\0\0WHAT"


@pytest.mark.parametrize("content", [EPS, DDS.ljust(200, b"\0"), b"GIF89a".ljust(40, b"\1")])
def test_a_file_of_another_format_meets_no_decoder(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ghostscript reads EPS; a decoder of textures raises what no reader of images expects."""
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "a.png").write_bytes(content)
    for decode in (
        lambda: decode_image(str(tmp_path / "a.png"), spec(tmp_path)),
        _mask_of(tmp_path),
    ):
        with pytest.raises(InputError, match=r"not an image that can be read \(png, jpg, tif, bmp"):
            decode()
    assert not (tmp_path / "ran").exists()


def _mask_of(folder: Path) -> Any:
    return lambda: decode_mask(str(folder / "a.png"), spec(folder))


def test_a_pipe_among_the_images_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: not a plain file"):
        decode_image(str(tmp_path / "a.png"), spec(tmp_path))


def test_threads_wait_for_room_and_a_giant_runs_alone() -> None:
    room, lock, pair = _Room(250), Lock(), Barrier(2)
    inside: list[int] = []
    most: list[list[int]] = []

    def take(pixels: int) -> None:
        with room.taken(pixels):
            with lock:
                inside.append(pixels)
                most.append(list(inside))
            if pixels == 100:
                pair.wait(timeout=60)  # two are inside at once
            with lock:
                inside.remove(pixels)

    with ThreadPoolExecutor(9) as pool:
        list(pool.map(take, [100] * 4 + [9999] + [100] * 4))
    assert max(sum(pixels) for pixels in most if 9999 not in pixels) == 200
    assert [9999] in most and not [pixels for pixels in most if 9999 in pixels and len(pixels) > 1]


def test_decoding_takes_the_memory_that_is_reckoned_with(tmp_path: Path) -> None:
    side = 3000
    values = (np.arange(side)[:, None] + np.arange(side)).astype(np.uint8)
    image = Image.fromarray(np.stack([values] * 3, axis=-1))
    cmyk = {"subsampling": 0, "progressive": True}  # all of its coefficients are kept at once
    image.convert("CMYK").save(tmp_path / "a.jpg", **cmyk)
    Image.fromarray(values % 2).save(tmp_path / "mask.png")
    turned = Image.Exif()
    turned[0x112] = 6
    image.save(tmp_path / "b.png", exif=turned, compress_level=1)
    image.point(lambda value: value % 2 * 255).save(tmp_path / "colours.png", compress_level=1)
    palette = spec(tmp_path, classes=["a", "b"], palette=[(0, 0, 0), (255, 255, 255)])
    del image, values
    for decode in (
        lambda: decode_image(str(tmp_path / "a.jpg"), spec(tmp_path)),
        lambda: decode_image(str(tmp_path / "b.png"), spec(tmp_path)),
        lambda: decode_mask(str(tmp_path / "mask.png"), spec(tmp_path)),
        lambda: decode_mask(str(tmp_path / "colours.png"), palette),
    ):
        decode()  # tables of classes and colours are kept
        assert _peak(decode) / side**2 < PIXEL_BYTES + 1


@pytest.mark.parametrize("kind", ["u2", "f4"])
def test_deep_colours_take_the_memory_that_is_reckoned_with(kind: str, tmp_path: Path) -> None:
    side, path = 2000, str(tmp_path / "a.tif")
    values = (np.arange(side)[:, None] + np.arange(side)).astype(kind)
    write_tiff(Path(path), np.stack([values] * 3, axis=-1))
    del values

    def decode() -> Any:
        return decode_image(path, spec(tmp_path))

    decode()  # what is loaded once is
    assert _peak(decode) < bytes_of(path) + side**2


def _peak(of: Any) -> int:
    """Bytes that a call adds to this process, at its peak (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    of()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def test_a_list_file_and_a_mask_suffix_name_the_same_pairs(tmp_path: Path) -> None:
    write_streets(tmp_path, train=3, val=2, size=(32, 32))
    pairs = find_splits(spec(tmp_path))["train"]
    lines = [f"{Path(p.image).relative_to(tmp_path)}\t{p.mask}" for p in pairs]
    (tmp_path / "train.txt").write_text("# image mask\n" + "\n".join(lines) + "\n")
    listed = find_splits(spec(tmp_path, train={"list": str(tmp_path / "train.txt")}))
    assert listed["train"] == pairs
    for pair in pairs:
        Path(pair.mask).rename(Path(pair.mask).with_name(f"{pair.stem}_L.png"))
    train = {
        "images": f"{tmp_path}/train/images",
        "masks": f"{tmp_path}/train/masks",
        "mask_suffix": "_L",
    }
    renamed = find_splits(spec(tmp_path, train=train))
    assert [p.image for p in renamed["train"]] == [p.image for p in pairs]


def test_a_drawn_split_keeps_groups_together_and_follows_its_seed(tmp_path: Path) -> None:
    write_streets(tmp_path, train=12, val=1, size=(32, 32))
    for kind in ("images", "masks"):
        for index, path in enumerate(sorted((tmp_path / "train" / kind).iterdir())):
            path.rename(path.with_name(f"cam{index % 4}_{index:02d}.png"))

    def drawn(seed: int) -> dict[str, set[str]]:
        val = {"fraction": 0.25, "group": "^(cam[0-9])_", "seed": seed}
        splits = find_splits(spec(tmp_path, val=val))
        return {name: {sample.stem for sample in found} for name, found in splits.items()}

    splits = drawn(0)
    groups = {name: {stem[:4] for stem in stems} for name, stems in splits.items()}
    assert len(splits["val"]) == 3 and len(splits["train"]) == 9
    assert not groups["train"] & groups["val"]
    assert drawn(0) == splits
    assert any(drawn(seed) != splits for seed in range(1, 5))


def test_a_group_with_a_slash_keeps_folders_together(tmp_path: Path) -> None:
    write_streets(tmp_path, train=6, val=1, size=(32, 32))
    for kind in ("images", "masks"):
        for index, path in enumerate(sorted((tmp_path / "train" / kind).iterdir())):
            city = path.parent / f"city{index % 3}"
            city.mkdir(exist_ok=True)
            path.rename(city / path.name)
    whole = spec(tmp_path, val={"fraction": 0.3, "group": "([^/]+)/[^/]+$"})
    train = whole.train.model_copy(update={"recursive": True})
    splits = find_splits(whole.model_copy(update={"train": train}))
    cities = {name: {Path(s.image).parent.name for s in found} for name, found in splits.items()}
    assert len(splits["val"]) == 2 and len(cities["val"]) == 1
    assert not cities["val"] & cities["train"]


def test_the_preflight_is_remembered_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_streets(tmp_path, train=4, val=2, size=(32, 32))
    decoded: list[str] = []
    original = data_module.decode_mask

    def count(path: str, spec: SegmentationDataSpec) -> np.ndarray:
        decoded.append(path)
        return original(path, spec)

    monkeypatch.setattr(data_module, "decode_mask", count)
    first = load_data(spec(tmp_path))
    assert len(decoded) == 6
    again = load_data(spec(tmp_path))
    assert len(decoded) == 6
    assert (again.counts, again.fingerprint) == (first.counts, first.fingerprint)
    mask = np.array(Image.open(first.splits["train"][0].mask))
    mask[5:10, 5:10] = 0
    Image.fromarray(mask).save(first.splits["train"][0].mask)
    changed = load_data(spec(tmp_path))
    assert len(decoded) == 12
    assert changed.fingerprint != first.fingerprint


def test_counts_are_of_the_train_split_without_void(tmp_path: Path) -> None:
    write_streets(tmp_path, train=3, val=2, size=(32, 32))
    data = load_data(spec(tmp_path))
    expected = np.zeros(256, int)
    for sample in data.split("train"):
        expected += np.bincount(np.asarray(Image.open(sample.mask)).ravel(), minlength=256)
    assert data.counts == expected[:8].tolist()
    assert expected[255] > 0


def two_classes(folder: Path, train: list[int], val: list[int]) -> None:
    """One image a value; classes `a`, `b`, `c` by value."""
    for split, values in (("train", train), ("val", val)):
        for index, value in enumerate(values):
            noise = np.full((8, 8, 3), index + 10 * (split == "val"), np.uint8)
            save(folder / split / "images" / f"{index}.png", noise)
            save(folder / split / "masks" / f"{index}.png", np.full((8, 8), value, np.uint8))


def test_pixels_of_val_are_counted_too(tmp_path: Path) -> None:
    two_classes(tmp_path, [0, 1, 2], [0, 0, 0, 1])
    found = load_data(spec(tmp_path, classes=["a", "b", "c"]))
    assert isinstance(found, SegmentationData)
    assert (found.counts, found.val_counts) == ([64, 64, 64], [192, 64, 0])
    assert found.val_images == [3.0, 1.0, 0.0]


def test_an_ignored_class_is_other_data_and_counts_nowhere(tmp_path: Path) -> None:
    two_classes(tmp_path, [0, 1], [0, 1, 2])
    plain = load_data(spec(tmp_path, classes=["a", "b", "c"]))
    without = load_data(spec(tmp_path, classes=["a", "b", "c"], ignore_classes=["c"]))
    assert isinstance(plain, SegmentationData) and isinstance(without, SegmentationData)
    assert plain.fingerprint != without.fingerprint
    assert (plain.val_counts, without.val_counts) == ([64, 64, 64], [64, 64, 0])
    with pytest.raises(InputError, match=r"train has none.*: c \(64\); .*ignore_classes: \[c\]"):
        check_metric(SegmentationMetric(), plain)
    check_metric(SegmentationMetric(), without)
    check_metric(SegmentationMetric(classes=["a", "b"]), plain)
    check_metric(SegmentationMetric(weights={"c": 0}), plain)


def test_a_chosen_class_must_be_in_val(tmp_path: Path) -> None:
    two_classes(tmp_path, [0, 1, 2], [0, 1])
    found = load_data(spec(tmp_path, classes=["a", "b", "c"]))
    check_metric(SegmentationMetric(), found)  # a class that val lacks is left out of the mean
    with pytest.raises(InputError, match=r"metric.classes: c has no pixel in val"):
        check_metric(SegmentationMetric(classes=["a", "c"]), found)
