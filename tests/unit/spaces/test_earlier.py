"""A config of another study in this space: in it as it is, outside of it, or moved into it."""

from __future__ import annotations

from typing import Any

import pytest

from spaces.earlier import Outside, moved_params, params_in, uncovered
from spaces.entries import build_space
from spaces.segmentation import default_space
from spaces.space import Space

DEFAULT = default_space(30, binary=False)
MEANING = DEFAULT.when


def space(**entries: Any) -> Space:
    """The default space with `optim__lr=...` as entries."""
    named = {name.replace("__", "."): entry for name, entry in entries.items()}
    return build_space(DEFAULT, {"model.encoder": ["resnet18", "resnet34"], **named})


def settings(**changed: Any) -> dict[str, Any]:
    """A config of `space()`."""
    named = {name.replace("__", "."): value for name, value in changed.items()}
    flat = space().base.replace({"model.encoder": "resnet18", "optim.lr": 3e-3, **named}).flat()
    return dict(flat)


def test_a_config_of_a_space_lies_in_it_with_its_parameters() -> None:
    given = settings(loss__pixel="focal", loss__focal_gamma=1.5, loss__region="dice")
    params = params_in(space(), given, MEANING)
    assert params["optim.lr"] == 3e-3 and params["loss.focal_gamma"] == 1.5
    assert "loss.tversky_alpha" not in params  # has no meaning with dice
    assert space().config(params).flat() == given


@pytest.mark.parametrize(
    ("entries", "changed", "setting"),
    [
        ({"optim__lr": {"low": 1e-4, "high": 1e-3}}, {}, "optim.lr"),
        ({"model__encoder": ["resnet34", "resnet50"]}, {}, "model.encoder"),
        ({"model__encoder": "resnet50"}, {}, "model.encoder"),  # one choice is no parameter
        ({"optim__lr": 2e-3}, {}, "optim.lr"),
        ({"train__batch_size": {"low": 4, "high": 16, "step": 4}}, {"train__batch_size": 6},
         "train.batch_size"),
        ({"train__ema": 0.1}, {}, "train.ema"),  # fixed here, and not at what it was there
        ({"optim__lr": {"low": 1e-3, "high": 1e-2, "step": 0.002}}, {}, None),
        ({"optim__lr": 3e-3}, {}, None),  # a parameter that is gone, at its value there
        ({"data__photometric": [None, "light"]}, {}, None),  # a new one, at the old fixed value
        ({"loss__focal_gamma": 3.0}, {"loss__pixel": "ce"}, None),  # never looked at
        ({"loss__focal_gamma": 3.0}, {"loss__pixel": "focal"}, "loss.focal_gamma"),
        ({"train__patience": 7, "health__grad_norm": 0, "train__seed": 3}, {}, None),
    ],
)  # fmt: skip
def test_where_it_lies(
    entries: dict[str, Any], changed: dict[str, Any], setting: str | None
) -> None:
    given = settings(**changed)
    if setting is None:
        params_in(space(**entries), given, MEANING)
        return
    with pytest.raises(Outside) as found:
        params_in(space(**entries), given, MEANING)
    assert found.value.setting == setting


def test_a_winner_moves_to_what_is_nearest() -> None:
    there = space(
        optim__lr={"low": 1e-4, "high": 1e-3},
        data__resolution=["256x256", "640x640"],
        model__arch=["FPN", "Unet"],
        optim__warmup_epochs={"low": 0, "high": 10},
    )
    given = settings(train__epochs=60, optim__warmup_epochs=6, data__resolution="512x512")
    params = moved_params(there, given, MEANING)
    assert params["optim.lr"] == pytest.approx(1e-3)  # the nearest end
    assert params["data.resolution"] == "640x640"
    assert params["optim.warmup_epochs"] == 3  # of 30 epochs as 6 of 60
    assert params["model.arch"] == "Unet" and params["model.encoder"] == "resnet18"


def test_the_rate_of_an_optimiser_that_is_not_here_is_left_to_the_sampler() -> None:
    params = moved_params(space(optim__name="sgd"), settings(), MEANING)
    assert "optim.lr" not in params and "loss.region_share" in params


def test_what_no_earlier_trial_could_have_is_named() -> None:
    wider = space(optim__lr={"low": 1e-5, "high": 1e-2}, model__arch=["Unet", "FPN", "Linknet"])
    assert uncovered(space(), [space()]) == []
    assert uncovered(wider, [space()]) == ["optim.lr", "model.arch"]
    assert uncovered(space(), [wider]) == ["model.arch"]  # DeepLabV3Plus
    assert uncovered(wider, [space(), wider]) == []
    assert uncovered(space(train__ema={"low": 0.1, "high": 0.3}), [space()]) == ["train.ema"]
