"""DBNet text detection (Liao et al. 2020): its trial config, default search space and the starting
points of the field (docs/text-detection.md)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from spaces.config import MetricConfig, TrialConfig, Tta
from spaces.loss import Weighting
from spaces.settings import Section
from spaces.space import Choice, Float, Free, Int, Space
from spaces.starting import StartingPoint


class TextDataConfig(Section):
    """How document images reach the network."""

    resolution: int = Field(640, ge=64, le=8192)
    """Longer side of the network input in pixels; scores are always at original size."""
    augment: Literal["none", "light", "medium", "strong"] = "medium"
    """light: flip; medium: + rotation of up to 10 degrees, scale 0.75-1.5; strong: scale 0.5-3, of
    which a window of at most `resolution` pixels a side is cut out."""
    photometric: Literal["none", "light", "medium", "strong"] = "none"
    """Colours, blur, noise, JPEG."""
    quarter_turns: float = Field(0.0, ge=0, le=1)
    """Probability that a page is turned by 90, 180 or 270 degrees, each as likely."""


class TextModelConfig(Section):
    """Encoder of segmentation_models_pytorch, decoder and head of DBNet."""

    encoder: str = "resnet18"
    encoder_weights: str | None = "imagenet"
    init: str | None = Field(None, min_length=1)
    """What the network begins with: the path of weights (an export, a folder of `save_pretrained`,
    a file with a state dict), or a name in place of `encoder_weights`; null = `encoder_weights`."""
    decoder: Literal["fpn", "unet"] = "fpn"
    inner: int = Field(256, ge=8, le=1024)
    """Channels inside the decoder."""
    out: int = Field(64, ge=8, le=512)
    """Channels that the decoder hands to the head."""


class TextLossConfig(Section):
    """pixel_weight * pixel + scale * (threshold_weight * threshold map + dice_weight * Dice).

    The three weights are where learned ones begin; a term of weight 0 is left out."""

    pixel: Literal["bce", "focal"] = "bce"
    """bce: over text pixels and the hardest others; focal: Lin et al. 2017."""
    regression: Literal["l1", "huber", "log_cosh"] = "l1"
    """Of the threshold map."""
    pixel_weight: float = Field(5.0, ge=0, le=1000)
    threshold_weight: float = Field(10.0, ge=0, le=1000)
    dice_weight: float = Field(1.0, ge=0, le=1000)
    negative_ratio: float = Field(3.0, gt=0, le=100)
    """Hard negatives a text pixel."""
    focal_gamma: float = Field(2.0, ge=0, le=10)
    focal_alpha: float | None = Field(None, ge=0, le=1)
    """Weight of text pixels in `pixel: focal` (Lin et al. 2017); null = none."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Of the pixel term: text is trained towards 1 minus half of this, the rest towards half."""
    weighting: Weighting = "fixed"
    gradnorm_alpha: float = Field(1.5, ge=0, le=10)
    """gradnorm: how much more a term counts that is behind the others; 0 = no more."""
    warmup_epochs: int = Field(0, ge=0)
    """Epochs of the pixel term alone."""
    ramp_epochs: int = Field(0, ge=0)
    """Epochs in which the other two terms rise to their weights."""


class TextDecodeConfig(Section):
    """From probability map to boxes; searched without training where a space says `free`."""

    thresh: float = Field(0.3, ge=0, lt=1)
    """Binarisation threshold of the probability map."""
    box_thresh: float = Field(0.5, ge=0, lt=1)
    """Boxes of a lower mean probability are dropped."""
    unclip_ratio: float = Field(1.5, gt=0, le=10)
    max_candidates: int = Field(1000, ge=1, le=100_000)
    tta: Tta = "none"
    """Of the maps of both branches, before they are decoded."""
    output: Literal["quad", "polygon"] = "quad"
    """quad: rectangles; polygon: outlines of any form, for curved text."""


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


class TextMetric(MetricConfig):
    """What a detector is scored by."""

    name: Annotated[Literal["hmean", "cleval"], BeforeValidator(_lower)] = "hmean"
    """hmean: of the boxes that match at an IoU above 0.5 (ICDAR); cleval: of characters (Baek et
    al. 2020), which needs the extra of its name."""


class TextDetectionConfig(TrialConfig):
    """The whole of one text-detection run."""

    task: ClassVar[str] = "text_detection"
    free_names: ClassVar[tuple[str, ...]] = (
        "decode.box_thresh",
        "decode.unclip_ratio",
        "decode.thresh",
        "decode.max_candidates",
    )

    metric: TextMetric = TextMetric()
    data: TextDataConfig = TextDataConfig()
    model: TextModelConfig = TextModelConfig()
    loss: TextLossConfig = TextLossConfig()
    decode: TextDecodeConfig = TextDecodeConfig()

    @property
    def loss_warmup(self) -> tuple[int, int]:
        return self.loss.warmup_epochs, self.loss.ramp_epochs


def default_space(epochs: int) -> Space:
    """Return what is worth searching in a run of this many epochs."""
    dims: dict[str, Any] = {
        "model.encoder": Choice(("resnet18", "resnet50", "tu-hrnet_w44")),
        "model.decoder": Choice(("fpn", "unet")),
        "data.resolution": Choice((640, 1024, 1280)),
        "data.augment": Choice(("light", "medium", "strong")),
        "train.batch_size": Choice((4, 8, 16)),
        "loss.pixel": Choice(("bce", "focal")),
        "loss.regression": Choice(("l1", "huber", "log_cosh")),
        "loss.pixel_weight": Float(1.0, 10.0, log=True),
        "loss.threshold_weight": Float(1.0, 20.0, log=True),
        "loss.dice_weight": Float(0.3, 5.0, log=True),
        "loss.warmup_epochs": Int(0, max(1, epochs // 4)),
        "optim.lr": Float(1e-4, 3e-3, log=True),
        "optim.encoder_lr_ratio": Float(0.1, 1.0, log=True),
        "optim.schedule": Choice(("constant", "cosine", "poly")),
        "optim.weight_decay": Float(1e-6, 1e-1, log=True),
        "decode.box_thresh": Free(0.1, 0.9, 0.05),
        "decode.unclip_ratio": Free(1.0, 3.0, 0.25),
    }
    return Space(dims, {}, TextDetectionConfig().replace({"train.epochs": epochs}))


_PUBLISHED_LOSS = {
    "loss.pixel": "bce",
    "loss.regression": "l1",
    "loss.pixel_weight": 5.0,
    "loss.threshold_weight": 10.0,
    "loss.dice_weight": 1.0,
    "loss.warmup_epochs": 0,
}

STARTING_POINTS = (
    StartingPoint(
        "ResNet50 U-Net recipe",
        6,
        {
            "model.encoder": "resnet50",
            "model.decoder": "unet",
            "model.inner": 256,
            "model.out": 64,
            "data.resolution": 1024,
            "train.batch_size": 4,
            "optim.lr": 1e-3,
            "optim.encoder_lr_ratio": 1.0,
            **_PUBLISHED_LOSS,
            "decode.box_thresh": 0.4,
        },
        lr_factor=1.0,
    ),
    StartingPoint(
        "HRNet FPN recipe",
        18,
        {
            "model.encoder": "tu-hrnet_w44",
            "model.decoder": "fpn",
            "data.resolution": 1280,
            "train.batch_size": 8,
            "optim.lr": 5e-4,
            "optim.encoder_lr_ratio": 1.0,
            **_PUBLISHED_LOSS,
            "decode.box_thresh": 0.5,
        },
        lr_factor=0.5,
    ),
)
