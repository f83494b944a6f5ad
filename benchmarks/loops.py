"""The training loops that `benchmarks.throughput` compares: ours, and what a user would write.

All train U-Net/resnet18 from scratch with batches of 8, AdamW under the same learning rates, the
same mix of cross-entropy and Dice, the same gradient clipping, and after each epoch score mIoU at
original image size. The plain loops are in the style of the references of torchvision and
segmentation_models_pytorch, and read nothing back from the device between steps.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.plain import (
    BATCH,
    CLIP_NORM,
    DICE_SHARE,
    LR,
    SMOOTH,
    WARMUP_EPOCHS,
    WEIGHT_DECAY,
    Batches,
    Confusion,
    Files,
    PlainLoss,
    Setup,
    all_of,
    build,
    loaders,
    optimizer_of,
)
from benchmarks.turns import Turns
from spaces.config import SegmentationConfig
from trainers.batches import batch_sizes
from trainers.devices import pick_device
from trainers.losses import IGNORE, SegmentationLoss
from trainers.memory import keep_freed_memory
from trainers.precision import autocast, grad_scaler, resolve_precision
from trainers.report import EpochReport
from trainers.train import TrainingRun, train


def run(loop: str, setup: Setup, turns: Turns) -> None:
    """Train a loop of `LOOPS` to its end."""
    torch.set_num_threads(setup.threads)
    LOOPS[loop](setup, turns)


def ours(setup: Setup, turns: Turns) -> None:
    """`trainers.train` with its defaults; the peers' model, loss mix and learning rates.

    An epoch is made durable within its turn: on a GPU it would be written while the next one
    trains, which is another loop's turn here.
    """
    steps = len(batch_sizes(len(setup.data.split("train")), BATCH))
    taken = 0

    def should_stop() -> str | None:
        nonlocal taken
        taken += 1
        if taken % steps == 0:
            turns.trained()
        return None

    def on_epoch(report: EpochReport) -> None:
        assert taken == steps * report.epoch, (taken, steps, report.epoch)
        turns.done(report.metric)
        if report.epoch < setup.epochs:
            turns.wait()

    finish_epoch = TrainingRun.finish_epoch

    def finish_in_turn(self: TrainingRun) -> EpochReport:
        report = finish_epoch(self)
        self.deliver()
        return report

    TrainingRun.finish_epoch = finish_in_turn  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        turns.wait()
        result = train(our_config(setup), setup.data, Path(folder), on_epoch, should_stop)
    assert result.reason in ("completed", "health:trivial"), result.reason


def our_config(setup: Setup) -> SegmentationConfig:
    """The config whose steps do what the plain loops' steps do."""
    return SegmentationConfig().replace(
        {
            "data.resolution": setup.resolution,
            "data.augment": "light",
            "model.arch": "Unet",
            "model.encoder": "resnet18",
            "model.encoder_weights": None,
            "loss.region_share": DICE_SHARE,
            "loss.warmup_epochs": 0,
            "loss.ramp_epochs": 0,
            "loss.smooth": SMOOTH,
            "loss.squared": False,
            "optim.lr": LR,
            "optim.encoder_lr_ratio": 1.0,
            "optim.weight_decay": WEIGHT_DECAY,
            "optim.warmup_epochs": WARMUP_EPOCHS,
            "optim.clip_norm": CLIP_NORM,
            "train.epochs": setup.epochs,
            "train.batch_size": BATCH,
            "train.seed": setup.seed,
            "train.patience": 0,
            "health.grad_norm": 0,  # all loops train to the end
            "health.diverging": 0,
            "health.falling_epochs": 0,
            "health.dead_class_epochs": 0,
        }
    )


def decoding_fp32(setup: Setup, turns: Turns) -> None:
    """A DataLoader that opens, decodes and resizes each image in each epoch; fp32."""
    _fit(setup, turns, *_loaders(setup), PlainLoss(setup.ignore), "fp32")


def decoding_amp(setup: Setup, turns: Turns) -> None:
    """The same under autocast."""
    _fit(setup, turns, *_loaders(setup), PlainLoss(setup.ignore), amp_precision())


