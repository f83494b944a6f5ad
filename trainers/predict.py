"""An exported model at work on images that nobody has labelled: masks, or boxes of text.

An image is read, resized and decoded as validation does it, so that scores made of predictions are
those of `evaluate`. Where an export has the models of folds, or the members of an ensemble, the
mean of their probabilities counts (Lakshminarayanan et al. 2017, section 2.4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from spaces.config import SegmentationConfig, TrialConfig
from spaces.data import SegmentationDataSpec
from spaces.errors import InputError
from spaces.paths import MODEL, MODELS
from spaces.run_config import load_run_config
from spaces.text_detection import TextDetectionConfig
from trainers.batches import layout
from trainers.cache import resize_image
from trainers.checkpoint import fold_models
from trainers.dbnet.decode import Detections, decode
from trainers.ensemble import mean_map, mean_maps, mean_probabilities
from trainers.images import as_bytes, decode_image
from trainers.members import MEMBERS, is_ensemble, read_members, shares
from trainers.memory import free_memory, is_out_of_memory
from trainers.onnx_network import onnx_networks
from trainers.postprocess import check_postprocessing, postprocess
from trainers.precision import device_to_score_on, resolve_precision
from trainers.segmentation import (
    SCORE_ELEMENTS,
    VAL_BATCH,
    class_map,
    network_logits,
    resize,
    windows_logits,
)
from trainers.tasks import load_network
from trainers.text_augment import resize_page
from trainers.text_detection import page_logits

RUNTIMES = ("torch", "onnx")
Picture = str | Path | Image.Image | NDArray[np.uint8]
Mask = NDArray[np.uint8]
Prediction = Mask | Detections


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image as the network takes it."""

    pixels: NDArray[np.uint8]
    """(h, w, C) of data.channels: of segmentation at network size, with data.mode crop at
    data.scale; of text no side above data.resolution."""
    size: tuple[int, int]
    """(H, W) of the image itself."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Image pixels a pixel, (x, y)."""
    members: tuple[Prepared, ...] = ()
    """Of an ensemble: the image as each member takes it."""


@dataclass(frozen=True, eq=False)
class Found:
    """What a model says of an image.

    Attributes:
        prediction: a mask (H, W) uint8 of class indices in the order of `data.classes` (0 and 1 of
            a binary task), or the boxes of text.
        probabilities: float16, where they were asked for: of segmentation (K, H, W) for K classes,
            (H, W) of a binary task; of text (h, w) at network size (the largest of the members').
    """

    prediction: Prediction
    probabilities: NDArray[np.float16] | None = None


