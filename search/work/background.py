"""What follows a trial: its models tidied at once, then pictures, notes and graphs beside the next.

The next trial is claimed and has begun to train before any of it is done. The pictures are drawn in
a process of their own; the store is only asked from the supervisor's thread. Nothing here may harm
a trial: what fails is said.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from optuna.trial import FrozenTrial

from search.dashboard.publish import PICTURES, Publisher
from search.database.retry import Backoff, is_away
from search.database.store import UnknownStudy
from search.files.artifacts import Artifacts
from search.files.bucket_copies import Copies
from search.findings.facts import Facts, gather
from search.studies.study import Study, open_study
from search.work.drawing import Drawing, draw
from search.work.kept_models import KeptModels
from search.work.watchers import Interrupt, Watcher
from spaces.config import TrialConfig
from trainers.tasks import Data
from trainers.train import TrialResult

POLL_SECONDS = 0.2


@dataclass
class _Pictures:
    """The pictures of one trial, waiting, being drawn, or drawn.

    Attributes:
        problem: what went wrong, once `drawn`.
        tries: how often they have been drawn, or begun to be.
    """

    number: int
    drawing: Drawing
    to: Path
    tries: int = 0
    problem: str | None = None
    thread: threading.Thread | None = None


@dataclass
class Background:
    """The background work of one study's trials; each of its workers has one.

    Attributes:
        copies: into the bucket, where the trials' files are in one.
    """

    study: Study
    data: Data
    artifacts: Artifacts
    watcher: Watcher
    interrupt: Interrupt
    copies: Copies | None = None
    _waiting: deque[_Pictures] = field(default_factory=deque)
    _drawn: _Pictures | None = None  # being drawn, or drawn and not shown yet
    _again: list[_Pictures] = field(default_factory=list)  # failed while a trial was running
    _next_try: float = 0.0
    _backoff: Backoff = field(default_factory=Backoff)

    def __post_init__(self) -> None:
        self.publisher = Publisher(self.study, self.artifacts)
        self.models = KeptModels(self.study, self.artifacts, self.copies)

    def trial_ended(
        self, number: int, config: TrialConfig, result: TrialResult, trials: list[FrozenTrial]
    ) -> None:
        """Take a trial whose result has been stored, and the study's trials as they are then.

        Models of trials that are no longer among the best go; its own is copied and drawn if it is.
        """
        facts, spec = Facts(self.study, trials), self.study.spec
        best = facts.kept
        self.models.keep(best, (trial.number for trial in facts.ended))
        self.publisher.trial_ended(best[0] if best else None)
        if result.model is None or number not in best:
            return
        if self.copies is not None:
            self.copies.model(self.artifacts.key(self.study, number), result.model)
        if spec.beside is not None:
            return  # it has its pictures from the search
        shown = result.folds[0] if result.folds else result  # its images, of its model
        assert shown.model is not None
        drawing = Drawing(
            title=f"{spec.name}, trial {number}",
            metric=self.study.metric,
            config=config.replace(shown.decode),
            model=shown.model,
            history=result.history,
            classes=spec.data.class_names,
            per_class=result.per_class,
            ended=None if result.reason == "completed" else result.reason,
        )
        folder = self.artifacts.workdir(self.study, number) / PICTURES
        self._waiting.append(_Pictures(number, drawing, folder))

    def trial_failed(self) -> None:
        """Take a trial that has ended without a result."""
        self.publisher.trial_ended(None)

    def advance(self, *, idle: bool = False) -> None:
        """Do what can be done now, without waiting for pictures; called every now and then.

        Args:
            idle: no trial runs here that it could disturb.
        """
        if time.monotonic() < self._next_try or self.interrupt.count:
            return
        if idle and not self._waiting and self._drawn is None:
            self._waiting.extend(self._again)
            self._again.clear()
        self._guarded(self._advance_pictures)
        if self.publisher.stale and (idle or self.publisher.due):
            self._guarded(self._refresh)

    def finish(self) -> None:
        """Do everything that is left, unless the user wants to be gone."""
        while not self.interrupt.count and (self._waiting or self._drawn or self._again):
            if not (self._waiting or self._drawn):  # no trial is in their way now
                self._waiting.extend(self._again)
                self._again.clear()
            if not self._guarded(self._advance_pictures):
                break
            self._join(POLL_SECONDS)
        self._join(None)  # after an interrupt the drawing ends at once
        if self.publisher.stale and self.interrupt.count < 2:
            self._guarded(self._refresh)

    def _refresh(self) -> None:
        self.publisher.refresh(gather(self.study))
        if self.study.spec.confirms is not None:  # what it has found stands there
            searched = open_study(self.study.store, self.study.spec.confirms)
            Publisher(searched, self.artifacts).refresh(gather(searched))

    def _join(self, seconds: float | None) -> None:
        if self._drawn is not None and self._drawn.thread is not None:
            self._drawn.thread.join(seconds)

    def _advance_pictures(self) -> None:
        """Show what has been drawn, and begin with the next."""
        if self._drawn is not None:
            if self._drawn.thread is not None and self._drawn.thread.is_alive():
                return
            self._show(self._drawn)
            self._drawn = None
        if self._waiting:
            self._drawn = self._waiting.popleft()
            self._drawn.tries += 1
            self._drawn.thread = threading.Thread(
                target=self._draw, args=(self._drawn,), name="pictures", daemon=True
            )
            self._drawn.thread.start()

    def _draw(self, pictures: _Pictures) -> None:
        """In a thread, which waits for the process that draws."""
        try:
            pictures.problem = draw(
                pictures.drawing,
                self.data.folds[0] if self.data.folds else self.data,
                pictures.to,
                lambda: bool(self.interrupt.count),
            )
        except Exception as error:
            pictures.problem = f"{type(error).__name__}: {error}"

    def _show(self, pictures: _Pictures) -> None:
        if self.interrupt.count:
            return
        facts = gather(self.study)
        if pictures.number not in facts.kept:
            return  # overtaken while they were drawn: its model may be gone
        if pictures.problem is not None and pictures.tries == 1:
            self._again.append(pictures)  # a running trial may have left it no room
            return
        problem = pictures.problem
        try:
            if problem is None:
                self.publisher.show_pictures(pictures.number, pictures.to, facts)
        except Exception as error:
            if is_away(error):
                raise
            problem = f"{type(error).__name__}: {error}"
        if problem is not None:
            self.watcher.not_shown(pictures.number, f"its pictures: {problem}")

    def _guarded(self, step: Callable[[], None]) -> bool:
        """Take a step; False where it failed. Not even a bug in a graph may cost GPU time."""
        try:
            step()
        except UnknownStudy:  # deleted: there is nobody to show it to
            self._waiting.clear()
            self._again.clear()
            self.publisher.stale = False
            return False
        except Exception as error:
            if is_away(error):
                self._next_try = time.monotonic() + self._backoff.next()
                self.watcher.store_away(error)
            else:
                self.publisher.stale = False  # until the next trial has ended
                self.watcher.not_shown(None, f"something: {type(error).__name__}: {error}")
            return False
        self._next_try, self._backoff = 0.0, Backoff()
        return True
