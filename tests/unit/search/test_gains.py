"""What val chooses of decoding: intervals of many settings, thin structures, and what is kept."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from search.cli import app
from search.findings.evidence import difference_on
from search.findings.gains import Gains, value_on_val
from search.findings.manifest import check_export, write_manifest
from search.samples.streets import CLASSES, write_streets
from spaces.config import DecodeConfig, SegmentationConfig
from spaces.data import SegmentationDataSpec
from spaces.paths import MODEL, MODELS
from spaces.run_config import dump_run_config, load_run_config
from trainers.checkpoint import save_model
from trainers.gains import Part, Tried, swept, together, try_postprocessing
from trainers.image_counts import Counts, ImageCounts, class_iou
from trainers.metrics import ClassCounts
from trainers.models import build_model
from trainers.postprocess import KINDS, ClassMap
from trainers.tasks import load_data, score_model

NAMES = ["background", "lane"]
CPU = torch.device("cpu")


def foreground(counts: Any) -> Any:
    return class_iou(counts)[..., 1]


def count(truth: ClassMap, found: ClassMap) -> Counts:
    counter = ClassCounts(2, CPU)
    counter.update(torch.from_numpy(found).long()[None], torch.from_numpy(truth)[None])
    counts: Counts = counter.images()[0].numpy()
    return counts


def lanes(seed: int) -> tuple[ClassMap, ClassMap]:
    """(Truth, prediction) of a road: thin dashes, found with other ends, and some in pieces."""
    random = np.random.default_rng(seed)
    truth, found = np.zeros((96, 128), np.uint8), np.zeros((96, 128), np.uint8)
    for x in range(12, 120, 18):
        for y in range(2, 90, 16):
            lean, length = random.integers(-4, 5), random.integers(7, 11)
            cv2.line(truth, (x, y), (int(x + lean), int(y + length)), 1, 2)
            start, end = sorted(random.uniform(-0.2, 1.2, 2))
            ends = [(round(x + at * lean), round(y + at * length)) for at in (start, end)]
            cv2.line(found, ends[0], ends[1], 1, 2)
    return truth, found


def tried_on(pages: list[tuple[ClassMap, ClassMap]]) -> Gains:
    base, *tried = together(
        [
            swept(found, DecodeConfig(), NAMES, KINDS, [2, 12, 37], partial(count, truth))
            for truth, found in pages
        ]
    )
    return Gains("IoU", foreground, base, tried)


def test_thin_structures_are_left_alone() -> None:
    """What was done to the masks of lanes in the field made them worse, 0.658 -> 0.628."""
    pages = [lanes(seed) for seed in range(8)]
    gains = tried_on(pages)
    before = gains.value(gains.base.counts)
    opened = [
        (truth, cv2.morphologyEx(found, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)))
        for truth, found in pages
    ]
    assert tried_on(opened).value(tried_on(opened).base.counts) < before - 0.03  # type: ignore[arg-type]
    worse = [one for one in gains.tried if gains.value(one.counts) < before - 0.03]
    assert {"decode.smallest_area": {"lane": 12}} in [one.changes for one in worse]
    assert gains.beyond_noise == []


def test_what_mends_masks_is_found() -> None:
    pages = [lanes(seed) for seed in range(8)]
    for number, (truth, found) in enumerate(pages):
        found[truth == 1] = 1
        random = np.random.default_rng(number).random(found.shape)
        found[random < 0.1] = 0
        found[random > 0.995] = 1
    found = [one.changes for one in tried_on(pages).beyond_noise]
    assert {"decode.smallest_area": {"lane": 2}} in found  # specks
    assert {"decode.fill_holes": {"lane": 2}} in found
    assert {"decode.smallest_area": {"lane": 37}} not in found  # dashes, too


def test_the_more_are_tried_the_wider_each_interval() -> None:
    random = np.random.default_rng(0)
    base = random.integers(40, 60, (30, 2, 3)) + np.array([0, 50, 50])
    better = base + np.stack([random.integers(-2, 5, (30, 2)), *[np.zeros((30, 2), int)] * 2], 2)
    alone = Gains("IoU", foreground, Tried({}, base), [Tried({"decode.tta": "hflip"}, better)])
    among = Gains("IoU", foreground, Tried({}, base), alone.tried * 400)  # type: ignore[operator]
    one, many = alone.gain(better), among.gain(better)
    assert one is not None and many is not None
    assert one == difference_on(foreground, [better], [base])
    assert one.mean == many.mean and 1.5 < many.half / one.half < 2.5
    assert alone.beyond_noise and one.above


def test_what_changes_few_images_is_known_no_better_than_they_tell_it() -> None:
    random = np.random.default_rng(0)
    base = random.integers(40, 60, (100, 2, 3)) + np.array([0, 50, 50])
    few = base.copy()
    few[:3, 1, 0] += [3, 4, 5]
    gains = Gains("IoU", foreground, Tried({}, base), [Tried({}, few)])
    gain, plain = gains.gain(few), difference_on(foreground, [few], [base])
    assert gain is not None and plain is not None and gain.mean == plain.mean > 0
    assert gain.half / plain.half == pytest.approx(4.303 / 1.984, abs=0.01)  # Student's t: 2, 99
    one = base.copy()
    one[0, 1, 0] += 9
    alone = Gains("IoU", foreground, Tried({}, base), [Tried({}, one)])
    assert alone.gain(one) is None and alone.beyond_noise == []


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Splits; the masks beside them have roads alone."""
    folder = write_streets(tmp_path_factory.mktemp("streets"), train=4, val=6, size=(40, 48))
    for path in folder.glob("*/masks/*.png"):
        roads = (np.asarray(Image.open(path)) == CLASSES.index("road")).astype(np.uint8)
        to = path.parent.parent / "roads"
        to.mkdir(exist_ok=True)
        Image.fromarray(roads).save(to / path.name)
    return {
        name: {"images": str(folder / name / "images"), "masks": str(folder / name / "masks")}
        for name in ("train", "val")
    }


