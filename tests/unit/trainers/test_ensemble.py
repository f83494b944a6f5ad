"""Ensembles: which models are drawn, and that the mean of several is the same wherever it is made.

Nothing is trained here: networks have random weights, and the selection has recorded probabilities.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from search.samples.receipts import write_receipts
from spaces.config import SegmentationConfig, TrialConfig
from spaces.data import SegmentationDataSpec, TextDetectionDataSpec
from spaces.errors import InputError
from spaces.run_config import dump_run_config
from spaces.space import Free
from spaces.text_detection import TextDetectionConfig
from trainers.checkpoint import save_model
from trainers.data import SegmentationData
from trainers.dbnet.decode import Detections
from trainers.dbnet.score import match, pool
from trainers.ensemble import EnsembleTask, Shares, greedy, mean_maps, mean_probabilities
from trainers.image_counts import ImageCounts
from trainers.masks import decode_mask
from trainers.members import LIST, MEMBERS, Member, read_members, write_list
from trainers.metrics import ClassCounts
from trainers.predict import Predictor
from trainers.tasks import Data, evaluate, load_data, load_task, make_task, score_model

CPU = torch.device("cpu")
STREETS = SegmentationConfig().replace(
    {"model.encoder": "resnet18", "model.encoder_weights": None, "train.precision": "fp32"}
)
TEXT = TextDetectionConfig().replace(
    {
        "model.encoder": "resnet18",
        "model.encoder_weights": None,
        "model.inner": 8,
        "model.out": 8,
        "train.precision": "fp32",
        "decode.thresh": 0.0995,
        "decode.box_thresh": 0.05,
    }
)


# ---------------------------------------------------------------- the selection


@dataclass(frozen=True)
class Right:
    """The share of recorded images that a mean of probabilities puts into their class."""

    value: float


def recorded(truth: Sequence[int], probabilities: Sequence[Any]) -> Callable[[Shares], list[Right]]:
    """Scores of means of M models' probabilities (M, N, C) of N images."""
    found = np.array(probabilities)

    def score(means: Shares) -> list[Right]:
        classes = np.tensordot(means, found, axes=1).argmax(axis=-1)  # (J, N)
        return [Right(float((one == truth).mean())) for one in classes]

    return score


def test_the_best_pair_is_not_the_two_best() -> None:
    """The two best err on the same images; the third one is right there, and sure of it."""
    twin = [[0.6, 0.4], [0.6, 0.4], [0.6, 0.4], [0.6, 0.4], [0.55, 0.45], [0.55, 0.45]]
    other = [[0.45, 0.55], [0.45, 0.55], [0.45, 0.55], [0.6, 0.4], [0.2, 0.8], [0.2, 0.8]]
    score = recorded([0, 0, 0, 0, 1, 1], [twin, twin, other])
    assert [one.value for one in score(np.eye(3))] == pytest.approx([4 / 6, 4 / 6, 3 / 6])
    steps = list(greedy(score, 3, size=5))
    assert [step.added for step in steps] == [0, 2]
    assert steps[-1].draws == (1, 0, 1) and steps[-1].scored.value == 1.0
    [top_two] = score(np.array([[0.5, 0.5, 0.0]]))
    assert top_two.value < 1.0


def test_a_model_is_drawn_again_where_it_must_count_more() -> None:
    """One of each leaves the third image wrong; two of the first beside one do not."""
    right = [[0.9, 0.45, 0.65, 0.45], [0.2, 0.9, 0.3, 0.9], [0.1, 0.1, 0.1, 0.1]]
    score = recorded([0, 0, 0, 0], [[[p, 1 - p] for p in one] for one in right])
    steps = list(greedy(score, 3, size=5))
    assert [step.added for step in steps] == [0, 1, 0]
    assert [step.scored.value for step in steps] == [0.5, 0.75, 1.0]
    assert steps[-1].draws == (2, 1, 0)
    assert len(list(greedy(score, 3, size=2))) == 2


def test_of_equal_models_one_is_enough() -> None:
    score = recorded([0, 1], [[[0.6, 0.4], [0.4, 0.6]]] * 3)
    assert [step.draws for step in greedy(score, 3, size=5)] == [(1, 0, 0)]


# ---------------------------------------------------------------- the mean


@pytest.mark.parametrize("elements", [1, 700, 10**9])
def test_the_mean_is_of_probabilities_at_original_size(elements: int) -> None:
    """In parts as in whole; the expected values are those of torch's own softmax."""
    generator = torch.Generator().manual_seed(0)
    logits = [
        5 * torch.randn(2, 5, *size, generator=generator) for size in ((6, 8), (9, 12), (6, 8))
    ]
    means = torch.tensor([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]])
    size = torch.Size((17, 23))
    resized = torch.stack(
        [F.interpolate(x, size, mode="bilinear", align_corners=False) for x in logits]
    )
    expected = torch.einsum("jm,mbchw->jbchw", means, resized.softmax(2))
    found = mean_maps(logits, means, size, binary=False, elements=elements)
    assert torch.equal(found, expected.argmax(2))
    whole = mean_probabilities(logits, means[0].tolist(), size)
    assert torch.allclose(whole, expected[0], atol=1e-6)
    foreground = mean_maps([x[:, :1] for x in logits], means, size, binary=True, elements=elements)
    of_binary = torch.einsum("jm,mbhw->jbhw", means, resized[:, :, 0].sigmoid())
    assert torch.allclose(foreground, of_binary, atol=1e-6)


