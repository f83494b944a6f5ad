"""The README of an exported folder: its examples run, and give what segtune gives."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from search.findings.export import renew_card, write_result
from search.findings.gains import Choice, keep
from search.findings.manifest import check_export
from search.findings.model_card import network_lines
from search.samples.streets import CLASSES
from spaces.config import SegmentationConfig, TrialConfig
from spaces.data import AnyDataSpec, SegmentationDataSpec, TextDetectionDataSpec
from spaces.text_detection import TextDetectionConfig
from trainers.checkpoint import save_model
from trainers.image_counts import ImageCounts
from trainers.models import build_model
from trainers.postprocess import postprocess
from trainers.predict import Predictor
from trainers.report import EpochReport, Losses
from trainers.text_detection import build_dbnet

pytestmark = pytest.mark.slow

SIDES = {"images": "nowhere", "masks": "nowhere"}
COUNTS = ([5, 9, 7], [2, 4, 4])  # of two images
LOSSES = Losses(pixel=1.0, total=1.0)
SMALL = {"model.encoder": "resnet18", "model.encoder_weights": None, "train.precision": "fp32"}


def segmentation(classes: list[str], **more: Any) -> SegmentationDataSpec:
    return SegmentationDataSpec.model_validate(
        {"train": SIDES, "val": SIDES, "classes": classes, **more}
    )


def text() -> TextDetectionDataSpec:
    split = {"images": "nowhere", "labels": "nowhere"}
    return TextDetectionDataSpec.model_validate({"train": split, "val": split})


def export(to: Path, data: AnyDataSpec, config: TrialConfig, models: int = 1, **facts: Any) -> str:
    """Write the result of a run whose networks have random weights; return its README."""
    made = to.with_name("made")
    for number in range(models):
        torch.manual_seed(number)
        if isinstance(config, TextDetectionConfig):
            network: Any = build_dbnet(config.model)
            network.probability[-1].bias.data.fill_(0.0)  # half of the page is text
        else:
            assert isinstance(config, SegmentationConfig)
            network = build_model(config.model, len(data.names))
        counts = np.array([[one] * max(1, len(data.class_names)) for one in COUNTS], np.int64)
        folder = save_model(made, 1, network, ImageCounts(counts))
        folder.rename(made / f"fold-{number + 1}")
    provenance = {"metric": "mIoU", "value": 0.5123, "epochs": 9, "best_epoch": 7, **facts}
    model = made if models > 1 else made / "fold-1"
    write_result(
        to,
        data=data,
        config=config,
        model=model,
        history=[EpochReport(epoch=7, metric=0.5123, train=LOSSES, val=LOSSES)],
        metric="mIoU",
        provenance=provenance,
    )
    return (to / "README.md").read_text(encoding="utf-8")


def run_examples(card: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    return names


def picture(folder: Path, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned
    small.resize(size, Image.Resampling.BICUBIC).save(folder / "image.png", exif=exif)


@pytest.mark.parametrize(
    ("resolution", "models", "classes"),
    [
        ("100x130", 1, CLASSES),
        ("64x96", 1, ["road"]),
        ("33x47", 2, CLASSES),
        ("50x50", 2, ["road"]),
    ],
)
def test_the_examples_give_what_predict_gives(
    resolution: str,
    models: int,
    classes: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes = {**SMALL, "data.resolution": resolution}
    if len(classes) == 1:
        changes |= {"loss.pixel": "bce", "decode.threshold": 0.48}
    folds = {"fold_epochs": [3, 4]} if models > 1 else {}
    config = SegmentationConfig().replace(changes)
    card = export(tmp_path / "best", segmentation(list(classes)), config, models, **folds)
    picture(tmp_path / "best", (160, 120))
    monkeypatch.chdir(tmp_path / "best")
    names = run_examples(card)
    assert names["found"].shape == names["mask"].shape == (160, 120)
    assert len(np.unique(names["found"])) > 1
    assert np.array_equal(names["found"], names["mask"])


@pytest.mark.parametrize(
    ("resolution", "scale", "size", "models", "classes"),
    [
        ("36x50", 0.7, (160, 120), 1, CLASSES),  # windows overlap, and must be padded
        ("64x96", 1.0, (90, 50), 1, CLASSES),  # the image is lower and narrower than a window
        ("64x32", 1.3, (120, 70), 2, ["road"]),
    ],
)
def test_the_examples_of_windows_give_what_predict_gives(
    resolution: str,
    scale: float,
    size: tuple[int, int],
    models: int,
    classes: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crop = {"data.mode": "crop", "data.scale": scale, "decode.overlap": 0.3}
    changes = {**SMALL, **crop, "data.resolution": resolution}
    if len(classes) == 1:
        changes |= {"loss.pixel": "bce", "decode.threshold": 0.48}
    folds = {"fold_epochs": [3, 4]} if models > 1 else {}
    config = SegmentationConfig().replace(changes)
    card = export(tmp_path / "best", segmentation(list(classes)), config, models, **folds)
    picture(tmp_path / "best", size)
    monkeypatch.chdir(tmp_path / "best")
    names = run_examples(card)
    assert names["found"].shape == names["mask"].shape == size
    assert len(np.unique(names["found"])) > 1
    # where two classes are equal, the order of sums decides
    assert (names["found"] == names["mask"]).mean() > 0.999


def test_what_follows_the_network_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Post-processing with its numbers; the second example leaves it out, and says so."""
    changes: dict[str, Any] = {
        "data.resolution": "64x96",
        "decode.tta": "hflip",
        "decode.smallest_area": {"car": 40, "road": 300},
        "decode.fill_holes": {"building": 60},
    }
    config = SegmentationConfig().replace({**SMALL, **changes})
    data = segmentation(list(CLASSES))
    card = export(tmp_path / "best", data, config)
    flat = " ".join(card.split())
    assert "fewer pixels than (`decode.smallest_area`): car 40, road 300. Areas hang" in flat
    assert "fewer pixels than (`decode.fill_holes`): building 60. Holes hang" in flat
    assert "alone, without test-time augmentation and steps after argmax or threshold:" in flat
    assert "`decode.tta` is `hflip`" in flat
    picture(tmp_path / "best", (160, 120))
    monkeypatch.chdir(tmp_path / "best")
    names = run_examples(card)
    assert not np.array_equal(names["found"], names["mask"])
    plain = Predictor(".", config.replace({"decode.tta": "none"}))
    expected = postprocess(names["mask"], config.decode, data.class_names)
    assert np.array_equal(plain.predict(["image.png"])[0], expected)