def export(folder: Path, models: int, *, metric: str = "iou", **data: Any) -> Path:
    """An export with random weights."""
    spec = SegmentationDataSpec.model_validate(data)
    config = SegmentationConfig().replace(
        {
            "model.encoder": "resnet18",
            "model.encoder_weights": None,
            "data.resolution": "32x48",
            "metric.name": metric,
        }
    )
    folder.mkdir()
    (folder / "config.yaml").write_text(dump_run_config(spec, config))
    for number in range(1, models + 1):
        torch.manual_seed(number)
        network = build_model(config.model, 1 if spec.binary else len(spec.names))
        saved = save_model(folder, 1, network, ImageCounts(np.zeros((1, 1, 3), np.int64)))
        to = folder / (MODEL if models == 1 else f"{MODELS}/fold-{number}")
        to.parent.mkdir(exist_ok=True)
        saved.rename(to)
    facts = {
        "value": 0.5,
        "fold_decode": [{"decode.threshold": 0.5}] * (models if models > 1 else 0),
    }
    (folder / "provenance.json").write_text(json.dumps(facts))
    write_manifest(folder)
    return folder


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory, streets: dict[str, dict[str, str]]) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "best"
    return export(folder, 1, **streets, classes=list(CLASSES), ignore_index=255)


Evaluate = Callable[..., str]