class Predictor:
    """The model of an exported folder, on the GPU where there is one.

    Attributes:
        config: the trial's effective config, with its decode settings.
        data: the description of the data set that it was trained on.
        weights: the folder of the model, or of those of the folds, or of the members.
        members: of an ensemble: each as a model of its own, and what it counts in the mean.
        runtime: torch or onnx.

    Raises:
        InputError: the folder is no whole export, or the config cannot run on this machine.
    """

    def __init__(
        self,
        folder: str | Path,
        config: TrialConfig | None = None,
        runtime: str = "torch",
    ) -> None:
        """Load it.

        Args:
            folder: what `segtune export` or `segtune train` has written.
            config: in place of the exported one, such as with other decode settings.
            runtime: torch; or onnx, which runs what `export --onnx` has written, on the CPU.
        """
        folder = Path(folder)
        self.data, exported = load_run_config(folder / "config.yaml", splits=False)
        self.config = config or exported
        if isinstance(self.config, SegmentationConfig):
            assert isinstance(self.data, SegmentationDataSpec)
            check_postprocessing(self.config, self.data, free={})
        if runtime not in RUNTIMES:
            raise InputError(f"runtime {runtime}: must be {' or '.join(RUNTIMES)}")
        self.runtime = runtime
        if runtime == "onnx":
            self.device, self.precision = torch.device("cpu"), "fp32"
        else:
            self.device, self.precision = device_to_score_on(self.config.train.precision)
        text = isinstance(self.config, TextDetectionConfig)
        self.batch = 1 if text else VAL_BATCH
        self._elements = SCORE_ELEMENTS
        self.members: list[tuple[Predictor, float]] = []
        self.models: list[nn.Module] = []
        if is_ensemble(folder):
            self.weights = folder / MEMBERS
            found = read_members(folder, self.config)
            parts = [Predictor(member.folder, member.config, runtime) for member in found]
            self.members = list(zip(parts, shares(found), strict=True))
        else:
            self.weights = folder / (MODELS if (folder / MODELS).is_dir() else MODEL)
            folders = fold_models(self.weights)
            for model in folders:
                if not model.is_dir():  # a name would be looked up on a hub
                    raise InputError(
                        f"{folder} has no {model.name}/; give a folder that export wrote"
                    )
            if runtime == "onnx":
                self.models = onnx_networks(folders, self.config)
            else:
                self.models = [load_network(model, self.config).eval() for model in folders]
        self._to_device()
        self.binary = isinstance(self.data, SegmentationDataSpec) and self.data.binary

    @property
    def pixels_kept(self) -> float:
        """What a prepared image takes of memory, in its own pixels; 0 where it becomes one size."""
        if self.members:
            return sum(member.pixels_kept for member, _ in self.members)
        data = self.config.flat()
        return max(1.0, data["data.scale"] ** 2) if data.get("data.mode") == "crop" else 0.0

    def predict(self, images: Sequence[Picture]) -> list[Prediction]:
        """Return a mask (H, W), or the boxes of text, of each image at its own size.

        Args:
            images: paths, PIL images, or arrays (H, W, C) uint8 of `data.channels` (3 are RGB),
                with black at 0 and white at 255.

        Raises:
            InputError: a file cannot be read.
            ValueError: an array has another shape or type.
        """
        prepared = (self.prepare(image) for image in images)
        return [found.prediction for found in self.run(list(prepared))]

    def prepare(self, image: Picture) -> Prepared:
        """Read and resize an image; threads may do so side by side."""
        if isinstance(image, Image.Image):
            pixels = as_bytes(image, self.data)
        elif isinstance(image, np.ndarray):
            channels, three = self.data.channels, image.ndim == 3 and image.size > 0
            if not three or image.shape[2] != channels or image.dtype != np.uint8:
                raise ValueError(
                    f"an image must be (H, W, {channels}) uint8{' in RGB' * (channels == 3)}, but "
                    f"this array is {image.shape} {image.dtype}"
                )
            pixels = image
        else:
            pixels = decode_image(str(image), self.data)
        size = (pixels.shape[0], pixels.shape[1])
        if self.members:
            members = tuple(member.prepare(pixels) for member, _ in self.members)
            return Prepared(members[0].pixels, size, members=members)
        if isinstance(self.config, SegmentationConfig):
            return Prepared(resize_image(pixels, self.config.data.sized), size)
        assert isinstance(self.config, TextDetectionConfig)
        if max(size) <= self.config.data.resolution:
            return Prepared(pixels, size)
        resized, scale = resize_page(pixels, self.config.data.resolution)
        return Prepared(resized, size, scale)

    @torch.no_grad()
    def run(self, images: Sequence[Prepared], *, probabilities: bool = False) -> list[Found]:
        """Run the network and decode what it says; where memory runs out, with less at once."""
        found: list[Found] = []
        while len(found) < len(images):
            part = images[len(found) : len(found) + self.batch]
            try:
                found += list(self._run(part, probabilities))
                continue
            except Exception as error:
                if not is_out_of_memory(error) or not self._take_less():
                    raise
            free_memory()
        return found

    def _run(self, images: Sequence[Prepared], probabilities: bool) -> Iterator[Found]:
        """Yield what is found in each image."""
        config = self.config
        if isinstance(config, TextDetectionConfig):
            for image in images:
                yield self._text(image, config, probabilities)
            return
        assert isinstance(config, SegmentationConfig)
        if self.members:
            for image in images:
                yield self._mean_mask(image, config, probabilities)
            return
        if config.data.mode == "crop":
            for image in images:
                yield self._from_windows(image, config, probabilities)
            return
        for image, one in zip(images, self.logits(images), strict=True):
            yield self._mask(one[None], torch.Size(image.size), config, probabilities)

    def logits(self, images: Sequence[Prepared]) -> Tensor:
        """(B, C, h, w) of images at network size, of segmentation; of folds those of their mean.

        Of windows (1, C, H, W) of one image at its own size.
        """
        assert isinstance(self.config, SegmentationConfig)
        if self.config.data.mode == "crop":
            [image] = images
            return torch.cat([rows for _, rows in self._windows(image, self.config)], dim=1)[None]
        pixels = torch.from_numpy(np.stack([image.pixels for image in images])).permute(0, 3, 1, 2)
        return self._logits(pixels, self.config)

    def _mean_mask(self, image: Prepared, config: SegmentationConfig, probabilities: bool) -> Found:
        """Of the members of an ensemble, whose probabilities meet at the image's own size."""
        size, weights = torch.Size(image.size), [share for _, share in self.members]
        logits = [
            member.logits([one])
            for (member, _), one in zip(self.members, image.members, strict=True)
        ]
        means = torch.tensor([weights], device=self.device)
        [[found]] = mean_maps(logits, means, size, binary=self.binary, elements=self._elements)
        mask = (found >= config.decode.threshold).byte() if self.binary else found.byte()
        classes = self._postprocessed(mask.cpu().numpy(), config)
        if not probabilities:
            return Found(classes)
        if not self.binary:
            found = mean_probabilities(logits, weights, size)[0]
        return Found(classes, found.half().cpu().numpy())

    def _logits(self, pixels: Tensor, config: SegmentationConfig) -> Tensor:
        """(B, channels, h, w) in 0..255 -> (B, C, h, w): of all models together."""
        logits = [
            network_logits(model, pixels, config, self.device, self.precision)
            for model in self.models
        ]
        return _mean(logits, binary=self.binary)

    def _windows(self, image: Prepared, config: SegmentationConfig) -> Iterator[tuple[int, Tensor]]:
        """Yield (top, logits (C, rows, W)) of an image from above, at its own size."""
        pixels = np.require(image.pixels, requirements=["C", "W"])  # else torch warns
        return windows_logits(
            torch.from_numpy(pixels).to(self.device),
            image.size,
            config,
            lambda windows, _: self._logits(windows, config),
            self.batch,
            self._elements,
        )

    def _from_windows(
        self, image: Prepared, config: SegmentationConfig, probabilities: bool
    ) -> Found:
        """What windows of an image say, some rows of it at a time."""
        mask, kept = np.empty(image.size, np.uint8), None
        for top, logits in self._windows(image, config):
            part = slice(top, top + logits.shape[1])
            if self.binary:
                sure = logits[0].sigmoid()
                found = sure >= config.decode.threshold
            else:
                sure = logits.softmax(dim=0) if probabilities else logits
                found = logits.max(dim=0).indices
            mask[part] = found.byte().cpu().numpy()
            if probabilities:
                if kept is None:
                    kept = np.empty((*sure.shape[:-2], *image.size), np.float16)
                kept[..., part, :] = sure.half().cpu().numpy()
        return Found(self._postprocessed(mask, config), kept)

    def _mask(
        self, logits: Tensor, size: torch.Size, config: SegmentationConfig, probabilities: bool
    ) -> Found:
        """Of logits (1, C, h, w) at network size."""
        if self.binary:
            foreground = resize(logits, size)[0, 0].sigmoid()
            mask = (foreground >= config.decode.threshold).byte()
            kept = foreground if probabilities else None
        else:
            mask = class_map(logits, size, self._elements)[0].byte()
            kept = resize(logits, size)[0].softmax(0) if probabilities else None
        classes = self._postprocessed(mask.cpu().numpy(), config)
        return Found(classes, None if kept is None else kept.half().cpu().numpy())

    def _postprocessed(self, mask: Mask, config: SegmentationConfig) -> Mask:
        return postprocess(mask, config.decode, self.data.class_names)

    def _text(self, image: Prepared, config: TextDetectionConfig, probabilities: bool) -> Found:
        found, scale = self.text_map(image)
        probability = found.cpu().numpy()
        boxes = decode(probability, image.size, scale, **config.decode.model_dump(exclude={"tta"}))
        return Found(boxes, probability.astype(np.float16) if probabilities else None)

    def text_map(self, image: Prepared) -> tuple[Tensor, tuple[float, float]]:
        """Probabilities (h, w) of text, and image pixels a pixel of them, (x, y).

        Of several models it is their mean; of an ensemble at the size of its largest map.
        """
        if self.members:
            found = [
                member.text_map(one)
                for (member, _), one in zip(self.members, image.members, strict=True)
            ]
            mean = mean_map([one for one, _ in found], [share for _, share in self.members])
            return mean, next(scale for one, scale in found if one.shape == mean.shape)
        assert isinstance(self.config, TextDetectionConfig)
        maps = []
        for model in self.models:
            logits, (height, width), rest = page_logits(
                model, image.pixels, self.config, self.device, self.precision
            )
            maps.append(logits[0, 0, :height, :width].sigmoid())
        scale = (image.scale[0] * rest[0], image.scale[1] * rest[1])
        return torch.stack(maps).mean(dim=0), scale

    def _take_less(self) -> bool:
        """Make the next try need less memory; False where nothing is left to give up."""
        if self.batch > 1:
            self.batch //= 2
        elif self._elements > 1:
            self._elements = 1  # one class of one image, or one row, at a time
        elif self.device.type == "cuda":
            print("out of memory on the GPU with one image: the CPU predicts from now on")
            for one in (self, *(member for member, _ in self.members)):
                one.device = torch.device("cpu")
                one.precision = resolve_precision("auto", one.device)
                one._to_device()
        else:
            return False
        return True

    def _to_device(self) -> None:
        memory_format = layout(self.config.train)
        self.models = [
            model.to(self.device).to(memory_format=memory_format) for model in self.models
        ]


def _mean(logits: Sequence[Tensor], *, binary: bool) -> Tensor:
    """Logits (B, C, H, W) of the mean probability of several networks; of one its own."""
    if len(logits) == 1:
        return logits[0]
    if binary:
        return torch.stack([one.sigmoid() for one in logits]).mean(dim=0).logit(eps=1e-7)
    return torch.stack([one.log_softmax(dim=1) for one in logits]).logsumexp(dim=0)
