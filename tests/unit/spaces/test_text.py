"""A study file's text checked by itself, as the dashboard does: nothing that it names is read."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from search.templates import recipes, study_file
from spaces.errors import InputError
from spaces.spec import StudySpec

GOOD = """\
name: roads
task: segmentation
data:
  train: {images: nowhere/images, masks: nowhere/masks}
  val: {fraction: 0.2}
  classes: [road, car]
space:
  train.epochs: 3
"""


@pytest.mark.parametrize("task", ["segmentation", "text_detection"])
def test_what_init_writes_is_good_though_its_data_are_not_there(task: str) -> None:
    for recipe in (None, *recipes(task)):
        spec = StudySpec.of_text(study_file(task, recipe))
        assert spec.task == task and spec.name == (recipe or "my-study")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("train.epochs: 3", "train.epoch: 3", "did you mean train.epochs?.*study.yaml line 8"),
        ("train.epochs: 3", "train.epochs: [3", "study.yaml line 9: not valid YAML"),
        ("[road, car]", "[road, road]", "road stands twice.*study.yaml line 6"),
        ("name: roads", "name: ../roads", "name: must be 1 to 100 letters.*study.yaml line 1"),
        ("name: roads", "name: !!python/object:os.x {}", "refused.*plain data only"),
        ("segmentation", "sorting", "task: must be segmentation or.*study.yaml line 2"),
        ("{fraction: 0.2}", "{fraction: 0.2, group: '(a{99999999999999999999})'}", "regular expr"),
        ("{fraction: 0.2}", f"{{fraction: 0.2, group: '{9999 * '('}'}}", "regular expression"),
        ("roads", 'roads\ntrial: "\\0"', "unknown key"),
        (GOOD, "", "the file is empty"),
        (GOOD, "x: \x00", "special characters are not allowed"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(old: str, new: str, says: str) -> None:
    with pytest.raises(InputError, match=rf"(?s){says}"):
        StudySpec.of_text(GOOD.replace(old, new, 1))


def test_a_class_file_is_not_read_and_what_it_may_say_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("secret: of nobody here\n")
    for name in (tmp_path / "classes.txt", "absent.json"):
        text = GOOD.replace("[road, car]", f"{name}\n  palette: [[0, 0, 0], [1, 1, 1]]")
        text += "metric: {name: miou, classes: [bus]}\n"
        assert StudySpec.of_text(text).name == "roads"
        with pytest.raises(InputError, match=r"train\.epoch: .*line 9"):
            StudySpec.of_text(text.replace("train.epochs", "train.epoch"))


def test_brackets_without_end_cost_nothing() -> None:
    began = time.process_time()
    for text in (65_536 * "[", 32_768 * "{[", 200 * "[" + 30_000 * "a,"):
        with pytest.raises(InputError):
            StudySpec.of_text(text)
    assert time.process_time() - began < 10  # 60 s in the first one alone
