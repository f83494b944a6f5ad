"""The cache of decoded splits: whole, shared, bounded, and the same pixels when it has no room."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from spaces.config import SegmentationConfig
from spaces.data import SegmentationDataSpec
from spaces.errors import InputError
from spaces.paths import cache_dir, check_locks
from trainers import cache, cache_folder, samples
from trainers.cache import load_arrays
from trainers.cache_folder import asked_bytes, held_bytes, most_bytes
from trainers.data import Sample, SegmentationData
from trainers.images import decode_image
from trainers.losses import IGNORE
from trainers.masks import decode_mask
from trainers.samples import Loaded, Resident
from trainers.segmentation import SegmentationTask
from trainers.tasks import load_data
from trainers.train import train

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def entries() -> set[Path]:
    return {path.parent for path in cache_dir().glob("arrays/*/manifest.json")}


def sum_of(data: SegmentationData, size: tuple[int, int]) -> int:
    arrays = load_arrays(data, "train", size)
    assert arrays is not None
    return int(arrays.images.astype(int).sum())


def test_arrays_are_built_once_and_equal_the_files(
    data: SegmentationData, built: list[str]
) -> None:
    arrays = [load_arrays(data, "val", (24, 32)) for _ in range(2)][1]
    assert built == ["val"] and arrays is not None
    for index, sample in enumerate(data.split("val")):
        image = decode_image(sample.image, data.spec)
        assert np.array_equal(arrays.images[index], cache.resize_image(image, (24, 32)))
        mask = decode_mask(sample.mask, data.spec)
        assert np.array_equal(arrays.masks[index], cache.resize_mask(mask, (24, 32)))
        assert np.array_equal(arrays.originals[index], mask)
    assert isinstance(arrays.images, np.memmap)  # shared through the page cache, not copied


def test_ignored_colours_of_a_binary_task_have_their_own_entry(
    data: SegmentationData, tmp_path: Path, built: list[str]
) -> None:
    """Without them the same colour is background; other tasks refuse it."""
    red, grey = (255, 0, 0), (9, 9, 9)
    for name, images in (("image", grey), ("mask", red)):
        pixels = np.full((24, 32, 3), images, np.uint8)
        pixels[:, :8] = grey
        pixels[0] = len(name)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    sample = Sample(str(tmp_path / "image.png"), str(tmp_path / "mask.png"))
    found = []
    for ignored in ([], [grey]):
        spec = data.spec.model_copy(
            update={
                "classes": ["red"],
                "palette": [red],
                "palette_ignore": [*ignored, (4, 4, 4)],
                "ignore_index": None,
            }
        )
        arrays = load_arrays(
            replace(data, spec=spec, splits={"train": [sample]}), "train", (24, 32)
        )
        assert arrays is not None
        found.append(arrays.masks[0][5, 5])
    assert built == ["train", "train"] and found == [0, IGNORE]


def test_an_opened_entry_costs_no_image_file(
    data: SegmentationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "val"):
        load_arrays(data, split, (24, 32))
    monkeypatch.setattr(Image, "open", lambda *args: pytest.fail("an image file was opened"))
    for split in ("train", "val"):
        assert load_arrays(data, split, (24, 32)) is not None


def test_what_dead_builders_left_is_removed_and_living_ones_are_let_alone(
    data: SegmentationData,
) -> None:
    halves = [cache_dir() / "arrays" / f".{name}.tmp" for name in ("dead", "alive")]
    for half in halves:
        half.mkdir(parents=True)
        (half / "images.npy").write_bytes(b"half")
        (half / "reserved.json").write_text('{"bytes": 1000}')
    with open(halves[1] / "reserved.json") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        memo = sum(path.stat().st_size for path in cache_dir().glob("preflight/*"))
        assert held_bytes() == memo + 2000  # what they will hold counts, not what they hold
        assert load_arrays(data, "val", (24, 32)) is not None
        assert [half.exists() for half in halves] == [False, True]


def test_processes_that_build_at_once_get_the_same(data: SegmentationData) -> None:
    with multiprocessing.get_context("forkserver").Pool(3) as pool:
        found = pool.starmap(load_arrays, [(data, "train", (40, 40))] * 3, chunksize=1)
    assert {int(arrays.images.astype(int).sum()) for arrays in found} == {sum_of(data, (40, 40))}
    assert len({arrays.entry.folder for arrays in found}) == 1


@pytest.mark.parametrize("damage", ["cut", "zeroed", "gone", "manifest", "manifest gone", "shape"])
def test_a_damaged_entry_is_built_again_with_a_word(
    damage: str, data: SegmentationData, caplog: pytest.LogCaptureFixture
) -> None:
    whole = sum_of(data, (24, 32))
    [folder] = entries()
    images, manifest = folder / "images.npy", folder / "manifest.json"
    if damage == "cut":
        os.truncate(images, images.stat().st_size - 1)
    elif damage == "zeroed":
        with open(images, "r+b") as file:
            file.seek(128)
            file.write(bytes(images.stat().st_size - 128))
    elif damage == "gone":
        images.unlink()
    elif damage == "manifest":
        manifest.write_text("{")
    elif damage == "manifest gone":
        manifest.unlink()
    else:
        facts = json.loads(manifest.read_text())
        facts["files"]["images"]["shape"][0] += 1
        manifest.write_text(json.dumps(facts))
    assert sum_of(data, (24, 32)) == whole
    assert "the cache of the train split at 24x32 was damaged; building it again" in caplog.text
    caplog.clear()
    assert sum_of(data, (24, 32)) == whole and not caplog.text


def test_the_least_recently_used_entry_goes_first_and_never_one_in_use(
    data: SegmentationData, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Room for two of three resolutions."""
    sums = {size: sum_of(data, size) for size in ((32, 32), (32, 40))}
    folders = {}
    for size in sums:
        arrays = load_arrays(data, "train", size)
        assert arrays is not None
        folders[size] = arrays.entry.folder
        del arrays
    for age, size in enumerate([(32, 40), (32, 32)]):  # the second one was used later
        os.utime(folders[size] / "manifest.json", (1000 + age, 1000 + age))
    monkeypatch.setenv("SEGTUNE_CACHE_BYTES", str(held_bytes() + 1000))
    third = load_arrays(data, "train", (40, 32))
    assert third is not None
    assert entries() == {folders[32, 32], third.entry.folder}
    first = load_arrays(data, "train", (32, 32))  # both in use now
    assert first is not None
    assert load_arrays(data, "train", (32, 40)) is None
    assert "streaming: the train split at 32x40" in caplog.text
    assert entries() == {folders[32, 32], third.entry.folder}
    del third
    assert sum_of(data, (32, 40)) == sums[32, 40]
    assert entries() == {folders[32, 32], folders[32, 40]}
    assert held_bytes() <= most_bytes()


