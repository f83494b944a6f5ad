"""What a plain training script is made of: files, loaders, loss, learning rates, and the metric.

In the style of the references of torchvision and segmentation_models_pytorch, without anything of
trainers/ but the constants; tests hold each part to its counterpart there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from spaces.config import DataConfig
from trainers.batches import MEAN, STD
from trainers.data import Sample, SegmentationData
from trainers.losses import IGNORE

BATCH = 8
LR, WEIGHT_DECAY, WARMUP_EPOCHS, CLIP_NORM = 2e-3, 1e-2, 1, 1.0
DICE_SHARE, SMOOTH = 0.4, 1.0

Batches = Iterable[tuple[Tensor, Any]]


@dataclass(frozen=True)
class Setup:
    """What one run of a loop is given."""

    data: SegmentationData
    resolution: str
    epochs: int
    seed: int
    workers: int
    """Loader processes of the loops that decode."""
    threads: int
    """Of torch, in each process that trains."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the network's input."""
        return DataConfig(resolution=self.resolution).size

    @property
    def ignore(self) -> int:
        """The value of void pixels in the mask files."""
        given = self.data.spec.ignore_index
        return IGNORE if given is None else given


def build(classes: int) -> nn.Module:
    """The network, from scratch."""
    return smp.Unet("resnet18", encoder_weights=None, classes=classes)


def optimizer_of(
    model: nn.Module, setup: Setup, fused: bool | None = None
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW and its schedule, which moves with every step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, fused=fused)
    steps = -(-len(setup.data.split("train")) // BATCH)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_factor(step, steps, setup.epochs)
    )
    return optimizer, scheduler


def lr_factor(step: int, steps_per_epoch: int, epochs: int) -> float:
    """Return the factor on LR at a step (from 0): a linear warm-up, then half a cosine."""
    warm = WARMUP_EPOCHS * steps_per_epoch
    if step < warm:
        return (step + 1) / (warm + 1)
    progress = (step - warm) / max(1, epochs * steps_per_epoch - warm)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class PlainLoss:
    """Cross-entropy and smp's Dice: logits (B, C, H, W) fp32 and masks (B, H, W) -> a scalar."""

    def __init__(self, ignore: int) -> None:
        self.ignore = ignore
        # smp adds it to I and (P + T) / 2, others to 2 I and P + T
        self.dice = smp.losses.DiceLoss("multiclass", ignore_index=ignore, smooth=SMOOTH / 2)

    def __call__(self, logits: Tensor, masks: Tensor) -> Tensor:
        pixel = F.cross_entropy(logits, masks, ignore_index=self.ignore)
        return (1 - DICE_SHARE) * pixel + DICE_SHARE * self.dice(logits, masks)


class Confusion:
    """mIoU over a split at original image size, kept on the device."""

    def __init__(self, classes: int, ignore: int, device: torch.device) -> None:
        self.classes, self.ignore = classes, ignore
        self.counts = torch.zeros(classes**2 + 1, dtype=torch.int64, device=device)

    def update(self, logits: Tensor, masks: list[Tensor]) -> None:
        """Add a batch: logits (B, C, H, W) at network size, B masks (h, w) at their own sizes."""
        together = len(masks) if len({mask.shape for mask in masks}) == 1 else 1
        for start in range(0, len(masks), together):
            part, truths = logits[start : start + together], masks[start : start + together]
            target = torch.stack(truths).to(part.device).long()
            size = (target.shape[1], target.shape[2])
            resized = F.interpolate(part, size=size, mode="bilinear", align_corners=False)
            predicted = resized.max(dim=1).indices
            pairs = torch.where(
                target == self.ignore, self.classes**2, target * self.classes + predicted
            )
            self.counts += torch.bincount(pairs.flatten(), minlength=self.classes**2 + 1)

    def miou(self) -> float:
        """Mean over the classes that truth or prediction have."""
        matrix = self.counts[:-1].view(self.classes, self.classes).double()
        hits = matrix.diagonal()
        union = matrix.sum(0) + matrix.sum(1) - hits
        return float((hits / union)[union > 0].mean())


class Files(Dataset[tuple[Tensor, Tensor]]):
    """A split's files, opened, decoded and resized whenever they are asked for.

    Train masks have the network's size, val masks their own.
    """

    def __init__(self, setup: Setup, split: str, *, augment: bool) -> None:
        self.samples: list[Sample] = setup.data.split(split)
        self.height, self.width = setup.size
        self.resize_mask = split == "train"
        light = [v2.RandomHorizontalFlip(), v2.ColorJitter(brightness=0.2, contrast=0.2)]
        to_float = v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True)
        self.transform = v2.Compose(
            [*(light if augment else []), to_float, v2.Normalize(MEAN, STD)]
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample, size = self.samples[index], (self.width, self.height)
        with Image.open(sample.image) as file:
            image = file.convert("RGB").resize(size, Image.Resampling.BILINEAR)
        with Image.open(sample.mask) as file:
            mask = file.resize(size, Image.Resampling.NEAREST) if self.resize_mask else file.copy()
        pair = self.transform(
            tv_tensors.Image(v2.functional.pil_to_tensor(image)),
            tv_tensors.Mask(torch.from_numpy(np.array(mask))),
        )
        return pair[0].as_subclass(Tensor), pair[1].as_subclass(Tensor)


def _train_batch(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images, masks = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(masks).long()


def _val_batch(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[Tensor]]:
    images, masks = zip(*samples, strict=True)
    return torch.stack(images), list(masks)


def loaders(setup: Setup, *, pinned: bool) -> tuple[Callable[[], Batches], Callable[[], Batches]]:
    """The loaders of train and val, as functions that a loop calls once an epoch."""
    common: dict[str, Any] = {
        "batch_size": BATCH,
        "num_workers": setup.workers,
        "persistent_workers": setup.workers > 0,
        "multiprocessing_context": "fork" if setup.workers else None,  # Linux's default
        "pin_memory": pinned,
    }
    train = DataLoader(
        Files(setup, "train", augment=True), shuffle=True, collate_fn=_train_batch, **common
    )
    val = DataLoader(Files(setup, "val", augment=False), collate_fn=_val_batch, **common)
    return lambda: train, lambda: val


def all_of(files: Files, device: torch.device) -> tuple[Tensor, list[Tensor]]:
    """Every image (N, H, W, 3) fp32 and every mask uint8, on the device."""
    samples = [files[index] for index in range(len(files))]
    images = torch.stack([image for image, _ in samples]).permute(0, 2, 3, 1).contiguous()
    return images.to(device), [mask.to(device) for _, mask in samples]
