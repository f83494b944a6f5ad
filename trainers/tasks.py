"""What the training loop needs of a task, and which class each task has.

A task knows its data, its network, its loss and its score; the loop knows epochs, steps, precision,
checkpoints and when to stop. A new task is a config in spaces/ and a class with these methods.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from spaces.config import MetricConfig, SegmentationConfig, SegmentationMetric, TrialConfig
from spaces.data import AnyDataSpec, SegmentationDataSpec
from spaces.errors import InputError
from spaces.initial_weights import is_path
from spaces.space import Free, Space
from spaces.text_detection import TextDetectionConfig
from trainers import class_weights
from trainers.batches import layout
from trainers.cache_folder import asked_bytes
from trainers.checkpoint import load_model
from trainers.cleval import cleval_metric
from trainers.data import SegmentationData, load_segmentation_data
from trainers.ensemble import (
    EnsembleTask,
    SegmentationEnsemble,
    TextEnsemble,
    make_ensemble_task,
)
from trainers.evaluate import Evaluation, evaluate_segmentation
from trainers.members import Ensemble
from trainers.models import build_model
from trainers.precision import device_to_score_on
from trainers.report import Scores, Validation
from trainers.segmentation import (
    SegmentationTask,
    check_classes,
    check_segmentation_space,
    networks,
)
from trainers.text_data import TextData, load_text_data
from trainers.text_detection import (
    TextDetectionTask,
    build_dbnet,
    check_cleval,
    check_text_space,
    dbnets,
    load_dbnet,
)
from trainers.text_evaluate import evaluate_text
from trainers.weighting import Loss


def evaluate(
    model: Path | Ensemble,
    config: TrialConfig,
    data: Data,
    split: str,
    to: Path,
    *,
    cleval: bool = False,
) -> Evaluation:
    """Score a saved model on a split as its training did, and write overlays into `to`.

    Args:
        model: `model/` of an export, or the members of an ensemble.
        config: the effective config, with the chosen decode settings.
        to: folder for `best-1-<stem>.png` .. and `worst-1-<stem>.png` ..; made here,
            with its parent.
        cleval: of text detection, also score with CLEval; needs the extra `cleval`.

    Raises:
        InputError: the model is damaged, or CLEval cannot be had.
    """
    if cleval and not isinstance(config, TextDetectionConfig):
        raise InputError("--cleval is a score of text detection, but this is segmentation")
    task, network = load_task(model, config, data)
    if isinstance(task, TextDetectionTask):
        return evaluate_text(task, network, split, to, cleval=cleval)
    assert isinstance(task, SegmentationTask)
    return evaluate_segmentation(task, network, split, to)


def score_model(model: Path | Ensemble, config: TrialConfig, data: Data, split: str) -> Validation:
    """Score a saved model on a split as its training did, and draw nothing; else as `evaluate`."""
    task, network = load_task(model, config, data)
    return task.validate(network, split)


def load_task(
    model: Path | Ensemble,
    config: TrialConfig,
    data: Data,
    free: Mapping[str, Free] | None = None,
) -> tuple[Task, nn.Module]:
    """Return what scores a saved model, or an ensemble, as its training did, and its network.

    Raises:
        InputError: the model is damaged.
    """
    device, precision = device_to_score_on(config.train.precision)
    if isinstance(model, Path):
        task = make_task(config, data, device, precision, free or {})
        network = load_network(model, config)
    else:
        task = make_ensemble_task(model, config, data, device, free or {})
        network = nn.ModuleList(load_network(one.model, one.config) for one in model)
    task.loss.set_epoch(config.train.epochs)
    return task, network.to(device)


def load_means(
    members: Ensemble, config: TrialConfig, data: Data, free: Mapping[str, Free]
) -> tuple[EnsembleTask, nn.Module]:
    """`load_task` of several models, to score several means of them at once."""
    task, networks = load_task(members, config, data, free)
    assert isinstance(task, (SegmentationEnsemble, TextEnsemble))
    return task, networks


def load_network(folder: Path, config: TrialConfig) -> nn.Module:
    """Load what a trial has saved, on the CPU, as its config lays out its memory.

    Raises:
        InputError: the folder does not hold a whole model.
    """
    load = load_dbnet if isinstance(config, TextDetectionConfig) else load_model
    return load(folder).to(memory_format=layout(config.train))


class Data(Protocol):
    """A checked data set."""

    @property
    def splits(self) -> Mapping[str, Sequence[Any]]:
        """{train, val, perhaps test: samples}."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the content of all files."""
        ...

    @property
    def folds(self) -> Sequence[Data]:
        """A data set for each fold; none where a trial trains once."""
        ...

    def split(self, name: str) -> Sequence[Any]:
        """A split's samples; raises InputError for one that the data set lacks."""
        ...


