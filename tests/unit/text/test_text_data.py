"""Document images and their boxes on disk: what is found, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from spaces.data import TextDetectionDataSpec
from spaces.errors import InputError
from tests.unit.text.pages import write_pages
from trainers.text_data import TextData, load_text_data

LINE = "10,10,50,10,50,20,10,20,a word, and another"


def spec_of(folder: Path, **settings: object) -> TextDetectionDataSpec:
    splits = {
        split: {"images": f"{folder}/{split}/images", "labels": f"{folder}/{split}/labels"}
        for split in ("train", "val")
    }
    return TextDetectionDataSpec.model_validate({**splits, **settings})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two train pages and one val page of one line each."""
    return write_pages(tmp_path, LINE)


def test_receipts_load(receipts: TextData) -> None:
    assert {name: len(pages) for name, pages in receipts.splits.items()} == {"train": 5, "val": 3}
    page = receipts.split("val")[0]
    assert receipts.image(page).shape == (288, 180, 3) == (*receipts.sizes[page.image], 3)
    truth = receipts.truth(page)
    assert len(truth.polygons) > 5 and all(polygon.shape == (4, 2) for polygon in truth.polygons)


def test_both_names_of_label_files(folder: Path) -> None:
    (folder / "train/labels/gt_p1.txt").rename(folder / "train/labels/p1.txt")
    (folder / "train/labels/p1.txt").write_bytes(b"\xef\xbb\xbf" + LINE.encode() + b"\r\n")
    data = load_text_data(spec_of(folder))
    truths = [data.truth(page) for page in data.split("train")]
    assert [t.texts for t in truths] == [["a word, and another"]] * 2


def test_coco_text(folder: Path) -> None:
    content = {
        "images": [{"id": i, "file_name": f"p{i}.png"} for i in range(2)],
        "annotations": [
            {"image_id": 0, "bbox": [5, 6, 20, 10], "utf8_string": "x"},
            {"image_id": 1, "segmentation": [[1, 1, 9, 1, 12, 5, 9, 9, 1, 9]], "iscrowd": 1},
        ],
    }
    (folder / "train.json").write_text(json.dumps(content))
    given = spec_of(folder).model_dump()
    given["train"]["labels"] = str(folder / "train.json")
    data = load_text_data(TextDetectionDataSpec.model_validate(given))
    first, second = (data.truth(page) for page in data.split("train"))
    assert first.polygons[0].tolist() == [[5, 6], [25, 6], [25, 16], [5, 16]]
    assert second.ignore.tolist() == [True] and second.polygons[0].shape == (5, 2)


def test_val_as_a_share_of_train(folder: Path) -> None:
    given = spec_of(folder).model_dump()
    given["val"] = {"fraction": 0.5}
    data = load_text_data(TextDetectionDataSpec.model_validate(given))
    stems = [page.stem for name in ("train", "val") for page in data.split(name)]
    assert sorted(stems) == ["p0", "p1"] and len(data.split("val")) == 1


def test_the_fingerprint_follows_images_and_boxes(folder: Path) -> None:
    before = load_text_data(spec_of(folder)).fingerprint
    assert load_text_data(spec_of(folder)).fingerprint == before
    (folder / "val/labels/gt_p0.txt").write_text(LINE.replace("50", "51"))
    assert load_text_data(spec_of(folder)).fingerprint != before


def _no_images(folder: Path) -> None:
    shutil.rmtree(folder / "val/images")
    (folder / "val/images").mkdir()


def _no_label(folder: Path) -> None:
    (folder / "train/labels/gt_p1.txt").unlink()


def _short_line(folder: Path) -> None:
    (folder / "train/labels/gt_p1.txt").write_text(f"{LINE}\n1,2,3,text\n")


def _outside(folder: Path) -> None:
    (folder / "val/labels/gt_p0.txt").write_text(f"{LINE}\n\n100,10,150,10,150,20,100,20,far\n")


def _all_dont_care(folder: Path) -> None:
    (folder / "val/labels/gt_p0.txt").write_text("10,10,50,10,50,20,10,20,###")


def _twice(folder: Path) -> None:
    shutil.copy(folder / "train/images/p0.png", folder / "val/images/p0.png")


def _broken_image(folder: Path) -> None:
    path = folder / "val/images/p0.png"
    path.write_bytes(path.read_bytes()[:60])


def _not_utf8(folder: Path) -> None:
    (folder / "val/labels/gt_p0.txt").write_bytes(LINE.encode() + b"\n\xff\xfe")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_no_images, r"data\.val: no images \(.*\) found in .*val/images"),
        (_no_label, r"data\.train: .*p1\.png has no boxes; .*gt_p1\.txt or p1\.txt"),
        (_short_line, r"gt_p1\.txt line 2: .*8 comma-separated numbers, but after 3"),
        (
            _outside,
            r"gt_p0\.txt line 3: the box lies wholly outside of .*p0\.png \(80x60\): x 100\.\.150",
        ),
        (_all_dont_care, r"data\.val: no text that counts"),
        (_twice, r"p0\.png \(val\) is the same image as .*p0\.png \(train\)"),
        (_broken_image, r"p0\.png: (not an image|cannot be decoded)"),
        (_not_utf8, r"gt_p0\.txt line 2: the file must be UTF-8"),
    ],
)
def test_what_is_wrong_is_named(spoil: Callable[[Path], None], message: str, folder: Path) -> None:
    spoil(folder)
    with pytest.raises(InputError, match=message):
        load_text_data(spec_of(folder))


def test_images_that_a_json_does_not_have(folder: Path) -> None:
    (folder / "train.json").write_text(json.dumps({"images": [], "annotations": []}))
    given = spec_of(folder).model_dump()
    given["train"]["labels"] = str(folder / "train.json")
    with pytest.raises(InputError, match=r"2 of 2 images .*train\.json; the first is p0\.png"):
        load_text_data(TextDetectionDataSpec.model_validate(given))
