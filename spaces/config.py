"""The config of a trial: every setting of one training run, typed, bounded, frozen.

Its dotted paths (`loss.region_share`, `optim.lr`) are the vocabulary of the whole project: study
files, the dashboard, exports and errors all use these names. Ranges here are hard limits of what
makes sense at all; what is worth searching stands in the default spaces.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, field_validator

from spaces.loss import LossConfig
from spaces.settings import Section

MAX_SIDE = 8192  # pixels


def parse_resolution(value: Any) -> str:
    """Return the canonical `HxW` text of a network input size.

    Args:
        value: `"96x128"` (height x width), `[96, 128]`, or `512` for a square; pixels,
            16..8192 each. Any size is allowed: inputs are padded to the model's stride.
    """
    if isinstance(value, bool):
        raise ValueError("must be HxW, [height, width] or one number, in pixels")
    if isinstance(value, int):
        sides = [value, value]
    elif isinstance(value, str) and (
        match := re.fullmatch(r"\s*([0-9]{1,9})\s*[xX]\s*([0-9]{1,9})\s*", value)
    ):
        sides = [int(match[1]), int(match[2])]
    elif isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value.strip()):
        sides = [int(value), int(value)]
    elif (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(side, int) and not isinstance(side, bool) for side in value)
    ):
        sides = list(value)
    else:
        raise ValueError("must be HxW, [height, width] or one number, in pixels")
    if not all(16 <= side <= MAX_SIDE for side in sides):
        raise ValueError(f"both sides must be in 16..{MAX_SIDE} pixels")
    return f"{sides[0]}x{sides[1]}"


Resolution = Annotated[str, BeforeValidator(parse_resolution)]


class DataConfig(Section):
    """How images reach the network."""

    resolution: Resolution = "512x512"
    """Network input size, height x width in pixels; scores are always at original size."""
    mode: Literal["resize", "crop"] = "resize"
    """resize: the whole image, stretched to `resolution`; crop: windows of `resolution` of the
    image at `scale`, in training one a step and image, else side by side over all of it."""
    scale: float = Field(1.0, ge=0.01, le=8)
    """Of `mode: crop`: pixels of the network's input for a pixel of the image, along each side."""
    crops: Literal["random", "balanced"] = "random"
    """Where `mode: crop` trains: anywhere, or at a pixel of a class that is drawn first, each class
    of the image as often as any other."""
    augment: Literal["none", "light", "medium", "strong"] = "medium"
    photometric: Literal["none", "light", "medium", "strong"] | None = None
    """Colours, blur, noise, JPEG; null = the colours that `augment` has always changed."""

    @property
    def sized(self) -> tuple[int, int] | float:
        """(height, width) that images are resized to, or the scale by which they are."""
        return self.size if self.mode == "resize" else self.scale

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        height, width = self.resolution.split("x")
        return int(height), int(width)


class ModelConfig(Section):
    """Which network: architecture and encoder names as segmentation_models_pytorch has them."""

    arch: str = "Unet"
    encoder: str = "resnet34"
    encoder_weights: str | None = "imagenet"
    init: str | None = Field(None, min_length=1)
    """What the network begins with: the path of weights (an export, a folder of `save_pretrained`,
    a file with a state dict), or a name in place of `encoder_weights`; null = `encoder_weights`."""


