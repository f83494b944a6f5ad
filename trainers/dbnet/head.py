"""The DBNet network (Liao et al. 2020): an smp encoder, FPN or U-Net features, and the DB head."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from spaces.models import weights_argument
from trainers.batches import statistics

STRIDE = 32  # inputs are padded to a multiple of it
PRIOR = 0.1  # share of kernel pixels that an untrained network expects
WEIGHTS, CONFIG = "model.safetensors", "config.json"


class DBNet(nn.Module):
    """Probability and threshold logits of text, at the size of the input.

    Args:
        encoder: any encoder of segmentation_models_pytorch that has features at 1/4 to 1/32.
        decoder: `fpn` (Liao et al. 2020, fig. 3: levels summed downwards, then concatenated) or
            `unet` (Ronneberger et al. 2015: levels concatenated on the way up to 1/4).
        inner: channels inside the decoder, >= 1.
        out: channels that it hands to the head (`fpn`: of each of its four levels), >= 1.
        in_channels: channels of the image.
        encoder_weights: name of pretrained weights, fetched once; None trains from scratch.

    Shape:
        images (B, C, H, W), normalised -> two logit maps (B, 1, H, W), any H and W: images are
        padded to multiples of STRIDE, black, below and to the right, and the maps are cut.

    Raises:
        ValueError: an unknown decoder or encoder, or one without features at 1/4 to 1/32.
    """

    def __init__(
        self,
        encoder: str = "resnet18",
        decoder: str = "fpn",
        *,
        inner: int = 256,
        out: int = 64,
        in_channels: int = 3,
        encoder_weights: str | None = None,
    ) -> None:
        super().__init__()
        if decoder not in DECODERS:
            raise ValueError(f"decoder must be one of {sorted(DECODERS)}, but got {decoder!r}")
        if min(inner, out) < 1:
            raise ValueError(f"inner and out must be at least 1, but got {inner} and {out}")
        self.config = {
            "encoder": encoder,
            "decoder": decoder,
            "inner": inner,
            "out": out,
            "in_channels": in_channels,
        }
        self.encoder, channels = _encoder(encoder, in_channels, encoder_weights)
        self.decoder = DECODERS[decoder](channels, inner, out)
        self.probability = _branch(self.decoder.channels, out)
        self.threshold = _branch(self.decoder.channels, out)
        for part in (self.decoder, self.probability, self.threshold):
            part.apply(_initialise)
        _set_prior(self.probability, PRIOR)
        _set_prior(self.threshold, 0.5)  # the middle of the threshold map's 0.3..0.7

    def forward(
        self, images: Tensor, *, with_threshold: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Return (probability logits, threshold logits); None for the latter where not wanted.

        Decoding needs the probability alone: `with_threshold=False` skips the other branch.
        """
        height, width = images.shape[-2:]
        bottom, right = -height % STRIDE, -width % STRIDE
        if bottom or right:
            images = _pad_black(images, bottom, right)
        features = self.decoder(self.encoder(images)[-4:])  # (B, C, H/4, W/4)
        if features.shape[-2] * 4 != images.shape[-2]:
            raise ValueError(
                f"encoder {self.config['encoder']!r} must have features at 1/4 to 1/32, but its "
                f"last four begin at 1/{images.shape[-2] // features.shape[-2]}"
            )
        probability = self.probability(features)[..., :height, :width]
        if not with_threshold:
            return probability, None
        return probability, self.threshold(features)[..., :height, :width]

    def save_pretrained(self, directory: Path | str) -> None:
        """Write config.json and model.safetensors into a folder, which is made if need be."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(json.dumps(self.config, indent=2) + "\n")
        # channels-last weights are not contiguous, which safetensors asks for
        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, folder / WEIGHTS)

    @classmethod
    def from_pretrained(cls, directory: Path | str) -> Self:
        """Return the network that `save_pretrained` wrote, on the CPU and in evaluation mode.

        Raises:
            ValueError: the folder does not hold both files, or they do not fit each other.
        """
        folder = Path(directory)
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise ValueError(f"{folder} must hold {CONFIG} and {WEIGHTS}, but has no {name}")
        try:
            config: dict[str, Any] = json.loads((folder / CONFIG).read_text())
            model = cls(**config)
            model.load_state_dict(load_file(folder / WEIGHTS))
        except (TypeError, RuntimeError, SafetensorError, json.JSONDecodeError) as error:
            first = " ".join(str(error).split("\n")[:2])  # torch lists every tensor
            raise ValueError(f"{folder} does not hold a DBNet: {first}") from error
        return model.eval()


class FPN(nn.Module):
    """Levels summed from coarse to fine, each convolved to `out`, enlarged to 1/4, concatenated."""

    def __init__(self, encoder_channels: list[int], inner: int, out: int) -> None:
        super().__init__()
        self.channels = 4 * out
        self.lateral = nn.ModuleList(nn.Conv2d(c, inner, 1, bias=False) for c in encoder_channels)
        self.smooth = nn.ModuleList(_conv_bn_relu(inner, out) for _ in encoder_channels)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Four maps at 1/4, 1/8, 1/16, 1/32 -> (B, 4 * out, H/4, W/4)."""
        merged = [layer(f) for layer, f in zip(self.lateral, features, strict=True)]
        for level in (2, 1, 0):
            merged[level] = merged[level] + _resize(merged[level + 1], merged[level])
        smooth = [layer(m) for layer, m in zip(self.smooth, merged, strict=True)]
        return torch.cat([_resize(s, smooth[0]) for s in smooth], dim=1)

    def last_weights(self) -> list[Tensor]:
        """Of the convolutions whose outputs the head takes."""
        return _convolutions(self.smooth)


