"""The README's commands, as a user would type them, on real and on drawn images."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from PIL import Image

from spaces.config import SegmentationConfig
from spaces.run_config import load_run_config
from tests.blobs import write_blobs
from trainers.data import SegmentationData
from trainers.image_counts import score_of
from trainers.masks import decode_mask
from trainers.metrics import ClassCounts
from trainers.tasks import load_data

ROOT = Path(__file__).resolve().parents[2]

Segtune = Callable[..., str]


def test_camvid_study_from_launch_to_evaluation(
    segtune: Segtune, camvid: Path, tmp_path: Path
) -> None:
    """Two short trials on a few real streets, the better one confirmed; the export scores what the
    study says."""
    for split, count in (("train", 32), ("val", 10)):
        for kind in ("images", "masks"):
            (tmp_path / "camvid" / split / kind).mkdir(parents=True)
            for path in sorted((camvid / split / kind).iterdir())[::5][:count]:
                shutil.copy(path, tmp_path / "camvid" / split / kind)
    shutil.copy(camvid / "classes.json", tmp_path / "camvid")
    text = (ROOT / "examples" / "camvid.yaml").read_text()
    text = text.replace("../../shared/data/camvid", "camvid")
    text = text.replace("train.epochs: 15", "train.epochs: 4").replace("trials: 16", "trials: 2")
    text = text.replace("[64x96, 96x128]", "48x64").replace("[8, 16]", "4")
    (tmp_path / "study.yaml").write_text(f"{text}confirm: {{top: 1, seeds: 1}}\n")
    assert "ok: segtune launch" in segtune("check", "study.yaml", cwd=tmp_path)
    out = segtune("launch", "study.yaml", cwd=tmp_path)
    assert "camvid: best trials of the search" in out and "the best on fresh seeds" in out
    status = json.loads(segtune("status", "camvid", "--json", cwd=tmp_path))
    assert status["slots"] == {"OPEN": 0, "RUNNING": 0, "COMPLETE": 2, "PRUNED": 0, "FAILED": 0}
    assert status["trials"][0]["origin"] == "safe preset, adapted"
    [(seed, value)] = status["answer"]["fresh_seeds"].items()
    assert (
        status["answer"]["value"] == value > 0.05
    )  # four epochs from scratch; chance is about 0.03
    segtune("export", "camvid", "--to", "best", cwd=tmp_path)
    assert {path.name for path in (tmp_path / "best").iterdir()} == {
        "README.md",
        "config.yaml",
        "model",
        "provenance.json",
        "curves.png",
        "manifest.json",
    }
    answer = segtune("evaluate", "best", "--data", "val", cwd=tmp_path)
    miou = float(answer.split("mIoU ")[1].split(",")[0])
    assert miou == pytest.approx(value, abs=1e-4)
    facts = json.loads((tmp_path / "best" / "provenance.json").read_text())
    assert str(facts["seed"]) == seed and facts["trial"] == status["best"]["number"]
    assert facts["answer"]["claim"] in out
    pictures = sorted(path.name for path in (tmp_path / "best" / "evaluation-val").iterdir())
    assert len(pictures) == 10
    assert sum(name.startswith("best-") for name in pictures) == 5
    # on other images it does what it did on these: the same score, from files
    segtune("predict", "best", "camvid/val/images", "--to", "out", cwd=tmp_path)
    assert score(tmp_path) == pytest.approx(value, abs=1e-6)
    model = smp.from_pretrained(str(tmp_path / "best" / "model"))
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 11, 64, 64)
    # the same command again has nothing left to do and loses nothing
    assert "2 of 2 trials ended" in segtune("launch", "study.yaml", cwd=tmp_path)


def score(folder: Path) -> float:
    """The study's metric of `out/masks` of the val images of `best`."""
    spec, config = load_run_config(folder / "best" / "config.yaml")
    data = load_data(spec)
    assert isinstance(data, SegmentationData) and isinstance(config, SegmentationConfig)
    counter = ClassCounts(data.classes, torch.device("cpu"))
    for sample in data.split("val"):
        mask = np.array(Image.open(folder / "out" / "masks" / f"{sample.stem}.png"))
        truth = torch.from_numpy(decode_mask(sample.mask, data.spec))
        counter.update(torch.from_numpy(mask).long()[None], truth[None])
    return float(score_of(config.metric, data.spec)(counter.images().numpy().sum(0)))


