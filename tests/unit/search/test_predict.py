"""`segtune predict` over files: what it finds, writes, skips and refuses."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from search import predict as module
from search.cli import app
from search.findings.manifest import write_manifest
from search.images import find_images
from search.predict import RECORD, Output, Wanted
from search.samples.streets import CLASSES
from spaces.config import SegmentationConfig
from spaces.data import SegmentationDataSpec
from spaces.errors import InputError
from spaces.paths import MODEL
from spaces.run_config import dump_run_config, load_run_config
from tests.waiting import Running, until
from trainers.checkpoint import save_model
from trainers.image_counts import ImageCounts
from trainers.members import MEMBERS, write_list
from trainers.models import build_model
from trainers.predict import Predictor

pytestmark = pytest.mark.slow

COUNT = 100
SIDES = {"images": "nowhere", "masks": "nowhere"}  # the data need not be there any more


@pytest.fixture(scope="session")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export with random weights."""
    folder = tmp_path_factory.mktemp("exported") / "best"
    folder.mkdir()
    config = SegmentationConfig().replace(
        {"model.encoder": "resnet18", "model.encoder_weights": None, "data.resolution": "32x32"}
    )
    spec = SegmentationDataSpec.model_validate(
        {"train": SIDES, "val": SIDES, "classes": list(CLASSES), "max_pixels": 90_000}
    )
    (folder / "config.yaml").write_text(dump_run_config(spec, config))
    torch.manual_seed(0)
    network = build_model(config.model, len(CLASSES))
    counts = ImageCounts(np.zeros((1, 1, 3), np.int64))
    save_model(folder, 1, network, counts).rename(folder / MODEL)
    write_manifest(folder)
    return folder


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of every mode, format and depth of folder that training reads, one of them broken."""
    folder = tmp_path_factory.mktemp("mixed")
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for index in range(COUNT):
        height, width = rng.integers(1, 80, 2)
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        image = Image.fromarray(pixels)
        deep = folder / ("a" * (index % 3) or ".") / ("b" * (index % 2) or ".")
        deep.mkdir(parents=True, exist_ok=True)
        kind = index % 10
        modes = ["RGB", "RGBA", "L", "P", "1", "CMYK", "LA"]
        if kind < len(modes):
            suffix = "tif" if modes[kind] == "CMYK" else "png"
            image.convert(modes[kind]).save(deep / f"{index} é.{suffix}")
        elif kind == 7:
            values = pixels[..., 0].astype(np.uint16) * 257
            Image.fromarray(values).save(deep / f"{index}.PNG")
        elif kind == 8:
            image.save(deep / f"{index}.jpg", exif=exif)
        else:
            image.save(deep / f"{index}.bmp")
    broken = sorted(folder.rglob("*.bmp"))[3]
    broken.write_bytes(broken.read_bytes()[:40])
    (folder / "notes.md").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"no image")
    return folder


def predict(best: Path, *words: str | Path, to: Path, more: tuple[str, ...] = ()) -> Result:
    asked = ["predict", str(best), *map(str, words), "--to", str(to), *more]
    return CliRunner().invoke(app, asked)


def lines(to: Path) -> list[dict[str, Any]]:
    """Of the images that are recorded as done."""
    return [json.loads(line) for line in (to / RECORD).read_text().splitlines()][1:]


def test_one_broken_image_of_a_hundred_is_named(best: Path, mixed: Path, tmp_path: Path) -> None:
    to = tmp_path / "out"
    answer = predict(best, mixed, to=to, more=("--overlay", "--probabilities"))
    [broken] = [path for path in mixed.rglob("*.bmp") if path.stat().st_size == 40]
    assert answer.exit_code == 1 and answer.output.count("segtune: ") == 1
    assert f"segtune: {broken}: cannot be decoded" in answer.output
    assert "99 images in" in answer.output and "1 could not be predicted" in answer.output
    assert len(lines(to)) == 99
    for line in lines(to):
        with (
            Image.open(to / "masks" / f"{line['name']}.png") as mask,
            Image.open(line["image"]) as image,
        ):
            turned = image.getexif().get(0x0112) == 6
            assert mask.size == (image.size[::-1] if turned else image.size)
            assert line["size"] == [mask.height, mask.width] and mask.mode == "L"
            assert np.asarray(mask).max() < len(CLASSES)
        found = np.load(to / "probabilities" / f"{line['name']}.npy")
        assert found.shape == (len(CLASSES), *line["size"]) and found.dtype == np.float16
        assert (to / "overlays" / f"{line['name']}.png").exists()
    assert not list(to.rglob("*.tmp"))
    again = predict(best, mixed, to=to, more=("--overlay", "--probabilities"))
    assert again.exit_code == 1 and "0 images in" in again.output
    assert "99 were there already" in again.output


def test_a_killed_prediction_goes_on_where_it_was(best: Path, mixed: Path, tmp_path: Path) -> None:
    to = tmp_path / "out"
    first = Running.segtune("predict", best, mixed, "--to", to)

    def enough() -> bool:
        assert first.returncode is None, first
        return (to / RECORD).exists() and len(lines(to)) >= 16

    until(enough)
    first.kill()
    done = {line["name"]: (to / "masks" / f"{line['name']}.png") for line in lines(to)}
    assert 16 <= len(done) < 99
    written = {name: path.stat().st_ino for name, path in done.items()}
    with (to / RECORD).open("a") as record:
        record.write('{"name": "cut o')  # as a kill may leave it
    answer = predict(best, mixed, to=to)
    assert f"{99 - len(done)} images in" in answer.output
    assert f"{len(done)} were there already" in answer.output
    assert len({line["name"] for line in lines(to)}) == len(lines(to)) == 99
    assert all(done[name].stat().st_ino == inode for name, inode in written.items())


def test_what_has_changed_is_predicted_again(best: Path, tmp_path: Path) -> None:
    folder, to = tmp_path / "images", tmp_path / "images" / "out"  # its own results are no images
    folder.mkdir()
    for name in "abc":
        Image.new("RGB", (20, 10)).save(folder / f"{name}.png")
    assert "3 images in" in predict(best, folder, to=to).output
    Image.new("RGB", (30, 10)).save(folder / "a.png")
    (to / "masks" / "b.png").unlink()
    assert "2 images in" in predict(best, folder, to=to).output
    assert sorted((line["name"], line["size"][1]) for line in lines(to)) == [
        ("a", 30),
        ("b", 20),
        ("c", 20),
    ]
    assert "3 images in" in predict(best, folder, to=to, more=("--overlay",)).output
    refused = predict(best, folder, to=to, more=("--set", "decode.tta=hflip"))
    assert refused.exit_code == 2 and "of another model or of other decode settings" in (
        refused.output
    )
    assert len(lines(to)) == 3
    record = to / RECORD
    head, *others = record.read_text().splitlines()
    earlier = json.loads(head)
    del earlier["decode"]["fill_holes"]  # a version that did not know of it
    record.write_text("\n".join([json.dumps(earlier), *others]) + "\n")
    assert "0 images in" in predict(best, folder, to=to).output
    more = ("--set", "decode.tta=hflip", "--overwrite")
    assert "3 images in" in predict(best, folder, to=to, more=more).output


def test_two_do_not_write_into_one_folder(best: Path, tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    to = tmp_path / "out"
    with Output(to, Predictor(best), Wanted()).taken():
        refused = predict(best, tmp_path / "a.png", to=to)
    assert refused.exit_code == 2 and "another segtune predict writes there" in refused.output
    assert not any(to.iterdir())
    assert "1 images in" in predict(best, tmp_path / "a.png", to=to).output


def test_an_image_that_is_gone_meanwhile_is_predicted_all_the_same(
    best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Predictor.run

    def run(self: Predictor, images: Any, **others: Any) -> Any:
        (tmp_path / "a.png").unlink()
        return real(self, images, **others)

    monkeypatch.setattr(Predictor, "run", run)
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    assert "1 images in" in predict(best, tmp_path / "a.png", to=tmp_path / "out").output


def test_memory_that_runs_out_is_of_its_image_alone(
    best: Path, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Predictor.run

    def run(self: Predictor, images: Any, **others: Any) -> Any:
        if any(image.size == (11, 13) for image in images):
            raise MemoryError
        return real(self, images, **others)

    monkeypatch.setattr(Predictor, "run", run)
    for name, size in (("a", (20, 10)), ("b", (13, 11)), ("c", (20, 10))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    answer = predict(best, tmp_path / "*.png", to=tmp_path / "out")
    assert answer.exit_code == 1 and f"segtune: {tmp_path / 'b.png'}: out of memory" in (
        answer.output
    )
    assert [line["name"] for line in lines(tmp_path / "out")] == ["a", "c"]


def test_words_name_files_folders_lists_and_patterns(tmp_path: Path) -> None:
    for name in ("a/x.jpg", "a/x.png", "a/b/y.TIF", "c/[z].png", "out/masks/w.png", "a/.no.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "a" / "list.txt").write_text("\ufeff# some\nx.jpg\n\n../c/[z].png\ngone.png\n")

    def names(*words: str) -> list[str]:
        jobs = find_images([str(tmp_path / word) for word in words], tmp_path / "out")
        assert all(job.image == os.path.abspath(job.image) for job in jobs)
        return [job.name for job in jobs]

    assert names("a") == ["b/y", "x.jpg", "x.png"]  # x alone would be two images
    assert names(".") == ["a/b/y", "a/x.jpg", "a/x.png", "c/[z]"]
    assert names("a/x.jpg") == ["x"] and names("c/[z].png", "c") == ["[z]"]
    assert names("a/list.txt") == ["a/x", "c/[z]", "a/gone"]  # the last is missed when it is read
    assert names("a/**/*.*") == ["b/y", "x.jpg", "x.png"]
    for word in ("none", "none/*.png", "out"):
        with pytest.raises(InputError, match=r"no file, folder or pattern|no images \("):
            names(word)


Change = Callable[[Path, Path], None]


def _other_files(best: Path, to: Path) -> None:
    to.mkdir()
    (to / "mine.txt").touch()


def _damage(best: Path, to: Path) -> None:
    with (best / MODEL / "model.safetensors").open("r+b") as weights:
        weights.seek(-4, os.SEEK_END)
        weights.write(struct.pack("f", 1e9))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_other_files, "holds other files; name a new or empty folder"),
        (lambda best, to: to.touch(), "is a file; name a folder"),
        (_damage, "its SHA-256 is not that of what was written; export it again"),
        (lambda best, to: (best / "config.yaml").unlink(), "config.yaml: no such file"),
    ],
)
def test_bad_input_writes_nothing(change: Change, words: str, best: Path, tmp_path: Path) -> None:
    mine, to = tmp_path / "best", tmp_path / "out"
    shutil.copytree(best, mine)
    change(mine, to)
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    answer = predict(mine, tmp_path / "a.png", to=to)
    assert answer.exit_code == 2 and words in answer.output, answer.output
    assert not (to / RECORD).exists()


def test_images_that_stay_large_are_taken_fewer_at_once(
    best: Path, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = tmp_path / "windows"
    shutil.copytree(best, windows, ignore=lambda *_: ["manifest.json"])
    spec, config = load_run_config(best / "config.yaml", splits=False)
    config = config.replace({"data.mode": "crop"})
    (windows / "config.yaml").write_text(dump_run_config(spec, config))
    monkeypatch.setattr(module, "PIXELS_TOGETHER", 5000)
    jobs = find_images([str(mixed)], tmp_path / "out")
    parts = list(module._parts(jobs, Predictor(windows)))
    assert [job for part in parts for job in part] == jobs
    pixels = [[module._pixels(job.image) for job in part] for part in parts]
    assert all(sum(part) <= 5000 or len(part) == 1 for part in pixels)
    assert max(map(len, parts)) <= module.TOGETHER and max(pixels[0]) > 0
    assert len(parts) > len(list(module._parts(jobs, Predictor(best))))
    together = tmp_path / "together"  # a member that resizes, and one that does not
    shutil.copytree(best, together / MEMBERS / "a")
    shutil.copytree(windows, together / MEMBERS / "b")
    shutil.copy(best / "config.yaml", together)
    write_list(together, {"a": 1, "b": 1}, load_run_config(best / "config.yaml", splits=False)[1])
    assert list(module._parts(jobs, Predictor(together))) == parts
    said = predict(windows, mixed, to=tmp_path / "out")
    assert said.exit_code == 1, said.output  # one is broken
    found = lines(tmp_path / "out")
    assert len(found) == COUNT - 1
    for line in found:
        with Image.open(tmp_path / "out" / "masks" / f"{line['name']}.png") as mask:
            assert [mask.height, mask.width] == line["size"]
