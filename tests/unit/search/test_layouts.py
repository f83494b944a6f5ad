"""`segtune init --from`: each layout, drawn here, becomes a study file that passes `check`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from search.cli import app
from search.layouts import LAYOUTS
from search.layouts.masks import CAMVID, CITYSCAPES, VOC, VOC_BORDER, voc_colour
from search.work.preflight import preflight
from spaces.paths import ROOTS
from spaces.spec import StudySpec
from trainers.data import SegmentationData
from trainers.losses import IGNORE
from trainers.masks import decode_mask
from trainers.text_data import TextData

SIZE = (48, 40)  # width, height
BOX = "10,10,40,10,40,30,10,30,word"


class Drawn:
    """A data set that is being drawn: no two of its images are alike."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0

    def image(self, *names: str) -> None:
        for name in names:
            self.count += 1
            pixels = np.random.default_rng(self.count).integers(0, 255, (*SIZE[::-1], 3), np.uint8)
            self.save(name, Image.fromarray(pixels))

    def mask(self, name: str, values: Iterable[Any], table: Iterable[int] = ()) -> None:
        """Stripes of these values or colours; with a table of colours of its own an indexed one."""
        own = np.array(list(values), np.uint8)
        image = Image.fromarray(own[np.arange(SIZE[0] * SIZE[1]).reshape(SIZE[::-1]) % len(own)])
        if table:
            image.putpalette(table)
        self.save(name, image)

    def save(self, name: str, image: Image.Image) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def cityscapes(drawn: Drawn, kinds: tuple[str, ...] = ("labelIds", "color")) -> None:
    for split, cities in (("train", ("ulm", "jena")), ("val", ("bonn",)), ("test", ("rome",))):
        for city in cities:
            stem = f"{split}/{city}/{city}_000000_000019"
            drawn.image(f"leftImg8bit/{stem}_leftImg8bit.png")
            drawn.write(f"gtFine/{stem}_gtFine_polygons.json", "{}")
            for kind in kinds:
                values = range(19) if kind == "labelTrainIds" else range(34)
                drawn.mask(f"gtFine/{stem}_gtFine_{kind}.png", [*values, 255])


def train_ids(drawn: Drawn) -> None:
    cityscapes(drawn, ("labelTrainIds",))


def voc(drawn: Drawn, colours: bool = False) -> None:
    names = {"train": ["2007_000032", "2007_000039"], "val": ["2007_000033"]}
    for split, own in names.items():
        drawn.write(f"VOC2012/ImageSets/Segmentation/{split}.txt", "\n".join(own) + "\n")
        for name in own:
            drawn.image(f"VOC2012/JPEGImages/{name}.jpg")
            file = f"VOC2012/SegmentationClass/{name}.png"
            if colours:
                drawn.mask(file, [*map(voc_colour, range(21)), VOC_BORDER])
            else:
                table = [channel for index in range(256) for channel in voc_colour(index)]
                drawn.mask(file, [*range(21), 255], table)
    drawn.image("VOC2012/JPEGImages/2007_000001.jpg")  # of detection: it has no mask


def voc_in_colour(drawn: Drawn) -> None:
    voc(drawn, colours=True)


def segnet(drawn: Drawn) -> None:
    for split in ("train", "val", "test"):
        for frame in (6690, 6720):
            drawn.image(f"{split}/0001TP_{frame}{split}.png")
            drawn.mask(f"{split}annot/0001TP_{frame}{split}.png", range(12))


CAMVID_COLOURS = {"Animal": (64, 128, 64), "Car": (64, 0, 128), "Void": (0, 0, 0)}


def original_camvid(drawn: Drawn) -> None:
    lines = [f"{r} {g} {b}\t{name}" for name, (r, g, b) in CAMVID_COLOURS.items()]
    drawn.write("label_colors.txt", "\n".join(lines) + "\n")
    for video in ("0001TP", "0006R0", "0016E5"):
        for frame in (6690, 6720):
            drawn.image(f"701_StillsRaw_full/{video}_{frame}.png")
            drawn.mask(f"LabeledApproved_full/{video}_{frame}_L.png", CAMVID_COLOURS.values())


