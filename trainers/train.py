"""One trial from its config to its measured result: read this first.

`train` trains, validates each epoch on the metric, reports, checkpoints, and ends by itself when
patience runs out, an alarm rings or memory cannot be had; or when `should_stop` says so.
"""

from __future__ import annotations

import hashlib
import json
import math
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from spaces.config import TrialConfig
from spaces.errors import InputError
from spaces.paths import cache_dir, unfinished
from spaces.space import Free
from trainers import accumulate, checkpoint, health, schedules
from trainers.average import WeightAverage
from trainers.compile import compile_model
from trainers.devices import device_name, pick_device, set_up
from trainers.memory import keep_freed_memory
from trainers.optim import build_optimizer, memory_order, set_lr
from trainers.precision import grad_scaler, resolve_precision
from trainers.report import EpochReport, Losses
from trainers.tasks import Data, Task, make_task
from trainers.watch import FiniteWatch

FINITE_CHECK_STEPS = 64  # steps between looks at the running loss


@dataclass(frozen=True)
class TrialResult:
    """What a run came to.

    Attributes:
        reason: completed, patience, health:<alarm>, nonfinite, oom, or what `should_stop` said.
        trivial_score: the best constant answer's, which the run had to beat.
        value: the metric of the best epoch; None where no epoch was finished.
        best_epoch: from 1.
        decode: {dotted name: value} of the free dimensions at the best epoch.
        model: folder with the best epoch's weights (with `train.ema`, their average).
        hardware: device name, precision and micro-batch that the run ended with.
        parameters: of the network.
        folds: the results of the folds that have ended, where there are folds; then `value` is
            their mean, and `best_epoch` and `decode` are their medians (trainers/folds.py).
    """

    reason: str
    value: float | None
    best_epoch: int | None
    decode: dict[str, float]
    model: Path | None
    history: list[EpochReport]
    hardware: dict[str, Any] = field(default_factory=dict)
    trivial_score: float | None = None
    parameters: int | None = None
    folds: tuple[TrialResult, ...] = ()

    @property
    def per_class(self) -> list[float | None] | None:
        """IoU of each class in the best epoch; None for a class that the validation split lacks.

        With folds the mean over those that have the class.
        """
        if self.folds:
            ious = [fold.per_class for fold in self.folds if fold.per_class is not None]
            return [_mean(of_class) for of_class in zip(*ious, strict=True)] if ious else None
        if self.best_epoch is None:
            return None
        found = self.history[self.best_epoch - 1].per_class
        return None if found is None else [None if iou != iou else round(iou, 4) for iou in found]


def train(
    config: TrialConfig,
    data: Data,
    workdir: Path,
    on_epoch: Callable[[EpochReport], None],
    should_stop: Callable[[], str | None] = lambda: None,
    free: Mapping[str, Free] | None = None,
) -> TrialResult:
    """Train one config and return its result; continue where `workdir` holds a checkpoint.

    Args:
        config: the whole effective config.
        data: a data set that `tasks.load_data` has checked.
        workdir: checkpoints and the best model go here; a folder of this trial alone.
        on_epoch: called with each epoch's report, after its checkpoint is durable. A resumed run
            first repeats the reports of the epochs it skips.
        should_stop: asked after every step; a reason ends the run there, keeping what the last
            finished epoch has saved.
        free: dimensions searched inside the run (`decode.threshold`, `decode.box_thresh`).

    Raises:
        InputError: the config cannot run here, or the checkpoint is of another config.
    """
    run = _Run(config, data, workdir, free or {})
    for report in run.history:
        on_epoch(report)
    reason = run.ended
    while reason is None:
        reason = run.train_epoch(should_stop)
        if reason is None:
            on_epoch(run.finish_epoch())
            reason = run.ended
    return run.result(reason)


