"""Defaults: an old study keeps its own; a new one draws nothing that cannot help."""

from __future__ import annotations

import json
from typing import Any

import optuna
import pytest

from spaces.config import SegmentationConfig
from spaces.defaults import FIRST, LATEST, SETTINGS
from spaces.difference import spec_difference
from spaces.space import Choice, Float, Free
from spaces.spec import StudySpec
from spaces.text_detection import TextDetectionConfig

METHODS = ("none", "inverse_freq", "sqrt_inv_freq", "effective_number")


def spec(task: str = "segmentation", /, **given: Any) -> StudySpec:
    """A spec that needs no files; dotted names are entries of the space."""
    labels = "masks" if task == "segmentation" else "labels"
    data: dict[str, Any] = {s: {"images": f"/{s}", labels: f"/{s}"} for s in ("train", "val")}
    if task == "segmentation":
        data["classes"] = ["a", "b"]
    space = {name: value for name, value in given.items() if "." in name}
    rest = {name: value for name, value in given.items() if "." not in name}
    return StudySpec.of({"name": "s", "task": task, "data": data, "space": space, **rest})


def stored_before_there_were_numbers(given: StudySpec) -> StudySpec:
    tree = json.loads(given.to_json())
    del tree["defaults"], tree["left_out"]
    tree["pruner"]["name"] = "quantile"  # what nothing meant then
    return StudySpec.from_json(json.dumps(tree))


def test_a_study_of_an_older_version_keeps_its_space() -> None:
    old = stored_before_there_were_numbers(
        spec(**{"train.epochs": 30, "model.encoder_weights": None})
    )
    assert old.defaults == FIRST
    space = old.search_space()
    assert space.dims["loss.class_weights.method"] == Choice(METHODS)
    assert space.dims["optim.schedule"] == Choice(("constant", "cosine", "poly", "step"))
    assert space.dims["optim.encoder_lr_ratio"] == Float(0.05, 1.0, log=True)
    base = space.base
    assert (base.train.patience, base.optim.step_epochs, base.train.ema) == (3, 10, None)
    text = stored_before_there_were_numbers(spec("text_detection"))
    assert text.search_space().dims["optim.encoder_lr_ratio"] == Float(0.1, 1.0, log=True)
    assert text.search_space().base.train.patience == 3
    for number in (1, 2):  # what it swept stays, too
        begun = spec("text_detection", defaults=number).search_space().dims
        assert begun["decode.unclip_ratio"] == Free(1.5, 3.0, 0.25)
    assert "decode.unclip_ratio" not in spec(defaults=2).search_space().dims


@pytest.mark.parametrize("task", ["segmentation", "text_detection"])
def test_its_trials_go_on_in_one_optuna_study(task: str) -> None:
    """Optuna refuses a parameter whose choices have changed."""
    scratch = spec(task, **{"train.epochs": 1, "model.encoder_weights": None, "defaults": FIRST})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for opened in (scratch, stored_before_there_were_numbers(scratch)):
        for _ in range(20):
            trial = study.ask()
            opened.search_space().sample(trial)
            study.tell(trial, 0.5)


def test_the_same_file_is_the_same_study_whatever_its_defaults() -> None:
    given = spec()
    old = stored_before_there_were_numbers(given)
    assert given.defaults == LATEST
    assert spec_difference(old, given) == ""
    assert "defaults" in spec_difference(old, spec(defaults=LATEST))
    begun = given.model_copy(update={"left_out": {"loss.class_weights.method": ["none"]}})
    assert spec_difference(begun, given) == "" and StudySpec.from_json(begun.to_json()) == begun


@pytest.mark.parametrize("kind", [SegmentationConfig, TextDetectionConfig])
def test_a_config_of_an_older_version_means_what_it_meant(kind: Any) -> None:
    """It names all that there was, patience and step_epochs too; what came later is off."""
    flat = {**kind().flat(), "train.patience": 3, "optim.step_epochs": 10}
    del flat["train.ema"]
    again = kind().replace(flat)
    assert (again.train.patience, again.optim.step_epochs, again.train.ema) == (3, 10, None)


@pytest.mark.parametrize("task", ["segmentation", "text_detection"])
def test_a_new_study_has_patience_and_steps_in_proportion(task: str) -> None:
    for use in (True, False):
        base = spec(task, use_default_space=use).search_space().base
        assert (base.train.patience, base.optim.step_epochs, base.train.ema) == (None, None, None)
    assert spec(task, **{"train.ema": 0.05}).search_space().base.train.ema == 0.05


def test_every_number_has_settings() -> None:
    assert set(SETTINGS) == set(range(FIRST, LATEST + 1))


@pytest.mark.parametrize(
    ("entries", "low"),
    [
        ({}, 0.05),
        ({"model.encoder_weights": None}, 0.3),
        ({"model.encoder_weights": [None, "imagenet"]}, 0.3),
        ({"model.encoder_weights": "imagenet"}, 0.05),
        ({"model.encoder_weights": None, "optim.encoder_lr_ratio": {"low": 0.1, "high": 1}}, 0.1),
    ],
)
def test_an_encoder_from_scratch_learns(entries: dict[str, Any], low: float) -> None:
    dim = spec(**entries).search_space().dims["optim.encoder_lr_ratio"]
    assert isinstance(dim, Float) and (dim.low, dim.high) == (low, 1.0)


@pytest.mark.parametrize(
    ("entries", "steps"),
    [
        ({}, True),
        ({"train.epochs": 8}, True),
        ({"train.epochs": 2}, True),
        ({"train.epochs": 1}, False),
        ({"train.epochs": 8, "optim.step_epochs": 8}, False),
        ({"train.epochs": 8, "optim.step_epochs": 7}, True),
        ({"train.epochs": 8, "optim.step_epochs": {"low": 8, "high": 20}}, False),
        ({"train.epochs": 8, "optim.step_epochs": [4, 20]}, True),
        ({"train.epochs": 1, "optim.schedule": ["step", "poly"]}, True),  # as the file says
    ],
)
def test_a_schedule_that_cannot_step_is_not_drawn(entries: dict[str, Any], steps: bool) -> None:
    dim = spec(**entries).search_space().dims["optim.schedule"]
    assert isinstance(dim, Choice) and ("step" in dim.choices) is steps


def test_what_is_left_out_is_not_drawn_but_what_the_file_names_is() -> None:
    name, ratio = "loss.class_weights.method", "loss.class_weights.max_ratio"
    left = {"left_out": {name: ["effective_number"]}}
    space = spec(**left).search_space()
    assert space.dims[name] == Choice(METHODS[:3]) and ratio in space.dims
    named = spec(**left, **{name: ["none", "effective_number"]}).search_space()
    assert named.dims[name] == Choice(("none", "effective_number"))
    alone = spec(left_out={name: list(METHODS[1:])}).search_space()
    assert name not in alone.dims and ratio not in alone.dims
    assert alone.base.flat()[name] == "none"
