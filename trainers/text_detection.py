"""What makes a run a text-detection run: pages and target maps, the DB loss, the swept Hmean."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from spaces.errors import InputError
from spaces.initial_weights import is_path, starts
from spaces.metric import metric_name
from spaces.space import Free, Space
from spaces.text_detection import (
    TextDataConfig,
    TextDetectionConfig,
    TextLossConfig,
    TextModelConfig,
)
from trainers import schedules
from trainers.batches import Reader, batch_sizes, epoch_batches, layout, normalise
from trainers.cleval import cleval_metric, cleval_sweep
from trainers.dbnet.decode import Candidates, Output, candidates
from trainers.dbnet.head import STRIDE, DBNet
from trainers.dbnet.icdar import TextAnnotation
from trainers.dbnet.loss import DBLoss, TargetMaps, negatives_of
from trainers.dbnet.score import Sweep, sweep
from trainers.dbnet.targets import THRESHOLD_HIGH, THRESHOLD_LOW, Targets, make_targets
from trainers.image_counts import Counts, ImageCounts, score_of
from trainers.models import begun, explain, short_message
from trainers.page_cache import Pages, load_pages
from trainers.precision import autocast
from trainers.report import CurvePoint, Detection, Losses, Scores, Validation
from trainers.text_augment import SCALES, augment_page, resize_page
from trainers.text_data import Page, TextData
from trainers.text_sizes import check_learnable
from trainers.to_host import ToHost
from trainers.views import mean_over_views
from trainers.weighting import Loss, learned_weights

AHEAD = 4  # pages that a GPU may be ahead of the host in validation
PROBE_SIDE = 64  # px, of the input that the preflight runs
DECODE = ("decode.thresh", "decode.max_candidates", "decode.box_thresh", "decode.unclip_ratio")


@dataclass(frozen=True)
class BatchTarget:
    """Target maps of a batch.

    `negatives` is counted on the host, so that no step waits for the device.
    """

    maps: Tensor
    """(B, 4, H, W) uint8, as `targets.Targets.packed`."""
    negatives: int


class TextDetectionLoss(Loss):
    """The DB loss as the training loop knows losses: an epoch's mix, stacked logits."""

    def __init__(self, config: TextLossConfig, device: torch.device) -> None:
        self.config = config
        self.loss = DBLoss(
            config.pixel,
            config.regression,
            pixel_weight=config.pixel_weight,
            threshold_weight=config.threshold_weight,
            dice_weight=config.dice_weight,
            negative_ratio=config.negative_ratio,
            focal_gamma=config.focal_gamma,
            focal_alpha=config.focal_alpha,
            label_smoothing=config.label_smoothing,
        )
        start = {
            "pixel": config.pixel_weight,
            "threshold": config.threshold_weight,
            "dice": config.dice_weight,
        }
        self.learned = learned_weights(config.weighting, start, config.gradnorm_alpha, device)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Fix the share of the threshold and Dice weights: 0 in warm-up, then a ramp to 1."""
        self.share = schedules.ramp(epoch, self.config.warmup_epochs, self.config.ramp_epochs)

    def terms(
        self, logits: Tensor, target: BatchTarget, *, learn: bool = True
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return `pixel`, `threshold` and `dice` without weights; and the same, detached.

        Args:
            logits: (B, 2, H, W), probability and threshold.
            learn: without effect; the loss keeps no running means.
        """
        kernel, kernel_mask, share, threshold_mask = target.maps.unbind(dim=1)
        threshold = THRESHOLD_LOW + (THRESHOLD_HIGH - THRESHOLD_LOW) / 255 * share.float()
        maps = TargetMaps(kernel, kernel_mask, threshold, threshold_mask)
        terms = self.loss.terms(logits[:, :1], logits[:, 1:], maps, negatives=target.negatives)
        return terms, {name: term.detach() for name, term in terms.items()}

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of the terms: in warm-up of the pixel term alone."""
        if self.learned is None or self.share == 0:
            return self.loss.total(terms, self.share)
        weights = self.learned.weights()
        ramps = {name: 1.0 if name == "pixel" else self.share for name in weights}
        return torch.stack([ramps[n] * weights[n] * terms[n] for n in weights]).sum()

    def state_dict(self) -> dict[str, Tensor]:
        """The learned weights; without them the loss is a function of the epoch."""
        return {} if self.learned is None else self.learned.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if self.learned is not None:
            self.learned.load_state_dict(state)


@dataclass(frozen=True)
class PageOutput:
    """What the network says of a page: the probability map without padding, and the way back."""

    page: Page
    truth: TextAnnotation
    """What of it lies on the page, as detections do."""
    size: tuple[int, int]
    """(H, W) of the image."""
    scale: tuple[float, float]
    """Image pixels a network pixel, (x, y)."""
    probability: np.ndarray
    """(h, w) in 0..1."""


At = tuple[float, int]
"""A binarisation threshold, and max_candidates."""


class Tried(NamedTuple):
    """What R unclip ratios x T values of box_thresh come to, of N pages."""

    boxes: Sweep
    counts: Counts
    """(N, R, T, K, 3), as of ImageCounts."""
    values: NDArray[np.float64]
    """(R, T), of the study's metric."""


