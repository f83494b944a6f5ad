"""`model.init`: what a network takes of an export, a folder, a state dict; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from spaces.config import ModelConfig, SegmentationConfig
from spaces.errors import InputError
from spaces.text_detection import TextModelConfig
from trainers import initial_weights
from trainers.dbnet.head import DBNet
from trainers.models import build_model
from trainers.text_detection import build_dbnet

pytestmark = pytest.mark.slow

PLAIN = ModelConfig(arch="Unet", encoder="resnet18", encoder_weights=None)
SMALL = TextModelConfig(encoder_weights=None, inner=16, out=8)


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    return build_model(PLAIN, 3)


@pytest.fixture(scope="module")
def export(unet: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `segtune export` writes it, as far as its weights go."""
    folder = tmp_path_factory.mktemp("export")
    unet.save_pretrained(str(folder / "model"))  # type: ignore[operator]
    (folder / "config.yaml").write_text("task: segmentation\n")
    return folder


def begun(path: Path, logits: int = 3, **changes: Any) -> tuple[nn.Module, list[str]]:
    lines: list[str] = []
    config = PLAIN.model_copy(update={"init": str(path), **changes})
    return build_model(config, logits, lines.append), lines


def equal(one: dict[str, Tensor], other: dict[str, Tensor], prefix: str = "") -> set[bool]:
    return {torch.equal(other[name], one[name]) for name in one if name.startswith(prefix)}


@pytest.mark.parametrize("below", ["", "model"])
def test_an_export_and_a_hub_folder_give_everything(
    below: str, export: Path, unet: nn.Module
) -> None:
    model, lines = begun(export / below)
    assert equal(unet.state_dict(), model.state_dict()) == {True}
    (line,) = lines
    count = len(unet.state_dict())
    assert f"Unet with resnet18 begins with {count} of {count} tensors" in line


def test_the_head_of_other_classes_is_replaced(export: Path, unet: nn.Module) -> None:
    model, lines = begun(export, logits=5)
    theirs, ours = unet.state_dict(), model.state_dict()
    assert equal(theirs, ours, "encoder.") == equal(theirs, ours, "decoder.") == {True}
    assert ours["segmentation_head.0.weight"].shape[0] == 5
    assert "2 of another shape, left as they begin: segmentation_head.0.weight (5, 16" in lines[1]


def test_of_another_architecture_the_encoder_alone_is_taken(export: Path, unet: nn.Module) -> None:
    """MAnet's head has the name and the shape of Unet's, behind another decoder."""
    model, lines = begun(export, arch="MAnet")
    theirs, ours = unet.state_dict(), model.state_dict()
    assert equal(theirs, ours, "encoder.") == {True}
    head = "segmentation_head.0.weight"
    assert ours[head].shape == theirs[head].shape and not torch.equal(ours[head], theirs[head])
    taken = sum(name.startswith("encoder.") for name in theirs)
    assert f"MAnet with resnet18 begins with {taken} of" in lines[0]
    assert f"(encoder: {taken} of {taken})" in lines[0] and "of no use here" in lines[-1]


def test_another_encoder_is_refused_with_the_fix(export: Path) -> None:
    with pytest.raises(
        InputError, match=r"holds a Unet with resnet18.*write model\.encoder: resnet18"
    ):
        begun(export, encoder="resnet34")


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod."])
def test_state_dicts_under_the_names_of_wrappers(
    ending: str, prefix: str, unet: nn.Module, tmp_path: Path
) -> None:
    tensors = {prefix + name: t.clone() for name, t in unet.state_dict().items()}
    path = tmp_path / f"weights.{ending}"
    if ending == "pth":
        torch.save({"epoch": 3, "state_dict": tensors}, path)
    else:
        save_file(tensors, path)
    assert equal(unet.state_dict(), begun(path)[0].state_dict()) == {True}


def test_a_classifier_gives_its_encoder(unet: nn.Module, tmp_path: Path) -> None:
    """As torchvision saves it: without our prefix, with a head that has no place here."""
    tensors = {
        name.removeprefix("encoder."): tensor
        for name, tensor in unet.state_dict().items()
        if name.startswith("encoder.")
    }
    torch.save({**tensors, "fc.weight": torch.ones(10, 512)}, tmp_path / "resnet18.pth")
    model, lines = begun(tmp_path / "resnet18.pth")
    assert equal(unet.state_dict(), model.state_dict(), "encoder.") == {True}
    assert any("1 there, but of no use here" in line for line in lines)


