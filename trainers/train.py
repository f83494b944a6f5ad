"""One trial from its config to its measured result: read this first.

`train` trains, validates each epoch on the metric, reports, checkpoints, and ends by itself when
patience runs out, an alarm rings or memory cannot be had; or when `should_stop` says so.
"""

from __future__ import annotations

import math
import resource
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from spaces.config import TrialConfig
from spaces.errors import InputError
from spaces.limits import Cost
from spaces.space import Free
from trainers import accumulate, checkpoint, health, schedules
from trainers.average import WeightAverage
from trainers.compile import compile_model
from trainers.devices import device_name, pick_device, set_up
from trainers.disk import is_full
from trainers.durable import Damaged
from trainers.memory import free_memory, is_out_of_memory, keep_freed_memory
from trainers.optim import build_optimizer, memory_order, set_lr
from trainers.precision import grad_scaler, resolve_precision
from trainers.report import EpochReport, Losses
from trainers.tasks import Data, Task, make_task
from trainers.to_host import EpochSums, Snapshot

T = TypeVar("T")

FINITE_CHECK_STEPS = 64  # steps between looks at the running loss
PROBED = 8  # val images
SCALE_FLOOR = 1.0  # of the gradient scaler, which begins at 65536: below it nothing is scaled up


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
        hardware: device name, precision and micro-batch that the run ended with, and the most
            memory that an epoch took.
        parameters: of the network.
        cost: what was measured before it began (trainers/cost.py).
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
    cost: Cost = field(default_factory=Cost)
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
    on_resumed: Callable[[], None] = lambda: None,
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
        on_resumed: called once, when all that the checkpoint holds has been repeated; also where
            there is none.

    Raises:
        InputError: the config cannot run here, or the checkpoint is of another config.
    """
    run = TrainingRun(config, data, workdir, free or {}, on_epoch)
    for report in run.history:
        on_epoch(report)
    on_resumed()

    def whole() -> str:
        run.build()
        reason = run.ended
        while reason is None:
            reason = run.train_epoch(should_stop)
            if reason is None:
                run.finish_epoch()
                reason = run.ended
        return reason

    reason = or_oom(whole)
    undelivered = or_oom(run.deliver)
    if (undelivered or reason) == "paused":
        _take_less_room(workdir)
    return run.result(undelivered or reason)


def _take_less_room(workdir: Path) -> None:
    """Make the checkpoint of a trial that waits smaller; where the disk is full it stays."""
    try:
        checkpoint.share_weights(workdir)
    except Exception as error:
        if not is_full(error):
            raise


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
    run = TrainingRun(config, data, workdir, {}, on_epoch)

    def whole() -> Path | str:
        run.build()
        while run.epoch < epochs:
            reason = run.train_epoch(should_stop)
            if reason is not None:
                return reason
            run.finish_epoch()
        images = run.task.validate(run.validated).images
        return checkpoint.save_model(workdir / "refit", epochs, run.validated, images)

    found = or_oom(whole)
    undelivered = or_oom(run.deliver)
    return undelivered or found


def probe_memory(config: TrialConfig, data: Data) -> tuple[float, int] | None:
    """Train a step and validate one batch, and throw both away.

    Returns:
        (peak MiB of GPU memory, micro-batch that fits); None where memory ran out with one image.
    """
    one = data.folds[0] if data.folds else data
    train, val = one.split("train")[: config.train.batch_size + 1], one.split("val")[:PROBED]
    few = few_of(one, train, val, "probe")
    with tempfile.TemporaryDirectory() as folder:
        run = TrainingRun(config, few, Path(folder), {})

        def step_and_score() -> str | None:
            run.build()
            reason = run.train_epoch(should_stop=lambda: "probed")
            if reason != "oom":
                run.task.validate(run.validated)
            return reason

        if or_oom(step_and_score) == "oom":
            return None
        return run.peak_memory_mb(), run.largest_micro_batch


def few_of(data: Data, train: Sequence[Any], val: Sequence[Any], name: str) -> Data:
    """A data set, or a fold, of a few samples of another.

    Args:
        name: of these few; the cache knows splits by it.
    """
    one: Any = data  # a dataclass, of whichever task
    splits = {"train": list(train), "val": list(val)}
    few: Data = replace(one, splits=splits, fold=None, fingerprint=f"{one.fingerprint}/{name}")
    return few


def or_oom(work: Callable[[], T]) -> T | str:
    """What the work returns, or `oom` where memory has run out."""
    try:
        return work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        print(f"out of memory: {error}", flush=True)
        return "oom"


class TrainingRun:
    """The state of one run between epochs."""

    def __init__(
        self,
        config: TrialConfig,
        data: Data,
        workdir: Path,
        free: Mapping[str, Free],
        on_epoch: Callable[[EpochReport], None] = lambda report: None,
    ) -> None:
        self.config, self.data, self.workdir = config, data, workdir
        self.on_epoch = on_epoch
        self._writing: Future[EpochReport] | None = None
        self._on_host: nn.Module | None = None  # beside a GPU: a network to write weights from
        workdir.mkdir(parents=True, exist_ok=True)
        self.device = pick_device()
        if self.device.type == "cpu":
            keep_freed_memory()
        self.precision = resolve_precision(config.train.precision, self.device)
        self.history: list[EpochReport] = []
        self._taken_up = self._take_up()
        torch.manual_seed(config.train.seed)
        self.task = make_task(config, data, self.device, self.precision, free)
        _check_batch(config, self.task)
        set_up(self.device, self.precision, fixed_shapes=not self.task.dynamic_shapes)
        # a last image that joins its neighbours fits too
        self.micro_batch = config.train.micro_batch or config.train.batch_size + 1
        self.parameters: int | None = None
        self.step = 0

    def build(self) -> TrainingRun:
        """Put everything on the device that training needs there, as the last checkpoint says."""
        config = self.config
        model = self.task.build_model()
        self.parameters = sum(weights.numel() for weights in model.parameters())
        if self.device.type == "cuda":
            self._on_host = deepcopy(model)
        model = model.to(self.device)
        self.model: nn.Module = model.to(memory_format=self.task.memory_format)
        ema = config.train.ema
        self.average = None if ema is None else WeightAverage(self.model, ema)
        self.optimizer = build_optimizer(model, config.optim, self.task.loss.learned)
        self.scaler = grad_scaler(self.device, self.precision)
        self._resume()
        if config.train.compile:
            learned = self.task.loss.learned
            several = learned is not None and learned.by_gradients
            for network in {self.model, self.validated}:
                usual = None if self.task.dynamic_shapes else partial(self._usual, network)
                compile_model(network, usual, several_gradients=several)
        return self

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
        """The first epoch with the highest metric; one of NaN is below all others."""
        return max(
            self.history,
            key=lambda r: (-math.inf if math.isnan(r.metric) else r.metric, -r.epoch),
            default=None,
        )

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
        self.sums = sums = EpochSums(scaled=self.scaler.is_enabled())
        batches = self.task.batches(self.epoch)
        for index in range(self.task.steps_per_epoch):
            factor = schedules.lr_factor(
                self.step + index,
                self.task.steps_per_epoch,
                self.config.train.epochs,
                self.config.optim,
            )
            set_lr(self.optimizer, factor)
            rng, loss = accumulate.rng_state(self.device), self.task.loss.state_dict()
            statistics = [b.clone() for b in self.model.buffers()] if sums.scaled else []
            while (parts := self._gradient(batches)) is None:
                batches.close()
                if not self._take_less():
                    return "oom"
                accumulate.set_rng_state(self.device, rng)
                self.task.loss.load_state_dict(loss)
                batches = self.task.batches(self.epoch, index)
            norm = self._update()
            if sums.scaled:
                self._keep_statistics(statistics, norm.isfinite())
            sums.add(parts, norm)
            if self.average is not None:
                taken = norm.isfinite() if sums.scaled else None
                self.average.update(self.step + index + 1, taken)
            if sums.steps % FINITE_CHECK_STEPS == 0 and not sums.look():
                return "nonfinite"
            if self._writing is not None and self._writing.done():
                self.deliver()
            if (reason := should_stop()) is not None:
                return reason
        finite = sums.close()
        self.train_seconds = time.perf_counter() - self.started
        self.step += len(sums.norms)  # steps that were skipped do not move the schedule
        if sums.scaled and self.scaler.get_scale() < SCALE_FLOOR:
            return "nonfinite"
        return None if finite else "nonfinite"

    def finish_epoch(self) -> EpochReport:
        """Validate, and begin to make the epoch durable; `deliver` hands its report on then.

        A GPU trains the next epoch meanwhile: what is written was copied. On a CPU only validation
        runs beside the writing, which leaves the state as it is.
        """
        epoch = self.epoch + 1
        self.deliver()  # one epoch is written at a time
        state = Snapshot(self._state())
        # of this epoch alone: beside an idle thread that has used OpenMP, libgomp counts more
        # threads than cores and no longer spins: a CPU's training takes 1.3 times as long then
        writer = ThreadPoolExecutor(1)
        saved = writer.submit(lambda: checkpoint.save_state(self.workdir, epoch, state.wait()))
        scores, loss, images = self.task.validate(self.validated)
        report = EpochReport(
            epoch=epoch,
            metric=scores.metric,
            metrics=scores.metrics,
            decode=scores.decode,
            per_class=scores.per_class,
            pixel_accuracy=scores.pixel_accuracy,
            binary=scores.binary,
            detection=scores.detection,
            train=Losses(**self.sums.losses, share=self.task.loss.share),
            val=loss,
            grad_norm=float(self.sums.norms.mean()),
            grad_norm_max=float(self.sums.norms.max()),
            lr=self._largest_lr(),
            loss_weights=self._loss_weights(),
            images_per_s=self.task.samples / self.train_seconds,
            peak_memory_mb=self.peak_memory_mb(),
            micro_batch=self.largest_micro_batch,
            seconds=time.perf_counter() - self.started,
        )
        self.history.append(report)
        best = self.best
        assert best is not None
        weights = self._weights(state) if best is report else None
        facts = {
            "config": self.config.model_dump(mode="json"),
            "fingerprint": self.data.fingerprint,
            "precision": self.precision,
            "history": [report.to_json() for report in self.history],
        }

        def write() -> EpochReport:
            digest = saved.result()
            if weights is not None:
                checkpoint.save_model(self.workdir, epoch, weights(), images)
            checkpoint.commit(self.workdir, epoch, best.epoch, digest, facts)
            return report

        self._writing = writer.submit(write)
        writer.shutdown(wait=False)
        if self.device.type == "cpu":
            self.deliver()
        return report

    def deliver(self) -> None:
        """Wait until the last epoch is durable, and hand its report on."""
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            report = writing.result()
        except BaseException:
            self.history.pop()  # it is not durable, and so has not been
            raise
        self.on_epoch(report)

    def _weights(self, state: Snapshot) -> Callable[[], nn.Module]:
        """The network to write: on a GPU a copy on the host, which takes the weights of a state."""
        on_host, name = self._on_host, "model" if self.average is None else "average"
        if on_host is None:
            return lambda: self.validated

        def filled() -> nn.Module:
            on_host.load_state_dict(state.wait()[name])
            return on_host

        return filled

    def result(self, reason: str) -> TrialResult:
        best = self.best
        return TrialResult(
            reason=reason,
            value=None if best is None or math.isnan(best.metric) else best.metric,
            best_epoch=None if best is None else best.epoch,
            decode={} if best is None else best.decode,
            model=None if best is None else self.workdir / f"model-{best.epoch}",
            history=self.history,
            hardware={
                "device": device_name(self.device),
                "precision": self.precision,
                "micro_batch": self.largest_micro_batch,
                "peak_memory_mb": round(max((r.peak_memory_mb for r in self.history), default=0.0)),
            },
            trivial_score=self.task.trivial_score,
            parameters=self.parameters,
        )

    @property
    def largest_micro_batch(self) -> int:
        """Images that are in memory at once; what is known to fit may be more than the batch."""
        return min(self.micro_batch, self.config.train.batch_size)

    def _largest_lr(self) -> float:
        """Of the network; the weights of the loss are the last group, with a rate of their own."""
        groups = self.optimizer.param_groups
        return max(group["lr"] for group in (groups[:-1] if self.task.loss.learned else groups))

    def _loss_weights(self) -> dict[str, float] | None:
        learned = self.task.loss.learned
        if learned is None:
            return None
        return {name: float(weight) for name, weight in learned.weights().items()}

    def _gradient(self, batches: Generator[tuple[Tensor, Any]]) -> dict[str, Tensor] | None:
        """The next batch's gradient and loss parts; None where they did not fit into memory."""
        try:
            images, target = next(batches)
            self.optimizer.zero_grad(set_to_none=True)
            return accumulate.backward(
                lambda part: self.task.run(self.model, part),
                self.model,
                images,
                target,
                self.task.loss,
                self.micro_batch,
                self.scaler.scale,
                self.task.min_batch,
                self.task.shared_weights,
            )
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        return None  # behind the block: the traceback holds the graph

    def _take_less(self) -> bool:
        """Make the next try of a step need less memory; False where nothing is left to give up."""
        self.optimizer.zero_grad(set_to_none=True)
        fits = self.largest_micro_batch // 2
        smaller = fits >= self.task.min_batch
        if smaller:
            self.micro_batch = fits
        elif not self.task.leave_device():
            return False
        free_memory()
        return True

    def _update(self) -> Tensor:
        """Unscale, clip, step; return the gradient's norm, () on the device."""
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(
            self.model.parameters(), self.config.optim.clip_norm or math.inf
        )
        with memory_order(self.optimizer):
            self.scaler.step(self.optimizer)
        self.scaler.update()
        return norm.detach()

    @torch.no_grad()
    def _keep_statistics(self, before: list[Tensor], taken: Tensor) -> None:
        """Take back what a skipped step has told batch norm: its activations may have overflowed.

        Args:
            taken: () bool, on the device.
        """
        for buffer, old in zip(self.model.buffers(), before, strict=True):
            buffer.copy_(torch.where(taken, buffer, old))

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

    def _take_up(self) -> dict[str, Any] | None:
        """The state of this workdir's checkpoint; a damaged one goes, and the run begins anew."""
        path = self.workdir / checkpoint.LAST
        try:
            stored = checkpoint.load_facts(self.workdir)
            if stored is None:
                return None
            config, fingerprint = stored["config"], stored["fingerprint"]
            check_same_run(path, config, fingerprint, self.config, self.data)
            checkpoint.files(self.workdir, stored, check=True)
            history = [EpochReport.from_json(one) for one in stored["history"]]
            if [report.epoch for report in history] != [*range(1, stored["epoch"] + 1)]:
                raise Damaged(f"{path} is damaged: it lacks epochs")
            state = checkpoint.load_state(self.workdir, stored)
        except (FileNotFoundError, Damaged) as damage:
            print(f"{damage}; this run begins anew", flush=True)
            checkpoint.remove_last(self.workdir)
            return None
        self.history = history
        self._keep_precision(stored)
        return state

    def _keep_precision(self, stored: dict[str, Any]) -> None:
        """Go on in the precision that the run began in, where it was free and the device has it."""
        began = stored.get("precision", self.precision)  # an older version did not keep it
        if began == self.precision or self.config.train.precision != "auto":
            return
        try:
            self.precision = resolve_precision(began, self.device)
        except InputError as error:
            print(f"begun in {began}, goes on in {self.precision}: {error}", flush=True)

    def _resume(self) -> None:
        """Take up the last checkpoint of this workdir, if there is one."""
        state, self._taken_up = self._taken_up, None
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # begun in another precision it has none: ours starts anew
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

    def _vitals(self, report: EpochReport) -> health.Vitals:
        return health.Vitals(
            metric=report.metric,
            pixel_loss=report.train.pixel,
            total_loss=report.train.total,
            grad_norm=report.grad_norm,
            per_class=self.task.dead_class_view(report),
        )

    def peak_memory_mb(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


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
