"""Text detectors as ONNX: both decoders, pages of any shape, the same boxes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spaces.paths import MODEL
from spaces.run_config import dump_run_config
from spaces.text_detection import TextDetectionConfig
from tests.without_torch import run_example, why_refused, with_setting
from trainers.dbnet.decode import Detections
from trainers.dbnet.head import DECODERS
from trainers.members import MEMBERS, write_list
from trainers.onnx_network import FILE, OnnxNetwork, compare, write_onnx
from trainers.predict import Predictor
from trainers.tasks import score_model
from trainers.text_data import TextData
from trainers.text_detection import build_dbnet

pytestmark = pytest.mark.slow

CONFIG = TextDetectionConfig().replace(
    {
        "model.encoder_weights": None,
        "model.inner": 16,
        "model.out": 8,
        "data.resolution": 150,
        "train.precision": "fp32",
        "decode.thresh": 0.5,
        "decode.box_thresh": 0.4,
    }
)


def export(folder: Path, config: TextDetectionConfig, data: TextData, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    network = build_dbnet(config.model)
    network.probability[-1].bias.data.fill_(0.0)  # half of the page is text
    folder.mkdir(exist_ok=True)
    network.save_pretrained(folder / MODEL)
    (folder / "config.yaml").write_text(dump_run_config(data.spec, config))
    write_onnx(folder / MODEL, config, data.spec, folder / MODEL / FILE)
    return folder


OTHER = CONFIG.replace({"data.resolution": 160})


@pytest.fixture(scope="module")
def made(receipts: TextData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export with model.onnx."""
    return export(tmp_path_factory.mktemp("onnx") / "best", CONFIG, receipts)


@pytest.fixture(scope="module")
def other(receipts: TextData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one, of other weights."""
    return export(tmp_path_factory.mktemp("onnx") / "best", OTHER, receipts, seed=1)


def test_it_gives_the_maps_of_its_network(made: Path) -> None:
    assert CONFIG.model.decoder == "fpn"
    check_maps(made)


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("decoder", "encoder"),
    [
        *((decoder, "resnet18") for decoder in sorted(DECODERS) if decoder != "fpn"),
        ("fpn", "tu-hrnet_w18_small"),
    ],
)
def test_every_decoder_does(decoder: str, encoder: str, receipts: TextData, tmp_path: Path) -> None:
    config = CONFIG.replace({"model.decoder": decoder, "model.encoder": encoder})
    check_maps(export(tmp_path / "best", config, receipts))


def check_maps(folder: Path) -> None:
    """That a model.onnx gives the logits of its network, for pages of any shape."""
    onnx = OnnxNetwork(folder / MODEL)
    assert onnx.size is None
    network = Predictor(folder).models[0]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    mean, std = mean.view(3, 1, 1), std.view(3, 1, 1)
    for shape in ((2, 3, 96, 160), (1, 3, 192, 32)):
        pages = torch.randn(shape).clamp(-1.8, 2.2)
        pages = (((pages * std + mean) * 255).round().clamp(0, 255) / 255 - mean) / std
        with torch.no_grad():
            expected, _ = network(pages, with_threshold=False)
        found, _ = onnx(pages)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="must be multiples of 32, but are 100x96"):
        onnx(torch.zeros(1, 3, 100, 96))


def test_it_scores_as_evaluate_does(made: Path, receipts: TextData) -> None:
    found = compare(made / MODEL, made / MODEL, CONFIG, receipts)
    assert found.torch_score == score_model(made / MODEL, CONFIG, receipts, "val").scores.metric
    assert found.score == pytest.approx(found.torch_score, abs=1e-6)
    assert 0 < found.difference < 1e-3


def test_predict_finds_the_same(made: Path) -> None:
    check_boxes(made)


def test_the_members_of_an_ensemble_have_one_each(
    other: Path, receipts: TextData, tmp_path: Path
) -> None:
    """One member counts twice."""
    shutil.copy(other / "config.yaml", tmp_path / "config.yaml")
    shutil.copytree(other, tmp_path / MEMBERS / "b")
    smaller = OTHER.replace({"data.resolution": 96})
    export(tmp_path / MEMBERS / "a", smaller, receipts)
    write_list(tmp_path, {"a": 1, "b": 2}, OTHER)
    check_boxes(tmp_path)


def check_boxes(folder: Path) -> None:
    """That both runtimes find the same."""
    page = np.random.default_rng(0).integers(0, 256, (160, 110, 3), np.uint8)
    [torch_boxes] = Predictor(folder).predict([page])
    [onnx_boxes] = Predictor(folder, runtime="onnx").predict([page])
    assert isinstance(torch_boxes, Detections) and isinstance(onnx_boxes, Detections)
    assert len(torch_boxes.boxes) > 0
    np.testing.assert_allclose(onnx_boxes.boxes, torch_boxes.boxes, atol=1)
    np.testing.assert_allclose(onnx_boxes.scores, torch_boxes.scores, atol=1e-3)


@pytest.mark.parametrize("size", [(90, 150), (300, 210)])  # enlarged and shrunk
def test_the_example_gives_the_same_boxes(
    size: tuple[int, int], made: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)).save(page)
    run_example("onnx_boxes.py", made / MODEL / FILE, tmp_path / "out", page)
    lines = (tmp_path / "out" / "page.txt").read_text().splitlines()
    [found] = Predictor(made, runtime="onnx").predict([page])
    assert isinstance(found, Detections) and len(found.boxes) > 0
    boxes = np.array([line.split(",") for line in lines], np.float64).reshape(-1, 4, 2)
    # corners are whole pixels of the network, where the halves may be rounded apart
    np.testing.assert_allclose(boxes, found.boxes, atol=1 + max(size) / 150)


def test_the_example_refuses_what_it_does_not_do(made: Path, tmp_path: Path) -> None:
    for setting, value in (("output", "polygon"), ("tta", "hflip")):
        other = with_setting(made / MODEL / FILE, tmp_path / FILE, f"decode.{setting}", value)
        said = why_refused("onnx_boxes.py", other, tmp_path / "out")
        assert f"{setting} {value}: segtune predict --runtime onnx does that" in said
