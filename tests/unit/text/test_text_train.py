"""Whole text-detection runs on drawn receipts: resumed, in micro-batches, swept, pinned."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from spaces.errors import InputError
from spaces.space import Free
from spaces.text_detection import TextDetectionConfig
from trainers import checkpoint, health, image_counts
from trainers.dbnet.head import DBNet
from trainers.image_counts import ImageCounts
from trainers.report import Scores
from trainers.tasks import evaluate, make_task, score_model
from trainers.text_data import TextData
from trainers.text_detection import (
    BatchTarget,
    TextDetectionLoss,
    TextDetectionTask,
    build_dbnet,
    load_dbnet,
    pad_together,
    page_logits,
)
from trainers.train import TrialResult, train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

FREE = {
    "decode.box_thresh": Free(0.1, 0.9, 0.05),
    "decode.unclip_ratio": Free(1.5, 3.0, 0.5),
}


def small(**changes: Any) -> TextDetectionConfig:
    settings = {
        "model.encoder_weights": None,
        "model.inner": 16,
        "model.out": 8,
        "data.resolution": 288,
        "data.augment": "light",
        "train.epochs": 3,
        "train.batch_size": 2,
        "train.precision": "fp32",
        "train.patience": 0,
        "optim.lr": 3e-3,
        "optim.encoder_lr_ratio": 1.0,
        "health.grad_norm": 0,
    }
    return TextDetectionConfig().replace({**settings, **changes})


def run(
    data: TextData, workdir: Path, free: dict[str, Free] | None = None, **changes: Any
) -> TrialResult:
    return train(small(**changes), data, workdir, lambda report: None, free=free)


def curve(result: TrialResult) -> list[tuple[float, float, float]]:
    return [(r.train.total, r.metric, r.grad_norm) for r in result.history]


@pytest.fixture(scope="module")
def long(receipts: TextData, tmp_path_factory: pytest.TempPathFactory) -> TrialResult:
    """A run that has learned to find lines, with its free dimensions swept."""
    torch.set_num_threads(2)
    return run(
        receipts,
        tmp_path_factory.mktemp("long"),
        FREE,
        **{"train.epochs": 12, "train.batch_size": 1},
    )


def test_a_run_learns_to_find_text(long: TrialResult) -> None:
    assert long.reason == "completed" and long.value is not None
    assert long.value > 0.3 > long.history[0].metric
    assert set(long.decode) == set(FREE)
    losses = [report.train.total for report in long.history]
    assert losses[-1] < 0.7 * losses[0]


def test_the_chosen_setting_is_the_best_of_the_sweep(
    long: TrialResult, receipts: TextData, tmp_path: Path
) -> None:
    """Each setting, evaluated alone with the saved model, scores what the sweep said it does."""
    assert long.model is not None and long.best_epoch is not None
    report = long.history[long.best_epoch - 1]
    assert report.detection is not None
    table = report.detection.curve
    tried = [point.box_thresh for point in table]
    assert tried == FREE["decode.box_thresh"].values() and len(tried) == 17
    assert max(point.hmean for point in table) == report.metric
    for at, precision, recall, hmean in table[::4]:
        config = small(**{**long.decode, "decode.box_thresh": at})
        scores = evaluate(long.model, config, receipts, "val", tmp_path).scores
        assert scores.detection is not None
        assert (scores.detection.precision, scores.detection.recall) == (precision, recall)
        assert scores.metric == hmean and scores.decode == {}
    for ratio in FREE["decode.unclip_ratio"].values():
        config = small(**{**long.decode, "decode.unclip_ratio": ratio})
        assert evaluate(long.model, config, receipts, "val", tmp_path).scores.metric <= long.value


def test_a_pinned_setting_is_obeyed(receipts: TextData, tmp_path: Path) -> None:
    fixed = {"decode.box_thresh": 0.7, "decode.unclip_ratio": 2.0}
    result = run(receipts, tmp_path, **fixed, **{"train.epochs": 1})
    assert result.history[0].detection is not None
    [point] = result.history[0].detection.curve
    assert point.box_thresh == 0.7 and result.decode == {}


def test_thresh_and_max_candidates_are_swept_where_asked(
    long: TrialResult, receipts: TextData
) -> None:
    """From one pass over the pages; each setting scores what it does alone."""
    assert long.model is not None
    model = load_dbnet(long.model)
    free = {
        **FREE,
        "decode.thresh": Free(0.2, 0.4, 0.1),
        "decode.max_candidates": Free(4, 20, 4),
    }

    def scored(free: dict[str, Free], **settings: Any) -> Scores:
        config = small(**settings)
        task = TextDetectionTask(config, receipts, torch.device("cpu"), "fp32", free)
        return task.score(list(task.outputs(model, "val"))).scores

    swept = scored(free)
    assert set(swept.decode) == set(free)
    alone = {
        (thresh, most): scored(FREE, **{"decode.thresh": thresh, "decode.max_candidates": most})
        for thresh in free["decode.thresh"].values()
        for most in map(int, free["decode.max_candidates"].values())
    }
    assert swept.metric == max(one.metric for one in alone.values())
    assert len({one.metric for one in alone.values()}) > 3
    at = swept.decode["decode.thresh"], int(swept.decode["decode.max_candidates"])
    assert alone[at].detection == swept.detection and alone[at].metric == swept.metric


@pytest.mark.parametrize(
    "changes",
    [
        {"data.augment": "strong", "data.photometric": "strong", "data.quarter_turns": 0.5},
        {"loss.warmup_epochs": 1, "loss.ramp_epochs": 2},
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one(
    changes: dict[str, Any], receipts: TextData, tmp_path: Path
) -> None:
    whole = run(receipts, tmp_path / "whole", FREE, **changes)
    config, taken = small(**changes), 0

    def stop() -> str | None:
        nonlocal taken
        taken += 1
        return "preempted" if taken > 3 else None

    first = train(config, receipts, tmp_path / "parts", lambda r: None, stop, FREE)
    assert first.reason == "preempted" and len(first.history) == 1
    second = train(config, receipts, tmp_path / "parts", lambda r: None, free=FREE)
    assert curve(second) == curve(whole) and second.decode == whole.decode


@pytest.mark.parametrize("weighting", ["fixed", "gradnorm"])
def test_micro_batches_have_the_gradient_of_the_whole_batch(
    weighting: str, receipts: TextData
) -> None:
    """Hard negatives and Dice are pooled over the batch, however it is cut."""
    from trainers import accumulate

    config = small(**{"train.batch_size": 4, "loss.weighting": weighting})
    task = make_task(config, receipts, torch.device("cpu"), "fp32", {})
    images, target = next(iter(task.batches(0)))
    gradients = []
    for micro_batch in (4, 1):
        torch.manual_seed(0)
        model = task.build_model().eval()  # batch norm's statistics do not depend on the cut
        parts = accumulate.backward(
            lambda part, m=model: task.run(m, part),
            model,
            images,
            target,
            task.loss,
            micro_batch,
            lambda loss: loss,
            shared=task.shared_weights,
        )
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        assert float(parts["total"]) > 0
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-5 * float(gradients[0].abs().max()))


def test_warm_up_has_the_pixel_term_alone() -> None:
    loss = TextDetectionLoss(
        small(**{"loss.warmup_epochs": 2, "loss.ramp_epochs": 4}).loss, torch.device("cpu")
    )
    shares = []
    for epoch in range(8):
        loss.set_epoch(epoch)
        shares.append(loss.share)
    assert shares == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    loss.set_epoch(0)
    maps = torch.zeros(1, 4, 32, 32)
    maps[:, 0, 8:16, 4:28] = 1
    maps[:, 1] = 1
    maps[:, 3, 6:18, 2:30] = 1
    logits = torch.randn(1, 2, 32, 32, requires_grad=True)
    total, parts = loss(logits, BatchTarget(maps, 500))
    assert float(total.detach()) == pytest.approx(5 * float(parts["pixel"]))
    total.backward()
    assert logits.grad is not None
    assert not logits.grad[:, 1].any() and logits.grad[:, 0].any()


def test_pages_of_different_sizes_share_a_batch_without_a_loss_on_the_padding() -> None:
    pages = [
        (torch.full((3, h, w), 9, dtype=torch.uint8), torch.ones(4, h, w).byte(), (h, h * w))
        for h, w in ((40, 20), (33, 64))
    ]
    images, maps, counts = pad_together(pages)
    assert counts == (40 + 33, 40 * 20 + 33 * 64)
    assert images.shape == (2, 3, 64, 64) and maps.shape == (2, 4, 64, 64)
    assert images[0, :, :40, :20].eq(9).all() and images[0].sum() == 9 * 3 * 40 * 20
    assert maps[1, 1].sum() == 33 * 64


def test_what_loader_processes_are_sent_can_be_sent(receipts: TextData) -> None:
    """A trial is forked from a server, and so are its loaders: they get their work pickled."""
    task = TextDetectionTask(small(), receipts, torch.device("cpu"), "fp32", {})
    for reader in (task._reader, task._decoder):
        loader = reader._loader
        pickle.dumps((loader.dataset, loader.collate_fn, loader.worker_init_fn))


def test_a_page_without_text_trains_and_scores(receipts: TextData, tmp_path: Path) -> None:
    data = TextData(receipts.spec, receipts.splits, receipts.sizes, "none", {})
    empty = type(receipts.truth(receipts.split("train")[0]))([], torch.zeros(0).bool().numpy(), [])
    object.__setattr__(data, "truth", lambda page: empty)
    result = train(small(**{"train.epochs": 1}), data, tmp_path, lambda report: None)
    assert result.reason == "health:trivial" and result.value == 0.0
    assert result.history[0].train.pixel == 0.0


def test_no_class_can_be_dead(receipts: TextData, long: TrialResult) -> None:
    task = make_task(small(), receipts, torch.device("cpu"), "fp32", {})
    assert task.dead_class_view(long.history[0]) == []
    vitals = health.Vitals(0.0, 1.0, 1.0, 1.0, [])
    assert health.alarm([vitals] * 40, small().health, 0) is None


def test_the_export_loads_with_one_call(long: TrialResult, receipts: TextData) -> None:
    assert long.model is not None
    model = DBNet.from_pretrained(long.model)
    probability, threshold = model(torch.zeros(1, 3, 96, 64))
    assert probability.shape == threshold.shape == (1, 1, 96, 64)
    assert checkpoint.load_facts(long.model.parent) is not None


def test_pictures_show_how_boxes_meet(
    long: TrialResult, receipts: TextData, tmp_path: Path
) -> None:
    assert long.model is not None
    found = evaluate(long.model, small(**long.decode), receipts, "val", tmp_path)
    assert found.scores.metric == pytest.approx(long.value, abs=1e-9)
    counts = ImageCounts.from_bytes((long.model / image_counts.FILE).read_bytes()).counts
    assert len(counts) == len(receipts.split("val"))
    assert image_counts.hmean(counts.sum(0)) == pytest.approx(long.value, abs=1e-9)
    alone = score_model(long.model, small(**long.decode), receipts, "val")
    assert alone.scores.metric == found.scores.metric
    assert (alone.images.counts == counts).all() and (found.images.counts == counts).all()
    assert [path.name[:7] for path in found.pictures] == ["best-1-", "worst-1"]
    with Image.open(found.pictures[0]) as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}
    assert (20, 150, 40) in colours  # found


def test_an_encoder_that_cannot_be_used_is_a_clear_error() -> None:
    for encoder, message in (
        ("resnet1000", r"model\.encoder resnet1000 with model\.decoder fpn cannot be built"),
        ("tu-vit_tiny_patch16_224", r"model\.encoder tu-vit_tiny_patch16_224 .* cannot be built"),
    ):
        with pytest.raises(InputError, match=message):
            build_dbnet(small(**{"model.encoder": encoder}).model)


def test_the_views_of_a_page_are_merged_before_it_is_decoded(
    long: TrialResult, receipts: TextData
) -> None:
    assert long.model is not None
    model = DBNet.from_pretrained(long.model)

    @torch.no_grad()
    def logits(pixels: Any, tta: str) -> torch.Tensor:
        config = small(**{"decode.tta": tta, "data.resolution": 150})
        found, size, _ = page_logits(model, pixels, config, torch.device("cpu"), "fp32")
        assert found.shape[-2:] == size  # without the padding, which is behind every view
        return found

    page = receipts.image(receipts.split("val")[0])[:150, :94].copy()
    mirrored = logits(page[:, ::-1].copy(), "none").flip(3)
    assert torch.equal(logits(page, "hflip"), (logits(page, "none") + mirrored) / 2)
    for tta in ("hflip", "scales", "hflip+scales"):
        config = small(**{**long.decode, "decode.tta": tta})
        found = score_model(long.model, config, receipts, "val").scores.metric
        assert found > 0.5 * long.value and found != long.value  # type: ignore[operator]


def test_loader_processes_give_the_same_batches(receipts: TextData) -> None:
    batches = []
    for workers in (0, 2):
        config = small(**{"train.workers": workers, "data.augment": "strong"})
        task = TextDetectionTask(config, receipts, torch.device("cpu"), "fp32", {})
        batches.append(list(task.batches(1)))
    for (one, first), (two, second) in zip(*batches, strict=True):
        assert torch.equal(one, two) and torch.equal(first.maps, second.maps)
        assert first.negatives == second.negatives
