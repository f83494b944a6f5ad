"""model.onnx is its network: every architecture of the default space, any batch, the same score."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from search.samples.streets import CLASSES
from spaces.config import SegmentationConfig
from spaces.data import SegmentationDataSpec
from spaces.errors import InputError
from spaces.paths import MODEL, MODELS
from spaces.run_config import dump_run_config
from spaces.segmentation import default_space
from tests.without_torch import run_example, why_refused, with_setting
from trainers.batches import normalise
from trainers.checkpoint import load_model, save_model
from trainers.data import SegmentationData
from trainers.image_counts import ImageCounts
from trainers.members import MEMBERS, write_list
from trainers.models import build_model, forward
from trainers.onnx_network import (
    FILE,
    INPUT,
    Agreement,
    OnnxNetwork,
    check_agreement,
    compare,
    write_onnx,
)
from trainers.predict import Predictor
from trainers.tasks import load_data, score_model

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
CONFIG = SegmentationConfig().replace(
    {
        "model.encoder": "resnet18",
        "model.encoder_weights": None,
        "data.resolution": "36x50",  # neither a multiple of the stride
        "train.precision": "fp32",
    }
)
COUNTS = ImageCounts(np.zeros((1, 1, 3), np.int64))


def saved(folder: Path, config: SegmentationConfig, data: SegmentationData, seed: int = 0) -> Path:
    """A model of random weights, with its model.onnx."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    model = save_model(folder, 1, build_model(config.model, len(data.spec.names)), COUNTS)
    write_onnx(model, config, data.spec, model / FILE)
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, streets: SegmentationDataSpec) -> Path:
    """An export with model.onnx."""
    folder = tmp_path_factory.mktemp("onnx")
    model = saved(folder, CONFIG, load_data(streets))
    (folder / "config.yaml").write_text(dump_run_config(streets, CONFIG))
    model.rename(folder / MODEL)
    return folder


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory, streets: SegmentationDataSpec) -> Path:
    """Another model of the same config."""
    return saved(tmp_path_factory.mktemp("second"), CONFIG, load_data(streets), seed=1)


ARCHS = default_space(10, binary=False).names("model.arch")


def test_it_gives_the_logits_of_its_network(made: Path) -> None:
    assert CONFIG.model.arch == "Unet"
    check_logits(made / MODEL)


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("arch", "encoder"),
    [*((arch, "resnet18") for arch in ARCHS if arch != "Unet"), ("Unet", "efficientnet-b0")],
)
def test_every_default_architecture_does(
    arch: str, encoder: str, data: SegmentationData, tmp_path: Path
) -> None:
    config = CONFIG.replace({"model.arch": arch, "model.encoder": encoder})
    check_logits(saved(tmp_path, config, data))


def check_logits(model: Path) -> None:
    """That a model.onnx gives the logits of its network, for batches of different sizes."""
    network, graph = load_model(model).eval(), OnnxNetwork(model)
    assert graph.size == (36, 50)
    for batch in (1, 3):
        pixels = torch.randint(0, 256, (batch, 3, 36, 50), dtype=torch.uint8)
        images = normalise(pixels, CPU, torch.contiguous_format)
        with torch.no_grad():
            expected = forward(network, images)
            found = forward(graph, images)
        assert found.shape == expected.shape == (batch, 8, 36, 50)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_bytes_are_cast_at_once_and_the_file_is_whole(made: Path) -> None:
    """TensorRT takes bytes for inputs alone; a second file with the weights could get lost."""
    graph = onnx.load(made / MODEL / FILE, load_external_data=False).graph
    assert [node.op_type for node in graph.node if INPUT in node.input] == ["Cast"]
    assert not any(tensor.external_data for tensor in graph.initializer)
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_it_scores_as_evaluate_does(made: Path, data: SegmentationData) -> None:
    found = compare(made / MODEL, made / MODEL, CONFIG, data)
    assert found.torch_score == score_model(made / MODEL, CONFIG, data, "val").scores.metric > 0
    assert found.score == pytest.approx(found.torch_score, abs=1e-3)
    assert 0 < found.difference < 1e-4
    assert found.images_per_s > 0 and found.torch_images_per_s > 0
    check_agreement(found, "mIoU")


