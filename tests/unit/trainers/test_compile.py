"""train.compile: which batches run compiled, the cache that lasts, and no compiler here."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spaces.config import SegmentationConfig
from spaces.errors import InputError
from spaces.paths import cache_dir
from trainers import compile as module
from trainers.checkpoint import load_model
from trainers.compile import compile_model
from trainers.data import SegmentationData
from trainers.train import train

pytestmark = pytest.mark.slow

COMPILER = shutil.which("g++") or shutil.which("clang++")


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(module.FOLDER, raising=False)


def config_of(**changes: Any) -> SegmentationConfig:
    settings = {
        "model.encoder": "resnet18",
        "model.encoder_weights": None,
        "data.resolution": "32x32",
        "train.batch_size": 4,
        "train.epochs": 1,
        "train.precision": "fp32",
    }
    return SegmentationConfig().replace({**settings, **changes})


def test_odd_batches_run_as_before_and_the_model_is_saved_as_before(
    data: SegmentationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """9 images in batches of 4 are 4 + 5; validation has 4 in one batch of at most 8."""
    seen: list[tuple[int, bool]] = []

    def recorded(run: Callable[..., Any], dynamic: bool | None = None) -> Callable[..., Any]:
        def compiled(images: Tensor) -> Any:
            seen.append((len(images), dynamic is True))
            return run(images)

        return compiled

    plain = train(config_of(), data, tmp_path / "plain", lambda report: None)
    monkeypatch.setattr(torch, "compile", recorded)
    settings = {"train.compile": True}
    result = train(config_of(**settings), data, tmp_path / "compiled", lambda report: None)
    assert seen == [(2, False), (4, False)]  # the probe, and the one usual batch
    assert result.value == plain.value
    assert result.model is not None and plain.model is not None
    one, other = load_model(result.model).state_dict(), load_model(plain.model).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_no_compiler_is_a_clear_error(
    data: SegmentationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", broken)
    expected = r"train\.compile: .*No working C\+\+ compiler found; .*g\+\+.*train\.compile: false"
    with pytest.raises(InputError, match=expected):
        train(config_of(**{"train.compile": True}), data, tmp_path, lambda report: None)


@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("whole", [True, False])
def test_a_compiled_network_gives_the_same_numbers_and_fills_the_cache(whole: bool) -> None:
    """One graph a usual shape, or one of symbolic sizes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        expected = [model.eval()(images), model(images[:3, :, :8])]
        compile_model(model, (lambda batch: len(batch) == 4) if whole else None)
        found = [model(images), model(images[:3, :, :8])]
    for one, other in zip(expected, found, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert next(iter(model.state_dict())) == "0.weight"
    assert any((cache_dir() / "compile").rglob("*"))


def test_the_users_own_compile_folder_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    monkeypatch.setattr(torch, "compile", lambda run, dynamic=None: run)
    for given, expected in (
        (str(tmp_path), str(tmp_path)),
        (module.default_cache_dir(), str(cache_dir() / "compile")),
    ):
        monkeypatch.setenv(module.FOLDER, given)
        compile_model(nn.Conv2d(3, 4, 1), None)
        assert os.environ[module.FOLDER] == expected