def test_using_an_entry_makes_it_young(data: SegmentationData) -> None:
    sum_of(data, (24, 32))
    [folder] = entries()
    os.utime(folder / "manifest.json", (1000, 1000))
    sum_of(data, (24, 32))
    assert (folder / "manifest.json").stat().st_mtime > 10**9


def test_an_entry_that_another_process_maps_outlives_its_name(data: SegmentationData) -> None:
    """What is taken away under a reader, by whomever, does not change what the reader sees."""
    arrays = load_arrays(data, "train", (24, 32))
    assert arrays is not None
    before = arrays.images.copy()
    shutil.rmtree(arrays.entry.folder)
    assert np.array_equal(arrays.images, before)


def test_a_disk_that_fills_up_while_building_is_streamed_and_left_clean(
    data: SegmentationData, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert load_arrays(data, "train", (24, 32)) is None
    assert "streaming" in caplog.text
    assert not entries() and not list(cache_dir().glob("arrays/.*.tmp"))


def test_a_file_system_without_locks_is_streamed_from(
    data: SegmentationData, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unknown(*args: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    assert load_arrays(data, "train", (24, 32)) is not None  # what is there cannot be locked
    monkeypatch.setattr(fcntl, "flock", unknown)
    assert load_arrays(data, "train", (24, 32)) is None and load_arrays(data, "val", (8, 8)) is None
    assert caplog.text.count("without file locks") == 2 and "SEGTUNE_HOME" in caplog.text
    with pytest.raises(InputError, match="without file locks"):
        check_locks(cache_dir() / "later")


def test_half_of_what_the_disk_could_have_free_is_the_usual_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache_dir().mkdir(parents=True)
    (cache_dir() / "file").write_bytes(bytes(500))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1500))
    assert most_bytes() == 1000


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4096", 4096), ("20GB", 20 * 10**9), ("1.5 kb", 1500), ("2GiB", 2**31), ("3T", 3 * 10**12),
     ("0", 0), ("12B", 12)],
)  # fmt: skip
def test_sizes_are_read(text: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGTUNE_CACHE_BYTES", text)
    assert asked_bytes() == expected == most_bytes()


@pytest.mark.parametrize("text", ["lots", "-1", "20GBB", "1e9", "GB", "5iB"])
def test_a_size_that_is_none_is_refused_before_anything_starts(
    text: str, streets: SegmentationDataSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGTUNE_CACHE_BYTES", text)
    with pytest.raises(InputError, match=r"SEGTUNE_CACHE_BYTES must be a size such as 20GB"):
        load_data(streets)


def config_of(**changes: Any) -> SegmentationConfig:
    settings = {
        "model.encoder": "resnet18",
        "model.encoder_weights": None,
        "data.resolution": "32x32",
        "data.augment": "strong",
        "train.batch_size": 4,
        "train.epochs": 2,
        "train.precision": "fp32",
    }
    return SegmentationConfig().replace({**settings, **changes})


@pytest.mark.parametrize("workers", [0, 2])
def test_a_split_without_room_streams_the_same_batches_and_says_so_once(
    workers: int,
    data: SegmentationData,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = config_of(**{"train.workers": workers})
    cached = SegmentationTask(config, data, CPU, "fp32", {})
    kept = [list(cached.batches(epoch)) for epoch in (0, 1)]
    assert isinstance(cached._split("train"), Resident) and not caplog.text
    originals = cached._split("val").batches([[2, 0], [1]])
    monkeypatch.setenv("SEGTUNE_CACHE_BYTES", "10")
    shutil.rmtree(cache_dir() / "arrays")
    streamed = SegmentationTask(config, data, CPU, "fp32", {})
    for epoch in (0, 1):
        batches = list(streamed.batches(epoch))
        assert [len(images) for images, _ in batches] == [4, 5]
        for (images, target), (others, truth) in zip(kept[epoch], batches, strict=True):
            assert torch.equal(images, others) and torch.equal(target, truth)
    assert isinstance(streamed._split("train"), Loaded)
    for one, other in zip(originals, streamed._split("val").batches([[2, 0], [1]]), strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.masks, other.masks)
        pairs = zip(one.originals, other.originals, strict=True)
        assert all(torch.equal(mask, same) for mask, same in pairs)
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert [text[:40] for text in said] == [
        "streaming: the train split at 32x32 need",
        "streaming: the val split at 32x32 needs ",
    ]


def test_a_streamed_run_is_the_cached_one(
    data: SegmentationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = train(config_of(), data, tmp_path / "cached", lambda report: None)
    shutil.rmtree(cache_dir() / "arrays")
    monkeypatch.setenv("SEGTUNE_CACHE_BYTES", "10")
    streamed = train(config_of(), data, tmp_path / "streamed", lambda report: None)
    assert not entries()
    for one, other in zip(cached.history, streamed.history, strict=True):
        assert one.train.total == pytest.approx(other.train.total, rel=1e-4)
        assert one.metric == pytest.approx(other.metric, abs=1e-3)


def test_mapped_files_that_a_gpu_has_no_room_for_give_the_same_batches(
    data: SegmentationData,
) -> None:
    """Loader processes map the entry anew; the CPU stands in for the GPU."""
    config = config_of(**{"train.workers": 2})
    arrays = load_arrays(data, "val", (32, 32))
    assert arrays is not None
    loaded = Loaded(samples._Mapped(arrays), samples._by_size(arrays), config.train, CPU)
    keys = [[3, 1], [0, 2]]
    for one, other in zip(loaded.batches(keys), Resident(arrays, CPU).batches(keys), strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.masks, other.masks)
        pairs = zip(one.originals, other.originals, strict=True)
        assert all(torch.equal(mask, same) for mask, same in pairs)


def test_images_of_one_original_size_are_scored_together(
    data: SegmentationData, tmp_path: Path
) -> None:
    """Sizes that alternate on disk come in two groups, with the score of the disk's order."""
    from trainers.segmentation import at_original_size

    originals = [torch.zeros(8, 8 + 4 * (index % 2), dtype=torch.uint8) for index in range(6)]
    logits = torch.randn(6, 3, 4, 4)
    for elements in (10**6, 200, 1):  # all at once; one image; one class of it
        groups = list(at_original_size(logits, originals, binary=False, elements=elements))
        assert sorted({len(rows) for rows, _, _ in groups}) == [3 if elements == 10**6 else 1]
        assert [row for rows, _, _ in groups for row in rows] == [0, 2, 4, 1, 3, 5]
        for rows, found, truth in groups:
            assert found.shape == truth.shape == (len(rows), *originals[rows[0]].shape)
            for row, one in zip(rows, found, strict=True):
                alone = torch.nn.functional.interpolate(
                    logits[row : row + 1], size=originals[row].shape, mode="bilinear"
                )
                assert torch.equal(one, alone[0].argmax(dim=0))


def test_entries_of_a_key_do_not_know_each_other(data: SegmentationData) -> None:
    """Another split, size or data set is another entry."""
    keys = {
        cache_folder.split_key(*parts)
        for parts in (("a", "train", (1, 2)), ("a", "val", (1, 2)), ("a", "train", (2, 1)),
                      ("b", "train", (1, 2)), ("a", "train", 12))
    }  # fmt: skip
    assert len(keys) == 5
