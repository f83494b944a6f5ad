"""docs/data.md: each row of its tables of segmentation is a case, and says what happens."""

from __future__ import annotations

import json
import os
import re
import unicodedata
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
from search.near_duplicates import near_duplicates
from search.work.preflight import preflight
from spaces.errors import InputError
from spaces.spec import StudySpec
from tests.scenes import scene
from tests.tiffs import write_tiff
from tests.unit.data_page import Row, each_has_its_case, parameters
from trainers.data import SegmentationData
from trainers.images import decode_image
from trainers.losses import IGNORE
from trainers.masks import decode_mask

SIZE = (48, 40)  # width, height
MASK, IMAGE = "train/masks/a1.png", "train/images/a1.png"
MASKS, FOLDERS = ("train/masks/a0.png", MASK), ("train/images", "train/masks")
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


def train(**settings: Any) -> Make:
    """The study file says so of the train split."""
    return lambda place: place.data["train"].update(settings)


def values(array: Any, name: str = MASK, mode: str | None = None) -> Make:
    return lambda place: place.mask(name, array, mode)


def all_values(array: Any) -> Make:
    return both(*(values(array, name) for name in (*MASKS, "val/masks/b0.png")))


def another(array: Any, name: str) -> Make:
    """The mask in a file of another kind."""
    return both(remove(MASK), values(array, name))


def image(size: tuple[int, int] = SIZE, name: str = IMAGE) -> Make:
    return lambda place: place.image(name, size)


def rename(old: str, new: str) -> Make:
    return lambda place: place.rename(old, new)


def rename_all(images: str, masks: str) -> Make:
    """New names of the train files, where {} is their stem."""
    return both(
        *(rename(f"train/images/{n}.png", images.format(n)) for n in ("a0", "a1")),
        *(rename(f"train/masks/{n}.png", masks.format(n)) for n in ("a0", "a1")),
    )


def copy(name: str, to: str) -> Make:
    return lambda place: place.write(to, (place.folder / name).read_bytes())


def remove(name: str) -> Make:
    return lambda place: place.remove(name)


def write(name: str, content: str | bytes) -> Make:
    return lambda place: place.write(name, content)