class Task(Protocol):
    """Data, network, loss and score of one run."""

    samples: int
    steps_per_epoch: int
    memory_format: torch.memory_format
    val_batch: int
    """Images at once in validation."""
    dynamic_shapes: bool
    """Whether batches are of many heights and widths."""

    @property
    def loss(self) -> Loss: ...

    @property
    def trivial_score(self) -> float:
        """What the best answer that looks at no image scores on val."""
        ...

    @property
    def min_batch(self) -> int:
        """Images that the network needs at once in training."""
        ...

    def build_model(self) -> nn.Module:
        """The network, on the CPU; it has `save_pretrained`."""
        ...

    def batches(self, epoch: int, first: int = 0) -> Generator[tuple[Tensor, Any]]:
        """Images (B, C, H, W) and what the loss calls their target, on the device.

        Args:
            first: batches of the epoch that are left out.
        """
        ...

    def leave_device(self) -> bool:
        """Keep no samples in the device's memory any more; False where there are none."""
        ...

    def run(self, model: nn.Module, images: Tensor) -> Tensor:
        """Logits (B, C, H, W), under autocast."""
        ...

    def shared_weights(self, model: nn.Module) -> list[Tensor]:
        """The last weights through which every term of the loss reaches the rest of the network."""
        ...

    def validate(self, model: nn.Module, split: str = "val") -> Validation:
        """Scores and loss parts of a split, and what each of its images adds."""
        ...

    def dead_class_view(self, scores: Scores) -> list[float]:
        """Scores of the classes that an epoch's dead-class alarm looks at."""
        ...


def make_task(
    config: TrialConfig,
    data: Data,
    device: torch.device,
    precision: str,
    free: Mapping[str, Free],
) -> Task:
    """Return the task of a config."""
    if isinstance(config, TextDetectionConfig):
        assert isinstance(data, TextData)
        return TextDetectionTask(config, data, device, precision, free)
    assert isinstance(config, SegmentationConfig) and isinstance(data, SegmentationData)
    return SegmentationTask(config, data, device, precision, free)


def load_data(spec: AnyDataSpec) -> SegmentationData | TextData:
    """Read and check every file of a data set.

    Raises:
        InputError: for the first wrong one, or for a $SEGTUNE_CACHE_BYTES that is no size.
    """
    asked_bytes()  # here, where nothing has been started yet
    if isinstance(spec, SegmentationDataSpec):
        return load_segmentation_data(spec)
    return load_text_data(spec)


def check_space(space: Space, data: Data) -> None:
    """Refuse what would make a trial of this space fail; fetch pretrained weights.

    Raises:
        InputError: a metric, a batch, a resolution, an encoder or its weights that cannot be used.
    """
    check_metric(space.base.metric, data)
    if isinstance(space.base, TextDetectionConfig):
        assert isinstance(data, TextData)
        check_text_space(space, data)
    else:
        assert isinstance(data, SegmentationData)
        check_segmentation_space(space, data)


def initial_weights(space: Space, data: Data) -> list[str]:
    """Say what each network of a space takes of each path of `model.init`."""
    lines: list[str] = []
    if isinstance(space.base, TextDetectionConfig):
        assert isinstance(data, TextData)
        for dbnet in dbnets(space):
            if is_path(dbnet.init):
                build_dbnet(dbnet, lines.append, channels=data.spec.channels)
    else:
        assert isinstance(data, SegmentationData)
        logits = 1 if data.spec.binary else data.classes
        for network in networks(space):
            if is_path(network.init):
                build_model(network, logits, lines.append, channels=data.spec.channels)
    return lines


def check_extras(metric: MetricConfig) -> None:
    """Refuse a metric whose package is not installed, before any file of the data is read.

    Raises:
        InputError: with the command that installs it.
    """
    if metric.name == "cleval":
        cleval_metric()


def check_metric(metric: MetricConfig, data: Data) -> None:
    """Refuse a metric that cannot be had of a data set.

    Raises:
        InputError: a class without pixels, or CLEval without its package or without texts.
    """
    if isinstance(metric, SegmentationMetric):
        assert isinstance(data, SegmentationData)
        check_classes(metric, data)
    elif metric.name == "cleval":
        assert isinstance(data, TextData)
        check_cleval(data)


def near_twins(space: Space, data: Data) -> dict[str, list[str]]:
    """Return {dotted name: choices} of the space that train nearly as another one, on these data.

    Of segmentation: methods of class weights (`effective_number` beside `inverse_freq`).
    """
    name = "loss.class_weights.method"
    if name not in space.dims:
        return {}
    assert isinstance(data, SegmentationData)
    if not any(data.counts):  # every pixel is ignored, which the trainer will say
        return {}
    ratio = max(space.values("loss.class_weights.max_ratio"))
    twins = class_weights.near_twins(data.counts, space.names(name), ratio)
    return {name: twins} if twins else {}