class UNet(nn.Module):
    """The first three steps of a U-Net's way up, from 1/32 to 1/4, narrowing to `out`."""

    def __init__(self, encoder_channels: list[int], inner: int, out: int) -> None:
        super().__init__()
        self.channels = out
        widths = [inner, max(1, round(math.sqrt(inner * out))), out]  # 256, 128, 64
        below = encoder_channels[-1]
        self.steps = nn.ModuleList()
        for skip, width in zip(reversed(encoder_channels[:-1]), widths, strict=True):
            step = nn.Sequential(_conv_bn_relu(below + skip, width), _conv_bn_relu(width, width))
            self.steps.append(step)
            below = width

    def forward(self, features: list[Tensor]) -> Tensor:
        """Four maps at 1/4, 1/8, 1/16, 1/32 -> (B, out, H/4, W/4)."""
        *skips, x = features
        for step, skip in zip(self.steps, reversed(skips), strict=True):
            x = step(torch.cat([_resize(x, skip), skip], dim=1))
        return x

    def last_weights(self) -> list[Tensor]:
        """Of the convolution whose output the head takes."""
        return _convolutions(self.steps)[-1:]


DECODERS: dict[str, type[FPN] | type[UNet]] = {"fpn": FPN, "unet": UNet}


def _encoder(name: str, in_channels: int, weights: str | None) -> tuple[nn.Module, list[int]]:
    """The encoder and the channels of its features at 1/4, 1/8, 1/16 and 1/32."""
    try:
        own = weights_argument(name, weights)
        encoder = get_encoder(name, in_channels=in_channels, depth=5, weights=own)
    except KeyError as error:
        raise ValueError(f"encoder {name!r} with weights {weights!r}: {error.args[0]}") from error
    channels = list(encoder.out_channels)
    if len(channels) != 6 or min(channels[-4:]) < 1:
        raise ValueError(
            f"encoder {name!r} must have features at 1/4, 1/8, 1/16 and 1/32, but its stages have "
            f"{channels} channels"
        )
    return encoder, channels[-4:]


def _branch(channels: int, hidden: int) -> nn.Sequential:
    """Features at 1/4 -> one logit map at full size, by two transposed convolutions."""
    return nn.Sequential(
        _conv_bn_relu(channels, hidden),
        nn.ConvTranspose2d(hidden, hidden, 2, stride=2, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(hidden, 1, 2, stride=2),
    )


def _conv_bn_relu(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, padding=1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )


def _pad_black(images: Tensor, bottom: int, right: int) -> Tensor:
    """Add what the pages of a batch have below and to the right."""
    padded = F.pad(images, (0, right, 0, bottom))
    height, width = images.shape[-2:]
    pairs = zip(*statistics(images.shape[1]), strict=True)
    black = images.new_tensor([-mean / std for mean, std in pairs])
    padded[..., height:, :] = padded[..., width:] = black.view(-1, 1, 1)
    return padded


def _convolutions(part: nn.Module) -> list[Tensor]:
    return [layer.weight for layer in part.modules() if isinstance(layer, nn.Conv2d)]


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def _set_prior(branch: nn.Sequential, prior: float) -> None:
    """Let a branch start at sigmoid = prior everywhere (Lin et al. 2017, section 4.1)."""
    last = branch[-1]
    assert isinstance(last, nn.ConvTranspose2d) and last.bias is not None
    nn.init.normal_(last.weight, std=0.01)
    nn.init.constant_(last.bias, math.log(prior / (1 - prior)))