def refit(
    config: TrialConfig,
    data: Data,
    epochs: int,
    workdir: Path,
    on_epoch: Callable[[EpochReport], None],
    should_stop: Callable[[], str | None] = lambda: None,
) -> Path | str:
    """Train on all images of a data set with folds; resumes, and calls back, as `train` does.

    No image is held out, so nothing says which epoch is the best one: the last weights are taken.
    The schedule is that of a fold, cut off after `epochs`. The scores of reports are of images that
    were trained on.

    Returns:
        The folder of the weights; or the reason why they could not be had.
    """
    run = _Run(config, data, workdir, {})
    while run.epoch < epochs:
        reason = run.train_epoch(should_stop)
        if reason is not None:
            return reason
        on_epoch(run.finish_epoch())
    images = run.task.validate(run.validated).images
    return checkpoint.save_model(workdir / "refit", epochs, run.validated, images)


def probe_memory(config: TrialConfig, data: Data) -> tuple[float, int]:
    """Take one training step and throw it away: (peak MiB of GPU memory, micro-batch that fits).

    The micro-batch is remembered for the trials to come.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = _Run(config, data, Path(folder), {})
        run.train_epoch(should_stop=lambda: "probed")
        return run._peak_memory_mb(), run.micro_batch


class _Run:
    """The state of one run between epochs."""

    def __init__(
        self,
        config: TrialConfig,
        data: Data,
        workdir: Path,
        free: Mapping[str, Free],
    ) -> None:
        self.config, self.data, self.workdir = config, data, workdir
        workdir.mkdir(parents=True, exist_ok=True)
        self.device = pick_device()
        if self.device.type == "cpu":
            keep_freed_memory()
        self.precision = resolve_precision(config.train.precision, self.device)
        torch.manual_seed(config.train.seed)
        self.task = make_task(config, data, self.device, self.precision, free)
        _check_batch(config, self.task)
        model = self.task.build_model().to(self.device)
        self.model: nn.Module = model.to(memory_format=self.task.memory_format)
        ema = config.train.ema
        self.average = None if ema is None else WeightAverage(self.model, ema)
        self.optimizer = build_optimizer(model, config.optim)
        self.scaler = grad_scaler(self.device, self.precision)
        self.micro_batch = config.train.micro_batch or _remembered(self._memory_key(), config)
        self.history: list[EpochReport] = []
        self.step = 0
        self._resume()
        if config.train.compile:
            for network in {self.model, self.validated}:
                usual = None if self.task.dynamic_shapes else partial(self._usual, network)
                compile_model(network, usual)

    @property
    def epoch(self) -> int:
        """Epochs finished."""
        return len(self.history)

    @property
    def validated(self) -> nn.Module:
        """The network that is scored and saved: the average of the weights, where there is one."""
        return self.model if self.average is None else self.average.model

    @property
    def metrics(self) -> list[float]:
        return [report.metric for report in self.history]

    @property
    def best(self) -> EpochReport | None:
        """The first epoch with the highest metric."""
        return max(self.history, key=lambda r: (r.metric, -r.epoch), default=None)

    @property
    def ended(self) -> str | None:
        """Why the run is over after its last finished epoch, or None."""
        settled = self.config.settled_epoch
        rung = health.alarm([self._vitals(r) for r in self.history], self.config.health, settled)
        if rung is not None:
            return rung if rung == "nonfinite" else f"health:{rung}"
        if self.epoch >= self.config.train.epochs:
            over = "completed"
        elif health.out_of_patience(self.metrics, *health.patience(self.config), settled):
            over = "patience"
        else:
            return None
        bar = health.trivial_below(self.task.trivial_score, self.config.health.trivial)
        return "health:trivial" if max(self.metrics) <= bar else over

    def train_epoch(self, should_stop: Callable[[], str | None]) -> str | None:
        """Take one epoch's steps; return a reason where it could not be finished."""
        self.started = time.perf_counter()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.model.train()
        self.task.loss.set_epoch(self.epoch)
        sums: dict[str, Tensor] = {}
        norms: list[Tensor] = []
        watch = FiniteWatch()
        for index, (images, target) in enumerate(self.task.batches(self.epoch)):
            factor = schedules.lr_factor(
                self.step + index,
                self.task.steps_per_epoch,
                self.config.train.epochs,
                self.config.optim,
            )
            set_lr(self.optimizer, factor)
            outcome = self._fitting_step(images, target)
            if outcome is None:
                return "oom"
            parts, norm = outcome
            norms.append(norm)
            if self.average is not None:
                skippable = self.scaler.is_enabled()
                self.average.update(self.step + index + 1, norm.isfinite() if skippable else None)
            sums = {name: sums[name] + value if sums else value for name, value in parts.items()}
            if (index + 1) % FINITE_CHECK_STEPS == 0 and not watch.look(sums["total"]):
                return "nonfinite"
            if (reason := should_stop()) is not None:
                return reason
        # the only place of an epoch where the host waits for the device
        host = torch.stack([*sums.values(), *norms]).float().cpu()
        self.train_seconds = time.perf_counter() - self.started
        totals, self.norms = host[: len(sums)], host[len(sums) :]
        self.losses = {
            name: value / len(norms) for name, value in zip(sums, totals.tolist(), strict=True)
        }
        if self.scaler.is_enabled():  # steps that the scaler skipped have no norm
            self.norms = self.norms[self.norms.isfinite()]
        self.step += len(self.norms)  # and do not move the schedule, from the next epoch on
        finite = math.isfinite(self.losses["total"]) and bool(self.norms.isfinite().all())
        return None if finite else "nonfinite"

    def finish_epoch(self) -> EpochReport:
        """Validate, make the epoch durable, and return its report."""
        epoch = self.epoch + 1
        with ThreadPoolExecutor(1) as pool:  # validation leaves the state as it is
            saved = pool.submit(checkpoint.save_state, self.workdir, epoch, self._state())
            scores, loss, images = self.task.validate(self.validated)
            saved.result()
        report = EpochReport(
            epoch=epoch,
            metric=scores.metric,
            metrics=scores.metrics,
            decode=scores.decode,
            per_class=scores.per_class,
            pixel_accuracy=scores.pixel_accuracy,
            binary=scores.binary,
            detection=scores.detection,
            train=Losses(**self.losses, share=self.task.loss.share),
            val=loss,
            grad_norm=float(self.norms.mean()) if len(self.norms) else 0.0,
            grad_norm_max=float(self.norms.max()) if len(self.norms) else 0.0,
            lr=max(group["lr"] for group in self.optimizer.param_groups),
            images_per_s=self.task.samples / self.train_seconds,
            peak_memory_mb=self._peak_memory_mb(),
            micro_batch=self.largest_micro_batch,
            seconds=time.perf_counter() - self.started,
        )
        self.history.append(report)
        best = self.best
        assert best is not None
        if best is report:
            checkpoint.save_model(self.workdir, epoch, self.validated, images)
        checkpoint.commit(
            self.workdir,
            epoch,
            best.epoch,
            {
                "config": self.config.model_dump(mode="json"),
                "fingerprint": self.data.fingerprint,
                "history": [report.to_json() for report in self.history],
            },
        )
        return report

    def result(self, reason: str) -> TrialResult:
        best = self.best
        return TrialResult(
            reason=reason,
            value=None if best is None else best.metric,
            best_epoch=None if best is None else best.epoch,
            decode={} if best is None else best.decode,
            model=None if best is None else self.workdir / f"model-{best.epoch}",
            history=self.history,
            hardware={
                "device": device_name(self.device),
                "precision": self.precision,
                "micro_batch": self.largest_micro_batch,
            },
            trivial_score=self.task.trivial_score,
            parameters=sum(weights.numel() for weights in self.model.parameters()),
        )

    @property
    def largest_micro_batch(self) -> int:
        """Images that are in memory at once; what is known to fit may be more than the batch."""
        return min(self.micro_batch, self.config.train.batch_size)

    def _fitting_step(self, images: Tensor, target: Any) -> tuple[dict[str, Tensor], Tensor] | None:
        """One optimiser step; out of memory halves the micro-batch and tries the step again."""
        smallest = self.task.min_batch
        rng = accumulate.rng_state(self.device)
        while True:
            try:
                return self._one_step(images, target)
            except torch.OutOfMemoryError:
                pass  # the traceback holds the graph; only after this block is its memory free
            self.optimizer.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            fits = min(self.micro_batch, len(images)) // 2
            if fits < smallest:
                return None
            self.micro_batch = fits
            _remember(self._memory_key(), fits)
            accumulate.set_rng_state(self.device, rng)

    def _one_step(self, images: Tensor, target: Any) -> tuple[dict[str, Tensor], Tensor]:
        """Forward, backward, unscale, clip, step; return loss parts and the gradient norm."""
        self.optimizer.zero_grad(set_to_none=True)
        parts = accumulate.backward(
            lambda part: self.task.run(self.model, part),
            self.model,
            images,
            target,
            self.task.loss,
            self.micro_batch,
            self.scaler.scale,
            self.task.min_batch,
        )
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(
            self.model.parameters(), self.config.optim.clip_norm or math.inf
        )
        with memory_order(self.optimizer):
            self.scaler.step(self.optimizer)
        self.scaler.update()
        return parts, norm.detach()

    def _usual(self, network: nn.Module, images: Tensor) -> bool:
        """Tell whether a batch is no odd last one, and so is worth compiling for."""
        if not network.training:
            return len(images) == self.task.val_batch
        sizes = accumulate.split_sizes(
            self.config.train.batch_size, self.micro_batch, self.task.min_batch
        )
        return len(images) in sizes

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "loss": self.task.loss.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": accumulate.rng_state(self.device),
            "micro_batch": self.micro_batch,
            "step": self.step,
        }

    def _resume(self) -> None:
        """Take up the last checkpoint of this workdir, if there is one."""
        state = checkpoint.load_last(self.workdir)
        if state is None:
            return
        path = self.workdir / checkpoint.LAST
        check_same_run(path, state["config"], state["fingerprint"], self.config, self.data)
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.task.loss.load_state_dict(state["loss"])
        torch.set_rng_state(state["rng"])
        if (
            self.device.type == "cuda"
            and state["cuda_rng"].shape == torch.cuda.get_rng_state().shape
        ):
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)
        self.micro_batch = state["micro_batch"]
        self.step = state["step"]
        self.history = [EpochReport.from_json(report) for report in state["history"]]

    def _vitals(self, report: EpochReport) -> health.Vitals:
        return health.Vitals(
            metric=report.metric,
            pixel_loss=report.train.pixel,
            total_loss=report.train.total,
            grad_norm=report.grad_norm,
            per_class=self.task.dead_class_view(report),
        )

    def _peak_memory_mb(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

    def _memory_key(self) -> str:
        return f"{self.task.memory_key}/{self.precision}/{device_name(self.device)}"


def check_same_run(
    path: Path, stored: dict[str, Any], fingerprint: str, config: TrialConfig, data: Data
) -> None:
    """Raise InputError unless a file of an earlier attempt is of this config and these data."""
    if not _same_config(stored, config):
        raise InputError(
            f"{path} is the checkpoint of another config; choose another folder or delete it"
        )
    if fingerprint != data.fingerprint:
        raise InputError(f"{path}: the data have changed since this run began")


def _same_config(stored: dict[str, Any], config: TrialConfig) -> bool:
    """Whether a checkpoint is of this config; a setting that it does not know had its default."""
    try:
        return type(config).model_validate(stored) == config
    except ValidationError:
        return False


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(fmean(known), 4) if known else None


def _check_batch(config: TrialConfig, task: Task) -> None:
    needed = task.min_batch
    smallest = min(config.train.batch_size, config.train.micro_batch or needed, task.samples)
    if smallest < needed:
        raise InputError(
            f"train.batch_size: {config.flat()['model.arch']} needs at least {needed} images at "
            f"once in training (pooled batch norm), but got {smallest}"
        )


# ---------------------------------------------------------------- what fits, remembered


def _memory_file(key: str) -> Path:
    return cache_dir() / "micro_batch" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def _remembered(key: str, config: TrialConfig) -> int:
    """The largest micro-batch known to fit, or the whole batch where nothing is known."""
    path = _memory_file(key)
    if not path.exists():
        return config.train.batch_size + 1  # a last image that joins its neighbours fits too
    return int(json.loads(path.read_text())["micro_batch"])


def _remember(key: str, micro_batch: int) -> None:
    path = _memory_file(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished(path)
    temporary.write_text(json.dumps({"key": key, "micro_batch": micro_batch}))
    temporary.replace(path)
