"""What a person sees while a study runs: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from search.database.retry import is_away
from search.database.tables import ENDED, GAIN, OPEN, RUNNING
from search.findings.ranking import ranked
from search.findings.time_left import TimeLeft
from search.findings.wording import clock, describe, epoch_named
from search.studies.confirmations import SEED
from search.studies.limits import stopped
from search.studies.reasons import reason as reason_of
from search.studies.study import Study
from search.studies.trial_facts import TrialFacts
from spaces.config import TrialConfig
from spaces.data import fold_count
from trainers.report import EpochReport


class ProgressView:
    """Follows a worker; use it as a context manager."""

    def __init__(
        self, study: Study, console: Console, measured: tuple[float, float] | None = None
    ) -> None:
        """
        Args:
            measured: (least, most) seconds of the study, by steps that were measured before.
        """
        self.study = study
        self.console = console
        self.epochs = study.full_epochs
        self.counts = study.slots.counts()
        self.total = sum(self.counts.values())
        self.began = self.counted = time.monotonic()
        self.left = TimeLeft(self.epochs, measured)
        self.best: tuple[int, float, str] | None = None
        trials, waiting = study.trials(), study.slots.waiting()
        for trial in trials:
            self.left.take(trial, waiting, first=True)
        self.left.estimate(0.0, self._unended(), 1)
        ranking = ranked(trials)
        if ranking:
            best = ranking[0]
            assert best.value is not None
            self.best = (best.number, best.value, self._settings(best.number))
        self.current = self.last_pause = ""
        self.warned = -60.0  # when the store was last said to be away
        self.running: dict[int, TrialConfig] = {}
        self.seen: dict[int, int] = {}  # the last epoch of each trial that ran here
        self.again = ""  # which attempt of the trial this is, beyond the first
        self.trials_bar = Progress(
            TextColumn("trials"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self.epochs_bar = Progress(
            TextColumn("epochs"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self.trials_task = self.trials_bar.add_task("", total=self.total, note="")
        self.epochs_task = self.epochs_bar.add_task("", total=self.epochs, note="")
        self.live = (  # last: it draws at once
            Live(get_renderable=self._render, console=console, refresh_per_second=2)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> ProgressView:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()

    def trial_started(self, number: int, config: TrialConfig, attempt: int) -> None:
        self.running = {number: config}
        self.counted = time.monotonic()
        if self.study.spec.beside is not None:  # its rounds are planned one after another
            self.counts = self.study.slots.counts()
            self.total = sum(self.counts.values())
            self.trials_bar.update(self.trials_task, total=self.total)
        self.again = f", attempt {attempt}" if attempt > 1 else ""
        settings = self._settings(number)
        self.current = f"trial {number}{self.again}: {settings}"
        if self.live:
            self.epochs_bar.update(
                self.epochs_task, completed=0, total=self.study.full_epochs, note=""
            )
        if not self.seen.setdefault(number, 0):
            self._say(f"trial {number} started{self.again}: {settings}".rstrip(": "))

    def trial_resumed(self, number: int, epoch: int, dropped: int) -> None:
        seen, self.seen[number] = self.seen[number], epoch
        if dropped:
            where = (
                f"goes on{self.again} after epoch {epoch}" if epoch else f"begins anew{self.again}"
            )
            self.console.print(
                f"trial {number} {where}: its checkpoint lacks {dropped} epochs that were stored; "
                "their reports are dropped",
                highlight=False,
                soft_wrap=True,
            )
        elif epoch:
            self._say(f"trial {number} goes on{self.again} after epoch {epoch}")
        elif seen:
            self._say(f"trial {number} begins anew{self.again}")

    def epoch_ended(self, number: int, report: EpochReport) -> None:
        self.left.epoch_ended(number, report.epoch, report.seconds)
        value, speed = report.metric, report.images_per_s
        note = f"{self.study.metric} {value:.4f}   {speed:.0f} images/s"
        if self.live:
            self.epochs_bar.update(self.epochs_task, completed=report.epoch, note=note)
        elif report.epoch > self.seen[number]:  # a resumed trial repeats its reports
            self.seen[number] = report.epoch
            total = self.running[number].train.epochs
            self._say(
                f"trial {number} {epoch_named(report, total)}: {self.study.metric} {value:.4f}, "
                f"loss {report.train.total:.4f}, {speed:.0f} images/s"
            )

    def trial_ended(
        self, number: int, state: str, reason: str, value: float | None, epochs: int
    ) -> None:
        refused = reason.startswith("limit") and not epochs  # says nothing of how far others come
        self.left.trial_ended(number, "FAILED" if refused else state)
        self._count(state)
        self._estimate(1 + self.counts[RUNNING], watched=1)
        self._show_end(number, state, reason, value, epochs)

    def trials_ended(
        self,
        trials: Sequence[FrozenTrial],
        waiting: Mapping[int, str],
        ended: Sequence[FrozenTrial],
        workers: int,
    ) -> None:
        """Show trials that have ended elsewhere.

        Args:
            trials: all of the study, `ended` among them.
            waiting: as of `Slots.waiting`.
            workers: that may train now.
        """
        for trial in trials:
            self.left.take(trial, waiting)
        self._count(*(_state(trial) for trial in ended))
        workers = max(1, min(workers, self.counts[RUNNING] + len(ended)))
        self._estimate(workers, watched=workers)
        for trial in ended:
            epochs = TrialFacts.of(trial).epochs or 0
            self._show_end(trial.number, _state(trial), reason_of(trial), trial.value, epochs)

    def _count(self, *states: str) -> None:
        """Count the slots anew; where the store is away, those that are known to have ended."""
        for state in states:
            if state in self.counts:
                self.counts[state] += 1
        try:
            self.counts = self.study.slots.counts()
            if self.study.spec.budget.until and stopped(self.study) == GAIN:
                waiting = self.study.slots.waiting().values()  # paused ones wait on
                self.counts[OPEN] = sum(why == "INTERRUPTED" for why in waiting)
        except Exception as error:
            if not is_away(error):
                raise

    def _estimate(self, workers: int, watched: int) -> None:
        """Say anew how long the study will take.

        Args:
            watched: workers of the trials whose epochs are heard of here.
        """
        now = time.monotonic()
        self.left.worked((now - self.counted) * watched)
        self.counted = now
        self.left.estimate(now - self.began, self._unended(), workers)

    def _unended(self) -> int:
        return self.counts[OPEN] + self.counts[RUNNING]

    def _show_end(
        self, number: int, state: str, reason: str, value: float | None, epochs: int
    ) -> None:
        ranks = state == "COMPLETE" or fold_count(self.study.spec.data) == 1
        if value is not None and ranks and (self.best is None or value > self.best[1]):
            self.best = (number, value, self._settings(number))
        shown = "no value" if value is None else f"{self.study.metric} {value:.4f}"
        trained = "1 epoch" if epochs == 1 else f"{epochs} epochs"
        line = f"trial {number} {state} ({reason}): {shown} in {trained}"
        if self.live:
            self.live.console.print(line, highlight=False)
        self._say(f"{line}; {self._totals()}")

    def store_away(self, error: BaseException) -> None:
        """Say once a minute that the store does not answer; training goes on."""
        now = time.monotonic()
        if now - self.warned > 60:
            self.warned = now
            first = " ".join(str(error).split())[:160]
            self.console.print(f"the store does not answer, trying again: {first}", highlight=False)

    def paused(self, message: str) -> None:
        """Say why nothing runs, or what is wrong with the bucket."""
        if message != self.last_pause:
            self.last_pause = message
            self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    def not_shown(self, number: int | None, problem: str) -> None:
        """Say what the dashboard lacks of a trial, or of the study."""
        of = "" if number is None else f"trial {number}: "
        self.console.print(f"{of}the dashboard lacks {problem}", highlight=False, soft_wrap=True)

    def _settings(self, number: int) -> str:
        """What a trial is, in a line: its parameters, or the trial that it runs again."""
        trial = self.study.begun(number).trial
        facts = TrialFacts.of(trial)
        if facts.finishes is not None:
            return f"trial {facts.finishes} of the search, to its end"
        if facts.confirms is None:
            return describe(trial.params)
        return f"trial {facts.confirms} of the search on seed {trial.params[SEED]}"

    def _say(self, line: str) -> None:
        if not self.live:
            self.console.print(line, highlight=False, soft_wrap=True)

    def _totals(self) -> str:
        c = self.counts
        return (
            f"{c['COMPLETE']} complete, {c['PRUNED']} pruned, {c['FAILED']} failed of "
            f"{self.total}; {self._time_left()}"
        )

    def _time_left(self) -> str:
        gone = time.monotonic() - self.began
        return self.left.text(gone) if self._unended() else f"{clock(gone)} gone"

    def _render(self) -> Group:
        """What the terminal shows; called twice a second, so it asks the store nothing."""
        done = sum(self.counts[state] for state in ENDED)
        self.trials_bar.update(self.trials_task, completed=done, note=self._totals())
        parts: list[Any] = [self.trials_bar, self.epochs_bar, Text(self.current, "dim")]
        if self.best:
            number, value, params = self.best
            parts.append(
                Text(f"best: trial {number}, {self.study.metric} {value:.4f}: {params}", "green")
            )
        return Group(*parts)


def _state(trial: FrozenTrial) -> str:
    return "FAILED" if trial.state.name == "FAIL" else trial.state.name