class OptimConfig(Section):
    """Optimiser and learning-rate schedule, stepped once a batch."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(1e-3, gt=0, le=10)
    """Peak learning rate of decoder and head."""
    encoder_lr_ratio: float = Field(0.1, ge=0, le=10)
    """The encoder's learning rate is `lr` times this; 0 freezes the encoder's weights."""
    weight_decay: float = Field(1e-2, ge=0, le=1)
    """Not applied to biases and normalisation layers."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """SGD only."""
    nesterov: bool = False
    schedule: Literal["constant", "cosine", "poly", "step"] = "cosine"
    warmup_epochs: int = Field(1, ge=0)
    """Epochs in which the learning rate rises linearly from near 0."""
    poly_power: float = Field(0.9, gt=0, le=10)
    step_epochs: int | None = Field(None, ge=1)
    """Epochs between two steps of `schedule: step`; null = 40 % of `train.epochs`."""
    step_gamma: float = Field(0.1, gt=0, le=1)
    clip_norm: float = Field(1.0, ge=0, le=1e6)
    """Gradients are clipped to this total norm; 0 = no clipping."""


class TrainConfig(Section):
    """Length, batch and precision of the run."""

    epochs: int = Field(50, ge=1, le=100_000)
    batch_size: int = Field(8, ge=1, le=65_536)
    """Effective batch: what one optimiser step sees, whatever fits into memory at once."""
    micro_batch: int | None = Field(None, ge=1)
    """Images in memory at once; null = found, halved when memory runs out, and remembered."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    patience: int | None = Field(None, ge=0)
    """Epochs without a new best, after warm-up and ramp, before the run ends; 0 = never; null = a
    fifth of `epochs`, at least 3, and never in the last fifth of a cosine or poly schedule."""
    ema: float | None = Field(None, gt=0, le=0.5)
    """Validate and keep a running average of the weights: their mean age as a share of the steps so
    far; null = the last weights."""
    seed: int = Field(0, ge=0, lt=2**32)
    channels_last: bool = True
    """Memory layout of images and weights."""
    compile: bool = False
    """Run the network through torch.compile: faster steps after minutes of compiling, which later
    trials of the same network and batch are spared."""
    workers: int | None = Field(None, ge=0, le=64)
    """Loader processes, for a split that is not in memory; null = 0 on the CPU and up to 4 on a
    GPU."""


class HealthConfig(Section):
    """When a sick run is stopped; every limit can be moved, and 0 switches its alarm off."""

    grad_norm: float = Field(1000.0, ge=0)
    """exploding: an epoch's mean gradient norm, before clipping, above this."""
    diverging: float = Field(3.0, ge=0)
    """diverging: the pixel loss of the train split at this many times its lowest epoch, for two
    epochs in a row."""
    falling_epochs: int = Field(5, ge=0)
    """falling: the metric fell in this many epochs in a row."""
    dead_class_epochs: int = Field(30, ge=0)
    """dead_class: an IoU that has been 0 in every one of this many epochs, counted after warm-up
    and ramp, for a class that the validation split has."""
    trivial: float = Field(1e-3, ge=0, lt=1)
    """trivial: a run that has come to its end, and whose best epoch is no more than this share of
    the way from the best constant answer's score (all foreground, nothing found) to 1."""


Tta = Literal["none", "hflip", "flips", "scales", "hflip+scales"]
"""Test-time augmentation: the mean of the logits of several views of an image. hflip: as it is and
mirrored; flips: these, and both upside down; scales: at 1, 0.75 and 1.25 of the input's size;
hflip+scales: each of these, and mirrored."""

Pixels = Annotated[int, Field(ge=0, le=10**9, strict=True)]


class DecodeConfig(Section):
    """From network output to a prediction; searched without training where a space says `free`."""

    threshold: float = Field(0.5, gt=0, lt=1)
    """Binary tasks: foreground from this probability on."""
    tta: Tta = "none"
    overlap: float = Field(0.25, ge=0, le=0.9)
    """Of `data.mode: crop`: least share of a window's height and width that its neighbours have
    too."""
    smallest_area: dict[str, Pixels] = Field(default_factory=dict)
    """{class: pixels of the image}: a smaller area of the class goes to the class around it."""
    fill_holes: dict[str, Pixels] = Field(default_factory=dict)
    """{class: pixels of the image}: a smaller hole that the class encloses is filled."""


class MetricConfig(Section):
    """What a trial is scored by; the study chooses it, so that it is the same in all trials."""

    name: str = ""