def kaggle_camvid(drawn: Drawn) -> None:
    lines = [f"{name},{r},{g},{b}" for name, (r, g, b) in CAMVID_COLOURS.items()]
    drawn.write("class_dict.csv", "\n".join(["name,r,g,b", *lines]))
    for split in ("train", "val"):
        drawn.image(f"{split}/{split}_1.png")
        drawn.mask(f"{split}_labels/{split}_1_L.png", CAMVID_COLOURS.values())


def coco_text(drawn: Drawn) -> None:
    names = {1: "train", 2: "val", 3: "train"}
    file = "COCO_train2014_{:012d}.jpg".format
    drawn.image(*(f"train2014/{file(one)}" for one in (*names, 4)))
    width, height = SIZE
    images = {
        str(one): {"id": one, "file_name": file(one), "set": name, "width": width, "height": height}
        for one, name in {**names, 9: "test"}.items()
    }
    polygon = [10, 10, 40, 10, 42, 20, 40, 30, 10, 30]
    texts = {
        str(one): {"image_id": one, "mask": polygon, "legibility": "legible", "utf8_string": "a"}
        for one in names
    }
    drawn.write("cocotext.v2.json", json.dumps({"imgs": images, "anns": texts, "cats": {}}))


def icdar_2015(drawn: Drawn) -> None:
    for images, labels, count in (
        ("ch4_training_images", "ch4_training_localization_transcription_gt", 6),
        ("ch4_test_images", "Challenge4_Test_Task1_GT", 2),
    ):
        for index in range(count):
            drawn.image(f"{images}/img_{index}.jpg")
            drawn.write(f"{labels}/gt_img_{index}.txt", f"\ufeff{BOX}\r\n")


def icdar_2013(drawn: Drawn) -> None:
    for split in ("Training", "Test"):
        for index in range(3):
            drawn.image(f"Challenge2_{split}_Task12_Images/{index}.jpg")
            labels = f"Challenge2_{split}_Task1_GT/gt_{index}.txt"
            drawn.write(labels, '10 10 40 30 "word"\n' if split == "Training" else BOX)


def pairs(images: str, masks: str, values: Iterable[Any], *files: tuple[str, str]) -> Any:
    """Images and masks of these names, where {split} and {index} stand for theirs."""

    def draw(drawn: Drawn) -> None:
        splits = ("train", "val") if "{split}" in images else ("all",)
        for split in splits:
            for index in range(3):
                drawn.image(images.format(split=split, index=index))
                drawn.mask(masks.format(split=split, index=index), values)
        for name, text in files:
            drawn.write(name, text)

    return draw


def json_of_each(drawn: Drawn) -> None:
    for split in ("train", "val"):
        drawn.image(f"{split}/images/{split}.png")
        entry = {"image_id": 0, "bbox": [10, 10, 30, 20], "text": "word"}
        tree = {"images": [{"id": 0, "file_name": f"{split}.png"}], "annotations": [entry]}
        drawn.write(f"{split}.json", json.dumps(tree))


def labels(drawn: Drawn) -> None:
    for index in range(5):
        drawn.image(f"images/{index}.png")
        drawn.write(f"gt/{index}.txt", BOX)