# ---------------------------------------------------------------- its folder


@pytest.fixture(scope="session")
def receipts(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = write_receipts(tmp_path_factory.mktemp("pages"), train=2, val=3, size=(288, 180))
    splits = {
        split: {"images": f"{folder}/{split}/images", "labels": f"{folder}/{split}/labels"}
        for split in ("train", "val")
    }
    return load_data(TextDetectionDataSpec.model_validate(splits))


def write_ensemble(folder: Path, data: Data, configs: Sequence[TrialConfig]) -> Path:
    """An ensemble of random networks; the first one counts twice."""
    spec: Any = data.spec  # type: ignore[attr-defined]
    draws = {}
    for number, config in enumerate(configs):
        name = f"trial-{number}"
        member = folder / MEMBERS / name
        member.mkdir(parents=True)
        (member / "config.yaml").write_text(dump_run_config(spec, config))
        torch.manual_seed(number)
        network = make_task(config, data, CPU, "fp32", {}).build_model()
        saved = save_model(member, 1, network, ImageCounts(np.zeros((1, 1, 3), np.int64)))
        saved.rename(member / "model")
        draws[name] = 2 if number == 0 else 1
    write_list(folder, draws, configs[0])
    (folder / "config.yaml").write_text(dump_run_config(spec, configs[0]))
    return folder


@pytest.fixture
def streets_ensemble(data: SegmentationData, tmp_path: Path) -> Path:
    """Of two architectures at two resolutions."""
    one = STREETS.replace({"data.resolution": "32x48"})
    other = STREETS.replace({"data.resolution": "64x64", "model.arch": "FPN"})
    return write_ensemble(tmp_path / "best", data, [one, other])


@pytest.fixture
def text_ensemble(receipts: Data, tmp_path: Path) -> Path:
    """Of two decoders at two resolutions."""
    one = TEXT.replace({"data.resolution": 96})
    other = TEXT.replace({"data.resolution": 160, "model.decoder": "unet"})
    return write_ensemble(tmp_path / "best", receipts, [one, other])


@pytest.mark.slow
def test_its_masks_score_what_evaluate_says(
    streets_ensemble: Path, data: SegmentationData, tmp_path: Path
) -> None:
    predictor = Predictor(streets_ensemble)
    members = read_members(streets_ensemble, predictor.config)
    samples = data.split("val")
    images = [sample.image for sample in samples]
    counter = ClassCounts(data.classes, CPU)
    masks = predictor.predict(images)
    for sample, mask in zip(samples, masks, strict=True):
        assert isinstance(mask, np.ndarray) and mask.shape == (40, 48)
        truth = torch.from_numpy(decode_mask(sample.mask, data.spec))
        counter.update(torch.from_numpy(mask).long()[None], truth[None])
    task: Any = make_task(predictor.config, data, CPU, "fp32", {})
    counted = task.score(counter.images().numpy().sum(0))
    found = evaluate(members, predictor.config, data, "val", tmp_path / "pictures")
    assert found.scores.metric == pytest.approx(counted, abs=1e-6) and counted > 0
    assert len(found.pictures) == 4 and all(path.exists() for path in found.pictures)

    # the mean is that of the members as they stand alone, at the image's own size
    [whole] = predictor.run([predictor.prepare(images[0])], probabilities=True)
    alone = [Predictor(member.folder) for member in members]
    parts = [one.run([one.prepare(images[0])], probabilities=True)[0] for one in alone]
    assert whole.probabilities is not None
    expected = sum(
        np.asarray(part.probabilities, np.float32) * share
        for part, share in zip(parts, (2 / 3, 1 / 3), strict=True)
    )
    assert np.abs(whole.probabilities - expected).max() < 2e-3  # of float16


@pytest.mark.slow
def test_a_mean_of_one_is_the_model_alone(
    streets_ensemble: Path, data: SegmentationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(streets_ensemble)
    members = read_members(streets_ensemble, predictor.config)
    task, models = load_task(members, predictor.config, data)
    several: EnsembleTask = task  # type: ignore[assignment]
    means = np.array([[1.0, 0.0], [0.0, 1.0], [2 / 3, 1 / 3]])
    found = several.score_means(models, means, "val")
    alone = [score_model(member.model, member.config, data, "val") for member in members]
    for one, other in zip(found, alone, strict=False):
        assert one.scores.metric == pytest.approx(other.scores.metric, abs=1e-6)
        assert np.array_equal(one.images.counts, other.images.counts)
    assert len(several.seconds) == 2 and min(several.seconds) > 0
    together = score_model(members, predictor.config, data, "val")
    assert np.array_equal(found[2].images.counts, together.images.counts)
    assert not np.array_equal(found[2].images.counts, found[0].images.counts)


@pytest.mark.slow
def test_a_binary_threshold_is_chosen_for_the_mean(data: SegmentationData, tmp_path: Path) -> None:
    splits = {}
    for split in ("train", "val"):
        masks = tmp_path / split
        masks.mkdir()
        for sample in data.split(split):
            mask = decode_mask(sample.mask, data.spec)
            Image.fromarray((mask == 0).astype(np.uint8)).save(masks / f"{sample.stem}.png")
        images = str(Path(data.split(split)[0].image).parent)
        splits[split] = {"images": images, "masks": str(masks)}
    spec = SegmentationDataSpec.model_validate({**splits, "classes": ["sky"]})
    binary = load_data(spec)
    one = STREETS.replace({"data.resolution": "32x48"})
    folder = write_ensemble(
        tmp_path / "binary", binary, [one, one.replace({"data.resolution": "48x48"})]
    )
    members = read_members(folder, one)
    free = {"decode.threshold": Free(0.1, 0.9, 0.1)}
    task, models = load_task(members, one, binary, free)
    [found] = task.score_means(models, np.array([[0.5, 0.5]]), "val")  # type: ignore[attr-defined]
    tried = []
    for value in free["decode.threshold"].values():
        at = one.replace({"decode.threshold": value})
        even = [Member(m.folder, m.config, m.models) for m in members]
        tried.append(score_model(even, at, binary, "val").scores.metric)
    assert found.scores.metric == pytest.approx(max(tried), abs=1e-9)
    chosen = free["decode.threshold"].values().index(found.scores.decode["decode.threshold"])
    assert tried[chosen] == max(tried)


@pytest.mark.slow
def test_its_boxes_score_what_evaluate_says(
    text_ensemble: Path, receipts: Data, tmp_path: Path
) -> None:
    predictor = Predictor(text_ensemble)
    members = read_members(text_ensemble, predictor.config)
    found = evaluate(members, predictor.config, receipts, "val", tmp_path / "pictures")
    pages: Any = receipts.split("val")
    boxes = predictor.predict([page.image for page in pages])
    met = []
    for page, one in zip(pages, boxes, strict=True):
        assert isinstance(one, Detections)
        met.append(match(list(one.boxes), receipts.truth(page)))  # type: ignore[attr-defined]
    assert sum(len(one.boxes) for one in boxes if isinstance(one, Detections)) > 0
    assert pool(met).hmean == pytest.approx(found.scores.metric, abs=1e-6)
    counts = np.stack([(len(m.pairs), m.truth_counts.sum(), m.detection_counts.sum()) for m in met])
    assert np.array_equal(found.images.counts[:, 0], counts)
    [whole] = predictor.run([predictor.prepare(pages[0].image)], probabilities=True)
    assert whole.probabilities is not None and max(whole.probabilities.shape) == 160
    task, models = load_task(members, predictor.config, receipts)
    means = np.array([[1.0, 0.0], [2 / 3, 1 / 3]])
    first, both = task.score_means(models, means, "val")  # type: ignore[attr-defined]
    assert np.array_equal(both.images.counts, found.images.counts)
    alone = score_model(members[0].model, members[0].config, receipts, "val")
    assert first.scores.metric == pytest.approx(alone.scores.metric, abs=0.2)  # a larger map


@pytest.mark.slow
def test_settings_reach_the_members(streets_ensemble: Path) -> None:
    config = Predictor(streets_ensemble).config
    assert {m.config.flat()["decode.tta"] for m in read_members(streets_ensemble, config)} == {
        "none"
    }
    mirrored = config.replace({"decode.tta": "hflip"})
    members = read_members(streets_ensemble, mirrored)
    assert {member.config.flat()["decode.tta"] for member in members} == {"hflip"}
    assert [member.config.flat()["data.resolution"] for member in members] == ["32x48", "64x64"]
    path = streets_ensemble / "config.yaml"  # as an edit, or `evaluate --keep`
    path.write_text(path.read_text().replace("tta: none", "tta: hflip"))
    kept = Predictor(streets_ensemble)
    assert {one.config.flat()["decode.tta"] for one, _ in kept.members} == {"hflip"}


@pytest.mark.slow
def test_what_is_no_ensemble_is_said(streets_ensemble: Path) -> None:
    config = Predictor(streets_ensemble).config
    shutil.move(streets_ensemble / MEMBERS / "trial-1" / "model", streets_ensemble / "elsewhere")
    with pytest.raises(InputError, match="has no members/trial-1/model/config"):
        Predictor(streets_ensemble)
    for listed in ("[]", '{"members": []}', '{"members": [{"folder": "members/x", "draws": 0}]}'):
        (streets_ensemble / LIST).write_text(listed)
        with pytest.raises(InputError, match="must list members"):
            read_members(streets_ensemble, config)
    outside = {"members": [{"folder": "../elsewhere", "draws": 1}], "decode": {}}
    (streets_ensemble / LIST).write_text(json.dumps(outside))
    with pytest.raises(InputError, match="leads out of it"):
        read_members(streets_ensemble, config)
