"""docs/data.md: each row of its tables of text is a case, and says what happens word for word."""

from __future__ import annotations

import json
import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from search.check_text import say_text
from search.near_duplicates import near_duplicates
from spaces.data import TextDetectionDataSpec
from spaces.errors import InputError
from spaces.space import Space
from spaces.text_detection import TextDetectionConfig
from tests.tiffs import write_tiff
from tests.unit.data_page import Row, each_has_its_case, parameters
from tests.unit.text.pages import write_pages
from trainers.text_data import TextData, load_text_data
from trainers.text_sizes import check_learnable

BOX = "10,10,50,10,50,20,10,20"
LINE = f"{BOX},word"
BBOX = {"bbox": [10, 10, 40, 10]}
LABEL = "train/labels/gt_p1.txt"


@dataclass
class Place:
    """A data set of two train pages and one val page, and what its spec says beside the folders."""

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    labels: str = "train/labels"

    def write(self, *lines: str, name: str = LABEL) -> None:
        (self.folder / name).write_text("\n".join(lines), encoding="utf-8")

    def write_bytes(self, content: bytes) -> None:
        (self.folder / LABEL).write_bytes(content)

    def rename(self, old: str, new: str) -> None:
        (self.folder / old).rename(self.folder / new)

    def image(self, name: str, size: tuple[int, int] = (80, 60), shade: int = 200) -> None:
        Image.new("RGB", size, (shade, shade, shade)).save(self.folder / name)

    def picture(self, name: str, size: tuple[int, int] = (80, 60)) -> None:
        """The same picture each time, of another size."""
        noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((80, 60)).resize(size).save(self.folder / name)

    def json(
        self, *names: str, name: str = "train.json", boxes: Sequence[dict[str, Any]] = ()
    ) -> None:
        """Labels of train: images of these names, with one box each; the last box is the rest's."""
        names = names or ("p0.png", "p1.png")
        boxes = boxes or [BBOX]
        content = {
            "images": [{"id": i, "file_name": one} for i, one in enumerate(names)],
            "annotations": [
                {"image_id": i, **boxes[min(i, len(boxes) - 1)]} for i in range(len(names))
            ],
        }
        self.write(json.dumps(content), name=name)
        self.labels = name

    def load(self) -> TextData:
        settings = dict(self.settings)
        tree = {
            "train": {
                "images": f"{self.folder}/train/images",
                "labels": f"{self.folder}/{self.labels}",
                "set": settings.pop("only", None),
            },
            "val": {"images": f"{self.folder}/val/images", "labels": f"{self.folder}/val/labels"},
        }
        return load_text_data(TextDetectionDataSpec.model_validate({**tree, **settings}))


Make = Callable[[Place], None]
Holds = Callable[[TextData], bool]


TRAIN = ("train/images/p0", "train/images/p1")
ALL = (*TRAIN, "val/images/p0")


def pixels(
    values: np.ndarray,
    suffix: str = ".png",
    exif: int = 1,
    pages: Sequence[str] = TRAIN,
    **settings: Any,
) -> Make:
    """These pages are such images, which differ in one pixel."""
    tags = Image.Exif()
    tags[0x112] = exif

    def make(place: Place) -> None:
        place.settings |= settings
        for index, name in enumerate(pages):
            (place.folder / f"{name}.png").unlink()
            page = values.copy()
            page[0, index] = page[30, 40] // 2
            path = place.folder / f"{name}{suffix}"
            if suffix == ".tif" and values.ndim == 3:
                write_tiff(path, page)
            else:
                Image.fromarray(page).save(path, exif=tags)

    return make


def pages_of(place: Place) -> None:
    """A TIFF of two pages."""
    (place.folder / "train/images/p1.png").unlink()
    one = Image.new("RGB", (80, 60), (9, 9, 9))
    one.save(place.folder / "train/images/p1.tif", save_all=True, append_images=[one])


def values_at(row: int, column: int, *expected: int) -> Holds:
    """The second train page is read so at a pixel."""
    return lambda data: data.image(data.split("train")[1])[row, column].tolist() == list(expected)