class TextDetectionTask:
    """Data, loss and score of one run."""

    min_batch = 1
    trivial_score = 0.0  # of finding nothing
    val_batch = 1
    dynamic_shapes = True

    def __init__(
        self,
        config: TextDetectionConfig,
        data: TextData,
        device: torch.device,
        precision: str,
        free: Mapping[str, Free],
    ) -> None:
        self.config = config
        self.data = data
        self.device = device
        self.precision = precision
        self.free = free
        self.memory_format = layout(config.train)
        self.score_counts = score_of(config.metric, data.spec)
        if config.metric.name == "cleval":
            cleval_metric()  # not only when an epoch has been trained
        self.loss = TextDetectionLoss(config.loss, device)
        self.samples = len(data.split("train"))
        self._opened: dict[str, Pages] = {}
        self.steps_per_epoch = len(batch_sizes(self.samples, config.train.batch_size))

    def build_model(self) -> nn.Module:
        """Return the network of the config; raises InputError where it cannot be had."""
        return build_dbnet(self.config.model, say=print, channels=self.data.spec.channels)

    def batches(self, epoch: int, first: int = 0) -> Generator[tuple[Tensor, BatchTarget]]:
        """Yield the epoch's batches on the device: images (B, C, H, W) float, and targets."""
        keys = [
            [(epoch, index) for index in batch]
            for batch in epoch_batches(self.samples, self.config.train, epoch)[first:]
        ]
        for images, maps, counts in self._reader.read(keys):
            target = self._target(maps, counts)
            yield normalise(images, self.device, self.memory_format), target

    def leave_device(self) -> bool:
        """No page stays on the device."""
        return False

    def run(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return logits (B, 2, H, W), probability and threshold, under autocast."""
        return _stacked(model, images, self.device, self.precision)

    def shared_weights(self, model: nn.Module) -> list[Tensor]:
        """The last weights that all terms of the loss share: the decoder's last convolutions."""
        assert isinstance(model, DBNet)
        return model.decoder.last_weights()

    def validate(self, model: nn.Module, split: str = "val") -> Validation:
        """Score a split in image coordinates: one forward pass, every free setting swept.

        The metric is the study's at the best setting of the free dimensions.
        """
        return self.score(list(self.outputs(model, split)))

    def score(self, found_on: list[tuple[PageOutput, dict[str, float]]]) -> Validation:
        """Score what `outputs` has yielded; see `validate`."""
        outputs = [output for output, _ in found_on]
        losses = [parts for _, parts in found_on]
        grids = self.grids()
        truths = [output.truth for output in outputs]
        tried: dict[At, Tried] = {}
        for thresh in grids["decode.thresh"]:
            asked = [[self._decoding(output, grids, thresh)] for output in outputs]
            tried |= self.tried(thresh, self._decoder.read(asked), truths, grids)
        means = Losses(**{n: fmean(parts[n] for parts in losses) for n in losses[0]})
        return self.best_of(tried, means)

    def best_of(self, tried: Mapping[At, Tried], losses: Losses) -> Validation:
        """The score at the best of all settings that were tried."""
        grids, at = self.grids(), self._best_at(tried)
        found, values = tried[at].boxes, tried[at].values
        box_thresh, unclip_ratio, best = found.best_of(values)
        place = found.unclip_ratios.index(unclip_ratio), found.box_threshs.index(box_thresh)
        chosen = dict(zip(DECODE, (*at, box_thresh, unclip_ratio), strict=True))
        curve = zip(grids["decode.box_thresh"], found.curve(unclip_ratio), strict=True)
        value = float(values[place])
        scores = Scores(
            metric=value,
            metrics={"Hmean": best.hmean, metric_name(self.config.metric, self.data.spec): value},
            decode={name: value for name, value in chosen.items() if name in self.free},
            detection=Detection(
                precision=best.precision,
                recall=best.recall,
                images_over_max_candidates=found.bound_images,
                curve=tuple(
                    CurvePoint(cut, pooled.precision, pooled.recall, pooled.hmean)
                    for cut, pooled in curve
                ),
            ),
        )
        images = ImageCounts(tried[at].counts[(slice(None), *place)])
        return Validation(scores, losses, images)

    @torch.no_grad()
    def outputs(
        self, model: nn.Module, split: str
    ) -> Iterator[tuple[PageOutput, dict[str, float]]]:
        """Yield what the network says of each page at network size, and its loss parts.

        A GPU is some pages ahead: while it computes them, the host draws targets of the next ones
        and whoever asks works on earlier ones.
        """
        model.eval()
        pages = self._pages(split)
        ahead: deque[tuple[Callable[[np.ndarray], PageOutput], list[str], ToHost]] = deque()
        for index, page in enumerate(self.data.split(split)):
            truth = self.data.truth(page)
            kept, (x_scale, y_scale) = pages.page(index)
            logits, (height, width), (x_rest, y_rest) = page_logits(
                model, kept, self.config, self.device, self.precision
            )
            scale = (x_scale * x_rest, y_scale * y_rest)
            polygons = [polygon / scale for polygon in truth.polygons]
            maps = make_targets(polygons, truth.ignore, (height, width))
            packed, counts = _packed(maps)
            target = self._target(packed[None], counts)
            _, parts = self.loss(logits, target, learn=False)
            probability = logits[0, 0].sigmoid()
            size = self.data.sizes[page.image]
            made = partial(PageOutput, page, truth.on_page(size), size, scale)
            losses = torch.stack(list(parts.values()))
            ahead.append((made, list(parts), ToHost(probability, losses)))
            if len(ahead) > (AHEAD if self.device.type == "cuda" else 0):
                yield _arrived(*ahead.popleft())
        while ahead:
            yield _arrived(*ahead.popleft())

    def found(
        self, output: PageOutput, grids: Mapping[str, list[float]], thresh: float
    ) -> Candidates:
        """Candidates of a page, before any box_thresh."""
        return _decoded(self._decoding(output, grids, thresh))

    def _decoding(
        self, output: PageOutput, grids: Mapping[str, list[float]], thresh: float
    ) -> Decoding:
        return Decoding(
            output.probability,
            output.size,
            output.scale,
            grids["decode.unclip_ratio"],
            thresh,
            int(max(grids["decode.max_candidates"])),
            self.config.decode.output,
        )

    def dead_class_view(self, scores: Scores) -> list[float]:
        """No classes: text detection has no class that could be dead while others live."""
        return []

    @cached_property
    def _reader(self) -> Reader:
        """Of the train split's pages, augmented."""
        pages = _Pages(self._pages("train"), "train", self.config)
        return Reader(pages, self.config.train, self.device, pad_together, _one_thread)

    @cached_property
    def _decoder(self) -> Reader:
        """Decodes probability maps; beside a GPU in processes, as the loaders of pages."""
        train = self.config.train
        return Reader(_Decoder(), train, self.device, _only, _one_thread)

    def _pages(self, split: str) -> Pages:
        """The pages of a split, large enough for the largest random scale of the train split."""
        if split not in self._opened:
            longest = longest_side(split, self.config.data)
            self._opened[split] = load_pages(self.data, split, longest)
        return self._opened[split]

    def _target(self, maps: Tensor, counts: tuple[int, int]) -> BatchTarget:
        """Maps (B, 4, H, W) on the host -> on the device.

        Args:
            counts: text pixels, and valid ones, of all of them.
        """
        negatives = negatives_of(*counts, self.config.loss.negative_ratio)
        return BatchTarget(maps.to(self.device, non_blocking=True), negatives)

    def tried(
        self,
        thresh: float,
        found: Iterable[Candidates],
        truths: Sequence[TextAnnotation],
        grids: Mapping[str, list[float]],
    ) -> dict[At, Tried]:
        """Score every setting of boxes, of the candidates of one binarisation threshold.

        Candidates were found once, for the largest max_candidates; fewer are the largest of them.
        """
        limits = sorted(map(int, grids["decode.max_candidates"]), reverse=True)
        if len(limits) > 1:
            found = list(found)
        tried: dict[At, Tried] = {}
        for limit in limits:
            if tried and all(len(one.scores) <= limit for one in found):
                tried[thresh, limit] = tried[thresh, limits[0]]  # nothing is left out yet
                continue
            known = found if limit == limits[0] else (one.limited(limit) for one in found)
            tried[thresh, limit] = self._tried(known, truths, grids["decode.box_thresh"])
        return tried

    def _best_at(self, tried: Mapping[At, Tried]) -> At:
        """(thresh, max_candidates) of the highest value.

        Of equal ones: the thresh nearest to the config's, and of its max_candidates the middle one,
        which is the farthest from where the score changes.
        """
        best = max(one.values.max() for one in tried.values())
        equal = [at for at, one in tried.items() if one.values.max() == best]
        usual = self.config.decode.thresh
        thresh = min((thresh for thresh, _ in equal), key=lambda t: abs(t - usual))
        limits = sorted(limit for t, limit in equal if t == thresh)
        return thresh, limits[(len(limits) - 1) // 2]

    def _tried(
        self, found: Iterable[Candidates], truths: Sequence[TextAnnotation], cuts: list[float]
    ) -> Tried:
        """Score every box_thresh and unclip ratio of the candidates of some pages."""
        pairs = zip(found, truths, strict=True)
        if self.config.metric.name == "cleval":
            pages = list(pairs)
            boxes, counts = sweep(pages, cuts), cleval_sweep(pages, cuts)
        else:
            boxes = sweep(pairs, cuts)
            counts = boxes.images()
        return Tried(boxes, counts, self.score_counts(counts.sum(0)))

    def grids(self) -> dict[str, list[float]]:
        """The values of each decode setting that is swept, or its one fixed value."""
        fixed = self.config.flat()
        return {
            name: self.free[name].values() if name in self.free else [fixed[name]]
            for name in DECODE
        }


def page_logits(
    model: nn.Module,
    image: np.ndarray,
    config: TextDetectionConfig,
    device: torch.device,
    precision: str,
) -> tuple[Tensor, tuple[int, int], tuple[float, float]]:
    """Run the network on one image (H, W, C) uint8.

    Returns:
        Logits (1, 2, h, w) fp32, of a model.onnx the first map alone; (h, w); image pixels a
        network pixel.
    """

    def run(page: Tensor) -> Tensor:
        height, width = page.shape[-2:]
        page = F.pad(page, (0, -width % STRIDE, 0, -height % STRIDE))
        batch = normalise(page, device, layout(config.train))
        return _stacked(model, batch, device, precision).float()[..., :height, :width]

    resized, scale = resize_page(image, config.data.resolution)
    height, width = resized.shape[:2]
    page = torch.from_numpy(resized).permute(2, 0, 1)[None].to(device, non_blocking=True)
    return mean_over_views(run, page, config.decode.tta), (height, width), scale


def _stacked(model: nn.Module, images: Tensor, device: torch.device, precision: str) -> Tensor:
    with autocast(device, precision):
        probability, threshold = model(images)
    if threshold is None:  # of a model.onnx
        return probability
    return torch.cat([probability, threshold], dim=1)


def longest_side(split: str, config: TextDataConfig) -> int:
    """Pixels of the longer side of the pages that a split is kept with, none enlarged."""
    return round(config.resolution * (SCALES[config.augment][1] if split == "train" else 1.0))


def build_dbnet(
    config: TextModelConfig,
    say: Callable[[str], None] = lambda line: None,
    *,
    channels: int = 3,
) -> nn.Module:
    """Return the network with the weights that it begins with; `say` is told of `model.init`.

    Args:
        channels: of images, as of `models.build_model`.

    Raises:
        InputError: the encoder or the weights cannot be had.
    """

    def make(weights: str | None) -> DBNet:
        try:
            return DBNet(
                config.encoder,
                config.decoder,
                inner=config.inner,
                out=config.out,
                in_channels=channels,
                encoder_weights=weights,
            )
        except Exception as error:
            cause = error.__cause__ if isinstance(error.__cause__, KeyError) else error
            what = f"model.encoder {config.encoder} with model.decoder {config.decoder}"
            raise explain(what, config.encoder, weights, cause, config.init) from error

    return begun(config, make, say)


def check_text_space(space: Space, data: TextData) -> None:
    """Build a network of each encoder of the space, and run it once, small.

    Both decoders take the same four levels, so that one of them tells for both; what they take of
    `model.init` differs.

    Pretrained weights are fetched, so that no trial has to.

    Raises:
        InputError: an encoder that cannot be used, or its weights; a resolution at which no text
            is large enough to be learned.
    """
    check_learnable(space, data)
    first = space.names("model.decoder")[0]
    for model in dbnets(space):
        if model.decoder == first or is_path(model.init):
            _check_dbnet(model, data.spec.channels)


def dbnets(space: Space) -> Iterator[TextModelConfig]:
    """Every encoder and decoder that can be drawn, with all that they may begin with.

    The channels of the decoder, where they are searched, are those of no trial.
    """
    base = space.base.flat()
    channels = {name: base[f"model.{name}"] for name in ("inner", "out")}
    for encoder in space.names("model.encoder"):
        for decoder in space.names("model.decoder"):
            for start in starts(space, encoder=encoder, decoder=decoder):
                one = {"encoder": encoder, "decoder": decoder, **channels, **start}
                yield TextModelConfig.model_validate(one)


def check_cleval(data: TextData) -> None:
    """Refuse CLEval where it is not installed, or a split to score has no text to count."""
    cleval_metric()
    for split in ("val", "test"):
        pages = data.splits.get(split, [])
        if pages and not any(text for page in pages for text in data.truth(page).texts):
            raise InputError(
                f"metric: cleval counts characters, but no box of {split} has a text; write the "
                "texts behind their corners, or take hmean"
            )


def load_dbnet(folder: Path) -> DBNet:
    """Load what a trial has saved; raises InputError for a folder that is no whole DBNet."""
    try:
        return DBNet.from_pretrained(folder)
    except ValueError as error:
        raise InputError(f"{error}; export it again") from error


def _check_dbnet(config: TextModelConfig, channels: int) -> None:
    if not is_path(config.init):  # which fits one decoder, and not another
        config = config.model_copy(update={"inner": 8, "out": 8})
    model = build_dbnet(config, channels=channels).eval()
    try:
        with torch.no_grad():
            model(torch.zeros(1, channels, PROBE_SIDE, PROBE_SIDE))
    except Exception as error:
        raise InputError(
            f"model.encoder {config.encoder} does not run in a DBNet: {short_message(error)}"
        ) from error


_Sample = tuple[Tensor, Tensor, tuple[int, int]]


def pad_together(samples: list[_Sample]) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Stack pages of different sizes, black below and to the right, where no loss looks.

    Args:
        samples: (page (C, h, w) uint8, packed maps (4, h, w) uint8, text pixels and valid ones).

    Returns:
        (B, C, H, W) and (B, 4, H, W), H and W multiples of the network's stride; text pixels and
        valid ones of all pages.
    """
    height = max(page.shape[1] for page, _, _ in samples)
    width = max(page.shape[2] for page, _, _ in samples)
    height, width = height + -height % STRIDE, width + -width % STRIDE
    channels = samples[0][0].shape[0]
    pages = torch.zeros(len(samples), channels, height, width, dtype=torch.uint8)
    maps = torch.zeros(len(samples), 4, height, width, dtype=torch.uint8)
    for i, (page, targets, _) in enumerate(samples):
        pages[i, :, : page.shape[1], : page.shape[2]] = page
        maps[i, :, : page.shape[1], : page.shape[2]] = targets
    text, valid = (sum(counts) for counts in zip(*(one[2] for one in samples), strict=True))
    return pages, maps, (text, valid)


def _packed(targets: Targets) -> tuple[Tensor, tuple[int, int]]:
    """(4, h, w) uint8; text pixels and valid ones."""
    valid = targets.kernel_mask
    counts = np.count_nonzero(targets.kernel & valid), np.count_nonzero(valid)
    return torch.from_numpy(targets.packed()), (int(counts[0]), int(counts[1]))


def _arrived(
    made: Callable[[np.ndarray], PageOutput], names: list[str], copy: ToHost
) -> tuple[PageOutput, dict[str, float]]:
    probability, losses = copy.wait()
    return made(probability.numpy()), dict(zip(names, losses.tolist(), strict=True))


class Decoding(NamedTuple):
    """A page's probability map, and how it is decoded; as of `decode.candidates`."""

    probability: np.ndarray
    size: tuple[int, int]
    scale: tuple[float, float]
    unclip_ratios: list[float]
    thresh: float
    max_candidates: int
    shape: Output


def _decoded(asked: Decoding) -> Candidates:
    return candidates(
        *asked[:3],
        unclip_ratios=asked.unclip_ratios,
        thresh=asked.thresh,
        max_candidates=asked.max_candidates,
        output=asked.shape,
    )


def _only(found: list[Candidates]) -> Candidates:
    """A batch of one; a function of the module, as a trial's loader processes are sent it."""
    (one,) = found
    return one


class _Decoder(Dataset[Candidates]):
    """Candidates, addressed by what they are found in."""

    def __getitem__(self, asked: Decoding) -> Candidates:
        return _decoded(asked)


class _Pages(Dataset[_Sample]):
    """Augmented pages with their target maps, addressed by (epoch, index)."""

    def __init__(self, pages: Pages, split: str, config: TextDetectionConfig) -> None:
        self.pages, self.split = pages, split
        self.config = config

    def __getitem__(self, key: tuple[int, int]) -> _Sample:
        epoch, index = key
        data = self.pages.data
        truth = data.truth(data.split(self.split)[index])
        page, scale = self.pages.page(index)
        image, polygons = augment_page(
            page,
            [polygon / scale for polygon in truth.polygons],
            self.config.data,
            (self.config.train.seed, epoch, index),
        )
        height, width = image.shape[:2]
        seen = [i for i, polygon in enumerate(polygons) if _meets(polygon, height, width)]
        maps = make_targets([polygons[i] for i in seen], truth.ignore[seen], (height, width))
        return torch.from_numpy(image).permute(2, 0, 1), *_packed(maps)


def _meets(polygon: np.ndarray, height: int, width: int) -> bool:
    """Tell whether a polygon's bounding box meets the window."""
    low, high = polygon.min(axis=0), polygon.max(axis=0)
    return bool(high.min() >= 0 and low[0] < width and low[1] < height)


def _one_thread(worker: int) -> None:
    """Loader processes share the cores by being many; OpenCV's own threads would fight."""
    cv2.setNumThreads(0)
