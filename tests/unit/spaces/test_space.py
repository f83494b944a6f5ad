"""Sampling: what can be drawn, when, and that it can be rebuilt; starting points stay inside."""

from __future__ import annotations

import warnings
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.config import SegmentationConfig, parameter_types, parse_resolution, unflatten
from spaces.entries import build_space
from spaces.models import ARCHS, ENCODERS, incompatibility
from spaces.segmentation import STARTING_POINTS, default_space
from spaces.space import Choice, EntryError, Float, Free, Int, Prior, Space
from spaces.starting import origin, starting_params

NASTY = {
    "model.arch": ["Unet", "UnetPlusPlus", "Linknet", "DeepLabV3Plus", "PAN", "DPT"],
    "model.encoder": ["resnet18", "vgg16", "mit_b0", "tu-hrnet_w44", "densenet121", "tu-vit_x"],
}


class Drawer:
    """Draws at random from a seed and notes what it was asked."""

    def __init__(self, seed: int) -> None:
        import random

        self.random = random.Random(seed)
        self.params: dict[str, Any] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        assert name not in self.params
        self.params[name] = self.random.uniform(low, high)
        return float(self.params[name])

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        assert name not in self.params
        self.params[name] = self.random.randrange(low, high + 1, step)
        return int(self.params[name])

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        assert name not in self.params and len(choices) > 1
        self.params[name] = self.random.choice(list(choices))
        return self.params[name]


def space(entries: dict[str, Any], epochs: int = 15, binary: bool = False) -> Space:
    return build_space(default_space(epochs, binary=binary), entries)


def test_a_class_name_with_a_dot_is_no_path() -> None:
    weighted = {"metric.weights": {"U.S. route": 2.0}, "optim.lr": 0.5}
    config = SegmentationConfig().replace(weighted)
    assert config.flat()["metric.weights"] == {"U.S. route": 2.0}
    assert config.replace({"optim.lr": 0.5}) == config


@pytest.mark.slow
def test_two_thousand_draws_hold_no_impossible_pair() -> None:
    nasty = space(NASTY)
    seen = set()
    for seed in range(2000):
        model = nasty.sample(Drawer(seed)).model
        assert incompatibility(model.arch, model.encoder) is None
        seen.add((model.arch, model.encoder))
    assert seen == set(nasty.model_pairs())
    assert ("DeepLabV3Plus", "resnet18") in seen


@given(seed=st.integers(0, 2**31))
def test_a_config_is_rebuilt_from_its_parameters(seed: int) -> None:
    nasty, drawer = space(NASTY), Drawer(seed)
    assert nasty.sample(drawer) == nasty.config(drawer.params)


@given(seed=st.integers(0, 2**31))
def test_conditional_settings_are_drawn_only_where_they_count(seed: int) -> None:
    drawer = Drawer(seed)
    config = space({}).sample(drawer)
    assert ("loss.tversky_alpha" in drawer.params) is (config.loss.region == "tversky")
    assert ("loss.focal_gamma" in drawer.params) is (config.loss.pixel == "focal")
    weighted = config.loss.class_weights.method != "none"
    assert ("loss.class_weights.max_ratio" in drawer.params) is weighted


