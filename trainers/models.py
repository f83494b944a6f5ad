"""Networks of segmentation_models_pytorch, built from their names."""

from __future__ import annotations

import logging
from collections.abc import Callable

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spaces.config import ModelConfig
from spaces.errors import InputError, did_you_mean
from spaces.initial_weights import INIT
from spaces.models import TIMM, weights_argument
from trainers import initial_weights

STRIDE = 32  # inputs are padded to a multiple of it


def build_model(
    config: ModelConfig,
    logits: int,
    say: Callable[[str], None] = lambda line: None,
    *,
    channels: int = 3,
) -> nn.Module:
    """Return an smp model with `logits` output channels and the weights that it begins with.

    Args:
        channels: of images. Pretrained weights of the first layer, which are of R, G and B, are
            added up for one channel; more than three have them in turn, made smaller by the ratio.
        say: told what of `model.init` was taken, a line at a time.

    Raises:
        InputError: the pair cannot be built, or the weights cannot be had.
    """

    def make(weights: str | None) -> nn.Module:
        try:
            return smp.create_model(
                config.arch,
                encoder_name=config.encoder,
                encoder_weights=weights_argument(config.encoder, weights),
                in_channels=channels,
                classes=logits,
            )
        except Exception as error:
            what = f"model.arch {config.arch} with model.encoder {config.encoder}"
            raise explain(what, config.encoder, weights, error, config.init) from error

    model = begun(config, make, say)
    # who loads what is saved needs no other weights, and may be offline
    model.config["encoder_weights"] = None  # type: ignore[operator,index,assignment]
    return model


def begun(
    config: initial_weights.AnyModelConfig,
    make: Callable[[str | None], nn.Module],
    say: Callable[[str], None],
) -> nn.Module:
    """Return the network that `make` builds, with its initial weights; tell of those."""
    model, match = initial_weights.begin(config, make)
    for line in () if match is None else match.lines():
        say(line)
    return model


def check_model(config: ModelConfig, size: tuple[int, int], logits: int, channels: int = 3) -> None:
    """Build a model and run it once at (height, width); raises InputError where it cannot.

    Pretrained weights are fetched, so that no trial has to.
    """
    logging.getLogger("timm").setLevel(logging.WARNING)
    model = build_model(config, logits, channels=channels).eval()
    try:
        with torch.no_grad():
            forward(model, torch.zeros(1, channels, *size))
    except Exception as error:
        raise InputError(
            f"model.arch {config.arch} with model.encoder {config.encoder} does not run at "
            f"{size[0]}x{size[1]}: {short_message(error)}"
        ) from error


def forward(model: nn.Module, images: Tensor) -> Tensor:
    """Run a model on any input size: pad to its stride, run, cut the padding off.

    Shape:
        (B, channels, H, W) -> (B, C, H, W)
    """
    height, width = images.shape[-2:]
    bottom, right = -height % STRIDE, -width % STRIDE
    if bottom or right:
        images = F.pad(images, (0, right, 0, bottom))
    logits: Tensor = model(images)
    return logits[..., :height, :width]


def explain(
    what: str, encoder: str, weights: str | None, error: Exception, init: str | None = None
) -> InputError:
    """Say why a network could not be built: the encoder, or its pretrained weights.

    Args:
        init: what `model.init` says; the name of the weights, where it is that.
    """
    if weights is None:
        return InputError(f"{what} cannot be built: {short_message(error)}")
    setting = INIT if init == weights else "model.encoder_weights"
    if isinstance(error, KeyError) and encoder in smp.encoders.encoders:
        known = smp.encoders.encoders[encoder]["pretrained_settings"]
        path = f"; a path has a slash, as in {weights}/" if setting == INIT else ""
        return InputError(
            f"{setting}: {encoder} has no {weights!r} weights"
            f"{did_you_mean(weights, known)}; known: {', '.join(known) or 'none'}, "
            f"and null to train from scratch{path}"
        )
    if isinstance(error, KeyError) and encoder.startswith(TIMM):
        return InputError(
            f"{setting}: {encoder} has no {weights!r} weights; known: imagenet, which are timm's "
            "own, and null to train from scratch; other weights of timm are part of the encoder's "
            f"name, as in {encoder}.TAG"
        )
    if isinstance(error, OSError | RuntimeError):
        return InputError(
            f"{setting}: the {weights!r} weights of {encoder} could not be loaded "
            f"({short_message(error)}); is this machine offline? Fetch them once on one that is "
            "not and copy its Hugging Face cache, or set model.encoder_weights: null to train from "
            "scratch"
        )
    return InputError(f"{what} cannot be built: {short_message(error)}")


def short_message(error: Exception) -> str:
    """An error's text on one line, 200 characters at most."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "..."
