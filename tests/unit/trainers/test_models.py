"""Networks, checkpoints and augmentation."""

from __future__ import annotations

import errno
import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

from spaces.config import ModelConfig
from spaces.errors import InputError
from spaces.text_detection import TextModelConfig
from trainers import checkpoint
from trainers.durable import Damaged, write_json
from trainers.image_counts import FILE, ImageCounts
from trainers.models import build_model, check_model, forward
from trainers.text_detection import build_dbnet

pytestmark = pytest.mark.slow

PLAIN = ModelConfig(arch="Unet", encoder="resnet18", encoder_weights=None)
COUNTS = ImageCounts(np.arange(12).reshape(2, 2, 3))


@pytest.mark.parametrize("size", [(33, 47), (64, 64), (20, 100)])
def test_any_input_size_runs_and_comes_back(size: tuple[int, int]) -> None:
    model = build_model(PLAIN, 3).eval()
    assert forward(model, torch.randn(1, 3, *size)).shape == (1, 3, *size)


def test_padding_is_cut_off_again() -> None:
    """The logits of a padded input are those of the same pixels in a larger, black image."""
    model = build_model(PLAIN, 2).eval()
    image = torch.randn(1, 3, 40, 50)
    framed = torch.zeros(1, 3, 64, 64)
    framed[..., :40, :50] = image
    with torch.no_grad():
        assert torch.allclose(forward(model, image), model(framed)[..., :40, :50])


def test_pretrained_weights_offline_are_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", "/nonexistent")
    config = ModelConfig(arch="Unet", encoder="resnet18", encoder_weights="imagenet")
    with pytest.raises(InputError, match="encoder_weights: null"):
        build_model(config, 2)