def test_binary_study_exports_its_best_threshold(segtune: Segtune, tmp_path: Path) -> None:
    """Dark blobs on light ground; the threshold is chosen inside each trial."""
    write_blobs(tmp_path, train=12, val=6, test=5)
    (tmp_path / "study.yaml").write_text(
        "name: blobs\ntask: segmentation\n"
        "data:\n"
        "  train: {images: train/images, masks: train/masks}\n"
        "  val: {images: val/images, masks: val/masks}\n"
        "  test: {images: test/images, masks: test/masks}\n"
        "  classes: [blob]\n"
        "space:\n"
        "  train.epochs: 4\n  train.batch_size: 4\n  data.resolution: 32x32\n"
        "  model.arch: Unet\n  model.encoder: mobilenet_v2\n  model.encoder_weights: null\n"
        "  optim.lr: 1e-3\n  optim.encoder_lr_ratio: 1\n  loss.warmup_epochs: 0\n"
        "  health.grad_norm: 0\n"
        "budget: {trials: 2}\npruner: none\nconfirm: none\n"
    )
    segtune("launch", "study.yaml", cwd=tmp_path)
    exported = segtune("export", "blobs", "--to", "best", cwd=tmp_path)
    facts = json.loads((tmp_path / "best" / "provenance.json").read_text())
    data, config = load_run_config(tmp_path / "best" / "config.yaml")
    status = json.loads(segtune("status", "blobs", "--json", cwd=tmp_path))
    assert data.binary and facts["metric"] == "IoU"
    assert config.decode.threshold == status["best"]["params"]["decode.threshold"]
    answer = segtune("evaluate", "best", "--data", "val", cwd=tmp_path)
    assert float(answer.split("IoU ")[1].split(",")[0]) == pytest.approx(facts["value"], abs=1e-4)
    assert "recall" in answer
    segtune("predict", "best", "val/images", "--to", "out", cwd=tmp_path)
    assert score(tmp_path) == pytest.approx(facts["value"], abs=1e-6)
    # the same config with other settings, beside it on the same images
    changed = [
        "--epochs",
        "1",
        "--seed",
        "5",
        "--set",
        "optim.lr=1e-5",
        "--set",
        "health.trivial=0",
    ]
    segtune("train", "best/config.yaml", "--to", "other", *changed, cwd=tmp_path)
    _, other = load_run_config(tmp_path / "other" / "config.yaml")
    wanted = {"train.epochs": 1, "train.seed": 5, "optim.lr": 1e-5, "health.trivial": 0}
    assert other == config.replace(wanted)
    answer = segtune("evaluate", "best", "--against", "other", cwd=tmp_path)
    value = json.loads((tmp_path / "other" / "provenance.json").read_text())["value"]
    assert f"other: IoU {value:.6f}; best has {facts['value'] - value:+.6f}" in answer
    found = re.search(r"95% interval over the 6 images: (\S+) to (\S+): (no|a) difference", answer)
    assert found is not None
    low, high = float(found[1]), float(found[2])
    assert low < facts["value"] - value < high and (found[3] == "no") == (low <= 0 <= high)
    assert (tmp_path / "best" / "evaluation-val" / "against-other").is_dir()
    tested = facts["test"]["score"]["value"]
    assert f"has IoU {tested:.4f} (" in exported and "was looked at once" in exported
    with open(tmp_path / "best" / "config.yaml", "a") as config_file:
        config_file.write("# the same data, elsewhere\n")
    answer = segtune("evaluate", "best", "--data", "test", cwd=tmp_path)
    assert "best/config.yaml is not as it was exported; it counts as it is now" in answer
    assert float(answer.split("IoU ")[1].split(",")[0]) == pytest.approx(tested, abs=1e-4)
    assert "the test split was looked at 2 times" in answer


