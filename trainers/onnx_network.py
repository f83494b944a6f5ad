"""A network as ONNX: written by torch, held against it on val, and run by onnxruntime.

`model.onnx` lies beside the weights that it was made of. It takes any number of images at once, as
bytes (B, H, W, 3) in RGB (or of `data.channels`), and gives logits (B, C, H, W) in fp32.
Normalisation is inside, resizing and decoding are not. Of segmentation it takes one size, and
padding to the network's stride is inside; of text any size whose sides are multiples of the stride.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spaces.config import MAX_SIDE, SegmentationConfig, TrialConfig
from spaces.data import AnyDataSpec
from spaces.errors import InputError
from spaces.text_detection import TextDetectionConfig
from trainers.batches import statistics
from trainers.checkpoint import load_model
from trainers.models import STRIDE, forward
from trainers.tasks import Data, make_task
from trainers.text_detection import load_dbnet

FILE = "model.onnx"
INPUT, OUTPUT = "images", "logits"
FACTS = "segtune"  # key of the file's metadata: JSON of `onnx_facts`
OUT_OF_MEMORY = ("Failed to allocate memory", "bad allocation", "bad_alloc")
TOLERANCE = 1e-3  # of the score on val
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How a model.onnx and its torch network compare on val, both in fp32 on the CPU.

    Attributes:
        score, torch_score: the study's metric, without test-time augmentation.
        difference: the largest of probabilities of a pixel, at network size.
        images_per_s, torch_images_per_s: of the networks alone.
    """

    score: float
    torch_score: float
    difference: float
    images_per_s: float
    torch_images_per_s: float


def check_onnx_installed(*packages: str) -> None:
    """Raise InputError where a package of the extra `onnx` is missing."""
    missing = [name for name in packages or PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"{', '.join(missing)} must be installed for ONNX; install it with: "
            "pip install 'segtune[onnx]'"
        )


def input_size(config: TrialConfig) -> tuple[int, int] | None:
    """(height, width) of the images that a model.onnx takes; None: any multiples of STRIDE."""
    return config.data.size if isinstance(config, SegmentationConfig) else None