def test_an_export_is_loaded_where_its_first_weights_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older exports name the weights that training began with; new ones name none."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", "/nonexistent")
    folder = checkpoint.save_model(tmp_path, 1, build_model(PLAIN, 3), COUNTS)
    saved = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(saved | {"encoder_weights": "imagenet"}))
    assert len(list(checkpoint.load_model(folder).parameters())) > 0


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The networks whose weights were asked of timm, which gives random ones."""
    names: list[str] = []
    create = timm.create_model

    def untrained(name: str, *, pretrained: bool = False, **kwargs: Any) -> nn.Module:
        names.extend([name] * pretrained)
        return create(name, pretrained=False, **kwargs)

    monkeypatch.setattr(timm, "create_model", untrained)
    return names


def test_timm_encoders_are_asked_for_as_smp_wants_it(fetched: list[str], tmp_path: Path) -> None:
    """A name of weights would be a warning."""
    config = ModelConfig(arch="FPN", encoder="tu-resnet18", encoder_weights="imagenet")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = build_model(config, 2)
        build_dbnet(TextModelConfig(encoder="tu-resnet18", inner=8, out=8))
        assert fetched == ["resnet18", "resnet18"]
        build_model(config.model_copy(update={"encoder_weights": None}), 2)
        smp.from_pretrained(str(checkpoint.save_model(tmp_path, 1, model, COUNTS)))
    assert len(fetched) == 2


@pytest.mark.parametrize("build", [lambda config: build_model(config, 2), build_dbnet])
def test_timm_encoders_have_one_set_of_weights(build: Any) -> None:
    kind = TextModelConfig if build is build_dbnet else ModelConfig
    expected = r"tu-resnet18 has no 'ssl' weights; known: imagenet.*tu-resnet18\.TAG"
    with pytest.raises(InputError, match=expected):
        build(kind(encoder="tu-resnet18", encoder_weights="ssl"))


def test_a_pair_that_cannot_be_built_is_a_clear_error() -> None:
    config = ModelConfig(arch="DeepLabV3Plus", encoder="tu-hrnet_w18", encoder_weights=None)
    with pytest.raises(InputError, match=r"DeepLabV3Plus with model\.encoder tu-hrnet_w18"):
        check_model(config, (64, 64), 2, 3)


@pytest.mark.parametrize("arch", ["Unet", "FPN", "DeepLabV3Plus"])
def test_weights_round_trip_and_load_with_smp(arch: str, tmp_path: Path) -> None:
    config = ModelConfig(arch=arch, encoder="resnet18", encoder_weights=None)
    model = build_model(config, 3).eval().to(memory_format=torch.channels_last)
    folder = checkpoint.save_model(tmp_path, 7, model, COUNTS)
    assert folder.name == "model-7"
    assert (ImageCounts.from_bytes((folder / FILE).read_bytes()).counts == COUNTS.counts).all()
    model = model.to(memory_format=torch.contiguous_format)  # as loaded: equal to the bit
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for loaded in (checkpoint.load_model(folder), smp.from_pretrained(str(folder))):
            assert torch.equal(loaded.eval()(image), model(image))


def test_what_a_kill_left_half_written_does_no_harm(tmp_path: Path) -> None:
    model, model_2 = build_model(PLAIN, 2), tmp_path / "model-2"
    for epoch in (1, 2):
        checkpoint.save_model(tmp_path, epoch, model, COUNTS)
        digest = checkpoint.save_state(tmp_path, epoch, {"step": epoch, "w": torch.ones(3)})
        checkpoint.commit(tmp_path, epoch, epoch, digest, {"history": [0.5] * epoch})
    # killed in epoch 3: its state whole, but not committed
    checkpoint.save_state(tmp_path, 3, {"step": 3, "w": torch.zeros(3)})
    (tmp_path / "state-4.pt.tmp").write_bytes(b"half a state")
    (tmp_path / "last.json.tmp").write_bytes(b"half")
    (tmp_path / "model-3.tmp").mkdir()
    facts = checkpoint.load_facts(tmp_path)
    assert facts is not None
    assert {"epoch": 2, "best_epoch": 2, "history": [0.5, 0.5]}.items() <= facts.items()
    assert facts["files"] == {
        name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        for name in ("state-2.pt", *(f"model-2/{path.name}" for path in model_2.iterdir()))
    }
    state = checkpoint.load_state(tmp_path, facts)
    assert state["step"] == 2 and torch.equal(state["w"], torch.ones(3))
    digest = checkpoint.save_state(tmp_path, 3, {"step": 30})
    # epoch 2 is still the best one
    checkpoint.commit(tmp_path, 3, 2, digest, {"history": [0.5] * 3})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["last.json", "model-2", "state-3.pt"]
    again = checkpoint.load_facts(tmp_path)
    assert again is not None and checkpoint.load_state(tmp_path, again) == {"step": 30}
    checkpoint.remove_last(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model-2"]


def test_a_paused_trial_has_its_best_weights_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(PLAIN, 2)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    checkpoint.save_model(tmp_path, 2, model, COUNTS)
    weights[next(name for name in weights if "running_mean" in name)][0] = -0.0  # not 0.0
    state = {"model": weights, "average": None, "optimizer": torch.ones(3)}
    digest = checkpoint.save_state(tmp_path, 2, state)
    checkpoint.commit(tmp_path, 2, 2, digest, {"history": [0.5]})
    whole = (tmp_path / "state-2.pt").stat().st_size

    def same() -> bool:
        facts = checkpoint.load_facts(tmp_path)
        assert facts is not None and checkpoint.files(tmp_path, facts, check=True)
        found = checkpoint.load_state(tmp_path, facts)
        bits = [{k: v.numpy().tobytes() for k, v in one["model"].items()} for one in (found, state)]
        return bits[0] == bits[1] and found.keys() == state.keys()

    with monkeypatch.context() as killed:
        killed.setattr(checkpoint, "write_json", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            checkpoint.share_weights(tmp_path)
    assert same() and (tmp_path / "state-2-shared.pt").exists()  # not committed
    for _ in range(2):  # paused again before it has trained
        checkpoint.share_weights(tmp_path)
        assert [path.name for path in tmp_path.glob("state-*")] == ["state-2-shared.pt"] and same()
    shared = (tmp_path / "state-2-shared.pt").stat().st_size
    assert shared < whole - 0.9 * (tmp_path / "model-2" / "model.safetensors").stat().st_size
    digest = checkpoint.save_state(tmp_path, 3, state)
    checkpoint.commit(tmp_path, 3, 2, digest, {"history": [0.5, 0.4]})
    checkpoint.share_weights(tmp_path)  # epoch 2 is the best one: nothing is there twice
    assert [path.name for path in tmp_path.glob("state-*")] == ["state-3.pt"] and same()


def test_links_planted_in_a_trials_folder_are_not_written_through(tmp_path: Path) -> None:
    """Under every name that a checkpoint writes, on its way there too."""
    workdir, targets = tmp_path / "trial", tmp_path / "targets"
    workdir.mkdir()
    (targets / "model-final").mkdir(parents=True)
    for name in ("state-1.pt.tmp", "state-1.pt", "last.json.tmp", "last.json"):
        (targets / name).write_text("precious")
        (workdir / name).symlink_to(targets / name)
    for name in ("model-1.tmp", "model-1", "model-9", "fold-1"):
        (workdir / name).symlink_to(targets / "model-final")
    model = build_model(PLAIN, 2)
    digest = checkpoint.save_state(workdir, 1, {"step": 1})
    checkpoint.save_model(workdir, 1, model, COUNTS)
    (workdir / "last.json").unlink()  # what it leads to is read, and would be refused
    checkpoint.commit(workdir, 1, 1, digest, {})
    checkpoint.remove_last(workdir)
    files = [path for path in targets.rglob("*") if path.is_file()]
    assert len(files) == 4 and {path.read_text() for path in files} == {"precious"}
    assert (targets / "model-final").is_dir() and not list((targets / "model-final").iterdir())


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    """Nor where its SHA-256 fits: whoever may write it may write that too."""

    class Attack:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    digest = checkpoint.save_state(tmp_path, 1, {"model": Attack()})
    checkpoint.save_model(tmp_path, 1, build_model(PLAIN, 2), COUNTS)
    checkpoint.commit(tmp_path, 1, 1, digest, {})
    facts = checkpoint.load_facts(tmp_path)
    assert facts is not None and checkpoint.files(tmp_path, facts, check=True)
    with pytest.raises(Damaged, match=r"state-1\.pt cannot be loaded \(UnpicklingError"):
        checkpoint.load_state(tmp_path, facts)
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "state-1.pt", weights_only=False)  # the attack is a real one
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "facts",
    [
        {"epoch": 1, "best_epoch": "1/../../../home"},
        {"epoch": "1", "best_epoch": 1},
        {"epoch": 1, "fold": "1/../.."},
        {"epoch": True, "best_epoch": 1},
        {"epoch": 1},
    ],
)
def test_epochs_that_are_no_numbers_are_refused(facts: dict[str, Any], tmp_path: Path) -> None:
    """File names are made of them."""
    write_json(tmp_path / "last.json", facts)
    with pytest.raises(Damaged, match=r"last\.json is damaged: (epoch|best_epoch|fold) is "):
        checkpoint.load_facts(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", None),
        ("model.safetensors", None),
        ("config.json", "{"),
        ("config.json", "{}"),
        ("model.safetensors", "not weights"),
    ],
)
def test_a_damaged_model_is_a_clear_error(name: str, content: str | None, tmp_path: Path) -> None:
    folder = checkpoint.save_model(tmp_path, 1, build_model(PLAIN, 2), COUNTS)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(InputError, match="export it again"):
        checkpoint.load_model(folder)


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.load_facts(tmp_path) is None


def test_a_checkpoint_that_cannot_be_read_now_is_not_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model-1").mkdir()
    digest = checkpoint.save_state(tmp_path, 2, {"w": torch.ones(3)})
    checkpoint.commit(tmp_path, 2, 1, digest, {"history": [0.5] * 2})
    facts = checkpoint.load_facts(tmp_path)
    assert facts is not None

    def fails(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(torch, "load", fails)
    for error in (OSError(errno.EMFILE, "too many open files"), MemoryError()):
        with pytest.raises(type(error)):
            checkpoint.load_state(tmp_path, facts)
