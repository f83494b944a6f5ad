"""Several trained models scored as one, by the mean of their probabilities; and which to take.

The members of an ensemble may differ in architecture, encoder and resolution. Of segmentation their
probabilities meet at the image's own size, of text at the largest network size. Which ones are
taken is chosen greedily, with replacement (Caruana et al. 2004). Nothing is kept on the way but the
counts of each image: every step is one pass over the validation images.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spaces.config import SegmentationConfig, TrialConfig
from spaces.space import Free
from spaces.text_detection import TextDetectionConfig
from trainers.data import SegmentationData
from trainers.dbnet.decode import Candidates
from trainers.members import Ensemble, shares
from trainers.precision import resolve_precision
from trainers.report import Losses, Validation
from trainers.segmentation import SegmentationTask, resize, rows_of, rows_of_a_size
from trainers.text_data import TextData
from trainers.text_detection import At, PageOutput, TextDetectionTask, Tried

Shares = NDArray[np.float64]
"""(J, M): what each of M members counts in each of J means; a row adds to 1."""
Drawn = TypeVar("Drawn", bound="Valued")


class EnsembleTask(Protocol):
    """What scores several means of some members at once."""

    seconds: list[float]
    """That each member's network takes for an image, in the last pass."""

    def score_means(self, models: nn.Module, means: Shares, split: str) -> list[Validation]:
        """Score J means over a split, each as if it were one model; without loss parts.

        Args:
            models: the networks of the members, in their order.
        """
        ...


class SegmentationEnsemble(SegmentationTask):
    """The score of the members' mean; a model is the `ModuleList` of their networks.

    Args:
        config: its decode settings and its metric count.
    """

    def __init__(
        self,
        members: Ensemble,
        config: SegmentationConfig,
        data: SegmentationData,
        device: torch.device,
        free: Mapping[str, Free],
    ) -> None:
        super().__init__(config, data, device, "fp32", free)
        self.own = np.array([shares(members)])
        self.seconds: list[float] = []
        self.tasks = []
        opened: dict[str, SegmentationTask] = {}  # members that take images alike share them
        for member in members:
            assert isinstance(member.config, SegmentationConfig)
            precision = resolve_precision(member.config.train.precision, device)
            task = SegmentationTask(member.config, data, device, precision, {})
            alike = member.config.data.model_dump_json(exclude={"augment", "photometric"})
            task._opened = opened.setdefault(alike, task)._opened
            self.tasks.append(task)

    def leave_device(self) -> bool:
        """Of all members."""
        left = [task.leave_device() for task in self.tasks]
        for task in self.tasks:
            task._stay = task._stay and not any(left)  # some share what they have opened
        return any(left)

    def score_means(self, models: nn.Module, means: Shares, split: str) -> list[Validation]:
        """See `EnsembleTask`."""
        return self.with_less(split, lambda: self._score_means(models, means, split))

    def _validate(self, model: nn.Module, split: str) -> Validation:
        [found] = self._score_means(model, self.own, split)
        return found

    @torch.no_grad()
    def _score_means(self, models: nn.Module, means: Shares, split: str) -> list[Validation]:
        models.eval()
        counters = [self.counters() for _ in means]
        seen: list[int] = []
        for indices, found, truth in self._found(models, means, split):
            seen += indices
            for one, several in zip(found, counters, strict=True):
                for counter in several.values():
                    counter.update(self.postprocessed(one), truth)
        return [self.scored(several, seen, Losses()) for several in counters]

    def found(
        self,
        model: nn.Module,
        split: str,
        add_loss: Callable[[Tensor, Tensor], None] = lambda logits, masks: None,
    ) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """See `SegmentationTask`; there is no loss."""
        for indices, found, truth in self._found(model, self.own, split):
            yield indices, found[0], truth

    def _found(
        self, models: nn.Module, means: Shares, split: str
    ) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Yield (indices, (J, B, h, w) as `mean_maps`, classes (B, h, w)), at original size."""
        for task in self.tasks:
            task.val_batch, task.score_elements = self.val_batch, self.score_elements
        batches = min((task.val_batches(split) for task in self.tasks), key=lambda b: len(b[0]))
        networks = _list(models)
        watches = [Watch(network, self.device) for network in networks]
        answers_of_all = [
            task.predictions(network, split, batches)
            for task, network in zip(self.tasks, networks, strict=True)
        ]
        weights = torch.tensor(means, dtype=torch.float32, device=self.device)
        room = self.score_elements // self.logits // sum(means.shape)
        for indices, *answers in zip(batches, *answers_of_all, strict=True):
            originals = answers[0][3]
            for size, rows in rows_of_a_size(originals, room):
                logits = [rows_of(answer[1], rows) for answer in answers]
                found = mean_maps(
                    logits, weights, size, binary=self.binary, elements=self.score_elements
                )
                truth = torch.stack([originals[row] for row in rows])
                yield [indices[row] for row in rows], found, truth
        self.seconds = [watch.end(len(self.data.split(split))) for watch in watches]


def mean_maps(
    logits: Sequence[Tensor], means: Tensor, size: torch.Size, *, binary: bool, elements: int
) -> Tensor:
    """Return what means of several networks' probabilities say at original size.

    Args:
        logits: M times (B, C, h, w) fp32, each at its own network size.
        means: (J, M); a row adds to 1.
        size: (H, W).
        elements: numbers at once, but at least one class of one image for each network.

    Returns:
        (J, B, H, W): of a binary task mean probabilities, else the class of the largest one, the
        first where several are.
    """
    if binary:
        found = torch.stack([resize(one, size)[:, 0].sigmoid() for one in logits])
        return torch.tensordot(means, found, dims=1)
    classes = logits[0].shape[1]
    step = max(1, elements // (sum(means.shape) * len(logits[0]) * size.numel()))
    steps = [slice(start, start + step) for start in range(0, classes, step)]
    totals = [_log_total(one, size, steps) for one in logits]
    best = index = torch.empty(0)
    for part in steps:
        found = torch.stack(
            [
                (resize(one[:, part], size) - total).exp_()
                for one, total in zip(logits, totals, strict=True)
            ]
        )  # (M, B, c, H, W)
        values, places = torch.tensordot(means, found, dims=1).max(dim=2)  # (J, B, H, W)
        if part.start == 0:
            best, index = values, places
            continue
        index = torch.where(values > best, places + part.start, index)
        best = torch.maximum(best, values)
    return index


def mean_probabilities(
    logits: Sequence[Tensor], weights: Sequence[float], size: torch.Size
) -> Tensor:
    """(B, C, H, W) at original size: the mean of several networks' softmax."""
    total = resize(logits[0], size).softmax(dim=1).mul_(weights[0])
    for one, weight in zip(logits[1:], weights[1:], strict=True):
        total.add_(resize(one, size).softmax(dim=1), alpha=weight)
    return total