def resident(setup: Setup, turns: Turns) -> None:
    """The limit: all images ready on the device, no augmentation; only steps and scoring.

    It takes every measure that makes a step quicker: autocast, channels_last, the fused optimiser,
    our own loss (quicker than smp's on a CPU), and on a CPU freed memory is kept.
    """
    device = pick_device()
    if device.type == "cpu":
        keep_freed_memory()
    images, train_masks = all_of(Files(setup, "train", augment=False), device)
    val_images, val_masks = all_of(Files(setup, "val", augment=False), device)
    masks = torch.stack(train_masks)
    masks[masks == setup.ignore] = IGNORE
    config = our_config(setup).loss
    loss = SegmentationLoss(config, setup.data.counts, binary=False, device=device)

    def train_batches() -> Iterator[tuple[Tensor, Tensor]]:
        for index in torch.randperm(len(images), device=device).split(BATCH):
            yield images[index].permute(0, 3, 1, 2), masks[index].long()

    def val_batches() -> Iterator[tuple[Tensor, list[Tensor]]]:
        for start in range(0, len(val_images), BATCH):
            stop = start + BATCH
            yield val_images[start:stop].permute(0, 3, 1, 2), val_masks[start:stop]

    _fit(
        setup,
        turns,
        train_batches,
        val_batches,
        lambda logits, target: loss(logits, target)[0],
        amp_precision(),
        limit=True,
    )


def lightning(setup: Setup, turns: Turns) -> None:
    """The decoding loop under autocast, written for Lightning's Trainer."""
    import logging

    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    loss = PlainLoss(setup.ignore)
    classes = setup.data.classes

    class Net(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = build(classes)

        def configure_optimizers(self) -> Any:
            optimizer, scheduler = optimizer_of(self.model, setup)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
            }

        def on_train_epoch_start(self) -> None:
            turns.wait()

        def training_step(self, batch: Any, index: int) -> Tensor:
            images, masks = batch
            return loss(self.model(images).float(), masks)

        def on_validation_epoch_start(self) -> None:
            turns.trained()
            self.confusion = Confusion(classes, setup.ignore, self.device)

        def validation_step(self, batch: Any, index: int) -> None:
            images, masks = batch
            self.confusion.update(self.model(images).float(), masks)

        def on_train_epoch_end(self) -> None:
            turns.done(self.confusion.miou())

    torch.manual_seed(setup.seed)
    torch.backends.cudnn.benchmark = True
    precisions = {"bf16": "bf16-mixed", "fp16": "16-mixed", "fp32": "32-true"}
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            max_epochs=setup.epochs,
            accelerator="auto",
            devices=1,
            precision=precisions[amp_precision()],
            gradient_clip_val=CLIP_NORM,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
        )
        trainer.fit(Net(), *(loader() for loader in _loaders(setup)))


OURS, FP32, AMP, LIMIT = (
    "segtune",
    "plain loop, fp32",
    "plain loop, AMP",
    "resident tensors (limit)",
)
LIGHTNING = "Lightning, AMP"
LOOPS: dict[str, Callable[[Setup, Turns], None]] = {
    OURS: ours,
    FP32: decoding_fp32,
    AMP: decoding_amp,
    LIMIT: resident,
    LIGHTNING: lightning,
}
DECODING = (FP32, AMP, LIGHTNING)


def installed() -> list[str]:
    """The loops that can run here: all but Lightning's, where it is absent."""
    absent = importlib.util.find_spec("lightning") is None
    return [name for name in LOOPS if name != LIGHTNING or not absent]


def amp_precision() -> str:
    """What ours trains in by default on this device: bf16, fp16, or fp32 where nothing is won."""
    return resolve_precision("auto", pick_device())


def _loaders(setup: Setup) -> tuple[Callable[[], Batches], Callable[[], Batches]]:
    return loaders(setup, pinned=pick_device().type == "cuda")


def _fit(
    setup: Setup,
    turns: Turns,
    train_batches: Callable[[], Batches],
    val_batches: Callable[[], Batches],
    loss: Callable[[Tensor, Tensor], Tensor],
    precision: str,
    *,
    limit: bool = False,
) -> None:
    """Train and validate; `limit` adds what makes the step itself quicker."""
    device = pick_device()
    torch.manual_seed(setup.seed)
    torch.backends.cudnn.benchmark = True
    layout = torch.channels_last if limit else torch.contiguous_format
    model = build(setup.data.classes).to(device).to(memory_format=layout)
    optimizer, scheduler = optimizer_of(model, setup, fused=limit or None)
    scaler = grad_scaler(device, precision)
    for _ in range(setup.epochs):
        turns.wait()
        model.train()
        for images, masks in train_batches():
            images = images.to(device, non_blocking=True)
            masks = masks.to(device, non_blocking=True)
            optimizer.zero_grad(set_to_none=True)
            with autocast(device, precision):
                logits = model(images)
            scaler.scale(loss(logits.float(), masks)).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
        turns.trained()
        model.eval()
        confusion = Confusion(setup.data.classes, setup.ignore, device)
        with torch.no_grad():
            for images, originals in val_batches():
                with autocast(device, precision):
                    logits = model(images.to(device, non_blocking=True))
                confusion.update(logits.float(), originals)
        turns.done(confusion.miou())