Facts = dict[str, Any]
CASES: dict[str, tuple[Callable[[Drawn], None], str, Facts]] = {
    "cityscapes": (cityscapes, "Cityscapes", {
        "classes": list(CITYSCAPES), "values": list(CITYSCAPES.values()), "images": (2, 1, 0),
        "mask": [*range(19), IGNORE]}),
    "cityscapes-train-ids": (train_ids, "Cityscapes", {
        "classes": list(CITYSCAPES), "values": None, "images": (2, 1, 0)}),
    "voc": (voc, "VOC", {"classes": VOC, "ignore_index": 255, "images": (2, 1, 0),
        "mask": [*range(21), IGNORE]}),
    "voc-in-colour": (voc_in_colour, "VOC", {
        "classes": VOC, "images": (2, 1, 0), "mask": [*range(21), IGNORE]}),
    "camvid-segnet": (segnet, "CamVid", {
        "classes": CAMVID, "ignore_index": 11, "images": (2, 2, 2)}),
    "camvid-original": (original_camvid, "CamVid", {
        "classes": ["Animal", "Car"], "palette_ignore": [(0, 0, 0)], "images": (4, 2, 0),
        "mask": [0, 1, IGNORE]}),
    "camvid-kaggle": (kaggle_camvid, "pairs of images and masks", {
        "classes": ["Animal", "Car"], "images": (1, 1, 0), "mask": [0, 1, IGNORE]}),
    "coco-text": (coco_text, "COCO-Text", {"images": (2, 1, 0)}),
    "icdar-2015": (icdar_2015, "ICDAR", {"points": 4, "images": (5, 1, 2)}),
    "split-images": (
        pairs("{split}/images/{index}.png", "{split}/masks/{index}.png", (0, 1, 2)),
        "pairs of images and masks",
        {"classes": ["class_0", "class_1", "class_2"], "images": (3, 3, 0)}),
    "images-split": (
        pairs("images/{split}/{index}.jpg", "annotations/{split}/{index}.png", (0, 1, 255),
              ("classes.txt", "road\ncar\n")),
        "pairs of images and masks",
        {"classes": ["road", "car"], "ignore_index": 255, "images": (3, 3, 0)}),
    "binary": (
        pairs("img/{index}.png", "mask/{index}_mask.png", (0, 255)),
        "pairs of images and masks", {"classes": ["thing"], "images": (2, 1, 0), "mask": [0, 1]}),
    "far-apart": (
        pairs("images/{index}.png", "masks/{index}.png", (0, 100, 200)),
        "pairs of images and masks",
        {"classes": ["value_0", "value_100", "value_200"], "values": [0, 100, 200],
         "images": (2, 1, 0), "mask": [0, 1, 2]}),
    "colours": (
        pairs("images/{index}.png", "masks/{index}.png", ((0, 0, 142), (128, 64, 128), (1, 2, 3))),
        "pairs of images and masks",
        {"classes": ["colour_00008e", "colour_010203", "colour_804080"], "images": (2, 1, 0)}),
    "beside": (
        pairs("{split}_images/{index}.png", "{split}_gt/{index}.png", (0, 1)),
        "pairs of images and masks", {"images": (3, 3, 0)}),
    "one-folder": (
        pairs("{index}_sat.jpg", "{index}_mask.png", (0, 1)),
        "pairs of images and masks", {"images": (2, 1, 0)}),
    "jpg-beside-png": (
        pairs("{split}/{index}.jpg", "{split}/{index}.png", (0, 1),
              ("classes.json", '{"0": "road", "1": "car"}')),
        "pairs of images and masks", {"classes": ["road", "car"], "images": (3, 3, 0)}),
    "folders-in-folders": (
        pairs("images/v{index}/{index}.png", "masks/v{index}/{index}.png", (0, 1, 2)),
        "pairs of images and masks", {"images": (2, 1, 0)}),
    "pages": (labels, "pairs of pages and labels", {"images": (4, 1, 0)}),
    "pages-json": (json_of_each, "pairs of pages and labels", {"images": (1, 1, 0)}),
}  # fmt: skip


@pytest.mark.parametrize(("draw", "name", "facts"), CASES.values(), ids=CASES)
def test_a_layout_becomes_a_study_that_passes_check(
    draw: Callable[[Drawn], None], name: str, facts: Facts, tmp_path: Path
) -> None:
    draw(Drawn(tmp_path / "data"))
    spec, data = checked(tmp_path, name)
    count = [len(data.splits.get(split, [])) for split in ("train", "val", "test")]
    assert tuple(count) == facts["images"]
    for key in facts.keys() - {"images", "mask", "classes"}:
        assert getattr(spec.data, key) == facts[key]
    if isinstance(data, SegmentationData):
        assert data.spec.names == facts.get("classes", data.spec.names)
        found = decode_mask(data.split("train")[0].mask, data.spec)
        assert set(np.unique(found)) == set(facts.get("mask", np.unique(found)))
    else:
        assert isinstance(data, TextData)
        assert len(data.truth(data.split("train")[0]).polygons) == 1


