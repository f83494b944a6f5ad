"""What makes a run a segmentation run: batches of images and masks, and the score of a split."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spaces.config import DataConfig, ModelConfig, SegmentationConfig, SegmentationMetric
from spaces.errors import InputError
from spaces.initial_weights import starts
from spaces.metric import class_shares, metric_name
from spaces.models import ENCODERS, min_batch, min_side
from spaces.space import Free, Space
from trainers.augment import augment, plan
from trainers.batches import batch_sizes, epoch_batches, layout, normalise
from trainers.boundary import BoundaryCounts, BoundaryCurve
from trainers.crops import draw_crops
from trainers.data import SegmentationData
from trainers.image_counts import Counts, ImageCounts, class_iou, score_of
from trainers.images import size_of
from trainers.losses import SegmentationLoss
from trainers.memory import free_memory, is_out_of_memory
from trainers.metrics import ClassCounts, Counter, ThresholdCurve, best_threshold, binary_parts
from trainers.models import build_model, check_model, forward
from trainers.postprocess import check_postprocessing, postprocessed
from trainers.precision import autocast
from trainers.report import Losses, Scores, Validation
from trainers.samples import Key, Resident, ResidentImages, Samples, open_samples
from trainers.trivial import best_constant
from trainers.views import mean_over_views
from trainers.windows import Place, Run, at_size, cut, scaled_size, strips

T = TypeVar("T")
VAL_BATCH = 8  # images at once in validation
SCORE_ELEMENTS = 50_000_000  # logits resized to original size at once


class SegmentationTask:
    """Data, loss and score of one run."""

    dynamic_shapes = False

    def __init__(
        self,
        config: SegmentationConfig,
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
        check_postprocessing(config, data.spec, free)
        self.binary = data.spec.binary
        self.val_batch = VAL_BATCH
        self.memory_format = layout(config.train)
        self.logits = 1 if self.binary else data.classes
        self.score = score_of(config.metric, data.spec)
        self.loss = SegmentationLoss(config.loss, data.counts, binary=self.binary, device=device)
        self.samples = len(data.split("train"))
        self._opened: dict[str, Samples] = {}
        self._stay = True  # whether samples may stay in the device's memory
        self.score_elements = SCORE_ELEMENTS
        self.steps_per_epoch = len(batch_sizes(self.samples, config.train.batch_size))

    @property
    def min_batch(self) -> int:
        """Images that the network needs at once in training."""
        return min_batch(self.config.model.arch)

    @cached_property
    def trivial_score(self) -> float:
        """Val's metric of the best class for every pixel."""
        return best_constant(self.config.metric, self.data)

    def build_model(self) -> nn.Module:
        """Return the network of the config; raises InputError where it cannot be had."""
        return build_model(
            self.config.model, self.logits, say=print, channels=self.data.spec.channels
        )

    def batches(self, epoch: int, first: int = 0) -> Generator[tuple[Tensor, Tensor]]:
        """Yield the epoch's batches on the device: images (B, C, H, W) float, masks (B, H, W)."""
        batches = epoch_batches(self.samples, self.config.train, epoch)
        order = [index for batch in batches for index in batch]
        data, seed = self.config.data, self.config.train.seed
        channels = self.data.spec.channels
        drawn = plan(data.augment, data.photometric, data.size, seed, epoch, order, channels)
        start = sum(len(batch) for batch in batches[:first])
        keys: Sequence[Sequence[Key]] = batches[first:]
        if data.mode == "crop":
            keys = [draw_crops(seed, epoch, batch) for batch in batches[first:]]
        for images, masks, _ in self._split("train").batches(keys):
            stop = start + len(images)
            pixels, target = augment(images, masks, drawn.part(start, stop, self.device))
            yield normalise(pixels, self.device, self.memory_format), target
            start = stop

    def leave_device(self) -> bool:
        """Carry samples to the device batch by batch from now on; False where it is so already."""
        resident = Resident | ResidentImages
        staying = [name for name, one in self._opened.items() if isinstance(one, resident)]
        if self.device.type == "cpu" or not staying:
            return False
        self._stay = False
        for name in staying:
            del self._opened[name]
        return True

    def run(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return logits (B, C, H, W) at network size, under autocast."""
        with autocast(self.device, self.precision):
            return forward(model, images)

    def shared_weights(self, model: nn.Module) -> list[Tensor]:
        """The last weights that all terms of the loss share: those of the head, which has the
        logits of every term."""
        head = model.segmentation_head
        assert isinstance(head, nn.Module)
        layers = [layer for layer in head.modules() if isinstance(layer, nn.Conv2d)]
        return [layers[-1].weight]

    def validate(self, model: nn.Module, split: str = "val") -> Validation:
        """Score a split at original image size; also the loss parts at network size, which are
        means over images, or with `data.mode: crop` over windows.

        The metric is the study's; of a binary task at the best (free) or the given threshold.
        Where memory runs out it begins again with less at once.
        """
        return self.with_less(split, lambda: self._validate(model, split))

    def with_less(self, split: str, work: Callable[[], T]) -> T:
        """Do some work on a split; where memory runs out do it again, with less at once."""
        while True:
            try:
                return work()
            except Exception as error:
                if not is_out_of_memory(error) or not self._validate_less(split):
                    raise
            free_memory()

    def _validate_less(self, split: str) -> bool:
        """Make the next try need less memory; False where nothing is left to give up."""
        fitted = self.val_batch  # windows of an image, or images
        if self.config.data.mode == "resize":
            fitted = min(fitted, len(self.data.split(split)))
        if fitted > 1:
            self.val_batch = fitted // 2
        elif not self.leave_device():
            if self.score_elements == 1:
                return False
            self.score_elements = 1  # one class of one image, or one row, at a time
        return True

    @torch.no_grad()
    def _validate(self, model: nn.Module, split: str) -> Validation:
        model.eval()
        counters = self.counters()
        totals: dict[str, Tensor] = {}
        pieces = 0  # images or windows that the loss has seen
        seen: list[int] = []  # images in the order in which they were counted

        def add_loss(logits: Tensor, masks: Tensor) -> None:
            nonlocal pieces
            pieces += len(masks)
            _, parts = self.loss(logits, masks, learn=False)
            for name, value in parts.items():
                totals[name] = totals.get(name, torch.zeros_like(value)) + value * len(masks)

        for indices, found, truth in self.found(model, split, add_loss):
            found = self.postprocessed(found)
            seen += indices
            for counter in counters.values():
                counter.update(found, truth)
        losses = Losses(**{name: float(value) / pieces for name, value in totals.items()})
        return self.scored(counters, seen, losses)

    def scored(
        self, counters: Mapping[str, Counter], seen: list[int], losses: Losses
    ) -> Validation:
        """What was counted of the images `seen`, in their order."""
        counts = {name: counter.images().numpy() for name, counter in counters.items()}
        counts["dice"] = counts["iou"]  # (N, K, 3), of a binary task (N, T, K, 3)
        threshold = None
        if self.binary:
            thresholds = self._thresholds()
            values = self.score(counts[self.config.metric.name].sum(0))  # (T,)
            at = best_threshold(values, thresholds)
            threshold = thresholds[at]
            counts = {name: count[:, at] for name, count in counts.items()}
        scores = self._scores({name: count.sum(0) for name, count in counts.items()}, threshold)
        return Validation(scores, losses, _in_order(counts[self.config.metric.name], seen))

    def counter(self) -> Counter:
        """What counts pixels for the study's metric."""
        counters = self.counters()
        return counters.get(self.config.metric.name, counters["iou"])

    def counters(self) -> dict[str, Counter]:
        """{metric: what counts pixels for it}; those near outlines only where they are chosen."""
        makers: dict[str, Callable[[], Counter]] = {
            "iou": lambda: ClassCounts(self.data.classes, self.device),
            "boundary_iou": lambda: BoundaryCounts(self.data.classes, self.device),
        }
        if self.binary:
            makers = {
                "iou": lambda: ThresholdCurve(self._thresholds(), self.device),
                "boundary_iou": lambda: BoundaryCurve(self._thresholds(), self.device),
            }
        wanted = ("iou", self.config.metric.name)
        return {name: make() for name, make in makers.items() if name in wanted}

    def _scores(self, counts: Mapping[str, Counts], threshold: float | None) -> Scores:
        """Every score of a split, from {metric: its counts (K, 3)}."""
        pixels, spec = counts["iou"], self.data.spec
        usual = {name: SegmentationMetric(name=name) for name in counts}
        total = int(pixels[:, 1].sum())
        parts = None if threshold is None else {"threshold": threshold, **binary_parts(pixels)}
        return Scores(
            metric=float(self.score(counts[self.config.metric.name])),
            metrics={
                metric_name(metric, spec): float(score_of(metric, spec)(counts[name]))
                for name, metric in usual.items()
            },
            decode={} if threshold is None else dict.fromkeys(self.free, threshold),
            per_class=self._per_class(pixels),
            pixel_accuracy=int(pixels[:, 0].sum()) / total if total else math.nan,
            binary=parts,
        )

    def _per_class(self, pixels: Counts) -> list[float]:
        """IoU of each class; NaN for one that is not there or does not count."""
        names, ignored = self.data.spec.class_names, self.data.spec.ignore_classes
        ious = zip(names, class_iou(pixels).tolist(), strict=True)
        found = [math.nan if name in ignored else iou for name, iou in ious]
        if self.binary:
            found = [0.0 if iou != iou else iou for iou in found]
        return found

    def postprocessed(self, found: Tensor) -> Tensor:
        """Classes (B, h, w), or of a binary task probabilities, as the config's decode has them."""
        names = self.data.spec.class_names
        return postprocessed(found, self.config.decode, names, binary=self.binary)

    def found(
        self,
        model: nn.Module,
        split: str,
        add_loss: Callable[[Tensor, Tensor], None] = lambda logits, masks: None,
    ) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Yield (indices, what is found there, their masks (B, h, w)) at original size.

        What is found are (B, h, w) probabilities of a binary task, else class indices; neither is
        post-processed yet.

        Args:
            add_loss: is told the logits (B, C, H, W) and the masks of what the network has seen.
        """
        if self.config.data.mode == "crop":
            yield from self._found_in_windows(model, split, add_loss)
            return
        for indices, logits, masks, originals in self.predictions(model, split):
            add_loss(logits, masks)
            for rows, found, truth in at_original_size(
                logits, originals, binary=self.binary, elements=self.score_elements
            ):
                yield [indices[row] for row in rows], found, truth

    def _found_in_windows(
        self, model: nn.Module, split: str, add_loss: Callable[[Tensor, Tensor], None]
    ) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """The same, image by image, of windows of each."""
        samples, config = self._split(split), self.config
        alone = [[index] for index in samples.order]
        for indices, (images, masks, originals) in zip(alone, samples.batches(alone), strict=True):
            image, mask, truth = images[0].permute(1, 2, 0), masks[0], originals[0]
            size = truth.shape[0], truth.shape[1]

            def run(windows: Tensor, places: Sequence[Place], mask: Tensor = mask) -> Tensor:
                logits = network_logits(model, windows, config, self.device, self.precision)
                target = [cut(mask, place, config.data.size) for place in places]
                add_loss(logits, torch.stack(target).long())
                return logits

            kind = torch.float32 if self.binary else torch.uint8
            found = torch.empty(size, dtype=kind, device=self.device)
            for top, logits in self._windows(image, size, run):
                part = logits[0].sigmoid() if self.binary else logits.max(dim=0).indices
                found[top : top + logits.shape[1]] = part
            yield indices, found[None], truth[None]

    def val_batches(self, split: str) -> list[Sequence[int]]:
        """A split's indices; images of one size come together where the sizes are known."""
        order = self._split(split).order
        step = 1 if self.config.data.mode == "crop" else self.val_batch
        return [order[start : start + step] for start in range(0, len(order), step)]

    def predictions(
        self, model: nn.Module, split: str, batches: list[Sequence[int]] | None = None
    ) -> Iterator[tuple[Sequence[int], Tensor, Tensor, list[Tensor]]]:
        """Yield (indices, logits fp32 (B, C, H, W), masks (B, H, W), original masks).

        Of windows the logits are at the image's own size. Of the train split there are no original
        masks.

        Args:
            batches: the indices to take together; None: those of `val_batches`.
        """
        batches = self.val_batches(split) if batches is None else batches
        samples = self._split(split)
        for indices, (images, masks, originals) in zip(
            batches, samples.batches(batches), strict=True
        ):
            if self.config.data.mode == "crop":
                [truth] = originals
                size = truth.shape[0], truth.shape[1]
                rows = self._windows(images[0].permute(1, 2, 0), size, self._network(model))
                logits = torch.cat([part for _, part in rows], dim=1)[None]
            else:
                logits = self._network(model)(images, ())
            yield indices, logits, masks.long(), originals

    def _network(self, model: nn.Module) -> Run:
        return lambda images, _: network_logits(
            model, images, self.config, self.device, self.precision
        )

    def _windows(
        self, image: Tensor, size: tuple[int, int], run: Run
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield (top, logits (C, rows, W)) of an image (H, W, C) at scale, at its own size."""
        return windows_logits(image, size, self.config, run, self.val_batch, self.score_elements)

    def predicted(self, model: nn.Module, split: str) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Yield (indices, predicted classes (B, h, w), true classes (B, h, w)) at original size."""
        for indices, found, truth in self.found(model, split):
            yield indices, self.classes_of(self.postprocessed(found)), truth

    def classes_of(self, found: Tensor) -> Tensor:
        """Class indices, of what `found` yields."""
        if self.binary:
            return (found >= self.config.decode.threshold).long()
        return found

    def dead_class_view(self, scores: Scores) -> list[float]:
        """Per-class IoU with NaN for classes that no IoU can be expected of: no train pixels."""
        assert scores.per_class is not None
        pairs = zip(scores.per_class, self.data.counts, strict=True)
        return [iou if count else math.nan for iou, count in pairs]

    def _split(self, name: str) -> Samples:
        if name not in self._opened:
            self._opened[name] = open_samples(
                self.data, name, self.config.data, self.config.train, self.device, self._stay
            )
        return self._opened[name]

    def _thresholds(self) -> list[float]:
        sweep = self.free.get("decode.threshold")
        if sweep is None:
            return [self.config.decode.threshold]
        return sweep.values()


def network_logits(
    model: nn.Module,
    images: Tensor,
    config: SegmentationConfig,
    device: torch.device,
    precision: str,
) -> Tensor:
    """Logits (B, C, H, W) fp32 of images (B, channels, H, W) in 0..255 at network size."""

    def run(batch: Tensor) -> Tensor:
        with autocast(device, precision):
            return forward(model, batch).float()

    batch = normalise(images, device, layout(config.train))
    return mean_over_views(run, batch, config.decode.tta, smallest=min_side(config.model.arch))


def windows_logits(
    image: Tensor,
    size: tuple[int, int],
    config: SegmentationConfig,
    run: Run,
    batch: int,
    elements: int = SCORE_ELEMENTS,
) -> Iterator[tuple[int, Tensor]]:
    """Yield (top, logits (C, rows, W) fp32) of an image from above, at its original size.

    Args:
        image: (H, W, channels) uint8 at `data.scale`.
        size: its original (height, width).
        run: calls the network on windows.
        batch: windows at once.
        elements: resized logits at once, but at least one row.
    """
    scaled = image.shape[0], image.shape[1]
    overlap = config.decode.overlap
    rows = strips(image, config.data.size, run, overlap=overlap, batch=batch)
    return at_size(rows, scaled, size, elements)


def at_original_size(
    logits: Tensor, originals: list[Tensor], *, binary: bool, elements: int = SCORE_ELEMENTS
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Yield (rows, what is found there, their masks (B, h, w)), one original size at a time.

    What is found are (B, h, w) probabilities of a binary task, else class indices, of logits that
    are resized bilinearly.

    Args:
        logits: (B, C, H, W) fp32 at network size.
        originals: B masks (h, w) uint8 at the images' own sizes, on the same device.
        elements: resized logits at once, but at least one class of one image.
    """
    for size, part in rows_of_a_size(originals, elements // logits.shape[1]):
        chosen = rows_of(logits, part)
        found = (
            resize(chosen, size)[:, 0].sigmoid() if binary else class_map(chosen, size, elements)
        )
        yield part, found, torch.stack([originals[row] for row in part])


def rows_of_a_size(originals: list[Tensor], pixels: int) -> Iterator[tuple[torch.Size, list[int]]]:
    """Yield (size, rows) of masks (h, w) of one size, as many as have so many pixels together."""
    groups: dict[torch.Size, list[int]] = {}
    for row, mask in enumerate(originals):
        groups.setdefault(mask.shape, []).append(row)
    for size, rows in groups.items():
        most = max(1, pixels // size.numel())
        for start in range(0, len(rows), most):
            yield size, rows[start : start + most]


def resize(logits: Tensor, size: torch.Size) -> Tensor:
    """(B, C, H, W) -> (B, C, h, w), bilinearly."""
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def class_map(logits: Tensor, size: torch.Size, elements: int) -> Tensor:
    """(B, C, H, W) -> (B, h, w) index of the largest resized logit, the first where several are.

    `max` and not `argmax`: the same answer, five times as fast on a CPU over this layout.

    Args:
        elements: resized logits at once, but at least one class.
    """
    step = max(1, elements // (len(logits) * size.numel()))
    best, found = resize(logits[:, :step], size).max(dim=1)
    for start in range(step, logits.shape[1], step):
        values, indices = resize(logits[:, start : start + step], size).max(dim=1)
        found = torch.where(values > best, indices + start, found)
        best = torch.maximum(best, values)
    return found


def _in_order(counts: Counts, seen: list[int]) -> ImageCounts:
    """Counts (N, K, 3) of images in the order in which they were seen -> in that of the split."""
    ordered = np.empty_like(counts)
    ordered[seen] = counts
    return ImageCounts(ordered)


def rows_of(values: Tensor, rows: list[int]) -> Tensor:
    """The given rows of (B, ...); as they are where these are all of them."""
    if len(rows) == len(values):
        return values
    return values.index_select(0, torch.tensor(rows).to(values.device, non_blocking=True))


def check_segmentation_space(space: Space, data: SegmentationData) -> None:
    """Refuse batches, resolutions and models of the space that cannot be trained.

    Pretrained weights are fetched, so that no trial has to.
    """
    check_sizes(space)
    assert isinstance(space.base, SegmentationConfig)
    check_postprocessing(space.base, data.spec, space.free())
    if "crop" in space.values("data.mode"):
        check_scale(max(space.values("data.scale")), data)
    logits = 1 if data.spec.binary else data.classes
    for model in networks(space):
        # smp's own pairs are known to run; weights and timm models must be tried
        if model.init or model.encoder_weights or model.encoder not in ENCODERS:
            check_model(model, smallest_size(space), logits, data.spec.channels)


def networks(space: Space) -> Iterator[ModelConfig]:
    """Every network that can be drawn, with all that it may begin with."""
    for arch, encoder in space.model_pairs():
        for start in starts(space, arch=arch, encoder=encoder):
            yield ModelConfig(arch=arch, encoder=encoder, **start)


def check_classes(metric: SegmentationMetric, data: SegmentationData) -> None:
    """Refuse a class that counts, but that no model can learn, or that no score can be had of.

    Raises:
        InputError: naming the classes and their pixels.
    """
    for fold in data.folds:
        check_classes(metric, fold)
    shares = class_shares(metric, data.spec)
    rows = list(zip(data.spec.class_names, shares, data.counts, data.val_counts, strict=True))
    unlearnt = [(name, val) for name, share, train, val in rows if share and val and not train]
    if unlearnt:
        found = ", ".join(f"{name} ({val})" for name, val in unlearnt)
        names = ", ".join(name for name, _ in unlearnt)
        where = "data" if data.fold is None else f"data.folds, fold {data.fold}"
        raise InputError(
            f"{where}: of these classes val has pixels, but train has none, so that no model can "
            f"find them: {found}; divide the images otherwise, take their pixels out with data."
            f"ignore_classes: [{names}], or name the classes that count in metric.classes"
        )
    if data.fold is not None:
        if not any(share and val for _, share, _, val in rows):
            raise InputError(
                f"data.folds, fold {data.fold}: val has no pixel of a class that counts, so that "
                "it cannot be scored; take fewer folds, or another data.folds.seed"
            )
    elif metric.classes is not None:
        for name, share, _, val in rows:
            if share and not val:
                raise InputError(
                    f"metric.classes: {name} has no pixel in val, so that it cannot be scored; "
                    "remove it, or divide the images otherwise"
                )


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


def check_scale(scale: float, data: SegmentationData) -> None:
    """Refuse a scale that makes an image larger than data.max_pixels."""
    if scale <= 1:  # else the preflight has seen it
        return
    for sample in (sample for split in data.splits.values() for sample in split):
        height, width = scaled_size(size_of(sample.mask), scale)
        if height * width > data.spec.max_pixels:
            raise InputError(
                f"data.scale: at {scale:g} {sample.image} has {width}x{height} pixels, but "
                f"data.max_pixels is {data.spec.max_pixels}; lower data.scale"
            )


def smallest_size(space: Space) -> tuple[int, int]:
    """(height, width) of the resolution of the smallest area in the space."""
    return min(sizes(space), key=lambda size: size[0] * size[1])


def sizes(space: Space) -> list[tuple[int, int]]:
    """(height, width) of every resolution in the space."""
    return [DataConfig(resolution=value).size for value in space.values("data.resolution")]