def cut(name: str) -> Make:
    """The first half of a file alone."""

    def make(place: Place) -> None:
        content = (place.folder / name).read_bytes()
        place.write(name, content[: len(content) // 2])

    return make


def link(name: str, target: str) -> Make:
    return both(remove(name), lambda place: (place.folder / name).symlink_to(target))


def pipe(name: str) -> Make:
    return both(remove(name), lambda place: os.mkfifo(place.folder / name))


def folder(name: str) -> Make:
    return lambda place: (place.folder / name).mkdir(parents=True)


def listed(*lines: str, **split: str) -> Make:
    """The train split is a list of these lines, and what else is said of it."""
    return both(write("train.txt", "\n".join(lines)), given(train={"list": "train.txt", **split}))


def stems(*lines: str) -> Make:
    return listed(*lines, images="train/images", masks="train/masks")


def turned(name: str, orientation: int) -> Make:
    def make(place: Place) -> None:
        exif = Image.Exif()
        exif[0x112] = orientation
        with Image.open(place.folder / name) as one:
            place.save(name, one.copy(), exif=exif)

    return make


def indexed(colours: Sequence[int]) -> Make:
    """Each mask a PNG with a table of these colours."""

    def make(place: Place) -> None:
        for name in (*MASKS, "val/masks/b0.png"):
            one = Image.fromarray(STRIPES, "P")
            one.putpalette(colours)
            place.save(name, one)

    return make


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


def deep_on_its_side(place: Place) -> None:
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


def arrays_in_folders(place: Place) -> None:
    for split in ("train", "val"):
        place.data[split]["image_suffix"] = ".npy"


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
    """The split has the images of these names, and each has a mask of its own."""

    def holds(data: SegmentationData) -> bool:
        samples = data.split(split)
        apart = len({sample.mask for sample in samples}) == len(samples)
        return apart and [Path(sample.image).name for sample in samples] == list(expected)

    return holds


def classes(*expected: str, ignore: int | None = 255) -> Holds:
    return lambda data: (data.spec.names, data.spec.ignore_index) == (list(expected), ignore)


ROAD, CAR, SKY, BORDER = (128, 64, 128), (0, 0, 142), (70, 130, 180), (224, 224, 192)
COLOURS = np.array([ROAD, CAR, SKY], np.uint8)[STRIPES]  # (H, W, 3)
PALETTE = given(palette=[ROAD, CAR, SKY], ignore_index=None)
BOTH = names("a0.png", "a1.png")
TWO: Holds = lambda data: len(data.split("val")) == 2  # noqa: E731


def frame(name: str, video: int = 0, number: int = 0, kind: str = "png") -> Make:
    """A frame of a video of 160x120, and its mask; the camera moves by two pixels at a time."""

    def make(place: Place) -> None:
        picture = scene(video, (220, 120)).crop((2 * number, 0, 160 + 2 * number, 120))
        image, mask = name.format("images"), name.format("masks")
        (place.folder / image).unlink(missing_ok=True)
        place.save(str(Path(image).with_suffix(f".{kind}")), picture)
        place.mask(mask, np.resize(STRIPES, (120, 160)))

    return make


def videos(other: str) -> Make:
    """Two videos in place of all images; the second frame of each goes into `other`."""
    old = ("train/{}/a0.png", "train/{}/a1.png", "val/{}/b0.png")
    return both(
        *(remove(name.format(kind)) for name in old for kind in ("images", "masks")),
        *(frame(f"train/{{}}/clip{video}_0.png", video) for video in (1, 2)),
        *(frame(f"{other}/{{}}/clip{video}_1.png", video, 1) for video in (1, 2)),
    )


HALF = np.arange(SIZE[0])[None] < 20 + np.zeros_like(STRIPES)
HALF_VOID = np.where(HALF, STRIPES, 255).astype(np.uint8)
NFC, NFD = (unicodedata.normalize(form, "\u00e9") for form in ("NFC", "NFD"))
PAIRS = tuple(f"train/images/{n}.png train/masks/{n}.png" for n in ("a0", "a1"))
CITY = "{}/{{}}_leftImg8bit.png", "{}/{{}}_gtFine_labelIds.png"

DEEP = np.full((*SIZE[::-1], 3), 4095, np.uint16)  # 12 bits
DEEP[:20, :, 1] = 16
CLEAR = np.full((*SIZE[::-1], 4), (100, 50, 25, 0), np.uint8)
BANDS = np.full((*SIZE[::-1], 5), (10, 20, 30, 40, 250), np.uint8)

# {a row of docs/data.md, as it begins: (what is done to the data set, what holds where it works)}
CASES: dict[str, tuple[Make, Holds | None]] = {
    "a mask without a pixel of some class": (values(np.zeros_like(STRIPES)), is_mask(0)),
    "`data.ignore_index`": (
        values(HALF_VOID), is_mask(np.where(HALF_VOID == 255, IGNORE, HALF_VOID))),
    "a mask of ignored": (values(np.full_like(STRIPES, 255)), is_mask(IGNORE)),
    "a split of ignored": (values(np.full_like(STRIPES, 255), "val/masks/b0.png"), None),
    "a class that val lacks": (values(STRIPES % 2, "val/masks/b0.png"), is_mask()),
    "a class that train lacks": (
        both(*(values(STRIPES % 2, name) for name in MASKS)), None),
    "a value that is no class": (values(STRIPES + 1), None),
    "255 without": (both(given(ignore_index=None), values(HALF_VOID)), None),
    "`data.values: [7, 8, 11]`": (
        both(given(values=[7, 8, 11]), all_values(np.array([7, 8, 11], np.uint8)[STRIPES])),
        is_mask()),
    "`data.values` and a value": (
        both(given(values=[7, 8, 11]), all_values(np.array([7, 8, 12], np.uint8)[STRIPES])), None),
    "`data.values` and `data.ignore_values: [12]`": (
        both(given(values=[7, 8, 11], ignore_values=[12]),
             all_values(np.array([7, 8, 11], np.uint8)[STRIPES]),
             values(np.where(HALF, 12, 8).astype(np.uint8))),
        is_mask(np.where(HALF, IGNORE, 1))),
    "`data.values` of another length": (given(values=[7, 8]), None),
    "one class, masks of 0 and 255": (
        both(given(classes=["road"], ignore_index=None),
             all_values((HALF * 255).astype(np.uint8))), is_mask(HALF)),
    "one class, masks of 0 and 128": (
        both(given(classes=["road"], ignore_index=None),
             all_values((HALF * 128).astype(np.uint8))), None),
    "one class with `data.values: [2]`": (
        both(given(classes=["sky"], values=[2])), is_mask(STRIPES == 2)),
    "one bit": (
        both(given(classes=["road"], ignore_index=None),
             *(values(HALF, name) for name in (*MASKS, "val/masks/b0.png"))), is_mask(HALF)),
    "16 bits": (values(STRIPES.astype(np.uint16)), is_mask()),
    "32 bits": (another(STRIPES.astype(np.int32), "train/masks/a1.tif"), is_mask()),
    "floating point": (another(STRIPES.astype(np.float32), "train/masks/a1.tif"), None),
    "a PNG with a table": (indexed([*ROAD, *CAR, *SKY]), is_mask()),
    "a PNG with a table of colours, with": (
        both(indexed([*ROAD, *CAR, *SKY]), PALETTE), is_mask()),
    "a grey mask with an alpha": (
        values(np.stack([STRIPES, np.full_like(STRIPES, 255)], -1)), None),
    "three equal channels": (values(np.stack([STRIPES] * 3, -1)), None),
    "colours without": (all_values(COLOURS), None),
    "colours with": (both(PALETTE, all_values(COLOURS)), is_mask()),
    "colours with an alpha": (
        both(PALETTE, all_values(np.concatenate([COLOURS, COLOURS[..., :1]], -1))), is_mask()),
    "a colour that `data.palette`": (
        both(PALETTE, all_values(COLOURS), values(np.where(HALF[..., None], 9, COLOURS))), None),
    "a colour of `data.palette_ignore`": (
        both(PALETTE, given(palette_ignore=[BORDER]), all_values(COLOURS),
             values(np.where(HALF[..., None], np.array(BORDER, np.uint8), COLOURS))),
        is_mask(np.where(HALF, IGNORE, STRIPES))),
    "indices where": (PALETTE, None),
    "a JPEG": (another(STRIPES * 100, "train/masks/a1.jpg"), None),
    "another size": (image((40, 40)), None),
    "the image lies on its side": (
        both(image((40, 48)), turned(IMAGE, 6)), is_mask()),
    "a mask whose EXIF": (turned(MASK, 3), None),

    "a list of names in `data.classes`": (given(classes=list(CLASSES)), classes(*CLASSES)),
    "a text file, one name": (
        both(write("classes.txt", "\ufeffroad\r\n\r\ncar\r\nsky\r\n"),
             given(classes="classes.txt")), classes(*CLASSES)),
    'a JSON, `["road",': (
        both(write("classes.json", json.dumps(CLASSES)), given(classes="classes.json")),
        classes(*CLASSES)),
    'a JSON, `{"classes"': (
        both(write("classes.json", json.dumps({"classes": CLASSES, "ignore_index": 9})),
             lambda place: place.data.pop("ignore_index"), given(classes="classes.json")),
        classes(*CLASSES, ignore=9)),
    "a text file of colours and names": (
        both(write("classes.txt", "64 128 64\troad\n"), given(classes="classes.txt")), None),
    "a JSON of names by number": (
        both(write("classes.json", '{"0": "road", "1": "car"}'), given(classes="classes.json")),
        None),
    "a class file that is not UTF-8": (
        both(write("classes.txt", b"stra\xdfe\n"), given(classes="classes.txt")), None),
    "a class file that is a pipe": (
        both(write("classes.txt", ""), pipe("classes.txt"), given(classes="classes.txt")), None),
    "fewer names": (given(classes=["road", "car"]), None),
    "one name twice": (given(classes=["road", "car", "road"]), None),

    "colours of 12 bits": (pixels(DEEP), values_at(15, 15, 15)),
    "the same with `data.range: [0, 4095]`": (
        pixels(DEEP, images=ALL, range=(0, 4095)), values_at(255, 255, 255)),
    "a TIFF of colours": (
        pixels(DEEP.astype(np.float32) / 4095, ".tif"), values_at(1, 1, 1)),
    "values outside": (pixels(DEEP, range=(0, 300)), values_at(255, 255, 255)),
    "images of zeros": (pixels(np.zeros_like(DEEP)), values_at(0, 0, 0)),
    "`data.range` from white": (given(range=(255, 0)), None),
    "`data.range` of one": (given(range=4095), None),
    "16 bits that EXIF": (deep_on_its_side, lambda data: decode_image(
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
    "the same in folders": (
        both(pixels(BANDS, ".npy", images=ALL, channels=5), arrays_in_folders),
        values_at(10, 20, 30, 40, 250)),
    "an image of two pages": (paged(IMAGE), None),
    "a mask of two pages": (paged(MASK), None),

    "an image without a mask": (remove(MASK), None),
    "a mask without an image": (remove(IMAGE), None),
    "`a1.png` and `a1.jpg`": (image(name="train/images/a1.jpg"), None),
    "suffixes in capitals": (rename(IMAGE, "train/images/a1.PNG"), names("a0.png", "a1.PNG")),
    "`.jpg` images": (
        both(remove(IMAGE), image(name="train/images/a1.jpg")), names("a0.png", "a1.jpg")),
    "spaces in names": (
        both(rename(IMAGE, "train/images/a 1.png"), rename(MASK, "train/masks/a 1.png")),
        names("a 1.png", "a0.png")),
    "names in capitals": (rename(MASK, "train/masks/A1.png"), None),
    "accents": (
        both(rename(IMAGE, f"train/images/{NFC}.png"), rename(MASK, f"train/masks/{NFD}.png")),
        names("a0.png", f"{NFC}.png")),
    "both Unicode forms": (
        both(rename(IMAGE, f"train/images/{NFC}.png"), image(name=f"train/images/{NFD}.png")),
        None),
    "hidden files": (
        both(write("train/images/._a1.png", "x"), write("train/images/.DS_Store", "x")), BOTH),
    "other files among": (
        both(write("train/images/a2.gif", "x"), write("train/images/Thumbs.db", "x"),
             folder("train/images/more")), BOTH),
    "other files alone": (
        both(remove(IMAGE), remove("train/images/a0.png"), write("train/images/a0.gif", "x"),
             write("train/images/a1.npy", "x")), None),
    "an empty folder": (both(remove(IMAGE), remove("train/images/a0.png")), None),
    "masks of a kind": (
        both(rename(MASK, "train/masks/a1.npy"), rename(MASKS[0], "train/masks/a0.npy")), None),
    "images and masks in one folder": (train(masks="train/images"), None),
    "an image in two splits": (
        both(copy(IMAGE, "val/images/a1.png"), copy(MASK, "val/masks/a1.png")), None),
    "one folder as train": (
        lambda place: place.data.update(val=place.data["train"]), None),
    "a picture of train": (
        both(frame("train/{}/a1.png"), frame("val/{}/b0.png", kind="jpg")), BOTH),
    "frames that follow": (videos("val"), names("clip1_0.png", "clip2_0.png")),
    "the same in one folder, with `data.val: {f": (
        both(videos("train"), given(val={"fraction": 0.5, "seed": 0})), TWO),
    "the same with that `group`": (
        both(videos("train"), given(val={"fraction": 0.5, "group": r"^(.+?)[_-]?\d+$"})), TWO),

    "masks called `a1_L.png`": (rename_all("train/images/{}.png", "train/masks/{}_L.png"), None),
    "the same with `mask_suffix: _L`": (
        both(rename_all("train/images/{}.png", "train/masks/{}_L.png"), train(mask_suffix="_L")),
        BOTH),
    "`a1_leftImg8bit.png` and": (
        rename_all(*(name.format(f) for name, f in zip(CITY, FOLDERS, strict=True))), None),
    "the same with `image_suffix: _leftImg8bit`": (
        both(rename_all(*(name.format(f) for name, f in zip(CITY, FOLDERS, strict=True))),
             train(image_suffix="_leftImg8bit", mask_suffix="_gtFine_labelIds")),
        names("a0_leftImg8bit.png", "a1_leftImg8bit.png")),
    "further files of each image": (
        both(rename_all("train/images/{}.png", "train/masks/{}_labelIds.png"),
             *(image(name=f"train/masks/a{n}_color.png") for n in (0, 1)),
             write("train/masks/a0_polygons.json", "{}"), train(mask_suffix="_labelIds")), BOTH),
    "an `image_suffix` that no": (train(image_suffix="_x"), None),
    "`img1.png` and `gt1.png`": (
        rename_all("train/images/img{}.png", "train/masks/gt{}.png"), None),
    "`a1.png` beside `a1_mask.png`": (
        both(rename_all("all/{}.png", "all/{}_mask.png"),
             given(train={"images": "all", "masks": "all", "mask_suffix": "_mask"})), BOTH),
    "`a1.jpg` beside `a1.png`": (
        both(rename_all("all/{}.jpg", "all/{}.png"),
             given(train={"images": "all", "masks": "all", "image_suffix": ".jpg",
                          "mask_suffix": ".png"})), names("a0.jpg", "a1.jpg")),
    "images in folders of the folder": (
        rename_all("train/images/ulm/{}.png", "train/masks/ulm/{}.png"), None),
    "the same with `recursive: true`": (
        both(rename_all("train/images/ulm/{}.png", "train/masks/ulm/{}.png"),
             train(recursive=True)), BOTH),
    "masks in other folders": (
        both(rename_all("train/images/ulm/{}.png", "train/masks/jena/{}.png"),
             train(recursive=True)), None),
    "one name in two folders": (
        both(rename(IMAGE, "train/images/b/a0.png"), rename(MASK, "train/masks/b/a0.png"),
             train(recursive=True)), names("a0.png", "a0.png")),
    "a link to the folder": (
        both(lambda place: (place.folder / "train/images/more").symlink_to("."),
             train(recursive=True)), BOTH),

    "`image mask` lines": (listed(*PAIRS), BOTH),
    "comments, blank lines": (listed("\ufeff# image mask\r", "\r", *PAIRS), BOTH),
    "tabs between paths": (
        both(rename(IMAGE, "train/images/a 1.png"),
             listed(PAIRS[0], "train/images/a 1.png\ttrain/masks/a1.png")),
        names("a 1.png", "a0.png")),
    "spaces between paths": (
        both(rename(IMAGE, "train/images/a 1.png"),
             listed(PAIRS[0], "train/images/a 1.png train/masks/a1.png")), None),
    "a line of an image": (listed(PAIRS[0], "train/images/a1.png"), None),
    "a file that is not there": (listed(PAIRS[0], PAIRS[1].replace("masks/a1", "masks/a2")), None),
    "a file of another kind": (listed(PAIRS[0], "train/images/a1.npy train/masks/a1.png"), None),
    "an image twice": (listed(*PAIRS, PAIRS[0]), None),
    "an empty list": (listed("# nothing"), None),
    "a list that is not UTF-8": (
        both(listed(*PAIRS), write("train.txt", b"stra\xdfe.png a.png")), None),
    "a list beside": (stems("a1"), names("a1.png")),
    "endings in such a list": (stems("a1.png"), names("a1.png")),
    "a name that is not there": (stems("a1", "a7"), None),
    "two fields": (stems("a1 -1"), None),
    "a name twice": (stems("a0", "a1", "a0"), None),
    "a listed image": (both(remove(MASK), stems("a0", "a1")), None),
    "a list, and a `mask_suffix`": (listed(*PAIRS, mask_suffix="_L"), None),

    "an empty file": (write(IMAGE, ""), None),
    "a file of text": (write(IMAGE, "hello"), None),
    "half of an image": (cut(IMAGE), None),
    "half of a mask": (cut(MASK), None),
    "a link to a file": (
        both(rename(IMAGE, "a.png"), lambda place: (place.folder / IMAGE).symlink_to(
            place.folder / "a.png")), BOTH),
    "a link to nothing": (link(IMAGE, "gone.png"), None),
    "a link to nothing among the masks": (link(MASK, "gone.png"), None),
    "a link to itself": (link(IMAGE, "a1.png"), None),
    "a pipe": (pipe(IMAGE), None),
    "a pipe among the masks": (pipe(MASK), None),
    "a pipe in a list": (both(pipe(MASK), listed(*PAIRS)), None),
    "a folder called": (both(remove(IMAGE), folder(IMAGE)), None),
    # what root may not read either: a place of memory that there is not
    "a file that cannot be read": (link(IMAGE, "/proc/self/mem"), None),
    "more pixels": (given(max_pixels=1000), None),
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
    console = Console(file=said, width=200)
    say_masks(spec.search_space(), data, console)
    console.print("\n".join(near_duplicates(data)), markup=False, soft_wrap=True)
    assert holds is not None and holds(data)
    lines = said.getvalue().replace(f"{place.folder}/", "").splitlines()
    spoken = [line for line in lines if re.match(r"data\.|not used|warning", line)]
    assert spoken == ([row.message] if row.message else [])
