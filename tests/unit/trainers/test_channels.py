"""Images of another number of channels than three, from the file to the mask and to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from segmentation_models_pytorch.encoders import get_encoder

from spaces.config import ModelConfig, SegmentationConfig
from spaces.data import SegmentationDataSpec, TextDetectionDataSpec
from spaces.paths import MODEL
from spaces.run_config import dump_run_config
from spaces.text_detection import TextDetectionConfig, TextModelConfig
from tests.tiffs import write_tiff
from tests.unit.text.pages import write_pages
from trainers.batches import MEAN, STD, normalise, statistics
from trainers.cache import load_arrays, resize_image
from trainers.checkpoint import save_model
from trainers.data import SegmentationData
from trainers.dbnet.head import DBNet
from trainers.image_counts import ImageCounts
from trainers.images import decode_image
from trainers.models import build_model
from trainers.onnx_network import FILE, OnnxNetwork, write_onnx
from trainers.pictures import painted
from trainers.predict import Predictor
from trainers.tasks import load_data, make_task
from trainers.text_detection import build_dbnet
from trainers.train import train
from trainers.windows import cut

CPU = torch.device("cpu")
CONFIG = SegmentationConfig().replace(
    {
        "model.arch": "Unet",
        "model.encoder": "resnet18",
        "model.encoder_weights": None,
        "data.resolution": "32x64",
        "data.photometric": "strong",
        "train.precision": "fp32",
        "train.epochs": 1,
        "train.batch_size": 2,
    }
)


@pytest.fixture(scope="module")
def bands(tmp_path_factory: pytest.TempPathFactory) -> SegmentationDataSpec:
    """Four bands of 12 bits."""
    folder, rng = tmp_path_factory.mktemp("bands"), np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for index in range(count):
            mask = np.zeros((40, 48), np.uint8)
            mask[8:24, 4 * index : 30] = 1
            values = rng.integers(0, 1500, (40, 48, 4)).astype(np.uint16)
            values[..., 3] += mask * np.uint16(2500)
            write_tiff(folder / split / "images" / f"{index}.tif", values, grey=True)
            Image.fromarray(mask).save(folder / split / "masks" / f"{index}.png")
    splits = {
        split: {"images": f"{folder}/{split}/images", "masks": f"{folder}/{split}/masks"}
        for split in ("train", "val")
    }
    return spec_of(splits, channels=4, range=(0, 4095))


def spec_of(splits: Any, **more: Any) -> SegmentationDataSpec:
    return SegmentationDataSpec.model_validate({**splits, "classes": ["ground", "block"], **more})


def of(spec: SegmentationDataSpec, **changes: Any) -> SegmentationData:
    data = load_data(spec.model_copy(update=changes))
    assert isinstance(data, SegmentationData)
    return data


def test_range_and_channels_are_other_data_and_another_entry_of_the_cache(
    bands: SegmentationDataSpec,
) -> None:
    ways = [{}, {"channels": 3}, {"range": None}, {"channels": 3, "range": None}]
    found = [of(bands, **way) for way in ways]
    assert len({data.fingerprint for data in found}) == len(ways)
    for data in found:
        arrays = load_arrays(data, "train", (32, 64))
        assert arrays is not None and arrays.images[0].shape[-1] == data.spec.channels
        image = decode_image(data.split("train")[0].image, data.spec)
        assert np.array_equal(arrays.images[0], resize_image(image, (32, 64)))


def test_the_usual_channels_and_range_leave_a_fingerprint_as_it_was(
    bands: SegmentationDataSpec,
) -> None:
    usual = of(bands, channels=3, range=None)
    assert usual.spec.reading == []
    assert of(bands).spec.reading == [{"range": (0.0, 4095.0), "channels": 4}]


@pytest.mark.parametrize("mode", ["resize", "crop"])
def test_a_network_of_four_channels_is_trained_and_predicts(
    mode: str, bands: SegmentationDataSpec, tmp_path: Path
) -> None:
    data, config = of(bands), CONFIG.replace({"data.mode": mode})
    result = train(config, data, tmp_path / "run", lambda report: None)
    assert result.history[-1].metric > 0
    images, _ = next(iter(make_task(config, data, CPU, "fp32", {}).batches(1)))
    assert images.shape[1:] == (4, 32, 64)
    export(tmp_path / "best", config, data, tmp_path / "run" / "model-1")
    path = data.split("val")[0].image
    predictor = Predictor(tmp_path / "best")
    from_file, from_array = predictor.predict([path, decode_image(path, data.spec)])
    assert np.array_equal(from_file, from_array) and from_file.shape == (40, 48)
    with pytest.raises(ValueError, match=r"must be \(H, W, 4\) uint8, but this array is"):
        predictor.predict([np.zeros((40, 48, 3), np.uint8)])


def export(folder: Path, config: SegmentationConfig, data: SegmentationData, model: Path) -> None:
    folder.mkdir()
    (folder / "config.yaml").write_text(dump_run_config(data.spec, config))
    model.rename(folder / MODEL)


@pytest.mark.slow
def test_onnx_has_four_channels_too(bands: SegmentationDataSpec, tmp_path: Path) -> None:
    data = of(bands)
    network = build_model(CONFIG.model, 2, channels=4).eval()
    model = save_model(tmp_path, 1, network, ImageCounts(np.zeros((1, 1, 3), np.int64)))
    write_onnx(model, CONFIG, data.spec, model / FILE)
    pixels = torch.randint(0, 256, (3, 4, 32, 64), dtype=torch.uint8)
    images = normalise(pixels, CPU, torch.contiguous_format)
    with torch.no_grad():
        expected = network(images)
    torch.testing.assert_close(OnnxNetwork(model)(images), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
@pytest.mark.parametrize("encoder", ["resnet18", "mit_b0", "mobilenet_v2"])
def test_encoders_take_any_number_of_channels(encoder: str, channels: int) -> None:
    config = ModelConfig(arch="FPN", encoder=encoder, encoder_weights=None)
    network = build_model(config, 2, channels=channels).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, channels, 32, 32)).shape == (1, 2, 32, 32)


def test_smp_gives_pretrained_weights_to_channels_as_they_are_normalised() -> None:
    encoder = get_encoder("resnet18", weights=None)
    colours = encoder.conv1.weight.detach().clone()
    encoder.set_in_channels(5, pretrained=True)
    expected = torch.stack([colours[:, channel % 3] for channel in range(5)], dim=1) * 3 / 5
    torch.testing.assert_close(encoder.conv1.weight, expected, check_stride=False)
    encoder = get_encoder("resnet18", weights=None)
    colours = encoder.conv1.weight.detach().clone()
    encoder.set_in_channels(1, pretrained=True)
    torch.testing.assert_close(encoder.conv1.weight, colours.sum(1, keepdim=True))


def test_statistics_go_round() -> None:
    assert statistics(3) == (MEAN, STD)
    assert statistics(5) == ((*MEAN, *MEAN[:2]), (*STD, *STD[:2]))
    [mean], [std] = statistics(1)
    assert (mean, std) == (pytest.approx(0.449), pytest.approx(0.226))


@pytest.mark.parametrize("channels", [1, 5])
def test_pages_of_any_channels_are_padded_with_black(channels: int) -> None:
    torch.manual_seed(0)
    model = DBNet(inner=8, out=8, in_channels=channels).eval()
    page = torch.randint(0, 256, (1, channels, 40, 50)).float()
    framed = torch.zeros(1, channels, 64, 64)
    framed[..., :40, :50] = page
    with torch.no_grad():
        found, _ = model(normalise(page, CPU, torch.contiguous_format))
        whole, _ = model(normalise(framed, CPU, torch.contiguous_format))
    torch.testing.assert_close(found, whole[..., :40, :50])


@pytest.mark.parametrize("channels", [1, 4])
def test_pages_of_text_come_in_these_channels(channels: int, tmp_path: Path) -> None:
    """From files by the cache and augmentation into batches."""
    write_pages(tmp_path, "10,10,50,10,50,20,10,20,word")
    for path in tmp_path.glob("*/images/*.png"):
        Image.open(path).convert("RGBA").save(path)
    splits = {
        split: {"images": f"{tmp_path}/{split}/images", "labels": f"{tmp_path}/{split}/labels"}
        for split in ("train", "val")
    }
    spec = TextDetectionDataSpec.model_validate({**splits, "channels": channels})
    config = TextDetectionConfig().replace(
        {"data.resolution": 64, "data.augment": "strong", "data.photometric": "strong"}
    )
    task = make_task(config, load_data(spec), CPU, "fp32", {})
    images, target = next(iter(task.batches(1)))
    assert images.shape[:2] == (2, channels) and target.maps.shape[-2:] == images.shape[-2:]
    small = TextModelConfig(encoder="resnet18", encoder_weights=None, inner=8, out=8)
    model = build_dbnet(small, channels=channels).eval()
    assert task.validate(model).scores.metric == 0


def test_a_window_beyond_its_image_is_filled_with_the_mean() -> None:
    window = cut(torch.zeros(4, 4, 5, dtype=torch.uint8), (2, 2), (4, 4))
    assert window.shape == (4, 4, 5) and window[3, 3].tolist() == [124, 116, 104, 124, 116]


def test_a_fourth_channel_is_resized_as_the_others() -> None:
    """Pillow would weigh colours by it."""
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 4)).astype(np.uint8)
    image[..., 3] = 0
    found = resize_image(image, (7, 9))
    assert np.array_equal(found[..., :3], resize_image(image[..., :3].copy(), (7, 9)))
    assert painted(found[..., :3], np.zeros((7, 9), np.uint8), ["a"], "").width
