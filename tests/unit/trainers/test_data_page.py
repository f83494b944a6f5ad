"""docs/data.md: each row of its tables of segmentation is a case, and says what happens."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from search.check import say_masks
from search.work.preflight import preflight
from spaces.errors import InputError
from spaces.spec import StudySpec
from tests.tiffs import write_tiff
from tests.unit.data_page import Row, each_has_its_case, parameters
from trainers.data import SegmentationData
from trainers.images import decode_image
from trainers.losses import IGNORE
from trainers.masks import decode_mask

SIZE = (48, 40)  # width, height
MASK, IMAGE = "train/masks/a1.png", "train/images/a1.png"
CLASSES = ("road", "car", "sky")
STRIPES = (np.arange(SIZE[1])[:, None] // 8 % 3 + np.zeros(SIZE[0], int)).astype(np.uint8)
"""(H, W): what each mask holds."""

SPACE = """\
space:
  data.resolution: 32x32
  model.arch: Unet
  model.encoder: resnet18
  model.encoder_weights: null
"""


@dataclass
class Place:
    """A data set of two train images and one val image, and what its study file says of it."""

    folder: Path
    data: dict[str, Any] = field(default_factory=dict)
    """The `data:` section, a line a key; `train` on line 4."""

    def image(self, name: str = IMAGE, size: tuple[int, int] = SIZE, shade: int = 200) -> None:
        self.save(name, Image.new("RGB", size, (shade, shade, shade)))

    def mask(self, name: str = MASK, values: Any = STRIPES, mode: str | None = None) -> None:
        self.save(name, Image.fromarray(np.asarray(values), mode))

    def save(self, name: str, image: Image.Image, **options: Any) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, **options)

    def write(self, name: str, content: str | bytes) -> None:
        content = content.encode() if isinstance(content, str) else content
        (self.folder / name).write_bytes(content)

    def rename(self, old: str, new: str) -> None:
        (self.folder / new).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / old).rename(self.folder / new)

    def remove(self, name: str) -> None:
        (self.folder / name).unlink()

    def study(self) -> StudySpec:
        lines = [f"  {key}: {json.dumps(value)}\n" for key, value in self.data.items()]
        text = f"name: page\ntask: segmentation\ndata:\n{''.join(lines)}{SPACE}"
        (self.folder / "study.yaml").write_text(text)
        return StudySpec.load(self.folder / "study.yaml")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    splits = {
        split: {"images": f"{split}/images", "masks": f"{split}/masks"}
        for split in ("train", "val")
    }
    place = Place(tmp_path, {**splits, "classes": list(CLASSES), "ignore_index": 255})
    for split, name, shade in (("train", "a0", 10), ("train", "a1", 20), ("val", "b0", 30)):
        place.image(f"{split}/images/{name}.png", shade=shade)
        place.mask(f"{split}/masks/{name}.png")
    return place


Make = Callable[[Place], None]
Holds = Callable[[SegmentationData], bool]


def both(*makes: Make) -> Make:
    def make(place: Place) -> None:
        for one in makes:
            one(place)

    return make


def given(**data: Any) -> Make:
    """The study file says so."""
    return lambda place: place.data.update(data)


def values(array: Any, name: str = MASK, mode: str | None = None) -> Make:
    return lambda place: place.mask(name, array, mode)


def image(size: tuple[int, int] = SIZE, name: str = IMAGE) -> Make:
    return lambda place: place.image(name, size)


def rename(old: str, new: str) -> Make:
    return lambda place: place.rename(old, new)


def copy(name: str, to: str) -> Make:
    return lambda place: place.write(to, (place.folder / name).read_bytes())


def remove(name: str) -> Make:
    return lambda place: place.remove(name)


TRAIN = ("train/images/a0", "train/images/a1")
ALL = (*TRAIN, "val/images/b0")


def pixels(
    array: np.ndarray, suffix: str = ".png", images: Sequence[str] = TRAIN, **data: Any
) -> Make:
    """These images are such ones, which differ in one pixel."""

    def make(place: Place) -> None:
        place.data.update(data)
        for index, name in enumerate(images):
            place.remove(f"{name}.png")
            own = array.copy()
            own[0, index] = own[20, 20] // 2
            path = place.folder / f"{name}{suffix}"
            if suffix == ".npy":
                np.save(path, own)
            elif suffix == ".tif":
                write_tiff(path, own)
            else:
                cv2.imwrite(str(path), own[..., [2, 1, 0, 3][: own.shape[2]]])

    return make


def turned(place: Place) -> None:
    """16 bits, stored on their side."""
    place.image("train/images/a0.png")
    exif = Image.Exif()
    exif[0x112] = 6
    place.save(IMAGE, Image.fromarray(DEEP[..., 0].T.copy() * 16), exif=exif)


def paged(name: str) -> Make:
    """A TIFF of two pages in place of a PNG."""

    def make(place: Place) -> None:
        place.remove(name)
        one = Image.fromarray(STRIPES)
        place.save(name.replace(".png", ".tif"), one, save_all=True, append_images=[one])

    return make


def in_lists(place: Place) -> None:
    for split, names in (("train", ("a0", "a1")), ("val", ("b0",))):
        lines = [f"{split}/images/{name}.npy {split}/masks/{name}.png" for name in names]
        place.write(f"{split}.txt", "\n".join(lines))
        place.data[split] = {"list": f"{split}.txt"}


def values_at(*expected: int) -> Holds:
    """The second train image is read so at a pixel."""

    def holds(data: SegmentationData) -> bool:
        found = decode_image(data.split("train")[1].image, data.spec)
        return bool(found[20, 20].tolist() == list(expected))

    return holds


def is_mask(expected: Any = STRIPES) -> Holds:
    """The mask of the second train image is read as these class indices."""

    def holds(data: SegmentationData) -> bool:
        found = decode_mask(data.split("train")[1].mask, data.spec)
        return bool((found == np.asarray(expected)).all())

    return holds


def names(*expected: str, split: str = "train") -> Holds:
    """The split has the images of these names."""
    return lambda data: [Path(sample.image).name for sample in data.split(split)] == list(expected)


HALF_VOID = np.where(np.arange(SIZE[0]) < 20, STRIPES, 255).astype(np.uint8)

DEEP = np.full((*SIZE[::-1], 3), 4095, np.uint16)  # 12 bits
DEEP[:20, :, 1] = 16
CLEAR = np.full((*SIZE[::-1], 4), (100, 50, 25, 0), np.uint8)
BANDS = np.full((*SIZE[::-1], 5), (10, 20, 30, 40, 250), np.uint8)

# {a row of docs/data.md, as it begins: (what is done to the data set, what holds where it works)}
CASES: dict[str, tuple[Make, Holds | None]] = {
    "a mask without a pixel of some class": (values(np.zeros_like(STRIPES)), is_mask(0)),
    "`data.ignore_index`": (
        values(HALF_VOID), is_mask(np.where(HALF_VOID == 255, IGNORE, HALF_VOID))),
    "a value that is no class": (values(STRIPES + 1), None),
    "16 bits": (values(STRIPES.astype(np.uint16)), is_mask()),
    "floating point": (
        both(remove(MASK), values(STRIPES.astype(np.float32), "train/masks/a1.tif")), None),
    "colours without": (values(np.stack([STRIPES] * 3, -1)), None),
    "another size": (image((40, 40)), None),

    "colours of 12 bits": (pixels(DEEP), values_at(15, 15, 15)),
    "the same with `data.range: [0, 4095]`": (
        pixels(DEEP, images=ALL, range=(0, 4095)), values_at(255, 255, 255)),
    "a TIFF of colours": (
        pixels(DEEP.astype(np.float32) / 4095, ".tif"), values_at(1, 1, 1)),
    "values outside": (pixels(DEEP, range=(0, 300)), values_at(255, 255, 255)),
    "images of zeros": (pixels(np.zeros_like(DEEP)), values_at(0, 0, 0)),
    "`data.range` from white": (given(range=(255, 0)), None),
    "16 bits that EXIF": (turned, lambda data: decode_image(
        data.split("train")[1].image, data.spec).shape == (*SIZE[::-1], 3)),
    "transparent places": (pixels(CLEAR), values_at(100, 50, 25)),
    "the same with `data.channels: 4`": (
        pixels(CLEAR, images=ALL, channels=4), values_at(100, 50, 25, 0)),
    "colours with `data.channels: 1`": (given(channels=1), values_at(20)),
    "colours with `data.channels: 4`": (given(channels=4), None),
    "a TIFF of five": (pixels(BANDS, ".tif"), values_at(10, 20, 30)),
    "the same with `data.channels: 5`": (pixels(BANDS, ".tif", channels=5), None),
    "`.npy` arrays": (
        both(pixels(BANDS, ".npy", images=ALL, channels=5), in_lists),
        values_at(10, 20, 30, 40, 250)),
    "an image of two pages": (paged(IMAGE), None),
    "a mask of two pages": (paged(MASK), None),

    "an image without a mask": (remove(MASK), None),
    "a mask without an image": (remove(IMAGE), None),
    "an image in two splits": (
        both(copy(IMAGE, "val/images/a1.png"), copy(MASK, "val/masks/a1.png")), None),
    "`a1.png` and `a1.jpg`": (image(name="train/images/a1.jpg"), None),
    "suffixes in capitals": (rename(IMAGE, "train/images/a1.PNG"), names("a0.png", "a1.PNG")),
}  # fmt: skip


def test_each_row_has_its_case() -> None:
    each_has_its_case("Segmentation", CASES)


@pytest.mark.parametrize(("row", "case"), parameters("Segmentation", CASES))
def test_what_happens(row: Row, case: tuple[Make, Holds | None], place: Place) -> None:
    make, holds = case
    make(place)
    said = StringIO()
    if row.outcome == "refused":
        assert holds is None
        with pytest.raises(InputError) as error:
            preflight(place.study())
        assert str(error.value).replace(f"{place.folder}/", "") == row.message
        return
    spec = place.study()
    data = preflight(spec)
    assert isinstance(data, SegmentationData)
    say_masks(spec.search_space(), data, Console(file=said, width=200))
    assert holds is not None and holds(data)
    lines = said.getvalue().replace(f"{place.folder}/", "").splitlines()
    spoken = [line for line in lines if re.match(r"data\.|not used|warning", line)]
    assert spoken == ([row.message] if row.message else [])