def test_what_the_file_lacks_of_the_encoder_is_as_encoder_weights_say(tmp_path: Path) -> None:
    """They are fetched only then."""
    asked: list[str | None] = []

    def make(weights: str | None) -> nn.Module:
        asked.append(weights)
        model = build_model(PLAIN, 3)
        nn.init.constant_(model.encoder.conv1.weight, 7.0 if weights else 0.0)  # type: ignore[union-attr, arg-type]
        return model

    whole = build_model(PLAIN, 3).state_dict()
    part = {name: tensor for name, tensor in whole.items() if "encoder.conv1" not in name}
    for name, tensors in (("whole", whole), ("part", part)):
        torch.save(tensors, tmp_path / f"{name}.pt")
        config = ModelConfig(encoder="resnet18", init=str(tmp_path / f"{name}.pt"))
        model, match = initial_weights.begin(config, make)
        assert match is not None and len(match.taken) == len(tensors)
        first = model.state_dict()["encoder.conv1.weight"]
        expected = (
            first.new_full(first.shape, 7.0) if name == "part" else whole["encoder.conv1.weight"]
        )
        assert torch.equal(first, expected)
    assert asked == [None, None, "imagenet"]


class Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"a": Attack(tmp_path / "ran")}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="what needs code to be read is not read"):
        begun(tmp_path / "weights.pt")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "weights.pt", weights_only=False)  # the attack is a real one
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"a": torch.ones(2)},
            r"none of the 1 tensors .* fits Unet with resnet18: it has a \(2,\)",
        ),
        (
            {"epoch": 3, "optimizer": {}},
            r"must hold a state dict.*but is a dict of epoch, optimizer",
        ),
        ({"a": torch.tensor([float("nan")])}, "a is not finite"),
        ({}, "must hold a state dict"),
    ],
)
def test_weights_of_nothing_known_are_refused(content: Any, said: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=said):
        begun(tmp_path / "weights.pt")


def test_files_and_folders_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("not weights")
    (tmp_path / "text.pt").write_text("not weights")
    (tmp_path / "empty").mkdir()
    (tmp_path / "folds" / "models" / "fold-1").mkdir(parents=True)
    (tmp_path / "config-only").mkdir()
    (tmp_path / "config-only" / "config.yaml").write_text("task: segmentation\n")
    for name, said in (
        ("gone", "does not exist on this machine"),
        ("text.safetensors", "cannot be read as weights"),
        ("text.pt", "no weights at all"),
        ("empty", "must be an export, or a folder with"),
        ("folds", r"name one of them: .*/models/fold-1"),
        ("config-only", "exported without its weights"),
    ):
        with pytest.raises(InputError, match=said):
            begun(tmp_path / name)


def test_a_word_that_is_no_path_is_a_name_of_weights() -> None:
    config = PLAIN.model_copy(update={"init": "best"})
    with pytest.raises(InputError, match=r"model\.init: resnet18 has no 'best' weights.*best/"):
        build_model(config, 2)


def test_detectors_begin_with_detectors(tmp_path: Path) -> None:
    """And a segmentation network with the encoder of one."""
    detector = build_dbnet(SMALL)
    assert isinstance(detector, DBNet)
    detector.save_pretrained(tmp_path / "model")
    lines: list[str] = []
    config = SMALL.model_copy(update={"init": str(tmp_path)})
    model = build_dbnet(config, lines.append)
    assert equal(detector.state_dict(), model.state_dict()) == {True} and len(lines) == 1
    other = build_dbnet(config.model_copy(update={"decoder": "unet"}))
    assert equal(detector.state_dict(), other.state_dict(), "encoder.") == {True}
    segmenter, _ = begun(tmp_path)
    assert equal(detector.state_dict(), segmenter.state_dict(), "encoder.") == {True}


def test_a_config_beside_the_weights_that_says_nothing_known(
    export: Path, unet: nn.Module, tmp_path: Path
) -> None:
    for text in ("{", "[]", json.dumps({"decoder": 3}), json.dumps({"_model_class": ["Unet"]})):
        (tmp_path / "config.json").write_text(text)
        weights = (export / "model" / "model.safetensors").read_bytes()
        (tmp_path / "model.safetensors").write_bytes(weights)
        assert equal(unet.state_dict(), begun(tmp_path)[0].state_dict()) == {True}


def test_configs_of_before_begin_as_they_did() -> None:
    flat = SegmentationConfig().flat()
    del flat["model.init"]
    assert SegmentationConfig().replace(flat) == SegmentationConfig()
    assert SegmentationConfig().model.init is None
