"""Study files that are right: what they become. Wrong ones: tests/e2e/test_bad_input.py."""

from __future__ import annotations

import json
import math
import pickle
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.config import SegmentationConfig
from spaces.difference import spec_difference
from spaces.errors import InputError
from spaces.metric import class_shares
from spaces.run_config import dump_run_config, load_run_config
from spaces.schema import study_schema
from spaces.spec import StudySpec
from spaces.yamlfile import dump_yaml, parse_yaml

ROOT = Path(__file__).resolve().parents[3]

TEXT = """\
name: streets
task: segmentation
data:
  train: {list: train.txt}
  val: {fraction: 0.2, group: '^([^_]+)_'}
  classes: classes.json
space:
  optim.lr: {low: 1e-5, high: 1e-3}
  model.arch: [Unet, FPN]
pruner: {name: median, startup_trials: 3, align: warmup}
sampler: random
budget: {trials: 7}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "train.txt").write_text("")
    (tmp_path / "classes.json").write_text('{"classes": ["a", "b"], "ignore_index": 9}')
    (tmp_path / "study.yaml").write_text(TEXT)
    return tmp_path / "study.yaml"


def test_a_study_file_becomes_a_spec(study: Path) -> None:
    spec = StudySpec.load(study)
    assert spec.data.train.list == str(study.parent / "train.txt")
    assert (spec.data.names, spec.data.ignore_index) == (["a", "b"], 9)
    assert (spec.sampler.name, spec.budget.trials) == ("random", 7)
    assert (spec.pruner.startup_trials, spec.pruner.align) == (3, "warmup")
    assert StudySpec.from_json(spec.to_json()) == spec
    assert StudySpec.from_json(spec.to_json()).search_space() == spec.search_space()


def test_the_space_is_built_once_and_changes_nothing_else(study: Path) -> None:
    spec = StudySpec.load(study)
    fresh = StudySpec.from_json(spec.to_json())  # nobody has asked this one
    assert fresh == spec and fresh.to_json() == spec.to_json()
    assert spec.search_space() is spec.search_space()
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_a_copy_keeps_the_space_unless_what_shapes_it_changes(study: Path) -> None:
    spec = StudySpec.load(study)
    assert spec.model_copy(update={"keep_models": 1}).search_space() is spec.search_space()
    pinned = spec.model_copy(update={"space": {"optim.lr": 0.125}}).search_space()
    assert pinned.base.flat()["optim.lr"] == 0.125 and "optim.lr" not in pinned.dims
    alone = spec.model_copy(update={"use_default_space": False}).search_space()
    assert set(alone.dims) < set(spec.search_space().dims)
    binary = spec.data.model_copy(update={"classes": ["a"]})
    assert "decode.threshold" in spec.model_copy(update={"data": binary}).search_space().dims


def test_a_binary_task_scores_its_background_too(study: Path) -> None:
    data = StudySpec.load(study).data
    assert data.class_names == ["a", "b"]
    binary = data.model_copy(update={"classes": ["a"]})
    assert (binary.names, binary.class_names) == (["a"], ["background", "a"])


def test_a_difference_is_shown_line_by_line(study: Path) -> None:
    spec = StudySpec.load(study)
    assert spec_difference(spec, StudySpec.load(study)) == ""
    study.write_text(TEXT.replace("high: 1e-3", "high: 1e-2"))
    difference = spec_difference(spec, StudySpec.load(study))
    assert "-    high: 0.001" in difference and "+    high: 0.01" in difference


def test_trackers_make_no_other_study(study: Path) -> None:
    spec = StudySpec.load(study)
    study.write_text(f"{TEXT}trackers: [mlflow, tensorboard]\n")
    tracked = StudySpec.load(study)
    assert tracked.trackers == ["mlflow", "tensorboard"] and spec.trackers == []
    assert spec_difference(spec, tracked) == spec_difference(tracked, spec) == ""
    stored_before_the_key = spec.to_json().replace(', "trackers": []', "")
    assert '"trackers"' not in stored_before_the_key
    assert StudySpec.from_json(stored_before_the_key) == spec


@pytest.mark.parametrize(
    ("more", "kept"),
    [
        ("", 3),
        ("ensemble: {}\n", 10),
        ("ensemble: {size: 3}\n", 6),
        ("ensemble: {size: 3}\nkeep_models: 4\n", 4),
    ],
)
def test_a_planned_ensemble_keeps_more_models(study: Path, more: str, kept: int) -> None:
    study.write_text(TEXT + more)
    spec = StudySpec.load(study)
    assert spec.keep_models == kept
    assert StudySpec.from_json(spec.to_json()) == spec
    stored = json.loads(spec.to_json())
    del stored["ensemble"]  # as studies of before have it
    assert StudySpec.from_json(json.dumps(stored)).ensemble is None


def test_an_exported_config_comes_back(study: Path, tmp_path: Path) -> None:
    spec = StudySpec.load(study)
    config = SegmentationConfig().replace({"optim.lr": 0.1 + 0.2, "decode.threshold": 0.37})
    path = tmp_path / "config.yaml"
    path.write_text(dump_run_config(spec.data, config))
    assert load_run_config(path) == (spec.data, config)
    path.write_text(path.read_text().replace("  optim:", "  optimm:"))
    with pytest.raises(InputError, match=r"optimm.*config.yaml line \d+"):
        load_run_config(path)


@pytest.mark.parametrize(
    ("classes", "metric", "name", "shares"),
    [
        ("[a, b, c]", "mIoU", "mIoU", [1, 1, 1]),
        ("[a, b, c]", "F1", "mDice", [1, 1, 1]),
        ("[a, b, c]", "boundary IoU", "boundary mIoU", [1, 1, 1]),
        ("[a, b, c]", "{name: miou, classes: [c, a]}", "mIoU (2 of 3 classes)", [1, 0, 1]),
        ("[a, b, c]", "{classes: [b]}", "IoU (1 of 3 classes)", [0, 1, 0]),
        ("[a, b, c, d]", "{classes: [d, b, c]}", "mIoU (3 of 4 classes)", [0, 1, 1, 1]),
        ("[a, b, c]", "{name: dice, weights: {b: 2.5}}", "weighted mDice", [1, 2.5, 1]),
        ("[a, b, c]\n  ignore_classes: [b]", "mIoU", "mIoU", [1, 0, 1]),
        ("[a]", "IoU", "IoU", [0, 1]),
        ("[a]", "F1", "F1", [0, 1]),
        ("[a]", "boundary_iou", "boundary IoU", [0, 1]),
        ("[a]", "mIoU", "mIoU", [1, 1]),
        ("[a]", "{name: mDice}", "mDice", [1, 1]),
        ("[a]", "{name: dice, classes: [background]}", "Dice (background)", [1, 0]),
    ],
)
def test_a_metric_has_a_name_and_a_share_of_each_class(
    classes: str, metric: str, name: str, shares: list[float], study: Path, tmp_path: Path
) -> None:
    text = TEXT.replace("classes: classes.json", f"classes: {classes}")
    study.write_text(f"{text}metric: {metric}\n")
    spec = StudySpec.load(study)
    assert (spec.metric_name, class_shares(spec.metric, spec.data)) == (name, shares)
    assert StudySpec.from_json(spec.to_json()) == spec
    config = spec.search_space().base
    (tmp_path / "config.yaml").write_text(dump_run_config(spec.data, config))
    assert config.metric == spec.metric
    assert load_run_config(tmp_path / "config.yaml") == (spec.data, config)


def test_a_study_without_a_metric_has_the_default_and_another_metric_is_another_study(
    study: Path,
) -> None:
    spec = StudySpec.load(study)
    before_the_key = json.loads(spec.to_json())
    assert before_the_key.pop("metric") and before_the_key["data"].pop("ignore_classes") == []
    assert StudySpec.from_json(json.dumps(before_the_key)) == spec
    study.write_text(f"{TEXT}metric: miou\n")
    assert spec_difference(spec, StudySpec.load(study)) == ""
    study.write_text(f"{TEXT}metric: dice\n")
    assert "+  name: dice" in spec_difference(spec, StudySpec.load(study))
    study.write_text(f"{TEXT}metric: {{classes: [b]}}\n")
    assert "+  - b" in spec_difference(spec, StudySpec.load(study))


def test_an_exported_metric_of_a_class_that_is_not_there_is_refused(study: Path) -> None:
    data, path = StudySpec.load(study).data, study.parent / "config.yaml"
    config = SegmentationConfig().replace({"metric.classes": ["a", "bb"]})
    path.write_text(dump_run_config(data, config))
    with pytest.raises(InputError, match=r"trial.metric.classes.1: no class.* bb.*yaml line \d+"):
        load_run_config(path)


def test_the_schema_knows_good_files_from_bad_ones() -> None:
    schema = study_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    template = (ROOT / "search" / "templates" / "segmentation.yaml").read_text()
    for text in (template, (ROOT / "examples" / "camvid.yaml").read_text(), TEXT):
        document = parse_yaml(text, "x").data
        assert not list(validator.iter_errors(document))
        for more in (
            {"trackers": ["wandb", "mlflow"]},
            {"metric": "miou"},
            {"confirm": "none"},
            {"space": {"data.resolution": [256, [256, 384], "512x512"]}},
            {"space": {"model.encoder": ["resnet18", "tu-resnet18"], "model.arch": "FPN"}},
            {"metric": {"name": "f1", "classes": ["a"], "weights": {"a": 2}}},
        ):
            assert not list(validator.iter_errors({**document, **more}))
        for change in (
            {"nane": 1},
            {"budget": {"trials": 0}},
            {"pruner": "median2"},
            {"trackers": ["wandbb"]},
            {"trackers": ["wandb", "wandb"]},
            {"metric": "dicee"},
            {"space": {"model.arch": ["Unet", "Unett"]}},
            {"space": {"optim.schedule": {"choices": ["cosin"]}}},
            {"metric": {"nam": "dice"}},
        ):
            assert list(validator.iter_errors({**document, **change}))
        wrong = {**document, "space": {"optim.learning_rate": 1}}
        assert list(validator.iter_errors(wrong))
        for spread, right in (("3x", True), (0.5, True), ("3", False), (-1, False)):
            range_ = {"low": 1e-4, "high": 1e-2, "prior": {"center": 1e-3, "spread": spread}}
            found = list(validator.iter_errors({**document, "space": {"optim.lr": range_}}))
            assert (not found) is right, spread


@pytest.mark.parametrize(
    ("pruner", "why"),
    [
        ("{pause_below: 0.4}", r"must be at least 0.5, the quantile.*got 0.4; null pauses none"),
        ("{name: thrifty, pause_below: 0.6}", r"must be at least 0.65, the quantile.*got 0.6"),
        ("{name: quantile, quantile: 0.8, pause_below: 0.7}", r"must be at least 0.8, the quan"),
        ("{name: ended_median, pause_below: 0.8}", "median, thrifty, quantile and align: start"),
        ("{align: warmup, pause_below: 0.8}", "median, thrifty, quantile and align: start only"),
        ("{min_epochs: 2, stop_from: 3}", "min_epochs: is stop_from and pause_from now"),
        ("{pause_below: 1.0}", "less than 1"),
    ],
)
def test_pause_below_stands_above_the_bar_that_stops(pruner: str, why: str, study: Path) -> None:
    study.write_text(re.sub(r"pruner: .*", f"pruner: {pruner}", TEXT))
    with pytest.raises(InputError, match=rf"pruner.*{why}.*study.yaml line 10"):
        StudySpec.load(study)
    for good in ("{pause_below: null}", "{quantile: 0.95}", "{min_epochs: 3}", "{align: warmup}"):
        study.write_text(re.sub(r"pruner: .*", f"pruner: {good}", TEXT))
        spec = StudySpec.load(study)
        assert StudySpec.from_json(spec.to_json()) == spec


plain: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False, width=32)
    | st.text("abcexyz 0123456789:#-'._+Ttrufl", max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abcxyz.", min_size=1, max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(data=plain)
def test_plain_data_survive_yaml(data: Any) -> None:
    assert parse_yaml(dump_yaml(data), "x").data == data


@pytest.mark.parametrize(
    "text", ["08", "010", "1e-5", "1E3", ".5", "1_000", "tRUE", ".NaN", "no", "9" * 500]
)
def test_a_text_that_looks_like_a_number_stays_one(text: str) -> None:
    assert parse_yaml(dump_yaml({"key": text, "list": [text]}), "x").data == {
        "key": text,
        "list": [text],
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("1_000", 1000),
        ("010", 10),
        ("no", "no"),
        ("on", "on"),
        ("2024-01-02", "2024-01-02"),
        ("1:30", "1:30"),
        ("'1e-5'", "1e-5"),
        ("~", None),
        ("true", True),
        (".inf", math.inf),
    ],
)
def test_scalars_are_what_people_mean(text: str, value: Any) -> None:
    found = parse_yaml(f"key: {text}", "x").data["key"]
    assert found == value and type(found) is type(value)


def test_lines_are_those_of_the_file() -> None:
    document = parse_yaml("a:\n  b: 1\n  c:\n  - x\n  - y\n", "f.yaml")
    assert document.where(("a", "b")) == "f.yaml line 2"
    assert document.where(("a", "c", 1)) == "f.yaml line 5"
    assert document.where(("a", "c", 1, "deeper")) == "f.yaml line 5"
