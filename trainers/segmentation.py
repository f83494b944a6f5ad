"""What makes a run a segmentation run: batches of images and masks, and the score of a split."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from spaces.config import DataConfig, ModelConfig, TrialConfig
from spaces.errors import InputError
from spaces.models import ENCODERS, min_batch, min_side
from spaces.space import Free, Space
from trainers.augment import augment_sample, build_augment
from trainers.batches import batch_sizes, epoch_loader, layout, normalise
from trainers.cache import Arrays, load_arrays
from trainers.data import SegmentationData
from trainers.losses import SegmentationLoss
from trainers.metrics import ConfusionMatrix, ThresholdCurve
from trainers.models import build_model, check_model, forward
from trainers.precision import autocast

VAL_BATCH = 8  # images at once in validation, halved where they do not fit
SCORE_ELEMENTS = 50_000_000  # logits resized to original size at once


class SegmentationTask:
    """Data, loss and score of one run."""

    def __init__(
        self,
        config: TrialConfig,
        data: SegmentationData,
        device: torch.device,
        precision: str,
        free: Mapping[str, Free],
    ) -> None:
        self.config = config
        self.data = data
        self.device = device
        self.precision = precision
        self.free = free
        self.binary = data.spec.binary
        self.val_batch = VAL_BATCH
        self.memory_format = layout(config.train)
        self.logits = 1 if self.binary else data.classes
        self.loss = SegmentationLoss(config.loss, data.counts, binary=self.binary, device=device)
        self.samples = len(data.split("train"))
        self.steps_per_epoch = len(batch_sizes(self.samples, config.train.batch_size))

    @property
    def min_batch(self) -> int:
        """Images that the network needs at once in training."""
        return min_batch(self.config.model.arch)

    @property
    def memory_key(self) -> str:
        """What decides how many images fit into memory, but for device and precision."""
        model = self.config.model
        return f"{model.arch}/{model.encoder}/{self.config.data.resolution}"

    def build_model(self) -> nn.Module:
        """Return the network of the config; raises InputError where it cannot be had."""
        return build_model(self.config.model, self.logits)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the epoch's batches on the device: images (B, 3, H, W) float, masks (B, H, W)."""
        arrays = load_arrays(self.data, "train", self.config.data.size)
        dataset = _Samples(arrays, self.config)
        loader = epoch_loader(dataset, len(arrays), self.config.train, epoch, self.device)
        for images, masks in loader:
            yield self._to_device(images), masks.to(self.device, non_blocking=True).long()

    def run(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return logits (B, C, H, W) at network size, under autocast."""
        with autocast(self.device, self.precision):
            return forward(model, images)

    @torch.no_grad()
    def validate(self, model: nn.Module, split: str = "val") -> dict[str, Any]:
        """Score a split at original image size; also the loss parts at network size.

        Returns:
            metric: mIoU, or for a binary task the foreground's IoU at the best (free) or the
            given threshold; per_class; pixel_accuracy; loss {total, pixel, region}; and for a
            binary task `binary` with threshold, precision, recall and f1, and in `decode` the
            threshold where it is free.
        """
        model.eval()
        confusion = ConfusionMatrix(self.data.classes, self.device)
        curve = ThresholdCurve(self._thresholds(), self.device)
        totals: dict[str, Tensor] = {}
        count = 0
        for logits, masks, originals in self.predictions(model, split):
            _, parts = self.loss(logits, masks, learn=False)
            for name, value in parts.items():
                totals[name] = totals.get(name, torch.zeros_like(value)) + value * len(masks)
            count += len(masks)
            for resized, truth in at_original_size(logits, originals):
                if self.binary:
                    curve.update(resized[:, 0].sigmoid(), truth)
                else:
                    confusion.update(class_map(resized), truth)
        loss = {name: float(value) / count for name, value in totals.items()}
        if self.binary:
            best = curve.best()
            return {
                "metric": best.iou,
                "decode": dict.fromkeys(self.free, best.threshold),
                "per_class": [best.background_iou, best.iou],
                "pixel_accuracy": best.pixel_accuracy,
                "binary": {
                    "threshold": best.threshold,
                    "precision": best.precision,
                    "recall": best.recall,
                    "f1": best.f1,
                },
                "loss": loss,
            }
        scores = confusion.compute()
        return {
            "metric": scores.miou,
            "per_class": scores.per_class,
            "pixel_accuracy": scores.pixel_accuracy,
            "loss": loss,
        }

    def predictions(
        self, model: nn.Module, split: str
    ) -> Iterator[tuple[Tensor, Tensor, list[np.ndarray]]]:
        """Yield (logits fp32 (B, C, H, W), masks (B, H, W), original masks) in sample order."""
        arrays = load_arrays(self.data, split, self.config.data.size)
        start = 0
        while start < len(arrays):
            stop = min(start + self.val_batch, len(arrays))
            images = torch.from_numpy(np.array(arrays.images[start:stop])).permute(0, 3, 1, 2)
            logits = self._fitting_logits(model, images)
            if logits is None:
                continue  # with a smaller batch
            masks = torch.from_numpy(np.array(arrays.masks[start:stop])).to(self.device).long()
            yield logits, masks, arrays.originals[start:stop]
            start = stop

    def dead_class_view(self, report: Mapping[str, Any]) -> list[float]:
        """Per-class IoU with NaN for classes that no IoU can be expected of: no train pixels."""
        pairs = zip(report["per_class"], self.data.counts, strict=True)
        return [iou if count else math.nan for iou, count in pairs]

    def _fitting_logits(self, model: nn.Module, images: Tensor) -> Tensor | None:
        """Logits in fp32; None where memory ran out, and then `val_batch` is halved."""
        try:
            batch = self._to_device(images)
            logits = self.run(model, batch).float()
            if self.config.decode.tta == "hflip":
                mirrored = self.run(model, batch.flip(3)).float().flip(3)
                logits = (logits + mirrored) / 2
            return logits
        except torch.OutOfMemoryError:
            if len(images) == 1:
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.val_batch = len(images) // 2
        return None

    def _to_device(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 on the host -> normalised float on the device."""
        return normalise(images, self.device, self.memory_format)

    def _thresholds(self) -> list[float]:
        sweep = self.free.get("decode.threshold")
        if sweep is None:
            return [self.config.decode.threshold]
        return sweep.values()


def class_map(logits: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W) index of the largest logit, the first one where several are.

    `max` and not `argmax`: the same answer, five times as fast on a CPU over this layout.
    """
    return logits.max(dim=1).indices


def at_original_size(
    logits: Tensor, originals: list[np.ndarray]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (logits resized bilinearly to the images' own size, masks (B, h, w)), same-size groups.

    Args:
        logits: (B, C, H, W) fp32 at network size.
        originals: B masks (h, w) uint8 on the host.
    """
    start = 0
    while start < len(originals):
        height, width = originals[start].shape
        most = max(1, SCORE_ELEMENTS // (logits.shape[1] * height * width))
        stop = start + 1
        while (
            stop < len(originals)
            and originals[stop].shape == (height, width)
            and stop - start < most
        ):
            stop += 1
        resized = F.interpolate(
            logits[start:stop], size=(height, width), mode="bilinear", align_corners=False
        )
        truth = torch.from_numpy(np.stack(originals[start:stop])).to(logits.device)
        yield resized, truth.long()
        start = stop


def check_segmentation_space(space: Space, data: SegmentationData) -> None:
    """Refuse batches, resolutions and models of the space that cannot be trained.

    Pretrained weights are fetched, so that no trial has to.
    """
    check_sizes(space)
    logits = 1 if data.spec.binary else data.classes
    for arch, encoder in space.model_pairs():
        for weights in space.values("model.encoder_weights"):
            # smp's own pairs are known to run; pretrained weights and timm models must be tried
            if weights is not None or encoder not in ENCODERS:
                model = ModelConfig(arch=arch, encoder=encoder, encoder_weights=weights)
                check_model(model, smallest_size(space), logits)


def check_sizes(space: Space) -> None:
    """Refuse batches and resolutions that an architecture of the space cannot train on."""
    for arch in {arch for arch, _ in space.model_pairs()}:
        batch = min(space.values("train.batch_size"))
        if batch < min_batch(arch):
            raise InputError(
                f"train.batch_size: {arch} needs at least {min_batch(arch)} images at once in "
                f"training (pooled batch norm), but the space has {batch}"
            )
        side = min(min(size) for size in sizes(space))
        if side < min_side(arch):
            raise InputError(
                f"data.resolution: {arch} needs sides of at least {min_side(arch)} pixels, but "
                f"the space has {side}"
            )


def smallest_size(space: Space) -> tuple[int, int]:
    """(height, width) of the resolution of the smallest area in the space."""
    return min(sizes(space), key=lambda size: size[0] * size[1])


def sizes(space: Space) -> list[tuple[int, int]]:
    """(height, width) of every resolution in the space."""
    return [DataConfig(resolution=value).size for value in space.values("data.resolution")]


class _Samples(Dataset[tuple[Tensor, Tensor]]):
    """Augmented train samples, addressed by (epoch, index)."""

    def __init__(self, arrays: Arrays, config: TrialConfig) -> None:
        self.arrays = arrays
        self.seed = config.train.seed
        self.transform = build_augment(config.data.augment, config.data.size)

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = key
        image = torch.from_numpy(np.array(self.arrays.images[index])).permute(2, 0, 1)
        mask = torch.from_numpy(np.array(self.arrays.masks[index]))
        return augment_sample(self.transform, image, mask, (self.seed, epoch, index))
