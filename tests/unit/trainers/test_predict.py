"""The model of an export on new images: the numbers of `evaluate`, whatever memory allows."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from spaces.config import SegmentationConfig
from spaces.errors import InputError
from spaces.paths import MODEL, MODELS
from spaces.run_config import dump_run_config
from trainers import predict
from trainers.checkpoint import save_model
from trainers.data import SegmentationData
from trainers.image_counts import ImageCounts
from trainers.masks import decode_mask
from trainers.metrics import ClassCounts
from trainers.predict import Predictor
from trainers.tasks import make_task, score_model

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parents[3] / "docs" / "predict.md"
CPU = torch.device("cpu")
CONFIG = SegmentationConfig().replace(
    {
        "model.encoder": "resnet18",
        "model.encoder_weights": None,
        "data.resolution": "32x48",
        "decode.tta": "hflip",
    }
)

Exported = Callable[..., Path]


@pytest.fixture
def exported(data: SegmentationData, tmp_path: Path) -> Exported:
    """Writes an export whose models have random weights, each with classes that it prefers."""

    def write(models: int = 1) -> Path:
        folder = tmp_path / f"best-{models}"
        folder.mkdir()
        (folder / "config.yaml").write_text(dump_run_config(data.spec, CONFIG))
        for number in range(models):
            torch.manual_seed(number)
            network = make_task(CONFIG, data, CPU, "fp32", {}).build_model()
            saved = save_model(folder, 1, network, ImageCounts(np.zeros((1, 1, 3), np.int64)))
            to = folder / (MODEL if models == 1 else f"{MODELS}/fold-{number + 1}")
            to.parent.mkdir(exist_ok=True)
            saved.rename(to)
        return folder

    return write


@pytest.fixture
def images(data: SegmentationData) -> list[str]:
    return [sample.image for sample in data.split("val")]


def test_the_score_of_its_masks_is_that_of_evaluate(
    exported: Exported, data: SegmentationData, images: list[str]
) -> None:
    folder = exported()
    scored = score_model(folder / MODEL, CONFIG, data, "val").scores
    counter = ClassCounts(data.classes, CPU)
    for sample, mask in zip(data.split("val"), Predictor(folder).predict(images), strict=True):
        assert isinstance(mask, np.ndarray) and mask.dtype == np.uint8
        truth = torch.from_numpy(decode_mask(sample.mask, data.spec))
        counter.update(torch.from_numpy(mask).long()[None], truth[None])
    task: Any = make_task(CONFIG, data, CPU, "fp32", {})
    found = task.score(counter.images().numpy().sum(0))
    assert found == pytest.approx(scored.metric, abs=1e-6) and found > 0


def test_paths_pictures_and_arrays_are_one(
    exported: Exported, images: list[str], tmp_path: Path
) -> None:
    predictor = Predictor(exported())
    [path] = predictor.predict([Path(images[0])])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    lying = Image.open(images[0]).transpose(Image.Transpose.ROTATE_90)
    lying.save(tmp_path / "turned.png", exif=exif)
    turned = Image.open(tmp_path / "turned.png")
    others = predictor.predict([Image.open(images[0]), np.asarray(Image.open(images[0])), turned])
    assert all(np.array_equal(path, other) for other in others)
    assert turned.size == (40, 48)  # the caller's own picture stays as it was
    for wrong in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"must be \(H, W, 3\) uint8"):
            predictor.predict([wrong])


def test_the_page_runs_as_it_stands(
    exported: Exported, images: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported().rename(tmp_path / "best")
    shutil.copy(images[0], tmp_path / "street.png")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert np.array_equal(names["mask"], names["again"])


def test_out_of_memory_means_less_at_once(
    exported: Exported, images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(exported())
    whole = predictor.predict(images)
    real, sizes = predict.network_logits, []

    def network_logits(model: Any, pixels: torch.Tensor, *others: Any) -> torch.Tensor:
        sizes.append(len(pixels))
        if len(pixels) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, pixels, *others)

    monkeypatch.setattr(predict, "network_logits", network_logits)
    less = predictor.predict(images)
    assert sizes == [4, 4, 2, 1, 1, 1, 1]  # of 8 at once there are 4
    assert all(np.array_equal(one, other) for one, other in zip(whole, less, strict=True))
    monkeypatch.setattr(predict, "class_map", _no_room)
    with pytest.raises(MemoryError):  # nothing is left to give up on a CPU
        predictor.predict(images)


def _no_room(*_: Any) -> None:
    raise MemoryError


def test_folds_have_their_mean_probability(exported: Exported, images: list[str]) -> None:
    folder = exported(models=2)
    alone = []
    for fold in (1, 2):
        single = folder / f"alone-{fold}"
        single.mkdir()
        (single / "config.yaml").write_bytes((folder / "config.yaml").read_bytes())
        (single / MODEL).symlink_to(folder / MODELS / f"fold-{fold}")
        predictor = Predictor(single)
        prepared = [predictor.prepare(image) for image in images]
        alone.append([one.probabilities for one in predictor.run(prepared, probabilities=True)])
    together = Predictor(folder)
    prepared = [together.prepare(image) for image in images]
    for one, first, second in zip(together.run(prepared, probabilities=True), *alone, strict=True):
        assert one.probabilities is not None and one.probabilities.shape == (8, 40, 48)
        mean = (first.astype(np.float32) + second) / 2
        # at network size, before it is resized: not quite the mean of what was resized
        assert np.abs(one.probabilities - mean).max() < 0.02
        # in float16 some classes are equal
        assert (one.probabilities.argmax(0) == one.prediction).mean() > 0.95


def test_what_is_no_export_is_said(tmp_path: Path, exported: Exported) -> None:
    with pytest.raises(InputError, match="no such file"):
        Predictor(tmp_path / "none")
    folder = exported()
    (folder / MODEL).rename(folder / "elsewhere")
    with pytest.raises(InputError, match="has no model/; give a folder that export wrote"):
        Predictor(folder)