def lines(*texts: str, **settings: Any) -> Make:
    def make(place: Place) -> None:
        place.write(*texts)
        place.settings |= settings

    return make


def labels(*boxes: dict[str, Any]) -> Make:
    return lambda place: place.json(boxes=boxes)


def both(*makes: Make) -> Make:
    def make(place: Place) -> None:
        for one in makes:
            one(place)

    return make


def truth(page: int = 1) -> Callable[[TextData], Any]:
    return lambda data: data.truth(data.split("train")[page])


def texts(*expected: str) -> Holds:
    return lambda data: truth()(data).texts == list(expected)


def corners(*expected: int, page: int = 1) -> Holds:
    return lambda data: truth(page)(data).polygons[0].ravel().tolist() == list(expected)


def dont_care(*expected: bool) -> Holds:
    return lambda data: truth()(data).ignore.tolist() == list(expected)


def counts(page: int = 0) -> Holds:
    return lambda data: truth(page)(data).ignore.tolist() == [False]


def nfd(place: Place) -> None:
    place.rename("train/images/p1.png", f"train/images/{unicodedata.normalize('NFC', 'é')}.png")
    place.rename(LABEL, f"train/labels/gt_{unicodedata.normalize('NFD', 'é')}.txt")


def other_names(place: Place) -> None:
    place.rename(LABEL, "train/labels/p1.txt")
    place.rename("train/labels/gt_p0.txt", "train/labels/p0.csv")
    place.rename("val/labels/gt_p0.txt", "val/labels/gt_p0.csv")


def rectangles(place: Place) -> None:
    place.settings["points"] = 2
    for name in (LABEL, "train/labels/gt_p0.txt", "val/labels/gt_p0.txt"):
        place.write('10 10 50 20 "word"', name=name)


def webp(place: Place) -> None:
    (place.folder / "train/images/p1.png").unlink()
    place.image("train/images/p1.webp")


def sizes(place: Place) -> None:
    place.json()
    content = json.loads((place.folder / "train.json").read_text())
    content["images"][0] |= {"width": 60, "height": 80}
    place.write(json.dumps(content), name="train.json")


def twice(place: Place, name: str = "val", suffix: str = "jpg") -> None:
    """p1 of train once more as p7."""
    place.picture("train/images/p1.png")
    place.write(LINE, name=f"{name}/labels/gt_p7.txt")
    place.picture(f"{name}/images/p7.{suffix}", (64, 48) if suffix == "jpg" else (80, 60))


def twice_in_train(place: Place) -> None:
    twice(place, "train")
    place.settings["val"] = {"fraction": 0.5, "seed": 1}


def sets(*names: str | None) -> Make:
    """The images of the JSON are in these sets."""

    def make(place: Place) -> None:
        place.json()
        content = json.loads((place.folder / "train.json").read_text())
        for entry, name in zip(content["images"], names, strict=True):
            entry |= {} if name is None else {"set": name}
        place.write(json.dumps(content), name="train.json")

    return make


def small(place: Place) -> None:
    for index in range(2):
        place.write("10,10,50,10,50,13,10,13,low", name=f"train/labels/gt_p{index}.txt")


def remove(name: str) -> Make:
    return lambda place: (place.folder / name).unlink()


def link(name: str, target: str) -> Make:
    return both(remove(name), lambda place: (place.folder / name).symlink_to(target))


def pipe(name: str) -> Make:
    return both(remove(name), lambda place: os.mkfifo(place.folder / name))


