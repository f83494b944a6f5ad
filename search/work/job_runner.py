"""`segtune jobs`: runs what people have asked for in the dashboard, one command after the other.

The dashboard has neither torch nor the data nor the right to write studies; this process has them.
It runs segtune's own commands and no others (`job_kinds`), each in a process of its own.
"""

from __future__ import annotations

import math
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from rich.console import Console

from search.database.retry import is_away, until_it_answers
from search.database.store import Store
from search.database.url import STORE, spellings
from search.files.artifacts import Artifacts
from search.files.results import Results, zip_folder
from search.files.sizes import shown_bytes
from search.findings.wording import clock
from search.studies import job_runs
from search.studies.heartbeats import Registration
from search.studies.job_kinds import FILE, Init, OnFile, Predict, command, parsed
from search.studies.jobs import CANCELLED, DEVICE, ENDED, FAILED, WAITING, Job
from search.studies.owners import PERSON, new_owner
from search.work.command import Command
from search.work.job_log import JobLog
from search.work.watchers import Interrupt
from spaces.errors import DONE, INTERRUPTED, InputError
from spaces.paths import ROOTS

GONE = "gone"  # the job is another's by now, or nobody's
PROGRAM = (sys.executable, "-m", "search.cli")
ON_CPU = {"SEGTUNE_DEVICE": "cpu"}  # as GPUs are for training; trainers.devices brings torch
SECRETS = ("PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "WANDB_API_KEY")

T = TypeVar("T")


@dataclass(frozen=True)
class Pace:
    """Seconds.

    Attributes:
        longest: of one job.
        grace: that a command has to end, once it is told to.
        write: between two writes of lines.
        look: between two looks whether a job is still wanted, and between signs of life.
        idle: between looks for a job.
        tidy: between looks for old results.
    """

    longest: float = 3600.0
    grace: float = 10.0
    write: float = 1.0
    look: float = 3.0
    idle: float = 2.0
    tidy: float = 3600.0


@dataclass
class JobRunner:
    """Serves the jobs of a store.

    Attributes:
        environment: of the commands.
        roots: folders that study files may name data in; without one it takes no study file.
        until_idle: end when no job waits any more.
        program: what stands before a command's words.
    """

    store: Store
    artifacts: Artifacts
    console: Console
    interrupt: Interrupt
    registration: Registration
    environment: Mapping[str, str]
    roots: Sequence[Path] = ()
    until_idle: bool = False
    pace: Pace = field(default_factory=Pace)
    program: Sequence[str] = PROGRAM

    def run(self) -> bool:
        """Serve until idle (True) or interrupted (False)."""
        owner, tidied, seen = self.registration.owner, -math.inf, time.monotonic()
        try:
            self.patiently(self.registration.enter)
            while not self.interrupt.count:
                job = self.patiently(partial(job_runs.claim, self.store, owner))
                if job is not None:
                    self._serve(job)
                    tidied = -math.inf
                    continue
                if time.monotonic() - tidied > self.pace.tidy:
                    self.patiently(self._tidy)
                    tidied = time.monotonic()
                if time.monotonic() - seen > self.pace.look:
                    self.patiently(self.registration.seen)
                    seen = time.monotonic()
                if self.until_idle:
                    return True
                self._sleep()
        except Exception as error:
            if not (self.interrupt.count and is_away(error)):
                raise
        finally:
            self.registration.leave()
        return False

    def patiently(self, call: Callable[[], T]) -> T:
        """Call until the store answers, or somebody wants an end."""
        return until_it_answers(
            call,
            give_up=lambda: bool(self.interrupt.count),
            on_wait=lambda error: self.say(f"store away: {error}"),
        )

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _serve(self, job: Job) -> None:
        began = time.monotonic()
        by = f", asked for by {job.asked_by}" if job.asked_by else ""
        self.say(f"job {job.number}{by}: {job.study or ''}: {job.words}")
        with TemporaryDirectory(prefix="segtune-job-", ignore_cleanup_errors=True) as folder:
            state = _Turn(self, job, Path(folder)).run()
        self.say(f"job {job.number}: {state} after {clock(time.monotonic() - began)}")

    def _tidy(self) -> None:
        """Remove results that are old or too many."""
        stale = job_runs.stale_results(self.store)
        results = Results(self.artifacts)
        for _, key in stale:
            results.remove(key)
        job_runs.forget_results(self.store, [number for number, _ in stale])

    def _sleep(self) -> None:
        until = time.monotonic() + self.pace.idle
        while time.monotonic() < until and not self.interrupt.count:
            time.sleep(0.1)


class _Turn:
    """One job, from its claim to its end."""

    def __init__(self, runner: JobRunner, job: Job, folder: Path) -> None:
        self.runner, self.job, self.folder = runner, job, folder
        self.results = Results(runner.artifacts)
        self.log = JobLog(_replaced(runner.store, folder))
        self.over_at = time.monotonic() + runner.pace.longest
        self.sent = self.seen = time.monotonic()
        self.key: str | None = None  # of the result

    def run(self) -> str:
        """Run it, and store what it came to: ended, failed, cancelled, waiting again, or gone."""
        state, code = self._outcome()
        self.log.close()
        job, store = self.job, self.runner.store
        if state == WAITING:
            self._drop_result()
            self.runner.patiently(partial(job_runs.give_back, store, job))
        elif state != GONE:
            end = partial(job_runs.end, store, job, state, code, self.log.text())
            state = state if self.runner.patiently(end) else GONE
        if state != ENDED:
            self._drop_result()
        return state

    def _outcome(self) -> tuple[str, int | None]:
        """How it ended, and its command's exit code."""
        job, made = self.job, self.folder / "made" / (self.job.study or "result")
        try:
            words = command(job.kind, job.arguments, job.study, str(self.folder), str(made))
            environment = {**self.runner.environment, **self._told()}
        except InputError as error:
            self.log.say(str(error))
            return FAILED, None
        grace = self.runner.pace.grace
        with Command([*self.runner.program, *words], environment, self.log.hear, grace) as child:
            over = self._tend(lambda: child.runs(0.1))
        if over is not None:
            return over, None
        if child.code != 0 or not made.is_dir():
            return (ENDED if child.code == 0 else FAILED), child.code
        over = self._keep(made)
        return over or ENDED, child.code

    def _told(self) -> dict[str, str]:
        """What the command finds in its environment; its study file or image is written here.

        Raises:
            InputError: no folder is named that data may lie in; or the image is gone.
        """
        told = {"TMPDIR": str(self.folder), PERSON: self.job.asked_by}
        settings = parsed(self.job.kind, self.job.arguments)
        if isinstance(settings, OnFile | Init):
            if not self.runner.roots:
                raise InputError(
                    "this runner takes no study file, as it may read no data; name the folder that "
                    "they are in: segtune jobs --data-root DIR"
                )
            told[ROOTS] = os.pathsep.join(map(str, self.runner.roots))
        if isinstance(settings, OnFile):
            (self.folder / FILE).write_text(settings.file, encoding="utf-8")
        if isinstance(settings, Predict):
            read = partial(job_runs.image_of, self.runner.store, self.job)
            if (image := self.runner.patiently(read)) is None:
                raise InputError("the image of this job is not in the store any more; send it anew")
            (self.folder / settings.image).write_bytes(image)
            told |= ON_CPU
        return told

    def _tend(self, busy: Callable[[], bool]) -> str | None:
        """Show that we live while something is busy; why that must end, or None where it has."""
        while busy():
            if self.runner.interrupt.count:
                return WAITING
            if time.monotonic() > self.over_at:
                self.log.say(f"ended: it took longer than {clock(self.runner.pace.longest)}")
                return FAILED
            if (word := self._beat()) is not None:
                return word
        return None

    def _beat(self) -> str | None:
        """Store new lines and a sign of life, now and then; CANCELLED or GONE where it is so."""
        now, pace = time.monotonic(), self.runner.pace
        if now - self.sent < (pace.write if self.log.changed else pace.look):
            return None
        self.sent = now
        lines = self.log.text() if self.log.changed else None
        try:
            word = job_runs.beat(self.runner.store, self.job, lines=lines)
            if now - self.seen > pace.look:
                self.runner.registration.seen()
                self.seen = now
        except Exception as error:
            if not is_away(error):
                raise
            self.log.changed = self.log.changed or lines is not None
            return None
        return {"ours": None, "cancelled": CANCELLED, "gone": GONE}[word]

    def _keep(self, made: Path) -> str | None:
        """Keep the folder that was made, as a ZIP; how the job ends where that cannot be."""
        self.key = str(uuid.uuid4())
        told = partial(job_runs.beat, self.runner.store, self.job, result=self.key)
        if (word := self.runner.patiently(told)) != "ours":
            return CANCELLED if word == "cancelled" else GONE
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(self._write, made, self.key)
            over = self._tend(lambda: bool(wait_for([writing], timeout=0.1).not_done))
            error = writing.exception()  # waits for its end
        if error is not None and over is None:
            self.log.say(f"the result could not be kept: {type(error).__name__}: {error}")
            return FAILED
        if over is None:
            self.log.say(f"result: {shown_bytes(writing.result())}")
            self.log.say(
                f"it is kept for {job_runs.RESULT_DAYS} days, the latest "
                f"{job_runs.RESULTS} of all jobs"
            )
        return over

    def _write(self, made: Path, key: str) -> int:
        path = self.folder / "result.zip"
        zip_folder(made, path)
        self.results.write(key, path)
        return path.stat().st_size

    def _drop_result(self) -> None:
        """Remove the file of a job that has none, if the place answers; else it is tidied later."""
        if self.key is not None:
            try:
                self.results.remove(self.key)
            except Exception as error:
                self.runner.say(f"{self.runner.artifacts.name}: {type(error).__name__}: {error}")
            self.key = None


def _replaced(store: Store, folder: Path) -> dict[str, str]:
    """What must not, or need not, be read in a browser: passwords, and where a command wrote."""
    secrets = spellings(store.engine.url.password, *map(os.environ.get, SECRETS))
    return {f"{folder}/": "", f"{folder}/made/": "", **dict.fromkeys(secrets, "***")}


def serve_jobs(
    store: Store,
    artifacts: Artifacts,
    console: Console,
    url: str | None,
    roots: Sequence[Path],
    until_idle: bool,
) -> int:
    """Run a runner here; return the exit code.

    Args:
        url: the store's as the user gave it, if at all.
        roots: as of `JobRunner`.
    """
    environment = {**os.environ, "SEGTUNE_ARTIFACTS": artifacts.name, "PYTHONUNBUFFERED": "1"}
    if url is not None:
        environment[STORE] = url
    interrupt = Interrupt()
    registration = Registration(store, new_owner(), DEVICE)
    with interrupt.listen():
        finished = JobRunner(
            store, artifacts, console, interrupt, registration, environment, roots, until_idle
        ).run()
    return DONE if finished else INTERRUPTED