def _log_total(logits: Tensor, size: torch.Size, steps: Sequence[slice]) -> Tensor:
    """(B, 1, H, W): the logarithm of what softmax at original size divides by."""
    total = None
    for part in steps:
        found = resize(logits[:, part], size).logsumexp(dim=1, keepdim=True)
        total = found if total is None else torch.logaddexp(total, found)
    assert total is not None
    return total


class TextEnsemble(TextDetectionTask):
    """The score of the members' mean map; a model is the `ModuleList` of their networks.

    Args:
        config: its decode settings and its metric count.
    """

    def __init__(
        self,
        members: Ensemble,
        config: TextDetectionConfig,
        data: TextData,
        device: torch.device,
        free: Mapping[str, Free],
    ) -> None:
        super().__init__(config, data, device, "fp32", free)
        self.own = np.array([shares(members)])
        self.seconds: list[float] = []
        self.tasks = []
        for member in members:
            assert isinstance(member.config, TextDetectionConfig)
            precision = resolve_precision(member.config.train.precision, device)
            self.tasks.append(TextDetectionTask(member.config, data, device, precision, {}))

    @torch.no_grad()
    def outputs(
        self, model: nn.Module, split: str
    ) -> Iterator[tuple[PageOutput, dict[str, float]]]:
        """Yield the mean map of each page; there are no loss parts."""
        for pages in self._pages_of_all(model, split):
            [mean] = mean_pages(pages, self.own)
            yield mean, {}

    def score_means(self, models: nn.Module, means: Shares, split: str) -> list[Validation]:
        """See `EnsembleTask`. Of a page no more is kept than what can become its boxes."""
        models.eval()
        grids = self.grids()
        threshs = grids["decode.thresh"]
        kept: list[dict[float, list[Candidates]]] = [{t: [] for t in threshs} for _ in means]
        truths = []
        for pages in self._pages_of_all(models, split):
            truths.append(pages[0].truth)
            for page, found in zip(mean_pages(pages, means), kept, strict=True):
                for thresh, several in found.items():
                    several.append(self.found(page, grids, thresh))
        scored = []
        for found in kept:
            tried: dict[At, Tried] = {}
            for thresh, several in found.items():
                tried |= self.tried(thresh, several, truths, grids)
            scored.append(self.best_of(tried, Losses()))
        return scored

    def _pages_of_all(self, models: nn.Module, split: str) -> Iterator[list[PageOutput]]:
        """Yield what each member says of a page."""
        networks = _list(models)
        watches = [Watch(network, self.device) for network in networks]
        outputs = [
            task.outputs(network, split) for task, network in zip(self.tasks, networks, strict=True)
        ]
        for answers in zip(*outputs, strict=True):
            yield [page for page, _ in answers]
        self.seconds = [watch.end(len(self.data.split(split))) for watch in watches]


