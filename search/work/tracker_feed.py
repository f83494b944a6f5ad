"""A watcher that also feeds a study's trackers, which can neither hold a trial up nor end it.

Each tracker has a queue and a thread of its own in the supervisor's process. One that fails or
hangs is said once; training goes on, and the next trial tries again.
"""

from __future__ import annotations

import os
import queue
import re
import threading
import time
from typing import Any

from rich.console import Console

from search.files.artifacts import Artifacts
from search.studies.study import Study
from search.work.trackers import TRACKERS, TrackedTrial, Tracker, flatten
from search.work.watchers import Interrupt, Watcher
from spaces.config import TrialConfig
from spaces.spec import StudySpec
from trainers.report import EpochReport

SLOW_SECONDS = 30.0  # a call that takes longer is said
DRAIN_SECONDS = 25.0  # how long a worker that ends waits for its trackers
MAX_EVENTS = 1000  # that wait for a tracker
SECRETS = ("WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


class Tracked:
    """Passes everything on to a watcher, and trials to trackers; use it as a context manager."""

    def __init__(
        self,
        study: Study,
        artifacts: Artifacts,
        watcher: Watcher,
        console: Console,
        interrupt: Interrupt,
    ) -> None:
        self.study, self.artifacts, self.watcher = study, artifacts, watcher
        self.interrupt = interrupt
        self.feeds = [_Feed(name, study.spec, console) for name in study.spec.trackers]

    def __enter__(self) -> Tracked:
        return self

    def __exit__(self, *error: object) -> None:
        """Let the trackers finish; a second Ctrl-C or DRAIN_SECONDS end the waiting."""
        deadline = time.monotonic() + DRAIN_SECONDS
        for feed in self.feeds:
            feed.put("close")
        for feed in self.feeds:
            while feed.thread.is_alive() and self.interrupt.count < 2:
                if time.monotonic() > deadline:
                    feed.say("lost", f"is given up: no answer for {DRAIN_SECONDS:.0f} s")
                    break
                feed.thread.join(0.1)
            feed.given_up = True

    def trial_started(self, number: int, config: TrialConfig, attempt: int) -> None:
        self.watcher.trial_started(number, config, attempt)
        name, metric = self.study.spec.name, self.study.metric
        folder = self.artifacts.folder
        trial = TrackedTrial(name, self.study.uid, number, config.flat(), metric, folder)
        self._feed("start", trial)

    def trial_resumed(self, number: int, epoch: int, dropped: int) -> None:
        self.watcher.trial_resumed(number, epoch, dropped)
        if dropped:
            self._feed("rewind", epoch)

    def epoch_ended(self, number: int, report: EpochReport) -> None:
        self.watcher.epoch_ended(number, report)
        self._feed("epoch", report)

    def trial_ended(
        self, number: int, state: str, reason: str, value: float | None, epochs: int
    ) -> None:
        self.watcher.trial_ended(number, state, reason, value, epochs)
        if state == "PAUSED":  # its run goes on later
            state, reason, value = "RETRY", "paused", None
        self._feed("end", state, reason, value)

    def store_away(self, error: BaseException) -> None:
        self.watcher.store_away(error)

    def paused(self, message: str) -> None:
        self.watcher.paused(message)

    def not_shown(self, number: int | None, problem: str) -> None:
        self.watcher.not_shown(number, problem)

    def _feed(self, *event: Any) -> None:
        for feed in self.feeds:
            feed.put(*event)


class _Feed:
    """One tracker's events in order, in a daemon thread."""

    def __init__(self, name: str, spec: StudySpec, console: Console) -> None:
        self.name, self.spec, self.console = name, spec, console
        self.events: queue.Queue[tuple[Any, ...]] = queue.Queue(MAX_EVENTS)
        self.tracker: Tracker | None = None
        self.busy_since: float | None = None
        self.said: set[str] = set()
        self.given_up = False
        self.thread = threading.Thread(target=self._run, name=f"tracker {name}", daemon=True)
        self.thread.start()

    def put(self, *event: Any) -> None:
        """Hand on an event without waiting."""
        since = self.busy_since
        if since is not None and time.monotonic() - since > SLOW_SECONDS:
            self.say("slow", f"has not answered for {SLOW_SECONDS:.0f} s; training goes on")
        try:
            self.events.put_nowait(event)
        except queue.Full:
            self.say("full", f"does not answer, and {MAX_EVENTS} events wait; later ones are lost")

    def say(self, kind: str, trouble: str) -> None:
        """Tell the user of a kind of trouble, once until the tracker works again."""
        if kind not in self.said:
            self.said.add(kind)
            text = _without_secrets(f"tracker {self.name} {trouble}")
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _run(self) -> None:
        kind, number = "", 0
        while kind != "close" and not self.given_up:
            kind, *facts = self.events.get()
            self.busy_since = time.monotonic()
            if kind == "start":
                number = facts[0].number
            try:
                self._handle(kind, facts)
            except Exception as error:
                self.tracker = None
                text = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
                self.say(
                    "failed",
                    f"failed in trial {number}: {text}; training goes on, and the next trial tries "
                    "it again",
                )
            self.busy_since = None

    def _handle(self, kind: str, facts: list[Any]) -> None:
        if kind == "epoch":
            report = facts[0]
            if self.tracker is not None and report.epoch > self.tracker.logged:
                self.tracker.log(report.epoch, flatten(report, self.spec))
                self.said.clear()
            return
        if kind == "rewind":  # later epochs come once more
            if self.tracker is not None:
                self.tracker.logged = min(self.tracker.logged, facts[0])
            return
        tracker, self.tracker = self.tracker, None
        if tracker is not None:  # a trial whose slot was given back has no end of its own
            tracker.end(*(facts if kind == "end" else ("RETRY", "given back", None)))
        if kind == "start":
            self.tracker = TRACKERS[self.name](facts[0])


def _without_secrets(text: str) -> str:
    for secret in filter(None, map(os.environ.get, SECRETS)):
        text = text.replace(secret, "***")
    return re.sub(r"//[^/@\s]+@", "//***@", text)
