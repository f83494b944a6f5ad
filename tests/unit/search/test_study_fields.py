"""Settings of a study file as fields of a form, and the file with them: nothing is lost."""

from __future__ import annotations

import pytest

from search.dashboard.study_fields import FIELDS, shown, written
from search.templates import recipes, study_file
from spaces.errors import InputError
from spaces.spec import StudySpec
from spaces.yamlfile import parse_yaml

FILE = """\
name: lanes   # a comment
task: segmentation
data:
  train: {images: train/images, masks: train/masks, mask_suffix: _L}
  val: {fraction: 0.2, group: '^([^_]+)_'}
  classes: [lane]
metric: {name: dice}
space:
  train.epochs: 3
  data.resolution: [256x256, 384x384]
  model.arch: Unet
  model.encoder: {choices: [resnet18, resnet34]}
  optim.lr: {low: 1e-4, high: 1e-2, log: true, prior: {center: 1e-3, spread: 3x}}
sampler: random
"""


def values(text: str) -> dict[str, str | None]:
    return {one.field.name: one.value for one in shown(text)[1]}


def tree(text: str) -> dict[str, object]:
    found: dict[str, object] = parse_yaml(text, "x").data
    return found


def test_what_the_file_says_is_shown_and_what_does_not_fit_is_left_alone() -> None:
    assert values(FILE) == {
        "name": "lanes", "trials": "", "hours": "",
        "train_images": "train/images", "train_masks": "train/masks",
        "val_images": "", "val_masks": "", "val_fraction": "0.2",
        "classes": "lane", "archs": "Unet", "epochs": "3", "resolution": "256x256, 384x384",
        "encoders": None, "lr_low": "0.0001", "lr_high": "0.01",
    }  # fmt: skip
    pinned = FILE.replace("{low: 1e-4, high: 1e-2, log: true, prior", "1e-4  # {prior")
    assert values(pinned)["lr_low"] is None and values(pinned)["lr_high"] is None
    for old, new in (("epochs: 3", "epochs: 3.5"), ("epochs: 3", "epochs: '3'")):
        assert values(FILE.replace(old, new))["epochs"] is None
    assert values(FILE.replace("[lane]", "['a, b', c]"))["classes"] is None
    assert values(FILE.replace("[lane]", "lists/of.txt"))["classes"] == "lists/of.txt"


def test_what_is_not_changed_stays_to_the_letter() -> None:
    for task in FIELDS:
        for recipe in (None, *recipes(task)):
            text = study_file(task, recipe)
            same = {name: value for name, value in values(text).items() if value is not None}
            assert written(text, same) == written(text, {}) == text


def test_what_is_changed_is_in_the_file_and_all_else_stays() -> None:
    given = {"name": "b", "epochs": "5", "classes": "road, lane", "trials": "7", "hours": "1.5",
             "val_fraction": "0.25", "archs": "Unet, FPN", "lr_high": "3e-3",
             "resolution": "256x320", "encoders": "mobilenet_v2"}  # fmt: skip
    expected = tree(FILE)
    expected["name"], expected["budget"] = "b", {"trials": 7, "hours": 1.5}
    expected["data"]["classes"] = ["road", "lane"]  # type: ignore[index]
    expected["data"]["val"]["fraction"] = 0.25  # type: ignore[index]
    space = expected["space"]
    space |= {"train.epochs": 5, "model.arch": ["Unet", "FPN"], "data.resolution": "256x320"}  # type: ignore[operator]
    space["optim.lr"]["high"] = 0.003  # type: ignore[index]
    text = written(FILE, given)
    assert tree(text) == expected  # the encoders too, which no field could show
    assert StudySpec.of_text(text).name == "b"
    shown_again = {name: value for name, value in values(text).items() if name in given}
    assert shown_again == {**given, "encoders": None, "lr_high": "0.003"}


def test_what_is_emptied_leaves_the_file() -> None:
    text = written(FILE, {"val_fraction": "", "val_images": "v", "val_masks": "w", "epochs": " "})
    assert tree(text)["data"]["val"] == {  # type: ignore[index]
        "group": "^([^_]+)_", "images": "v", "masks": "w"
    }  # fmt: skip
    assert "train.epochs" not in tree(text)["space"]  # type: ignore[operator]
    only = "name: a\ntask: segmentation\nbudget: {hours: 2}\n"
    assert tree(written(only, {"hours": ""})) == {"name": "a", "task": "segmentation"}


def test_a_new_range_of_the_learning_rate_is_logarithmic() -> None:
    text = written("name: a\ntask: text_detection\n", {"lr_low": "1e-5", "lr_high": "1e-3"})
    assert tree(text)["space"] == {"optim.lr": {"low": 1e-5, "high": 1e-3, "log": True}}
    sizes = written(text, {"resolution": "640, 1024", "decoders": "fpn"})
    space = {"data.resolution": [640, 1024], "model.decoder": "fpn"}
    assert tree(sizes)["space"] == {**tree(text)["space"], **space}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("epochs", "3.5", "Epochs: must be a whole number, but got '3.5'"),
        ("epochs", "-1", "Epochs"),
        ("trials", "²", "Trials"),
        ("trials", "9" * 5000, "Trials"),
        ("hours", "1.2.3", "Hours: must be a number"),
        ("hours", "nan", "Hours"),
        ("lr_low", "1e9999", "Learning rate from"),
        ("classes", "road,,lane", "Classes: a name is missing"),
        ("archs", ",", "Architectures"),
    ],
)
def test_a_value_that_is_none_is_refused(name: str, value: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        written(FILE, {name: value})


@pytest.mark.parametrize("text", ["", "- a", "name: a", "task: sorting", "task: [", "task: {a: 1}"])
def test_what_is_no_study_file_has_no_form(text: str) -> None:
    with pytest.raises(InputError, match=r"study\.yaml"):
        shown(text)