def mean_pages(pages: Sequence[PageOutput], means: Shares) -> list[PageOutput]:
    """J means (J, M) of M networks' maps of one page, each at the size of the largest in it."""
    found = []
    for mean in means:
        drawn = [page for page, share in zip(pages, mean, strict=True) if share]
        base = max(drawn, key=lambda page: page.probability.size)
        maps = [torch.from_numpy(page.probability) for page in drawn]
        found.append(replace(base, probability=mean_map(maps, mean[mean > 0].tolist()).numpy()))
    return found


def mean_map(maps: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Probability maps (h, w), each of its own size -> their mean (H, W), of the largest size."""
    size = max((one.shape for one in maps), key=torch.Size.numel)
    # a map of that size stays as it is
    found = [one if one.shape == size else resize(one[None, None], size)[0, 0] for one in maps]
    return torch.stack([one * weight for one, weight in zip(found, weights, strict=True)]).sum(0)


def make_ensemble_task(
    members: Ensemble,
    config: TrialConfig,
    data: object,
    device: torch.device,
    free: Mapping[str, Free],
) -> SegmentationEnsemble | TextEnsemble:
    """Return what scores the mean of members on a data set, at the decode settings of a config."""
    if isinstance(config, TextDetectionConfig):
        assert isinstance(data, TextData)
        return TextEnsemble(members, config, data, device, free)
    assert isinstance(config, SegmentationConfig) and isinstance(data, SegmentationData)
    return SegmentationEnsemble(members, config, data, device, free)


class Watch:
    """How long a network runs, whoever calls it."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.device, self.began = device, 0.0
        self.seconds: list[float] = []
        self._hooks = [
            network.register_forward_pre_hook(self._begin),
            network.register_forward_hook(self._ended),
        ]

    def end(self, images: int) -> float:
        """Stop watching; seconds an image, from the median of all runs."""
        for hook in self._hooks:
            hook.remove()
        return median(self.seconds) * len(self.seconds) / images if self.seconds else 0.0

    def _begin(self, *_: object) -> None:
        self.began = self._now()

    def _ended(self, *_: object) -> None:
        self.seconds.append(self._now() - self.began)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _list(models: nn.Module) -> nn.ModuleList:
    assert isinstance(models, nn.ModuleList)
    return models


# ---------------------------------------------------------------- which models to take


class Valued(Protocol):
    """A score with what it is made of."""

    @property
    def value(self) -> float: ...


@dataclass(frozen=True)
class Step(Generic[Drawn]):
    """One draw of a greedy selection.

    Attributes:
        added: the candidate that was drawn.
        draws: how often each candidate was drawn by now.
        scored: what the mean of them scores.
    """

    added: int
    draws: tuple[int, ...]
    scored: Drawn


def greedy(
    score: Callable[[Shares], Sequence[Drawn]], candidates: int, size: int
) -> Iterator[Step[Drawn]]:
    """Draw models for a mean, one at a time, with replacement (Caruana et al. 2004).

    The first is the best one alone; each next one raises the score of the mean the most. Of equal
    ones a model that is drawn already is taken, since it costs nothing, else the first.

    Args:
        score: gives the score of each of J means (J, candidates).
        size: draws at most.

    Yields:
        Each draw; none that gains nothing.
    """
    draws = np.zeros(candidates, np.int64)
    best = -np.inf
    for drawn in range(1, size + 1):
        tried = (draws + np.eye(candidates, dtype=np.int64)) / drawn
        scored = score(tried)
        values = [one.value for one in scored]
        at = max(range(candidates), key=lambda c: (values[c], draws[c] > 0, -c))
        if not values[at] > best:
            return
        best = values[at]
        draws[at] += 1
        yield Step(at, tuple(draws.tolist()), scored[at])
