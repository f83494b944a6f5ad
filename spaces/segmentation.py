"""The default search space of semantic segmentation, and the starting points that practitioners
recommend (docs/decisions/0003-starting-points.md)."""

from __future__ import annotations

from typing import Any

from spaces.config import SegmentationConfig
from spaces.space import Choice, Float, Free, Int, Space
from spaces.starting import StartingPoint

BINARY_ONLY = ("decode.threshold", "loss.focal_alpha")
CROP_ONLY = ("data.scale", "data.crops", "decode.overlap")


def default_space(epochs: int, *, binary: bool) -> Space:
    """Return what is worth searching in a run of this many epochs.

    Warm-ups and ramps reach up to a third of the run. `binary` adds the free decode threshold.
    """
    third = max(1, epochs // 3)
    dims: dict[str, Any] = {
        "model.arch": Choice(("Unet", "FPN", "DeepLabV3Plus")),
        "model.encoder": Choice(("resnet18", "resnet34", "resnet50", "efficientnet-b0")),
        "data.resolution": Choice(("256x256", "384x384", "512x512")),
        "train.batch_size": Choice((4, 8, 16)),
        "loss.pixel": Choice(("bce", "focal") if binary else ("ce", "focal")),
        "loss.region": Choice(("dice", "tversky", "jaccard", "lovasz")),
        "loss.region_share": Float(0.0, 0.9),
        "loss.warmup_epochs": Int(0, third),
        "loss.ramp_epochs": Int(0, third),
        "loss.tversky_alpha": Float(0.1, 0.7),
        "loss.focal_gamma": Float(0.5, 4.0),
        "loss.class_weights.method": Choice(
            ("none", "inverse_freq", "sqrt_inv_freq", "effective_number")
        ),
        "loss.class_weights.max_ratio": Float(1.5, 50.0, log=True),
        "optim.lr": Float(1e-4, 1e-2, log=True),
        "optim.encoder_lr_ratio": Float(0.05, 1.0, log=True),
        "optim.schedule": Choice(("constant", "cosine", "poly", "step")),
        "optim.warmup_epochs": Int(0, third),
        "optim.clip_norm": Float(0.5, 12.0, log=True),
        "optim.weight_decay": Float(1e-6, 1e-1, log=True),
    }
    when: dict[str, dict[str, tuple[Any, ...]]] = {
        "loss.tversky_alpha": {"loss.region": ("tversky",)},
        "loss.focal_gamma": {"loss.pixel": ("focal",)},
        "loss.class_weights.max_ratio": {
            "loss.class_weights.method": ("inverse_freq", "sqrt_inv_freq", "effective_number")
        },
        **{name: {"data.mode": ("crop",)} for name in CROP_ONLY},
    }
    changes: dict[str, Any] = {"train.epochs": epochs}
    if binary:
        dims["decode.threshold"] = Free(0.01, 0.99, 0.01)
        changes["loss.pixel"] = "bce"
    return Space(dims, when, SegmentationConfig().replace(changes))


STARTING_POINTS = (
    StartingPoint(
        "safe preset",
        50,
        {
            "loss.pixel": "ce",
            "loss.region": "dice",
            "loss.region_share": 0.3,
            "loss.warmup_epochs": 5,
            "loss.ramp_epochs": 10,
            "loss.smooth": 5.0,
            "loss.squared": True,
            "loss.class_weights.method": "sqrt_inv_freq",
            "loss.class_weights.max_ratio": 10.0,
            "optim.name": "sgd",
            "optim.lr": 3e-6,
            "optim.warmup_epochs": 5,
            "optim.clip_norm": 1.0,
        },
        lr_factor=0.4,
    ),
    StartingPoint(
        "optimised recipe",
        100,
        {
            "model.arch": "DeepLabV3Plus",
            "model.encoder": "resnet101",
            "data.resolution": "384x384",
            "train.batch_size": 12,
            "optim.lr": 1e-4,
            "optim.encoder_lr_ratio": 0.1,
        },
        lr_factor=1.0,
    ),
)