def checked(folder: Path, name: str) -> tuple[StudySpec, SegmentationData | TextData]:
    """Run the command, and what `segtune check` checks; without weights, which are not here."""
    study = folder / "study.yaml"
    answer = CliRunner().invoke(app, ["init", "--from", str(folder / "data"), "--to", str(study)])
    assert answer.exit_code == 0, answer.output
    assert f"looks like {name}; wrote" in answer.output
    assert re.search(r"(pixels|text) of (\d+) of \2 train (masks|pages);", answer.output)
    assert f"# {name}\n" in study.read_text()
    text = study.read_text().replace("encoder_weights: imagenet", "encoder_weights: null")
    assert str(folder) not in text  # what lies below the file is named from there
    study.write_text(text)
    spec = StudySpec.load(study)
    return spec, preflight(spec)


def test_a_recipe_takes_the_data_of_a_folder(tmp_path: Path) -> None:
    original_camvid(Drawn(tmp_path / "data"))
    study = tmp_path / "study.yaml"
    words = ["init", "--from", str(tmp_path / "data"), "--to", str(study), "--recipe", "unet"]
    assert CliRunner().invoke(app, words).exit_code == 0
    spec = StudySpec.load(study)
    assert (spec.name, spec.data.names) == ("data", ["Animal", "Car"])
    assert "optim.lr" in spec.space
    other = tmp_path / "other.yaml"
    words = ["init", "--from", str(tmp_path / "data"), "--to", str(other), "--recipe", "lanes"]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2 and not other.exists()
    said = " ".join(refused.output.split())
    assert "--recipe lanes does not fit this data set: decode.threshold: counts in" in said