def test_optuna_accepts_the_space_over_a_whole_study() -> None:
    """A name with two distributions would raise in the tenth trial or so."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    sampler = optuna.samplers.TPESampler(
        seed=0, multivariate=True, group=True, constant_liar=True, n_startup_trials=15
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    nasty = space(NASTY)
    for number in range(40):
        trial = study.ask()
        config = nasty.sample(trial)
        assert nasty.config(trial.params) == config
        study.tell(trial, config.loss.region_share + 0.01 * (number % 3))
    assert any(name.startswith("model.encoder[") for t in study.trials for name in t.params)


def test_the_default_space_holds_what_it_promises() -> None:
    names = set(default_space(50, binary=False).dims)
    assert names >= {
        "loss.pixel", "loss.region", "loss.region_share", "loss.warmup_epochs",
        "loss.ramp_epochs", "loss.class_weights.method", "loss.class_weights.max_ratio",
        "optim.lr", "optim.encoder_lr_ratio", "optim.schedule", "optim.warmup_epochs",
        "optim.clip_norm", "optim.weight_decay", "data.resolution", "train.batch_size",
        "model.arch", "model.encoder",
    }  # fmt: skip
    assert "decode.threshold" not in names
    assert isinstance(default_space(50, binary=True).dims["decode.threshold"], Free)


@pytest.mark.parametrize(
    ("entries", "name", "expected"),
    [
        ({"optim.lr": 1e-3}, "optim.lr", None),
        ({"optim.lr": {"low": 1e-5, "high": 1e-3}}, "optim.lr", Float(1e-5, 1e-3, log=True)),
        (
            {"optim.lr": {"low": 0.1, "high": 0.3, "log": False}},
            "optim.lr",
            Float(0.1, 0.3, log=False),
        ),
        ({"optim.lr": [1e-3, 1e-2]}, "optim.lr", Choice((1e-3, 1e-2))),
        ({"optim.lr": {"low": 0.1, "high": 0.1}}, "optim.lr", None),
        (
            {"train.batch_size": {"low": 4, "high": 16, "step": 4}},
            "train.batch_size",
            Int(4, 16, step=4),
        ),
        (
            {
                "optim.lr": {
                    "low": 1e-4,
                    "high": 1e-2,
                    "prior": {"center": 1e-3, "spread": "3x"},
                }
            },
            "optim.lr",
            Float(1e-4, 1e-2, log=True, prior=Prior(1e-3, 3.0)),
        ),
        (
            {
                "loss.warmup_epochs": {
                    "low": 0,
                    "high": 9,
                    "prior": {"center": 2, "spread": 1.5},
                    "when": {"loss.region": "dice"},
                }
            },
            "loss.warmup_epochs",
            Int(0, 9, prior=Prior(2.0, 1.5)),
        ),
        ({"data.resolution": [[64, 96], 128]}, "data.resolution", Choice(("64x96", "128x128"))),
        (
            {"loss.label_smoothing": {"low": 0.0, "high": 0.2}},
            "loss.label_smoothing",
            Float(0.0, 0.2),
        ),
        ({"loss.region": "dice"}, "loss.tversky_alpha", None),
        (
            {"loss.weighting": ["fixed", "gradnorm"]},
            "loss.weighting",
            Choice(("fixed", "gradnorm")),
        ),
    ],
)
def test_entries_of_a_study_file(entries: dict[str, Any], name: str, expected: Any) -> None:
    assert space(entries).dims.get(name) == expected


def test_a_setting_of_classes_is_pinned_as_a_mapping() -> None:
    pinned = space({"decode.smallest_area": {"low": 5, "car": 20}})  # a class may be called low
    assert pinned.base.flat()["decode.smallest_area"] == {"low": 5, "car": 20}
    assert "decode.smallest_area" not in pinned.dims
    for wrong in (5, [5, 6], {"car": 0.5}):
        with pytest.raises(EntryError, match=r"smallest_area"):
            space({"decode.smallest_area": wrong})


def test_a_condition_of_the_study_file_is_obeyed() -> None:
    given_when = space(
        {
            "optim.momentum": {"low": 0.8, "high": 0.99, "when": {"optim.name": "sgd"}},
            "optim.name": ["adamw", "sgd"],
        }
    )
    for seed in range(30):
        drawer = Drawer(seed)
        config = given_when.sample(drawer)
        assert ("optim.momentum" in drawer.params) is (config.optim.name == "sgd")


def test_scale_and_crops_are_drawn_where_the_mode_is_crop() -> None:
    modes = space(
        {
            "data.mode": ["resize", "crop"],
            "data.scale": [0.5, 1.0],
            "data.crops": ["random", "balanced"],
            "decode.overlap": [0.25, 0.5],
        }
    )
    seen = set()
    for seed in range(30):
        drawer = Drawer(seed)
        config = modes.sample(drawer)
        drawn = {"data.scale", "data.crops", "decode.overlap"} & set(drawer.params)
        assert len(drawn) == (3 if config.data.mode == "crop" else 0)
        seen.add((config.data.mode, config.data.sized))
    assert {mode for mode, _ in seen} == {"resize", "crop"}
    assert {sized for mode, sized in seen if mode == "crop"} == {0.5, 1.0}


def test_a_free_threshold_is_not_drawn_and_a_range_is() -> None:
    free = space({}, binary=True)
    sampled = space({"decode.threshold": {"low": 0.2, "high": 0.8}}, binary=True)
    drawer = Drawer(0)
    free.sample(drawer)
    assert "decode.threshold" not in drawer.params and "decode.threshold" in free.free()
    sampled.sample(drawer := Drawer(0))
    assert "decode.threshold" in drawer.params and not sampled.free()


@given(
    epochs=st.integers(1, 200),
    low=st.floats(1e-6, 1e-2),
    factor=st.floats(1, 1000),
    share=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    batches=st.lists(st.integers(1, 64), min_size=1, max_size=3, unique=True),
    binary=st.booleans(),
    arch=st.sampled_from([["Unet"], ["DeepLabV3Plus", "Unet"], ["FPN", "PAN"]]),
    encoder=st.sampled_from([["resnet101", "vgg16", "resnet18"], ["resnet18"], ["resnet34"]]),
)
def test_starting_points_lie_inside_any_narrowed_space(
    epochs: int,
    low: float,
    factor: float,
    share: list[float],
    batches: list[int],
    binary: bool,
    arch: list[str],
    encoder: list[str],
) -> None:
    entries = {
        "optim.lr": {"low": low, "high": min(10.0, low * factor)},
        "loss.region_share": {"low": share[0], "high": share[1]},
        "train.batch_size": batches,
        "model.arch": arch,
        "model.encoder": encoder if len(arch) > 1 or arch == ["Unet"] else ["resnet18"],
    }
    narrowed = space(entries, epochs, binary)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for point in STARTING_POINTS:
        params = starting_params(narrowed, point)
        study.enqueue_trial(params)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Optuna warns of a value outside of its distribution
            trial = study.ask()
            narrowed.sample(trial)
        assert {name: trial.params[name] for name in params} == params


def test_the_safe_preset_is_what_the_field_says() -> None:
    params = starting_params(default_space(50, binary=False), STARTING_POINTS[0])
    assert params["loss.region_share"] == 0.3
    assert params["loss.class_weights.method"] == "sqrt_inv_freq"
    assert params["loss.class_weights.max_ratio"] == 10
    assert (params["loss.warmup_epochs"], params["loss.ramp_epochs"]) == (5, 10)
    assert params["optim.clip_norm"] == 1
    # its SGD, and its encoder and network, are not of this space
    for point in STARTING_POINTS:
        own = starting_params(default_space(50, binary=False), point)
        assert origin(default_space(50, binary=False), point, own) == f"{point.name}, adapted"
    shorter = starting_params(default_space(20, binary=False), STARTING_POINTS[0])
    assert (shorter["loss.warmup_epochs"], shorter["loss.ramp_epochs"]) == (2, 4)


@pytest.mark.parametrize(
    ("given_value", "canonical"),
    [("96x128", "96x128"), ([96, 128], "96x128"), (512, "512x512"), (" 64 X 96 ", "64x96")],
)
def test_resolutions(given_value: Any, canonical: str) -> None:
    assert parse_resolution(given_value) == canonical


@pytest.mark.parametrize(
    "wrong",
    [True, "96", "96*128x", [96], [96, 1.5], 8, "96x9000", None, 1.5, "9²", "9²x96", "9" * 5000],
)
def test_wrong_resolutions(wrong: Any) -> None:
    if wrong == "96":
        assert parse_resolution(wrong) == "96x96"
        return
    with pytest.raises(ValueError, match="must be"):
        parse_resolution(wrong)


def test_flat_and_back() -> None:
    config = SegmentationConfig().replace({"optim.lr": 0.123, "loss.class_weights.max_ratio": 7.0})
    assert unflatten(config.flat()) == config.model_dump()
    of_the_study = {"metric.name", "metric.classes", "metric.weights"}
    assert set(config.flat()) == set(parameter_types()) | of_the_study
    assert config.flat()["loss.class_weights.max_ratio"] == 7.0


@pytest.mark.slow
def test_pairs_are_what_smp_can_build() -> None:
    """A sample of the table, built for real in both directions."""
    import segmentation_models_pytorch as smp

    assert set(ARCHS) == {kind.__name__ for kind in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    assert set(ENCODERS) == set(smp.encoders.encoders)
    for arch, encoder in (
        ("DeepLabV3Plus", "vgg11"),
        ("PAN", "densenet121"),
        ("UnetPlusPlus", "mit_b0"),
        ("Linknet", "mit_b0"),
        ("DPT", "resnet18"),
        ("DeepLabV3", "tu-hrnet_w18"),
        ("Unet", "vgg11"),
        ("FPN", "mit_b0"),
        ("DeepLabV3Plus", "mit_b0"),
        ("PAN", "mobilenet_v2"),
        ("Segformer", "resnet18"),
    ):
        buildable = True
        try:
            smp.create_model(arch, encoder, encoder_weights=None)
        except Exception:
            buildable = False
        assert buildable is (incompatibility(arch, encoder) is None), (arch, encoder)