@pytest.mark.parametrize("size", [(80, 64), (200, 150)])  # enlarged, and shrunk
@pytest.mark.parametrize(("models", "output"), [(1, "polygon"), (2, "quad")])
def test_the_example_of_text_gives_what_predict_gives(
    size: tuple[int, int],
    models: int,
    output: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes = {"model.inner": 16, "model.out": 8, "data.resolution": 100, "decode.thresh": 0.5}
    decode = {"decode.box_thresh": 0.4, "decode.output": output, "decode.max_candidates": 9}
    config = TextDetectionConfig().replace({**SMALL, **changes, **decode})
    card = export(tmp_path / "best", text(), config, models)
    picture(tmp_path / "best", size)
    monkeypatch.chdir(tmp_path / "best")
    names = run_examples(card)
    found = names["found"].boxes if output == "quad" else names["found"].outlines
    assert 0 < len(names["boxes"]) == len(found) <= 9
    assert all(np.array_equal(*pair) for pair in zip(found, names["boxes"], strict=True))
    assert ("cv2.approxPolyDP" in card) == (output == "polygon")
    for setting, value in config.decode:
        if setting not in ("tta", "output"):
            assert f"{value} " in card and f"`{setting}`" in card, setting


@pytest.mark.parametrize(
    ("init", "named", "said"),
    [
        (None, None, "random weights."),
        (None, "imagenet", "imagenet weights of the encoder."),
        ("imagenet", None, "imagenet weights of the encoder."),
        (
            "/runs/best",
            None,
            "the weights in `/runs/best` (`model.init`); what they lack, from ran",
        ),
    ],
)
def test_what_it_began_from(init: str | None, named: str | None, said: str) -> None:
    changes = {"model.init": init, "model.encoder_weights": named}
    for config in (SegmentationConfig(), TextDetectionConfig()):
        assert f"**Began from:** {said}" in network_lines(["model"], config.replace(changes))[1]


def test_it_says_what_is_known_and_no_licence(tmp_path: Path) -> None:
    data = segmentation(["road|way", "car"], palette=[(1, 2, 3), (4, 5, 6)], ignore_classes=["car"])
    config = SegmentationConfig().replace({**SMALL, "data.resolution": "100x64"})
    card = export(tmp_path / "best", data, config, study="streets", trial=3)
    assert card.startswith("# streets, trial 3\n")
    assert "mIoU 0.5123; 95% interval over its 2 images: " in card
    assert r"| 0 | road\|way | 1, 2, 3 |" in card
    assert "Neither trained nor scored: car." in card
    assert "to multiples of 32: here 28 rows and 0 columns" in " ".join(card.split())
    assert "9 epochs; these weights are of epoch 7, seed 0" in card
    assert "licence" in card.lower() and "none was chosen" in card
    files = [path for path in (tmp_path / "best").rglob("*") if path.suffix in (".md", ".json")]
    assert len(files) == 4  # config.json, manifest.json, provenance.json, README.md
    for path in files:
        assert "mit" not in re.findall(r"[a-z]+", path.read_text(encoding="utf-8").lower()), path


def test_settings_that_are_kept_later_are_said(tmp_path: Path) -> None:
    """`evaluate --keep` renews it; a README that a user has changed stays as it is."""
    config = SegmentationConfig().replace(SMALL)
    best = tmp_path / "best"
    assert "since" not in export(best, segmentation(list(CLASSES)), config)
    changes = {"decode.tta": "flips", "decode.fill_holes": {"road": 9}}
    keep(best, Choice(changes, {"value": 0.5234}))
    renew_card(best)
    card = (best / "README.md").read_text(encoding="utf-8")
    said = "With `decode.tta`, `decode.fill_holes` as `config.yaml` has it since: 0.5234, chosen on"
    assert said in card and "mIoU 0.5123; 95%" in card
    assert "`decode.tta` is `flips`" in card and "(`decode.fill_holes`): road 9." in card
    assert check_export(best) == []
    (best / "README.md").write_text("mine")
    renew_card(best)
    assert (best / "README.md").read_text() == "mine"


def test_of_a_refit_it_says_that_no_image_was_left(tmp_path: Path) -> None:
    config = SegmentationConfig().replace(SMALL)
    refit = {"epochs": 5, "images": 30}
    card = export(tmp_path / "best", segmentation(list(CLASSES)), config, refit=refit)
    assert "5 epochs on all images" in card and "no image was left" in card