def test_one_that_scores_otherwise_is_refused(
    made: Path, data: SegmentationData, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    other = save_model(tmp_path, 1, build_model(CONFIG.model, len(data.spec.names)), COUNTS)
    found = compare(other, made / MODEL, CONFIG, data)
    assert found.difference > 0.01
    with pytest.raises(InputError, match=r"model\.onnx has mIoU .* but torch .*Nothing was writ"):
        check_agreement(found, "mIoU")
    with pytest.raises(InputError, match="must be within"):
        check_agreement(replace(found, score=float("nan")), "mIoU")
    check_agreement(Agreement(**{**vars(found), "score": found.torch_score + 9e-4}), "mIoU")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"decode.tta": "hflip"},
        {"data.mode": "crop", "data.scale": 1.7},  # windows that overlap
        {"data.mode": "crop", "data.scale": 0.6, "decode.tta": "flips"},  # smaller than a window
    ],
)
def test_predict_gives_the_same_masks(
    made: Path, data: SegmentationData, changes: dict[str, Any]
) -> None:
    config = CONFIG.replace(changes)
    images = [sample.image for sample in data.split("val")]
    found = Predictor(made, config, runtime="onnx").predict(images)
    for one, other in zip(Predictor(made, config).predict(images), found, strict=True):
        assert np.array_equal(one, other) and len(np.unique(one)) > 1


def test_windows_score_as_evaluate_does(made: Path, data: SegmentationData) -> None:
    config = CONFIG.replace({"data.mode": "crop", "data.scale": 1.7})
    found = compare(made / MODEL, made / MODEL, config, data)
    assert found.torch_score == score_model(made / MODEL, config, data, "val").scores.metric > 0
    assert found.torch_score != compare(made / MODEL, made / MODEL, CONFIG, data).torch_score
    check_agreement(found, "mIoU")
    assert 0 < found.difference < 1e-4


def test_the_example_refuses_what_it_does_not_do(made: Path, tmp_path: Path) -> None:
    graph = made / MODEL / FILE
    areas = {"car": 9}
    for name, value in (
        ("decode.tta", "hflip"),
        ("decode.fill_holes", areas),
        ("data.mode", "crop"),
    ):
        other = with_setting(graph, tmp_path / FILE, name, value)
        said = why_refused("onnx_masks.py", other, tmp_path / "out")
        assert f"{name.partition('.')[2]} {value}: segtune predict --runtime onnx does" in said


@pytest.mark.parametrize("names", [CLASSES, pytest.param(["road"], marks=pytest.mark.cluster)])
def test_the_example_needs_no_torch_and_gives_the_same_masks(
    names: list[str], made: Path, data: SegmentationData, tmp_path: Path
) -> None:
    spec = data.spec.model_copy(update={"classes": list(names)})
    config = CONFIG if len(names) > 1 else CONFIG.replace({"decode.threshold": 0.48})
    best = made
    if len(names) == 1:
        best = tmp_path / "best"
        saved(best, config, replace(data, spec=spec)).rename(best / MODEL)
        (best / "config.yaml").write_text(dump_run_config(spec, config))
    images = [sample.image for sample in data.split("val")]
    larger = tmp_path / "larger.png"
    Image.open(images[0]).resize((301, 207)).save(larger)
    images.append(str(larger))
    said = run_example("onnx_masks.py", best / MODEL / FILE, tmp_path / "out", *images)
    assert said == f"classes: {', '.join(spec.class_names)}\n"
    for path, mask in zip(images, Predictor(best).predict(images), strict=True):
        assert isinstance(mask, np.ndarray) and len(np.unique(mask)) > 1
        with Image.open(tmp_path / "out" / f"{Path(path).stem}.png") as found:
            assert (np.asarray(found) == mask).mean() > 0.999  # equal logits may be rounded apart


