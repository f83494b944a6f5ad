"""How long an epoch of a config takes here, by a few steps that are taken and thrown away."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from spaces.config import SegmentationConfig, TrialConfig
from spaces.text_detection import TextDetectionConfig
from trainers.batches import batch_sizes
from trainers.devices import pick_device
from trainers.memory import free_memory
from trainers.models import build_model
from trainers.tasks import Data
from trainers.text_detection import build_dbnet
from trainers.train import TrainingRun, few_of, or_oom

STEPS = 3  # that are timed, after one that warms up
SECONDS = 3.0  # of a CPU; what would take longer is told from CPU_IMAGES, or from one step
CPU_IMAGES = 2  # of a step on a CPU, whose time grows with them
VAL_IMAGES = 2
SIDE = 128  # px, of the image that operations are counted on

NO_WEIGHTS = {"model.init": None, "model.encoder_weights": None}  # neither time nor room needs them


@dataclass(frozen=True)
class Speed:
    """What an epoch of a config takes.

    Attributes:
        step: seconds of a training step, the optimiser's included.
        image: seconds of an image in validation, at its own size.
        steps: of an epoch.
        images: that are validated on.
        parameters: of the network.
    """

    step: float
    image: float
    steps: int
    images: int
    parameters: int

    @property
    def epoch(self) -> float:
        """Seconds of an epoch; of one fold, where there are folds."""
        return self.steps * self.step + self.images * self.image


def measure_speed(config: TrialConfig, data: Data) -> Speed | None:
    """Take a few steps and validate a few images, as a trial of this config would.

    On a CPU the steps are of few images where whole batches would take more than SECONDS, and
    `step` is in proportion. Nothing is compiled.

    Returns:
        None where memory runs out with one image at a time.
    """
    one = data.folds[0] if data.folds else data
    samples, images = len(one.split("train")), len(one.split("val"))
    batch = min(config.train.batch_size, samples)
    config = config.replace({**NO_WEIGHTS, "train.compile": False})
    cheap = batch if pick_device().type == "cuda" else min(batch, CPU_IMAGES)
    found = _timed(config, one, cheap)
    free_memory()
    if found is None:
        return None
    if cheap < batch and found.step * batch / cheap * (1 + STEPS) < SECONDS:
        found, cheap = _timed(config, one, batch) or found, batch
    step = found.step * batch / cheap
    steps = len(batch_sizes(samples, config.train.batch_size))
    return replace(found, step=step, steps=steps, images=images)


def _timed(config: TrialConfig, data: Data, batch: int) -> Speed | None:
    """Steps of so many images; the `Speed` of a data set that is as small."""
    train, val = data.split("train"), data.split("val")[:VAL_IMAGES]
    count = batch * (1 + STEPS)
    several = (list(train) * -(-count // len(train)))[:count]
    few = few_of(data, several, val, f"{count} for speed")
    with tempfile.TemporaryDirectory() as folder:
        run = TrainingRun(config.replace({"train.batch_size": batch}), few, Path(folder), {})
        ends: list[float] = []

        def stepped() -> str | None:
            if run.device.type == "cuda":
                torch.cuda.synchronize(run.device)
            ends.append(time.perf_counter())
            on_cpu = run.device.type == "cpu"
            return "timed" if on_cpu and ends[-1] - run.started > SECONDS else None

        def step_and_score() -> str | float:
            run.build()
            if run.train_epoch(stepped) == "oom":
                return "oom"
            began = time.perf_counter()
            run.task.validate(run.validated)
            return (time.perf_counter() - began) / len(val)

        image = or_oom(step_and_score)
        if isinstance(image, str):
            return None
        seconds = [b - a for a, b in zip([run.started, *ends], ends, strict=False)]
        step = median(seconds[1:] or seconds)
        assert run.parameters is not None
        return Speed(step, image, len(seconds), len(val), run.parameters)


def operations(config: TrialConfig, logits: int) -> int:
    """Floating-point operations that a config's network spends on an image of SIDE x SIDE.

    Args:
        logits: of a segmentation network.
    """
    config = config.replace(NO_WEIGHTS)
    with torch.device("meta"), torch.no_grad():
        network: nn.Module
        if isinstance(config, TextDetectionConfig):
            network = build_dbnet(config.model)
        else:
            assert isinstance(config, SegmentationConfig)
            network = build_model(config.model, logits)
        with FlopCounterMode(display=False) as counter:
            network.eval()(torch.empty(1, 3, SIDE, SIDE))
    return int(counter.get_total_flops())
