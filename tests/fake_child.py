"""The one stand-in for a trial's process: it trains nothing, and does as its test says."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from search.work.child import ChildDied, Done, Epoch, FoldEnded, Message, Resumed
from trainers.report import EpochReport, Losses
from trainers.train import TrialResult

CHECKPOINT = "epochs-trained"


class FakeChild:
    """Epochs that cost nothing, with metrics given beforehand; it crashes or hangs where told to.

    Attributes:
        sent: epochs that it has reported.
        killed: whether its supervisor has killed it.
    """

    pid = 0

    def __init__(
        self,
        metrics: Sequence[float],
        workdir: Path | None = None,
        *,
        seconds: float = 0.0,
        classes: int = 2,
        model: Path | None = None,
        said: Sequence[Message | None] = (),
        fold_epochs: int | None = None,
        crashes_after: int | None = None,
        hangs_after: int | None = None,
    ) -> None:
        """
        Args:
            workdir: where it keeps count of its epochs; the next child there repeats them first.
            seconds: that an epoch takes; where it takes none, it says that it took one.
            classes: that its reports have a value for.
            model: of its result; None: no pictures are drawn.
            said: what it says first; None: it has nothing to say yet.
            fold_epochs: of each of its folds, where it has folds.
            crashes_after, hangs_after: so many epochs.
        """
        self.metrics, self.sleeps, self.seconds = metrics, seconds, seconds or 1.0
        self.classes, self.model = classes, model
        self.fold_epochs = fold_epochs
        self.crashes_after, self.hangs_after = crashes_after, hangs_after
        self.said = list(said)
        self.sent = self.before = 0
        self.resumed = False
        self.word: str | None = None
        self.deadline = float("inf")
        self.killed = False
        self.checkpoint = None if workdir is None else workdir / CHECKPOINT
        if self.checkpoint is not None:
            self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            if self.checkpoint.exists():
                trained = len(self.checkpoint.read_text().split())
                self.before = min(trained, len(metrics))

    def receive(self, timeout: float) -> Message | None:
        """The next epoch, or the result: after the last one, or where a word has come."""
        if self.killed:
            raise ChildDied(-9)
        if self.said:
            return self.said.pop(0)
        if self.sent < self.before:  # no step is taken before all has been repeated
            return self._epoch()
        if not self.resumed:
            self.resumed = True
            return Resumed()
        if self.word is None and time.monotonic() > self.deadline:
            self.word = "preempted"
        if self.word is not None or self.sent == len(self.metrics):
            history = [self._report(epoch) for epoch in range(1, self.sent + 1)]
            done = result(history, self.word or "completed", self.model)
            return Done(done if self.fold_epochs is None else self._folded(done))
        if self.sent == self.crashes_after:
            raise ChildDied(1)
        if self.sent == self.hangs_after:
            time.sleep(timeout)
            return None
        time.sleep(self.sleeps)
        self.keep(self.sent + 1)
        return self._epoch()

    def _epoch(self) -> Epoch:
        self.sent += 1
        if self.fold_epochs is not None and self.sent % self.fold_epochs == 0:
            self.said.append(FoldEnded(self._folds()[-1]))
        return Epoch(self._report(self.sent))

    def _report(self, epoch: int) -> EpochReport:
        made = report(epoch, self.metrics[epoch - 1], self.seconds, self.classes)
        if self.fold_epochs is None:
            return made
        return replace(made, fold=1 + (epoch - 1) // self.fold_epochs)

    def _folds(self) -> list[float]:
        """The value of each fold that has ended."""
        length = self.fold_epochs
        assert length is not None
        starts = range(0, self.sent - length + 1, length)
        return [max(self.metrics[start : start + length]) for start in starts]

    def _folded(self, done: TrialResult) -> TrialResult:
        folds = tuple(
            TrialResult("completed", value, None, {}, None, []) for value in self._folds()
        )
        value = fmean(fold.value or 0.0 for fold in folds) if folds else done.value
        return replace(done, value=value, best_epoch=1, folds=folds)

    def keep(self, epoch: int) -> None:
        """Write a checkpoint, as it were."""
        if self.checkpoint is not None:
            with open(self.checkpoint, "a") as file:
                file.write(f"{epoch}\n")

    def stop(self, word: str) -> None:
        if self.hangs_after != self.sent:
            self.word = word

    def fence(self, deadline: float) -> None:
        self.deadline = deadline

    def kill(self) -> None:
        self.killed = True

    def join(self) -> None: ...


def whole(config: Any, data: Any, workdir: Path, free: Any, probe: Any = None) -> FakeChild:
    """Of a segmentation study: all epochs that the config asks for; later trials are better."""
    number, epochs = int(workdir.name.removeprefix("trial-")), config.train.epochs
    metrics = [(0.5 + 0.01 * number) * epoch / epochs for epoch in range(1, epochs + 1)]
    return FakeChild(metrics, workdir, classes=data.classes)


def report(epoch: int, metric: float, seconds: float = 1.0, classes: int = 2) -> EpochReport:
    """As `trainers.train` reports an epoch."""
    losses = Losses(total=1 / epoch, pixel=0.5 / epoch, region=0.5 / epoch)
    return EpochReport(
        epoch=epoch,
        metric=metric,
        train=losses,
        val=losses,
        per_class=[metric] * classes,
        images_per_s=100.0,
        seconds=seconds,
    )


def result(history: list[EpochReport], reason: str, model: Path | None = None) -> TrialResult:
    """As `trainers.train` ends."""
    best = max(history, key=lambda report: report.metric, default=None)
    value, epoch = (None, None) if best is None else (best.metric, best.epoch)
    return TrialResult(reason, value, epoch, {}, model, history, {"device": "cpu"})
