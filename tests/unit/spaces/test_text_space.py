"""The text-detection space: its defaults, its free dimensions, and what a study file may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from spaces.errors import InputError
from spaces.run_config import dump_run_config, load_run_config
from spaces.space import Float, Free
from spaces.spec import StudySpec, TextDetectionStudySpec
from spaces.starting import origin, starting_params
from spaces.text_detection import STARTING_POINTS, TextDetectionConfig, default_space


def spec(folder: Path, **space: Any) -> StudySpec:
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
    data = {s: {"images": f"{s}/images", "labels": f"{s}/labels"} for s in ("train", "val")}
    tree = {"name": "t", "task": "text_detection", "data": data, "space": space}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return StudySpec.load(path)


def test_what_the_issue_names_is_searched() -> None:
    dims = default_space(30).dims
    for name in (
        "optim.lr", "data.resolution", "train.batch_size", "model.encoder", "model.decoder",
        "loss.pixel", "loss.regression", "loss.pixel_weight", "loss.threshold_weight",
        "loss.dice_weight", "optim.schedule", "optim.weight_decay", "data.augment",
        "decode.box_thresh", "decode.unclip_ratio",
    ):  # fmt: skip
        assert name in dims, name
    assert isinstance(dims["decode.box_thresh"], Free)
    assert len(dims["decode.box_thresh"].values()) == 17
    assert dims["decode.unclip_ratio"].values() == [1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0]


def test_defaults_are_those_of_field_note_e() -> None:
    config = TextDetectionConfig()
    assert (config.model.inner, config.model.out) == (256, 64)
    assert (config.loss.pixel_weight, config.loss.threshold_weight, config.loss.dice_weight) == (
        5, 10, 1,
    )  # fmt: skip
    assert config.decode.thresh == 0.3


def test_both_recipes_begin_a_study_and_fit_the_space() -> None:
    space = default_space(6)
    one, two = (starting_params(space, point) for point in STARTING_POINTS)
    assert one["model.encoder"] == "resnet50" and one["model.decoder"] == "unet"
    assert (one["data.resolution"], one["train.batch_size"], one["optim.lr"]) == (1024, 4, 1e-3)
    assert two["model.encoder"] == "tu-hrnet_w44" and two["model.decoder"] == "fpn"
    assert (two["data.resolution"], two["train.batch_size"], two["optim.lr"]) == (1280, 8, 5e-4)
    for params, point in zip((one, two), STARTING_POINTS, strict=True):
        assert origin(space, point, params) == point.name
        assert not any(name.startswith("decode.") for name in params)  # free: every value is tried


def test_a_narrowed_space_pulls_the_recipes_in(tmp_path: Path) -> None:
    narrowed = spec(
        tmp_path,
        **{
            "data.resolution": [320, 640],
            "optim.lr": {"low": 1e-2, "high": 1e-1, "log": True},
            "decode.box_thresh": {"low": 0.45, "high": 0.8},
        },
    ).search_space()
    one, two = (starting_params(narrowed, point) for point in STARTING_POINTS)
    assert one["data.resolution"] == two["data.resolution"] == 640
    assert origin(narrowed, STARTING_POINTS[0], one).endswith("recipe, adapted")
    assert one["optim.lr"] == pytest.approx(10**-1.5)
    assert two["optim.lr"] == pytest.approx(max(10**-1.5 / 2, 1e-2))
    assert one["decode.box_thresh"] == 0.45 and two["decode.box_thresh"] == 0.5


def test_a_sampled_and_a_pinned_box_thresh_are_obeyed(tmp_path: Path) -> None:
    sampled = spec(tmp_path, **{"decode.box_thresh": {"low": 0.3, "high": 0.6}}).search_space()
    assert isinstance(sampled.dims["decode.box_thresh"], Float)
    assert "decode.box_thresh" not in sampled.free() and "decode.unclip_ratio" in sampled.free()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    config = sampled.sample(study.ask())
    assert 0.3 <= config.flat()["decode.box_thresh"] <= 0.6
    pinned = spec(tmp_path, **{"decode.box_thresh": 0.7}).search_space()
    assert "decode.box_thresh" not in pinned.dims
    assert pinned.base.flat()["decode.box_thresh"] == 0.7


def test_a_text_detector_has_no_score_of_a_class(tmp_path: Path) -> None:
    assert spec(tmp_path).data.class_names == []


def test_the_binarisation_threshold_may_be_free(tmp_path: Path) -> None:
    free = {"free": True, "low": 0.2, "high": 0.5, "step": 0.1}
    space = spec(tmp_path, **{"decode.thresh": free}).search_space()
    assert space.free()["decode.thresh"].values() == [0.2, 0.3, 0.4, 0.5]


def test_random_configs_are_whole_and_come_back_from_their_parameters() -> None:
    space = default_space(20)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(50):
        trial = study.ask()
        config = space.sample(trial)
        assert space.config(trial.params) == config
        assert not set(trial.params) & set(space.free())


def test_a_spec_and_an_export_come_back(tmp_path: Path) -> None:
    given = spec(tmp_path, **{"model.encoder": "resnet18"})
    assert isinstance(given, TextDetectionStudySpec)
    again = StudySpec.from_json(given.to_json())
    assert again == given and again.metric_name == "Hmean"
    config = TextDetectionConfig().replace({"decode.box_thresh": 0.35, "model.decoder": "unet"})
    (tmp_path / "config.yaml").write_text(dump_run_config(given.data, config))
    assert load_run_config(tmp_path / "config.yaml") == (given.data, config)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"data.resolution": "96x128"}, r"data\.resolution: must be a whole number, but got '96x"),
        ({"model.arch": "Unet"}, r"model\.arch: unknown parameter"),
        ({"model.encoder": "resnet19"}, r"unknown encoder resnet19; did you mean resnet1"),
        ({"decode.box_tresh": 0.5}, r"unknown parameter; did you mean decode\.box_thresh\?"),
        ({"optim.momentum": {"free": True, "low": 0.1, "high": 0.9, "step": 0.1}},
         r"decode\.unclip_ratio, decode\.thresh, decode\.max_candidates can be free"),
        ({"decode.max_candidates": {"free": True, "low": 100, "high": 500, "step": 0.5}},
         r"decode\.max_candidates: step must be a whole number, but got 0\.5"),
        ({"decode.thresh": 1.0}, r"decode\.thresh: must be less than 1, but got 1\.0"),
    ],
)  # fmt: skip
def test_errors_name_the_line(space: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        spec(tmp_path, **space)
    assert "study.yaml line " in str(caught.value)