def write_onnx(model: Path, config: TrialConfig, data: AnyDataSpec, to: Path) -> None:
    """Write a saved model as one ONNX file, for any batch of images.

    Args:
        model: a folder with weights, as a trial has saved it.

    Raises:
        InputError: the weights are damaged, or a package is missing.
    """
    check_onnx_installed()
    text = isinstance(config, TextDetectionConfig)
    network = _WithInput(_load(model, config), text, data.channels).eval()
    size = input_size(config)
    dims: dict[int, Any] = {0: torch.export.Dim("batch")}
    if size is None:  # which a batch has in common
        for at, name in enumerate(("rows", "columns"), start=1):
            dims[at] = STRIDE * torch.export.Dim(name, min=1, max=MAX_SIDE // STRIDE)
    shape = (2, *(size or (2 * STRIDE, 3 * STRIDE)), data.channels)
    images = torch.zeros(shape, dtype=torch.uint8)
    program = torch.onnx.export(
        network,
        (images,),
        dynamo=True,
        dynamic_shapes={INPUT: dims},
        input_names=[INPUT],
        output_names=[OUTPUT],
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props[FACTS] = json.dumps(onnx_facts(config, data))
    program.save(str(to), external_data=False)


def onnx_facts(config: TrialConfig, data: AnyDataSpec) -> dict[str, Any]:
    """What surrounds the network, for who has the file alone."""
    facts: dict[str, Any] = {"task": config.task, "classes": data.class_names}
    facts["images"] = {"channels": data.channels, "range": data.range}
    return {**facts, **{section: config.model_dump()[section] for section in ("data", "decode")}}


class OnnxNetwork(nn.Module):
    """A model.onnx in the place of its network: normalised images in, logits out, on the CPU.

    Attributes:
        size: (height, width) that images must have; None: any multiples of STRIDE.

    Raises:
        InputError: there is no such file, it is none of ours, or onnxruntime is missing.
    """

    def __init__(self, model: Path) -> None:
        super().__init__()
        check_onnx_installed("onnxruntime")
        import onnxruntime

        self.path = model / FILE
        if not self.path.is_file():
            raise InputError(
                f"{model} has no {FILE}; export again with: segtune export STUDY --to DIR --onnx"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = (
            4  # errors are raised; on standard error they would stand twice
        )
        try:
            self._session = onnxruntime.InferenceSession(
                str(self.path), options, providers=["CPUExecutionProvider"]
            )
            facts = json.loads(self._session.get_modelmeta().custom_metadata_map[FACTS])
        except Exception as error:  # onnxruntime has a dozen kinds
            said = " ".join(str(error).split())[:200]
            raise InputError(f"{self.path} is damaged ({said}); export it again") from error
        self._text = facts["task"] == TextDetectionConfig.task
        _, height, width, _ = self._session.get_inputs()[0].shape
        self.size: tuple[int, int] | None = None if self._text else (height, width)

    def forward(self, images: Tensor) -> Any:
        """(B, channels, h, w), normalised and padded to the stride -> logits as of the network.

        Raises:
            InputError: images of another size than that of masks.
            ValueError: pages that are not padded.
            MemoryError: there is not enough of it.
        """
        height, width = images.shape[-2:]
        own = self.size or (height, width)
        if self.size is None and (height % STRIDE or width % STRIDE):
            raise ValueError(f"sides must be multiples of {STRIDE}, but are {height}x{width}")
        if (height, width) != tuple(side + -side % STRIDE for side in own):
            raise InputError(
                f"{self.path} takes images of {own[0]}x{own[1]} alone, but got "
                f"{height}x{width}; leave --runtime onnx out, or decode.tta with scales"
            )
        mean, std = (images.new_tensor(p).view(1, -1, 1, 1) for p in statistics(images.shape[1]))
        pixels = (images * std + mean).mul(255).round().to(torch.uint8)  # what they were made of
        pixels = pixels[..., : own[0], : own[1]]  # it pads by itself
        try:
            [logits] = self._session.run([OUTPUT], {INPUT: pixels.permute(0, 2, 3, 1).numpy()})
        except Exception as error:  # onnxruntime has a kind for `fail`, but none for memory
            if any(word in str(error) for word in OUT_OF_MEMORY):
                raise MemoryError(str(error)) from error
            raise
        found = torch.from_numpy(logits)[..., :height, :width]
        return (found, None) if self._text else found


def compare(model: Path, onnx: Path, config: TrialConfig, data: Data) -> Agreement:
    """Score a saved model and its model.onnx on val, as its training did.

    Args:
        onnx: the folder that has the model.onnx.
    """
    if "decode.tta" in config.flat():
        config = config.replace({"decode.tta": "none"})
    device = torch.device("cpu")
    task = make_task(config, data, device, "fp32", free={})
    task.loss.set_epoch(config.train.epochs)
    network = _load(model, config).to(memory_format=task.memory_format)
    both = _Both(OnnxNetwork(onnx), network)
    torch_score = task.validate(network).scores.metric
    score = task.validate(both).scores.metric
    speed, torch_speed = (both.images / max(spent, 1e-9) for spent in both.seconds)
    return Agreement(
        score=score,
        torch_score=torch_score,
        difference=both.difference,
        images_per_s=speed,
        torch_images_per_s=torch_speed,
    )


def check_agreement(found: Agreement, metric: str) -> None:
    """Raise InputError where a model.onnx does not score as its network does."""
    if not abs(found.score - found.torch_score) <= TOLERANCE:  # NaN is no agreement
        raise InputError(
            f"{FILE} has {metric} {found.score:.4f} on val, but torch {found.torch_score:.4f}; "
            f"they must be within {TOLERANCE} (largest difference of a probability: "
            f"{found.difference:.4f}). Nothing was written; leave --onnx out"
        )


class _WithInput(nn.Module):
    """A network, its normalisation and padding: bytes (B, H, W, channels) -> (B, C, H, W)."""

    def __init__(self, network: nn.Module, text: bool, channels: int) -> None:
        super().__init__()
        self.network, self.text = network, text
        mean, std = (torch.tensor(part).view(1, -1, 1, 1) for part in statistics(channels))
        self.mean, self.std = nn.Buffer(mean), nn.Buffer(std)

    def forward(self, images: Tensor) -> Tensor:
        values = images.float()  # first of all: TensorRT knows no other use of bytes
        pixels = (values.permute(0, 3, 1, 2) / 255 - self.mean) / self.std
        if self.text:
            probability: Tensor = self.network(pixels, with_threshold=False)[0]
            return probability
        return forward(self.network, pixels)


class _Both(nn.Module):
    """Runs a model.onnx and its network on the same images; gives the former's logits."""

    def __init__(self, onnx: OnnxNetwork, network: nn.Module) -> None:
        super().__init__()
        self.onnx, self.network = onnx, network
        self.images, self.seconds, self.difference = 0, [0.0, 0.0], 0.0

    def forward(self, images: Tensor) -> Any:
        outputs = []
        for index, model in enumerate((self.onnx, self.network)):
            began = time.perf_counter()
            outputs.append(model(images))
            self.seconds[index] += time.perf_counter() - began
        self.images += len(images)
        one, other = (found[0] if isinstance(found, tuple) else found for found in outputs)
        height, width = one.shape[-2:]  # without padding, which a model.onnx has inside
        apart = _probability(one) - _probability(other[..., :height, :width])
        self.difference = max(self.difference, float(apart.abs().max()))
        return (one, outputs[1][1]) if isinstance(outputs[1], tuple) else one


def _probability(logits: Tensor) -> Tensor:
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)


def _load(model: Path, config: TrialConfig) -> nn.Module:
    network = load_dbnet(model) if isinstance(config, TextDetectionConfig) else load_model(model)
    return network.eval()


def onnx_networks(folders: Sequence[Path], config: TrialConfig) -> list[nn.Module]:
    """The model.onnx of each folder, to predict with; raises InputError where one does not fit."""
    found = [OnnxNetwork(folder) for folder in folders]
    for one in found:
        if one.size is not None and one.size != input_size(config):
            raise InputError(
                f"{one.path} takes images of {one.size[0]}x{one.size[1]}, but data.resolution is "
                f"{config.flat()['data.resolution']}; put it back, or export again"
            )
    return [*found]