METRICS = {"miou": "iou", "mdice": "dice", "f1": "dice"}
"""Names that people write, and the metric that they mean."""


def _metric_name(value: Any) -> Any:
    """`mIoU`, `F1`, `boundary IoU` -> the name that the metric has here."""
    if not isinstance(value, str):
        return value
    plain = re.sub(r"[ -]", "_", value.strip().lower())
    return METRICS.get(plain, plain)


class SegmentationMetric(MetricConfig):
    """A score of each class, and their weighted mean; absent classes do not count."""

    name: Annotated[
        Literal["iou", "dice", "boundary_iou"],
        BeforeValidator(_metric_name),
        Field(json_schema_extra={"enum": ["iou", "dice", "boundary_iou", *METRICS]}),
    ] = "iou"
    """iou: TP / (TP + FP + FN); dice (F1): 2 TP / (2 TP + FP + FN); boundary_iou: the IoU of the
    pixels near outlines (Cheng et al. 2021)."""
    classes: list[str] | None = Field(None, min_length=1)
    """The classes that count; null = all, and of a binary task the foreground."""
    weights: dict[str, Annotated[float, Field(ge=0, le=1e6)]] = Field(default_factory=dict)
    """How much a class counts in the mean; one that is not named counts 1."""

    @field_validator("weights", mode="before")
    @classmethod
    def _no_bool_as_weight(cls, weights: Any) -> Any:
        for name, weight in weights.items() if isinstance(weights, dict) else ():
            if isinstance(weight, bool):
                raise ValueError(f"{name}: must be a number")
        return weights


class TrialConfig(Section):
    """What the configs of all tasks share, and how their dotted names are read and changed."""

    task: ClassVar[str]
    free_names: ClassVar[tuple[str, ...]]
    """Settings that act after the network has run, so that one forward pass serves all values."""

    metric: MetricConfig = MetricConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    health: HealthConfig = HealthConfig()

    @property
    def settled_epoch(self) -> int:
        """Epochs until learning rate and loss mix have reached their final form."""
        return max(self.optim.warmup_epochs, sum(self.loss_warmup))

    @property
    def loss_warmup(self) -> tuple[int, int]:
        """Epochs of the loss's warm-up, and of the ramp after it."""
        raise NotImplementedError

    def flat(self) -> dict[str, Any]:
        """Return {dotted name: value} of every setting."""
        return _flat(self, "")

    def replace(self, changes: dict[str, Any]) -> Self:
        """Return a validated copy with {dotted name: value} changes applied.

        Raises:
            pydantic.ValidationError: a name is unknown or a value is out of range.
        """
        return type(self).model_validate(unflatten({**self.flat(), **changes}))


class SegmentationConfig(TrialConfig):
    """The whole of one segmentation run. docs/decisions/0003 names the source of its recipes."""

    task: ClassVar[str] = "segmentation"
    free_names: ClassVar[tuple[str, ...]] = ("decode.threshold",)

    metric: SegmentationMetric = SegmentationMetric()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    decode: DecodeConfig = DecodeConfig()

    @property
    def loss_warmup(self) -> tuple[int, int]:
        return self.loss.warmup_epochs, self.loss.ramp_epochs


def _flat(section: BaseModel, prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    """{'optim.lr': 1} -> {'optim': {'lr': 1}}."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def parameter_types(config: type[TrialConfig] = SegmentationConfig) -> dict[str, Any]:
    """Return {dotted name: type annotation} of every setting that a trial may have of its own.

    The metric is not among them: trials are compared by it.
    """
    types = _types(config, "")
    return {name: kind for name, kind in types.items() if not name.startswith("metric.")}


def _types(section: type[BaseModel], prefix: str) -> dict[str, Any]:
    types: dict[str, Any] = {}
    for name, info in section.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            types.update(_types(info.annotation, f"{prefix}{name}."))
        else:
            types[prefix + name] = info.annotation
    return types