def test_folds_study_from_check_to_refit(segtune: Segtune, tmp_path: Path) -> None:
    """Two trials of two folds, the better one confirmed on another division; every model on its own
    fold gives the study's value, and one model is trained on all."""
    write_blobs(tmp_path, train=8, test=2)
    text = (
        "name: few\ntask: segmentation\n"
        "data:\n"
        "  train: {images: train/images, masks: train/masks}\n"
        "  test: {images: test/images, masks: test/masks}\n"
        "  folds: {count: 2}\n"
        "  classes: [blob]\n"
        "space:\n"
        "  train.epochs: 3\n  train.batch_size: 4\n  data.resolution: 32x32\n"
        "  model.arch: Unet\n  model.encoder: mobilenet_v2\n  model.encoder_weights: null\n"
        "  optim.lr: 1e-3\n  optim.encoder_lr_ratio: 1\n  loss.warmup_epochs: 0\n"
        "  health.grad_norm: 0\n  health.trivial: 0\n"
        "budget: {trials: 2}\npruner: none\nconfirm: {top: 1, seeds: 1, share: 1}\n"
    )
    (tmp_path / "study.yaml").write_text(text)
    checked = segtune("check", "study.yaml", cwd=tmp_path)
    assert "images: train 8 in 2 folds, test 2: a trial trains 2 models" in checked
    for said in ("smallest: Unet/mobilenet_v2", "if all 2 trials of 6 epochs", "disk: "):
        assert said in checked, checked
    out = segtune("launch", "study.yaml", cwd=tmp_path)
    assert "if all 2 trials of 6 epochs" in out and "left by the steps measured before" in out
    assert "trial 1 fold 2, epoch 3/3: IoU" in out and "the best on fresh seeds" in out
    status = json.loads(segtune("status", "few", "--json", cwd=tmp_path))
    best = status["best"]
    assert len(best["folds"]) == 2 and best["value"] == pytest.approx(sum(best["folds"]) / 2)
    assert len(status["answer"]["fresh_seeds"]) == 1
    shown = segtune("status", "few", cwd=tmp_path)
    assert all(f"{value:.4f}" in shown for value in best["folds"])

    exported = segtune("export", "few", "--to", "best", cwd=tmp_path)
    assert "was looked at once" in exported  # the mean of both models on the test split
    files = {path.name for path in (tmp_path / "best").iterdir()}
    assert files == {
        *("README.md", "config.yaml", "models"),
        *("provenance.json", "curves.png", "manifest.json"),
    }
    facts = json.loads((tmp_path / "best" / "provenance.json").read_text())
    data, _ = load_run_config(tmp_path / "best" / "config.yaml")
    assert data.folds is not None and data.folds.seed == facts["seed"]  # the confirmation's
    answer = segtune("evaluate", "best", cwd=tmp_path)
    assert float(answer.split("IoU ")[1].split(",")[0]) == pytest.approx(facts["value"], abs=1e-4)
    answer = segtune("evaluate", "best", "--data", "test", cwd=tmp_path)
    assert "mean of 2 folds" in answer and "was looked at 2 times" in answer
    assert float(answer.split("IoU ")[1].split(",")[0]) == pytest.approx(
        facts["test"]["score"]["value"], abs=1e-6
    )

    config = tmp_path / "best" / "config.yaml"
    config.write_text(config.read_text().replace("count: 2", "count: 3"))
    refused = segtune("evaluate", "best", cwd=tmp_path, code=2)
    assert "data.folds.count is 3, but best/models has 2 models" in refused
    config.write_text(config.read_text().replace("count: 3", "count: 2"))
    segtune("train", "best/config.yaml", "--to", "again", cwd=tmp_path)
    again = json.loads((tmp_path / "again" / "provenance.json").read_text())
    assert again["epochs"] == 6 and len(again["folds"]) == 2
    segtune("export", "few", "--to", "one", "--refit", cwd=tmp_path)
    assert (tmp_path / "one" / "model" / "model.safetensors").is_file()
    refit = json.loads((tmp_path / "one" / "provenance.json").read_text())["refit"]
    assert refit == {"epochs": facts["best_epoch"], "images": 8}
    assert "IoU" in segtune("evaluate", "one", "--data", "test", cwd=tmp_path)
    refused = segtune("evaluate", "one", cwd=tmp_path, code=2)
    assert "trained on all images (export --refit), so that no val is left" in refused
    looks = json.loads(segtune("status", "few", "--json", cwd=tmp_path))["test_looks"]
    # the value in its provenance is of the folds' models, not of this one
    assert looks[-1]["score"]["val"] is None and looks[0]["score"]["val"] is not None


def test_doctor_finds_this_machine_fit(segtune: Segtune, tmp_path: Path) -> None:
    out = segtune("doctor", cwd=tmp_path)
    assert [line[:3] for line in out.splitlines()] == ["ok "] * 4
    assert "embedded Postgres" in out
