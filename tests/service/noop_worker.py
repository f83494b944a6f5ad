"""A worker whose trials train nothing: everything but the child is real. Run by the service tests.

    python noop_worker.py URL ARTIFACTS STUDY EPOCHS SECONDS [STUDY=POINT ...]

Reports EPOCHS epochs a trial, SECONDS apart, and writes a line for each into the trial's folder, as
a checkpoint would, so that a resumed trial goes on behind it. For each STUDY=POINT a forked process
serves that study until it kills itself there, for real: SIGKILL in the middle of what it does.
Without such pairs CREW (1) forked processes serve STUDY, or all studies where it is empty.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from search.database.store import open_store
from search.files.artifacts import Artifacts
from search.studies import reports as epochs_module
from search.studies import slots as budget_module
from search.studies.heartbeats import Registration
from search.studies.slots import Budget, new_owner
from search.studies.study import Study
from search.work import service as service_module
from search.work import supervision
from search.work import worker as worker_module
from search.work.child import ChildDied, Done, Epoch
from search.work.service import Service
from search.work.watchers import Interrupt
from search.work.worker import Worker
from spaces.space import Space
from trainers.report import EpochReport, Losses
from trainers.train import TrialResult

URL, ARTIFACTS, STUDY = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
EPOCHS, SECONDS = int(sys.argv[4]), float(sys.argv[5])
POINT = ""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Child:
    """Stands in for TrialProcess: epochs that cost nothing, and a checkpoint of their count."""

    pid = 0

    def __init__(self, config: Any, data: Any, workdir: Path, free: Any) -> None:
        workdir.mkdir(parents=True, exist_ok=True)
        self.checkpoint = workdir / "checkpoint"
        self.done = len(self.checkpoint.read_text().split()) if self.checkpoint.exists() else 0
        self.sent = 0
        self.word: str | None = None
        self.deadline = float("inf")
        self.workdir = workdir

    def receive(self, timeout: float) -> Any:
        if self.word or time.monotonic() > self.deadline:
            return Done(self.result(self.word or "preempted"))
        if self.sent < self.done:  # a resumed trial repeats what it has done
            self.sent += 1
            return Epoch(self.report(self.sent))
        if POINT.endswith("give-back") and self.sent == 1:
            raise ChildDied(1)  # the trial's process has crashed
        if self.sent >= EPOCHS:
            return Done(self.result("completed"))
        time.sleep(SECONDS)
        with open(self.checkpoint, "a") as file:
            file.write(f"{self.sent + 1}\n")
            if POINT == "mid-checkpoint":
                file.flush()
                die()
        self.sent += 1
        return Epoch(self.report(self.sent))

    def report(self, epoch: int) -> EpochReport:
        loss = Losses(total=1.0)
        return EpochReport(
            epoch=epoch,
            metric=epoch / 100,
            train=loss,
            val=loss,
            images_per_s=1.0,
            seconds=SECONDS,
        )

    def result(self, reason: str) -> TrialResult:
        history = [self.report(epoch) for epoch in range(1, self.sent + 1)]
        value = history[-1].metric if history else None
        return TrialResult(reason, value, len(history) or None, {}, None, history, {})

    def fence(self, deadline: float) -> None:
        self.deadline = deadline

    def stop(self, word: str) -> None:
        self.word = word

    def kill(self) -> None:
        self.word = self.word or "preempted"

    def join(self) -> None:
        pass


def before(owner: Any, name: str, point: str, when: Any = lambda *a, **k: True) -> None:
    """Die before the method does anything."""
    original = getattr(owner, name)

    def patched(*args: Any, **kwargs: Any) -> Any:
        if point == POINT and when(*args, **kwargs):
            die()
        return original(*args, **kwargs)

    setattr(owner, name, patched)


def after(owner: Any, name: str, point: str, when: Any = lambda *a, **k: True) -> None:
    """Die when the method has done everything."""
    original = getattr(owner, name)

    def patched(*args: Any, **kwargs: Any) -> Any:
        answer = original(*args, **kwargs)
        if point == POINT and when(*args, **kwargs):
            die()
        return answer

    setattr(owner, name, patched)


before(Space, "sample", "asked-not-sampled")
after(Space, "sample", "sampled-not-kept")
after(Study, "ask", "asked-not-claimed")
before(Budget, "_set", "claim-not-stored", lambda *a, **k: k.get("state") == "RUNNING")
after(Budget, "_set", "claim-not-committed", lambda *a, **k: k.get("state") == "RUNNING")
after(Budget, "claim", "claimed")
before(Study, "report", "before-report")
after(epochs_module, "store", "report-not-committed")
after(Study, "report", "reported")
before(Budget, "end", "before-end")
after(Budget, "_store_result", "result-not-committed")
before(Budget, "tell", "result-not-told")
after(Budget, "tell", "told")
before(Worker, "_tidy", "before-tidy")
before(Budget, "give_back", "before-give-back")
after(Budget, "give_back", "after-give-back")
after(Registration, "enter", "entered")
before(Registration, "leave", "before-leave")
before(Study, "last_epoch", "before-first-look")
before(Registration, "works_on", "before-registration")
after(Registration, "works_on", "registered")

worker_module.TrialProcess = Child  # type: ignore[misc,assignment]
service_module.preflight = lambda spec: type("NoData", (), {"fingerprint": "f" * 64})()  # type: ignore
budget_module.LEASE_SECONDS = float(os.environ.get("LEASE", "60"))
supervision.LOOK_SECONDS = budget_module.LEASE_SECONDS / 4
supervision.FENCE_SECONDS = budget_module.LEASE_SECONDS * 0.8
supervision.POLL_SECONDS = 0.02
service_module.IDLE_SECONDS = 0.2


class View:
    """Says what happens, a line at once each, for the test to read."""

    def say(self, *words: object) -> None:
        os.write(1, (" ".join(map(str, words)) + "\n").encode())

    def trial_started(self, number: int, config: Any, attempt: int) -> None:
        self.say("started", number, attempt)

    def epoch_ended(self, number: int, report: Any) -> None:
        self.say("epoch", number, report.epoch)

    def trial_ended(self, number: int, state: str, reason: str, value: Any, epochs: int) -> None:
        self.say("ended", number, state, reason)

    def paused(self, message: str) -> None:
        self.say("paused", message)

    def not_shown(self, number: int | None, problem: str) -> None:
        self.say("not-shown", number, problem)

    def store_away(self, error: BaseException) -> None:
        self.say("away", type(error).__name__)


def serve(study: str) -> int:
    """Serve a study (or all) until idle; the exit code."""
    store, interrupt = open_store(URL), Interrupt()
    service = Service(
        store,
        Artifacts(ARTIFACTS),
        Console(file=io.StringIO()),
        interrupt,
        Registration(store, new_owner(), "cpu"),
        lambda study: View(),
        study or None,
        until_idle=True,
    )
    with interrupt.listen():
        finished = service.run()
    store.close()
    return 0 if finished else 130


for pair in sys.argv[6:]:
    name, _, point = pair.partition("=")
    child = os.fork()
    if child == 0:
        POINT = point
        serve(name)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print("killed" if os.WIFSIGNALED(status) else "survived", name, point, flush=True)
if not sys.argv[6:]:
    crew = []
    for _ in range(int(os.environ.get("CREW", "1"))):
        child = os.fork()
        if child == 0:
            os._exit(serve(STUDY))
        crew.append(child)
    for number in (signal.SIGTERM, signal.SIGINT):  # as a terminal's Ctrl-C: to all of them
        signal.signal(number, lambda n, frame: [os.kill(child, n) for child in crew])
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in crew]
    sys.exit(max(codes, key=abs))