def test_a_folder_that_a_browser_names_leads_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a link of a file that names classes, or of a folder; images may be links."""
    root, study = tmp_path / "root", tmp_path / "job" / "study.yaml"
    private = Drawn(tmp_path / "private")
    for name in "abc":
        private.image(f"images/{name}.png")
        private.mask(f"masks/{name}.png", [0, 1])
    (tmp_path / "private" / "classes.txt").write_text("a secret\nanother\n")
    for kind in ("images", "masks"):
        (root / "ours" / kind).mkdir(parents=True)
        for path in (tmp_path / "private" / kind).iterdir():
            (root / "ours" / kind / path.name).symlink_to(path)
    (root / "ours" / "again").symlink_to(root / "ours")
    words = ["init", "--to", str(study), "--from"]
    monkeypatch.setenv(ROOTS, str(root))
    assert CliRunner().invoke(app, [*words, "ours"]).exit_code == 0  # relative ones begin there
    assert StudySpec.load(study).data.train.images == str(root / "ours" / "images")
    study.unlink()
    for name, leads in {
        "ours/classes.txt": "private/classes.txt",
        "ours/labels.txt": "absent",
        "ours/val": "private",
        "theirs": "private",
    }.items():
        (root / name).symlink_to(tmp_path / leads)
        refused = CliRunner().invoke(app, [*words, str(root / name.split("/")[0])])
        assert refused.exit_code == 2, refused.output
        said = f"{root / name}' lies outside of the folders that"
        assert said in refused.output and "secret" not in refused.output
        assert not study.exists()
        (root / name).unlink()


def test_rectangles_are_seen(tmp_path: Path) -> None:
    drawn = Drawn(tmp_path / "data")
    for index in range(3):
        drawn.image(f"Challenge2_Training_Task12_Images/{index}.jpg")
        drawn.write(f"Challenge2_Training_Task1_GT/gt_{index}.txt", '10 10 40 30 "word"\n')
    spec, _ = checked(tmp_path, "ICDAR")
    assert spec.data.points == 2  # type: ignore[union-attr]


def test_videos_stay_together(tmp_path: Path) -> None:
    original_camvid(Drawn(tmp_path / "data"))
    spec, data = checked(tmp_path, "CamVid")
    assert spec.data.val is not None and spec.data.val.group == "^([^_]+)_"
    videos = {s: {x.stem[:6] for x in data.split(s)} for s in ("train", "val")}
    assert len(videos["val"]) == 1 and not videos["val"] & videos["train"]


def test_classes_that_train_lacks_are_ignored(tmp_path: Path) -> None:
    drawn = Drawn(tmp_path / "data")
    for split, values in (("train", (0, 1)), ("val", (0, 1, 2))):
        drawn.image(f"{split}/images/a.png")
        drawn.mask(f"{split}/masks/a.png", values)
    spec, _ = checked(tmp_path, "pairs of images and masks")
    assert spec.data.ignore_classes == ["class_2"]  # type: ignore[union-attr]


def two(drawn: Drawn) -> None:
    for name in ("one", "two"):
        pairs(f"{name}/images/{{index}}.png", f"{name}/masks/{{index}}.png", (0, 1))(drawn)


def nothing(drawn: Drawn) -> None:
    drawn.folder.mkdir()


def unknown(drawn: Drawn) -> None:
    drawn.image("a.png")
    drawn.write("notes/x.txt", "x")


def unpaired(drawn: Drawn) -> None:
    pairs("images/{index}.png", "masks/{index}.png", (0, 1))(drawn)
    drawn.image("images/7.png")


def photographs(drawn: Drawn) -> None:
    pairs("images/{index}.png", "masks/{index}.png", range(70))(drawn)


def other_colour(drawn: Drawn) -> None:
    original_camvid(drawn)
    drawn.mask("LabeledApproved_full/0001TP_6690_L.png", [(9, 9, 9)])


def few_names(drawn: Drawn) -> None:
    pairs("images/{index}.png", "masks/{index}.png", range(5), ("classes.txt", "a\nb\n"))(drawn)


def yolo(drawn: Drawn) -> None:
    drawn.image("images/1.png")
    drawn.write("labels/1.txt", "0 0.5 0.5 0.2 0.2\n")


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (yolo, "pages and labels, but: DATA/labels/1.txt line 1: a line must start with 8 space"),
        (two, "it has 2 data sets: name one of them. Known are: Cityscapes (leftImg8bit, gtFine);"),
        (nothing, "no layout of a data set that is known; it is empty. Known are: Cityscapes"),
        (unknown, "it has 1 .png, 1 folder; the first is a.png. Known are: Cityscapes"),
        (unpaired, "looks like pairs of images and masks, but: data.train: 1 of 4 images have no"),
        (photographs, "masks hold 70 values, too many for classes; the first is in DATA/masks/0"),
        (other_colour, "6690_L.png: holds the colour (9, 9, 9), which DATA/label_colors.txt lacks"),
        (few_names, "masks/0.png: holds the value 2, but DATA/classes.txt has 2 names, of 0 to 1"),
    ],
)
def test_what_is_no_layout_is_said(
    draw: Callable[[Drawn], None], message: str, tmp_path: Path
) -> None:
    draw(Drawn(tmp_path / "data"))
    study = tmp_path / "study.yaml"
    answer = CliRunner().invoke(app, ["init", "--from", str(tmp_path / "data"), "--to", str(study)])
    assert answer.exit_code == 2 and answer.output.startswith("segtune: ")
    assert message.replace("DATA", str(tmp_path / "data")) in answer.output
    assert not study.exists()


def test_each_layout_is_documented() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "data.md").read_text()
    rows = page.split("| layout | is known by |")[1].split("\n\n")[0]
    assert {row.split("|")[1].strip() for row in rows.splitlines()[2:]} == {
        name.split(" (")[0] for name in LAYOUTS
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("init", "init needs a task, or --from with the folder of a data set"),
        ("init --from gone", "--from gone: is not a folder"),
        ("init segmentation x --from .", "--from finds the task and writes to --to; leave segm"),
        ("init --from . --to there.yaml", "there.yaml exists; choose another folder or remove it"),
    ],
)
def test_words_that_do_not_go_together(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.yaml").touch()
    answer = CliRunner().invoke(app, words.split())
    assert answer.exit_code == 2 and message in answer.output