def cut(place: Place) -> None:
    """The first half of an image alone."""
    content = (place.folder / PAGE).read_bytes()
    (place.folder / PAGE).write_bytes(content[: len(content) // 2])


PAGE = "train/images/p1.png"
UNREADABLE = "/proc/self/mem"  # for root too: there is no memory at its beginning
CROSSED = "10,10,50,10,10,20,50,20"
FLAT = "10,10,50,10,50,10,10,10"
SQUARE = (10, 10, 50, 10, 50, 20, 10, 20)

DEEP = np.full((60, 80), 16, np.uint16)  # a page of 12 bits: dark on light
DEEP[20:40, 20:60] = 4095
CLEAR = np.zeros((60, 80, 4), np.uint8)  # black on nothing, opaque in the middle
CLEAR[20:40, 20:60, 3] = 255

# {a row of docs/data.md, as it begins: (what is done to the data set, what holds where it works)}
CASES: dict[str, tuple[Make, Holds | None]] = {
    "`10,10,50,10,50,20,10,20,a word, and": (
        lines(f"{BOX},a word, and another"), texts("a word, and another")),
    "a line of coordinates alone": (lines(BOX), texts("")),
    "blank lines, a BOM": (lines(f"\ufeff{BOX},a\r", "\r", f"{BOX},b\r"), texts("a", "b")),
    "an empty file": (lines(""), texts()),
    "tabs": (lines(f"{BOX},a word".replace(",", "\t")), texts("a word")),
    "spaces": (lines(f"{BOX},word,1".replace(",", " ", 8)), texts("word,1")),
    "semicolons": (lines(LINE.replace(",", ";")), None),
    "three corners": (lines("10,10,50,10,50,20,word"), None),
    "not UTF-8": (
        lambda place: place.write_bytes(BOX.encode() + b",caf\xe9"), None),
    "rectangles of four numbers": (lines('10 10 50 20 "word"'), None),
    "the same with": (
        rectangles, lambda data: corners(*SQUARE)(data) and texts("word")(data)),
    "x, y, width, height": (both(rectangles, lines("50,30,20,10,word")), None),

    "corners that cross: top left, top": (lines(f"{CROSSED},word"), corners(*SQUARE)),
    "corners that cross: top left, bottom": (
        lines("10,10,50,20,50,10,10,20,word"), corners(*SQUARE)),
    "don't-care text whose corners": (lines(LINE, f"{CROSSED},###"), dont_care(False, True)),
    "corners that cross, in a JSON": (
        labels({"polygon": [10, 10, 50, 10, 10, 20, 50, 20]}, BBOX), corners(*SQUARE, page=0)),
    "a box without area": (lines(f"{FLAT},word"), None),
    "don't-care text without area": (lines(LINE, f"{FLAT},###"), None),
    "four corners, the first": (lines("10,10,50,10,10,10,30,20,word"), None),
    "five corners": (lines("10,10,50,10,10,20,50,20,30,30,word", points=None), None),
    "five corners or more": (
        lines("10,10,50,10,55,15,50,20,10,20,word", points=None), texts("word")),
    "coordinates from 0 to 1": (lines("0.1,0.2,0.6,0.2,0.6,0.3,0.1,0.3,word"), None),
    "a box that reaches": (
        lines("60,10,95,10,95,20,60,20,word"),
        lambda data: truth()(data).on_page((60, 80)).polygons[0].max() == 80),
    "a box outside": (lines("100,10,150,10,150,20,100,20,word"), None),
    "a box beside": (lines("80,10,90,10,90,20,80,20,word"), None),

    "`###`": (lines(LINE, f"{BOX},###"), dont_care(False, True)),
    "` ###`": (lines(LINE, f"{BOX}, ### "), dont_care(False, True)),
    '`"###"`': (lines(LINE, f'{BOX},"###"'), dont_care(False, True)),
    "`#` or": (lines(LINE, f"{BOX},#", f"{BOX},####"), dont_care(False, True, True)),
    "`Latin,###`": (
        lines(f"{BOX},Latin,word", f"{BOX},Latin,###"),
        lambda data: dont_care(False, True)(data) and texts("word", "###")(data)),
    "`Latin,word`": (
        lines(f"{BOX},Latin,word", f"{BOX},Symbols,1,2"), texts("word", "1,2")),
    "`###1`": (lines(f"{BOX},###1"), dont_care(False)),
    "a split of don't-care": (
        lambda place: place.write(f"{BOX},###", name="val/labels/gt_p0.txt"), None),

    "`p1.txt`": (other_names, texts("word")),
    "`gt_p1.txt` beside `p1.txt`": (
        lambda place: place.write(LINE, name="train/labels/p1.txt"), None),
    "`gt_p1.txt` beside `gt_p1.csv`": (
        lambda place: place.write(LINE, name="train/labels/gt_p1.csv"), None),
    "an image without labels": (lambda place: (place.folder / LABEL).unlink(), None),
    "a label file without": (
        lambda place: place.write(LINE, name="train/labels/gt_p7.txt"), texts("word")),
    "accents": (nfd, texts("word")),
    "`.webp`": (webp, texts("word")),
    "`.gif`": (lambda place: place.image("train/images/p7.gif"), texts("word")),
    "a folder among": (
        lambda place: (place.folder / "train/images/more").mkdir(), texts("word")),
    "one file of labels": (
        both(lambda place: place.write(LINE, name="boxes.csv"),
            lambda place: setattr(place, "labels", "boxes.csv")), None),
    "a strip": (
        both(lambda place: place.image("train/images/p1.png", (1000, 20)),
            lines("10,2,50,2,50,18,10,18,word")), texts("word")),
    "a file that is in": (lambda place: twice(place, suffix="png"), None),
    "a picture of train": (twice, texts("word")),
    "the same with `data.val": (twice_in_train, lambda data: len(data.split("val")) == 2),
    "empty pages": (
        lambda place: (place.image("train/images/p0.png"),
            place.image("val/images/p0.png", (81, 60))), texts("word")),
    "text that is lower": (lines(LINE, "10,30,50,30,50,33,10,33,low"), texts("word", "low")),
    "text of which all": (small, None),

    "other files alone": (
        both(remove(PAGE), remove("train/images/p0.png"),
            lambda place: place.write("x", name="train/images/p0.gif"),
            lambda place: (place.folder / "train/images/more").mkdir()), None),
    "labels of another kind": (
        both(lambda place: place.rename(LABEL, "train/labels/p1.xml"),
            lambda place: place.rename("train/labels/gt_p0.txt", "train/labels/p0.xml")), None),
    "an empty image": (lambda place: place.write("", name=PAGE), None),
    "half of an image": (cut, None),
    "a link to nothing": (link(PAGE, "gone.png"), None),
    "a link to nothing among the labels": (link(LABEL, "gone.txt"), None),
    "a pipe": (pipe(PAGE), None),
    "a pipe among the labels": (pipe(LABEL), None),
    "a folder called": (
        both(remove(LABEL), lambda place: (place.folder / LABEL).mkdir()), None),
    "an image that cannot be read": (link(PAGE, UNREADABLE), None),
    "labels that cannot be read": (link(LABEL, UNREADABLE), None),

    "12 bits": (pixels(DEEP), values_at(30, 40, 15, 15, 15)),
    "the same with `data.range: [0, 4095]`": (
        pixels(DEEP, pages=ALL, range=(0, 4095)), values_at(30, 40, 255, 255, 255)),
    "a TIFF of floating point": (
        pixels(DEEP.astype(np.float32) / 4095, ".tif"), values_at(30, 40, 1, 1, 1)),
    "the same with `data.range: [0, 1]`": (
        pixels(DEEP.astype(np.float32) / 4095, ".tif", pages=ALL, range=(0, 1)),
        values_at(30, 40, 255, 255, 255)),
    "values outside": (pixels(DEEP, range=(16, 300)), values_at(30, 40, 255, 255, 255)),
    "a value that is not finite": (
        pixels(np.where(DEEP > 16, np.nan, 9).astype(np.float32), ".tif"), None),
    "16 bits that EXIF": (
        both(pixels(DEEP.T.copy() * 16, exif=6), lines(LINE)),
        lambda data: data.sizes[data.split("train")[1].image] == (60, 80)),
    "black on transparent": (pixels(CLEAR), lambda data: (
        values_at(5, 5, 255, 255, 255)(data) and values_at(30, 40, 0, 0, 0)(data))),
    "the same with `data.channels: 4`": (
        pixels(CLEAR, pages=ALL, channels=4), values_at(30, 40, 0, 0, 0, 255)),
    "colours with `data.channels: 1`": (
        pixels(np.full((60, 80, 3), (255, 0, 0), np.uint8), channels=1), values_at(30, 40, 76)),
    "colours with `data.channels: 4`": (lambda place: place.settings.update(channels=4), None),
    "a TIFF of four": (
        pixels(np.full((60, 80, 4), (200, 100, 50, 25), np.uint8), ".tif"),
        values_at(30, 40, 200, 100, 50)),
    "a TIFF of two pages": (pages_of, None),

    "`TRAIN.JSON`": (lambda place: place.json(name="TRAIN.JSON"), counts()),
    "`file_name` with folders: `train": (
        lambda place: place.json("train/images/p0.png", "train/images/p1.png"), counts()),
    "`file_name` with Windows": (
        lambda place: place.json("train\\images\\p0.png", "train\\images\\p1.png"), counts()),
    "`file_name` with folders, two": (
        lambda place: place.json("train/images/p0.png", "val/images/p0.png", "p1.png"), counts()),
    "two of one name": (lambda place: place.json("a/p0.png", "b/p0.png", "p1.png"), None),
    "an image that the JSON lacks": (lambda place: place.json("p0.png"), None),
    "images of the JSON": (lambda place: place.json("p0.png", "p1.png", "p7.png"), counts()),
    "`set`, as": (
        both(sets("val", "train"), lambda place: place.settings.update(only="train")),
        lambda data: len(data.split("train")) == 1 and counts()(data)),
    "a `set` that": (
        both(sets("val", None), lambda place: place.settings.update(only="train")), None),
    "`width` and": (sizes, None),
    '`"ignore": "0"`': (labels({**BBOX, "ignore": "0"}), counts()),
    '`"ignore": "1"`': (
        labels({**BBOX, "ignore": "0"}, {**BBOX, "ignore": "1"}), dont_care(True)),
    '`"ignore": "maybe"`': (labels({**BBOX, "ignore": "maybe"}), None),
    "a mask in run-length": (labels({"segmentation": {"counts": "a1", "size": [60, 80]}}), None),
    "a text of two parts": (labels({"segmentation": [[10] * 6, [20] * 6]}), None),
    "a `bbox` without": (labels({"bbox": [10, 10, 0, 10]}), None),
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(write_pages(tmp_path, LINE))


def test_each_row_has_its_case() -> None:
    each_has_its_case("Text detection", CASES)


@pytest.mark.parametrize(("row", "case"), parameters("Text detection", CASES))
def test_what_happens(row: Row, case: tuple[Make, Holds | None], place: Place) -> None:
    (_, outcome, message), (make, holds) = row, case
    make(place)
    said = StringIO()
    config = TextDetectionConfig().replace({"data.resolution": 160, "data.augment": "none"})
    space = Space({}, {}, config)
    if outcome == "refused":
        assert holds is None
        with pytest.raises(InputError) as error:
            check_learnable(space, place.load())
        assert str(error.value).replace(f"{place.folder}/", "") == message
        return
    data = place.load()
    check_learnable(space, data)
    console = Console(file=said, width=200)
    say_text(space, data, console)
    console.print("\n".join(near_duplicates(data)), markup=False, soft_wrap=True)
    assert holds is not None and holds(data)
    lines = said.getvalue().replace(f"{place.folder}/", "").splitlines()
    spoken = [line for line in lines if re.match(r"data\.|not used|warning", line)]
    assert spoken == ([message] if message else [])
    table = next(line.replace("│", " ").split() for line in lines if line.startswith("│ train"))
    boxes = sum(len(data.truth(page).ignore) for page in data.split("train"))
    ignored = sum(int(data.truth(page).ignore.sum()) for page in data.split("train"))
    assert table[1:3] == [str(boxes), str(ignored)]
    if "the share" in outcome:
        assert table[3] == "33%"
    if outcome == "don't-care":
        assert ignored


def test_names_that_shutil_would_copy_are_told_apart(place: Place) -> None:
    """Both Unicode forms of one name in one folder are two files for one page."""
    place.rename("train/images/p1.png", f"train/images/{unicodedata.normalize('NFC', 'é')}.png")
    shutil.copy(
        place.folder / "train/images/p0.png",
        place.folder / f"train/images/{unicodedata.normalize('NFD', 'é')}.png",
    )
    with pytest.raises(InputError, match="the same stem as"):
        place.load()
