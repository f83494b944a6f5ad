"""Folders that may be looked at: what is found in them, what is not, and small pictures."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.files.data_roots import (
    MOST_BELOW,
    MOST_BYTES,
    MOST_ENTRIES,
    SIDE,
    Count,
    DataRoots,
    small_picture,
)
from spaces.errors import InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a data set; beside it lies what nobody is to see."""
    root = tmp_path / "root"
    for folder in (root / "train" / "images", root / ".git", tmp_path / "private"):
        folder.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(folder / "a.png")
    (root / "out").symlink_to(tmp_path / "private")
    (root / "out.png").symlink_to(tmp_path / "private" / "a.png")
    (root / "hidden").symlink_to(root / ".git")
    (root / "round").symlink_to(root / "round")
    (root / "inner").symlink_to(root / "train" / "images")
    return root


def test_folders_are_shown_with_their_images(root: Path) -> None:
    (root / "train" / "images" / "notes.txt").touch()
    (root / "train" / "images" / "B.JPEG").touch()
    roots = DataRoots([root])
    top = roots.look(str(root))
    assert top.folders == {"inner": Count(2, False), "train": Count(0, False)}
    assert (top.images, top.trail, top.cut) == ([], [root], False)
    inner = roots.look(f"{root}/inner")
    assert inner.images == ["B.JPEG", "a.png"] and inner.trail == [root, root / "inner"]
    assert roots.picture_of(f"{root}/inner/a.png")[0] == root / "train" / "images" / "a.png"
    nested = DataRoots([root, root / ".git"])  # a root may lie in another, and be hidden there
    assert nested.look(f"{root}/.git").images == ["a.png"]
    assert DataRoots([Path("/")]).look(str(root)).path == root


@pytest.mark.parametrize("given", ["private", "absent"])  # what is there, and what is not
@pytest.mark.parametrize(
    "path",
    [
        "{above}/{given}",
        "{above}/{given}/a.png",
        "{root}/../{given}",
        "{root}/train/../../{given}",
        "{root}//{given}",
        "{root}/./train",
        "{root}/out",
        "{root}/out/{given}",
        "{root}/out.png",
        "{root}/hidden",
        "{root}/hidden/a.png",
        "{root}/.git",
        "{root}/.git/a.png",
        "{root}/round",
        "{root}x",
        "{root}/train\0",
        "{root}/train\\{given}",
        "{root}/\udcff",
        "{root}/" + "x" * 300,
        "{root}/" + "x/" * 5000,
        "root",
        "{given}",
        "~",
        "",
    ],
)
def test_what_lies_elsewhere_is_refused_whether_it_is_there_or_not(
    root: Path, tmp_path: Path, path: str, given: str
) -> None:
    named = path.format(root=root, above=tmp_path, given=given)
    for look in (DataRoots([root]).look, DataRoots([root]).picture_of):
        with pytest.raises(InputError) as refused:
            look(named)
        assert str(refused.value) == (
            f"There is nothing to look at: {named[:200]!r}; look below {root}"
        )


def test_many_entries_are_not_all_looked_at(root: Path) -> None:
    many, below = root / "many", root / "many" / "below"
    below.mkdir(parents=True)
    for folder, count in ((many, MOST_ENTRIES), (below, MOST_BELOW + 1)):
        for number in range(count):
            os.link(root / "train" / "images" / "a.png", folder / f"{number}.png")
    roots = DataRoots([root])
    assert roots.look(str(root)).folders["many"] == Count(MOST_BELOW, True)
    shown = roots.look(str(many))
    assert shown.cut and len(shown.images) + len(shown.folders) == MOST_ENTRIES
    (many / "0.png").unlink(), (many / "1.png").unlink()
    shown = roots.look(str(many))
    assert not shown.cut and len(shown.images) == MOST_ENTRIES - 2
    assert shown.folders == {"below": Count(MOST_BELOW, True)}


def test_all_folders_of_a_folder_are_counted_to_a_bound(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.files.data_roots.MOST_ENTRIES", 5)
    for name in "abc":
        (root / "train" / name).mkdir()
        for number in range(3):
            (root / "train" / name / f"{number}.jpg").touch()
    counts = DataRoots([root]).look(f"{root}/train").folders
    assert counts == {"a": Count(3, False), "b": Count(2, True), "c": None, "images": None}


def opened(path: Path) -> Image.Image:
    content = small_picture(path)
    image = Image.open(io.BytesIO(content))
    assert image.format == "JPEG" and len(content) < 100_000
    return image


@pytest.mark.parametrize(
    ("values", "mode"),
    [
        (np.uint8, "L"),
        (np.uint16, "I;16"),
        (np.int32, "I"),
        (np.float32, "F"),
    ],
)
def test_few_values_of_a_mask_are_told_apart(tmp_path: Path, values: type, mode: str) -> None:
    mask = np.zeros((600, 300), values)
    mask[:, 100:200], mask[:, 200:] = 1, 255
    path = tmp_path / "mask.tif"
    image = Image.fromarray(mask)
    assert image.mode == mode
    image.save(path)
    shown = opened(path)
    assert shown.size == (SIDE // 2, SIDE)
    row = np.asarray(shown.convert("L"))[100]
    assert row[10] < 10 and 117 < row[64] < 137 and row[-10] > 245


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_an_image_of_any_mode_is_shown(tmp_path: Path, mode: str) -> None:
    path = tmp_path / f"a.{'tif' if mode == 'CMYK' else 'png'}"
    Image.effect_noise((300, 200), 60).convert("RGB").convert(mode).save(path)
    assert opened(path).size == (256, 171)


def test_what_is_not_a_number_and_what_lies_on_its_side_is_shown(tmp_path: Path) -> None:
    odd = np.full((50, 60), np.nan, np.float32)
    odd[0, :3] = np.inf, -np.inf, 7
    Image.fromarray(odd).save(tmp_path / "odd.tif")
    assert opened(tmp_path / "odd.tif").size == (60, 50)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (60, 30), "red").save(tmp_path / "side.jpg", exif=exif)
    assert opened(tmp_path / "side.jpg").size == (30, 60)


def test_a_giant_image_and_what_is_none_are_refused(root: Path, tmp_path: Path) -> None:
    giant, huge, none, pipe, large = (tmp_path / f"{n}.png" for n in "abcde")
    Image.new("1", (7000, 6000)).save(giant)  # 5 kB
    Image.new("1", (20000, 20000)).save(huge)
    none.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    os.mkfifo(pipe)
    with open(large, "wb") as file:
        file.truncate(MOST_BYTES + 1)
    for path, said in {
        giant: "has more than 40,000,000 pixels",
        huge: "has more than 40,000,000 pixels",
        none: "cannot be shown",
        pipe: "cannot be shown",
        large: "has more than 32 MiB",
        root / "out.png": "cannot be shown",
    }.items():
        with pytest.raises(InputError, match=f"^{path.name} {said}$"):
            small_picture(path)
    os.mkfifo(root / "pipe.png")
    with pytest.raises(InputError, match="nothing to look at"):
        DataRoots([root]).picture_of(f"{root}/pipe.png")