def test_the_models_of_folds_have_one_each(
    made: Path, second: Path, data: SegmentationData, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(dump_run_config(data.spec, CONFIG))
    for fold, model in enumerate((made / MODEL, second), 1):
        shutil.copytree(model, tmp_path / MODELS / f"fold-{fold}")
    check_alike(tmp_path, data)


def test_the_members_of_an_ensemble_have_one_each(
    made: Path, second: Path, data: SegmentationData, tmp_path: Path
) -> None:
    """The second one takes windows: each member has a config of its own."""
    (tmp_path / "config.yaml").write_text(dump_run_config(data.spec, CONFIG))
    windows = CONFIG.replace({"data.mode": "crop", "data.scale": 1.7})
    for name, model, config in (("a", made / MODEL, CONFIG), ("b", second, windows)):
        shutil.copytree(model, tmp_path / MEMBERS / name / MODEL)
        written = dump_run_config(data.spec, config)
        (tmp_path / MEMBERS / name / "config.yaml").write_text(written)
    write_list(tmp_path, {"a": 1, "b": 2}, CONFIG)
    assert all(member.runtime == "onnx" for member, _ in check_alike(tmp_path, data).members)
    (tmp_path / MEMBERS / "b" / MODEL / FILE).unlink()
    with pytest.raises(InputError, match=r"members/b/model has no model\.onnx; export again"):
        Predictor(tmp_path, runtime="onnx")


def check_alike(folder: Path, data: SegmentationData) -> Predictor:
    """That an export gives the same masks by both runtimes; return the one of onnx."""
    image = Image.open(data.split("val")[0].image)
    both = [Predictor(folder, runtime=name) for name in ("torch", "onnx")]
    [one], [other] = (predictor.predict([image]) for predictor in both)
    assert np.array_equal(one, other)
    return both[1]


def test_what_does_not_fit_is_said(made: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="takes images of 36x50, but data"):
        Predictor(made, CONFIG.replace({"data.resolution": "64x64"}), runtime="onnx")
    graph = OnnxNetwork(made / MODEL)
    with pytest.raises(InputError, match="takes images of 36x50 alone, but got 96x96"):
        graph(torch.zeros(1, 3, 96, 96))
    with pytest.raises(InputError, match="runtime tensor: must be torch or onnx"):
        Predictor(made, runtime="tensor")
    folder = shutil.copytree(made, tmp_path / "copy")
    (folder / MODEL / FILE).write_bytes(b"no graph")
    with pytest.raises(InputError, match=r"model\.onnx is damaged"):
        Predictor(folder, runtime="onnx")
    (folder / MODEL / FILE).unlink()
    with pytest.raises(InputError, match=r"has no model\.onnx; export again with: .* --onnx"):
        Predictor(folder, runtime="onnx")


def test_out_of_memory_means_less_at_once(made: Path, data: SegmentationData) -> None:
    predictor = Predictor(made, runtime="onnx")
    images = [sample.image for sample in data.split("val")]
    whole, [graph] = predictor.predict(images), predictor.models
    sizes = []

    class Full:
        """A session without room for more than an image."""

        real = graph._session

        def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            sizes.append(len(inputs[INPUT]))
            if sizes[-1] > 1:  # as onnxruntime says it
                raise Exception("FAIL : Failed to allocate memory for requested buffer of size 9")
            return self.real.run(names, inputs)

    graph._session = Full()
    less = predictor.predict(images)
    assert sizes == [4, 4, 2, 1, 1, 1, 1]
    assert all(np.array_equal(one, other) for one, other in zip(whole, less, strict=True))


def test_a_missing_package_is_named(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else real(name)
    )
    said = r"onnxruntime must be installed for ONNX; .*pip install 'segtune\[onnx\]'"
    with pytest.raises(InputError, match=said):
        Predictor(made, runtime="onnx")
    Predictor(made)