@pytest.fixture
def evaluate(best: Path) -> Evaluate:
    def run(*words: str, code: int = 0) -> str:
        answer = CliRunner().invoke(app, ["evaluate", str(best), *words])
        assert answer.exit_code == code, answer.output
        return answer.output

    return run


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["dice", "boundary_iou"])
@pytest.mark.parametrize("binary", [False, True])
def test_one_pass_counts_what_evaluate_would(
    streets: dict[str, dict[str, str]], tmp_path: Path, binary: bool, metric: str
) -> None:
    classes: dict[str, Any] = {"classes": list(CLASSES), "ignore_index": 255}
    if binary:
        classes = {"classes": ["road"]}
        streets = {
            name: {**paths, "masks": paths["masks"].replace("masks", "roads")}
            for name, paths in streets.items()
        }
    folder = export(tmp_path / "best", 1, metric=metric, **streets, **classes)
    spec, config = load_run_config(folder / "config.yaml")
    data = load_data(spec)
    tried = try_postprocessing([Part(folder / MODEL, config, data)], "val")
    assert len(tried) > 2 and tried[0].changes == {}
    for one in tried[:: len(tried) // 3]:
        alone = score_model(folder / MODEL, config.replace(one.changes), data, "val")
        assert (alone.images.counts == one.counts).all()
        assert one is tried[0] or (one.counts != tried[0].counts).any()


@pytest.mark.slow
def test_folds_choose_on_the_images_that_each_has_held_out(
    streets: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    data = {"train": streets["val"], "folds": {"count": 2}, "classes": list(CLASSES)}
    folder = export(tmp_path / "best", 2, **data, ignore_index=255)
    for words in ("--tta hflip", "--postprocess all"):
        answer = CliRunner().invoke(app, ["evaluate", str(folder), *words.split()])
        assert answer.exit_code == 0, answer.output
        assert "val, 6 images" in answer.output
    words = ["--set", "decode.threshold=0.4", "--keep"]
    answer = CliRunner().invoke(app, ["evaluate", str(folder), *words])
    assert answer.exit_code == 2 and "each fold has a decode.threshold of its own" in answer.output


def scored(folder: Path, **changes: Any) -> float:
    spec, config = load_run_config(folder / "config.yaml")
    config = config.replace({f"decode.{name}": value for name, value in changes.items()})
    return score_model(folder / MODEL, config, load_data(spec), "val").scores.metric


@pytest.mark.slow
def test_each_value_of_tta_is_scored_as_evaluate_would(best: Path, evaluate: Evaluate) -> None:
    output = evaluate("--tta", "hflip, scales")
    for value in ("none", "hflip", "scales"):
        [row] = [line for line in output.splitlines() if f"│ {value} " in line]
        assert f"{scored(best, tta=value):.4f}" in row
    assert "2 settings were tried on these images: each interval is one of 97.50%" in output
    assert "within noise: none" in output or "beyond noise: keep " in output
    assert not (best / "evaluation-val").exists()


@pytest.mark.slow
def test_what_is_kept_counts_from_then_on(best: Path, evaluate: Evaluate) -> None:
    output = evaluate("--postprocess", "all", "--keep")
    provenance = json.loads((best / "provenance.json").read_text())
    [chosen] = provenance["decode_chosen"]
    _, config = load_run_config(best / "config.yaml")
    flat = config.flat()
    assert chosen["settings"] == {f"decode.{kind}": flat[f"decode.{kind}"] for kind in KINDS}
    assert any(chosen["settings"].values()) == ("beyond noise: keep" in output)
    assert chosen["value"] == pytest.approx(scored(best)) and provenance["value"] == 0.5
    assert check_export(best) == []  # the manifest knows of it

    output = evaluate("--set", "decode.tta=flips", "--set", "decode.fill_holes={road: 9}", "--keep")
    assert "wrote tta flips, fill_holes of road 9 into" in output
    again = evaluate()
    facts = json.loads((best / "provenance.json").read_text())
    assert f"val mIoU {value_on_val(facts):.6f}" in again and len(facts["decode_chosen"]) == 2
    assert "is not as it was exported" not in again
    (best / "config.yaml").write_text((best / "config.yaml").read_text() + "# mine\n")
    assert "is not as it was exported" in evaluate("--set", "decode.tta=none", "--keep")
    assert "is not as it was exported" in evaluate()  # what the user wrote stays theirs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--tta hfilp", "--tta hfilp: unknown 'hfilp'; did you mean hflip?"),
        ("--tta x", "--tta x: unknown 'x'; known: all, none, hflip"),
        ("--postprocess holes", "--postprocess holes: unknown 'holes'; "),
        ("--tta all --data train", "--tta goes with --data val, which chooses; train must"),
        ("--tta all --postprocess all", "one question at a time"),
        ("--tta all --against elsewhere", "one question at a time"),
        ("--keep", "--keep has nothing to keep: give it beside --tta all"),
        ("--keep --set decode.tta=hflip --data train", "--keep goes with --data val"),
        ("--set 'decode.smallest_area={raod: 5}'", "raod is no class of these data; did you mean"),
    ],
)
def test_what_does_not_go_together_is_said(evaluate: Evaluate, words: str, message: str) -> None:
    assert message in " ".join(evaluate(*shlex.split(words), code=2).split())
