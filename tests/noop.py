"""Workers whose trials train nothing; everything but the child is real, and so is their death.

`crew` and `victims` are called in a process of their own (`Running.fork`). For each point `victims`
forks a worker that serves the study of that name until it kills itself there: SIGKILL in the middle
of what it does.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from optuna.trial import TrialState
from rich.console import Console

from search.database import optuna_writer
from search.database.store import Store, open_store
from search.database.tables import ENDED, slot_table
from search.files.artifacts import Artifacts
from search.samples.streets import write_streets
from search.studies import reports, slots
from search.studies.heartbeats import Registration
from search.studies.owners import new_owner
from search.studies.slots import Result, Slots
from search.studies.study import Study, create_or_resume, open_study
from search.work import confirming
from search.work.kept_models import KeptModels
from search.work.service import Service
from search.work.supervision import Timing
from search.work.watchers import Interrupt
from spaces.space import Space
from spaces.spec import StudySpec
from tests.fake_child import FakeChild

SOAK = """\
name: soak
task: segmentation
data:
  train: {{images: data/train/images, masks: data/train/masks}}
  val: {{images: data/val/images, masks: data/val/masks}}
  classes: data/classes.json
space: {{train.epochs: {epochs}, optim.lr: {{low: 1e-4, high: 1e-2, log: true}}}}
use_default_space: false
use_starting_points: false
sampler: random
pruner: none
confirm: none
"""
POINTS = (
    "entered",
    "before-first-look",
    "before-leave",
    "asked-not-sampled",
    "sampled-not-kept",
    "asked-not-claimed",
    "claim-not-stored",
    "claim-not-committed",
    "claimed",
    "before-registration",
    "registered",
    "mid-checkpoint",
    "before-report",
    "report-not-committed",
    "reported",
    "before-end",
    "result-not-committed",
    "result-not-told",
    "told",
    "before-tidy",
    "before-give-back",
    "after-give-back",
)
POINT = ""


def noop_study(folder: Path, store: Store, trials: int, epochs: int) -> Study:
    """Create the study `soak`; its data are there, and nobody decodes them."""
    write_streets(folder / "data", train=2, val=1, size=(32, 32))
    (folder / "study.yaml").write_text(SOAK.format(epochs=epochs))
    return create_or_resume(store, StudySpec.load(folder / "study.yaml"), "f" * 64, trials)


def crew(
    url: str | None,
    artifacts: Path,
    study: str,
    epochs: int,
    seconds: float,
    lease: float,
    count: int,
) -> int:
    """Let `count` workers serve a study, or all studies where it is empty, until idle."""
    slots.LEASE_SECONDS = lease
    pids = []
    for _ in range(count):
        if (pid := os.fork()) == 0:
            os._exit(_serve(url, artifacts, study, epochs, seconds))
        pids.append(pid)
    for number in (signal.SIGTERM, signal.SIGINT):  # as a terminal's Ctrl-C: to all of them
        signal.signal(number, lambda n, frame: [os.kill(pid, n) for pid in pids])
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    return max(codes, key=abs)


def victims(url: str, artifacts: Path, points: Sequence[str], epochs: int) -> None:
    """Kill a worker at each point; the study of that name is its own."""
    global POINT
    _mine()
    for point in points:
        if (pid := os.fork()) == 0:
            POINT = point
            _serve(url, artifacts, point, epochs, 0.0)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        print("killed" if os.WIFSIGNALED(status) else "survived", point, flush=True)


def open_and_close(url: str) -> None:
    """What a worker does first."""
    open_store(url).close()


def claim_all(url: str) -> None:
    """Claim slots of the study `small` until there are none, and print each."""
    store = open_store(url)
    study = open_study(store, "small")
    while (claim := study.slots.claim(study.ask)) is not None:
        print(claim.slot, claim.trial_number, flush=True)
        study.slots.end(claim, Result("COMPLETE", 0.5, "completed", {}))
    store.close()


def check_each_once(study: Study, trials: int, epochs: int = 3) -> None:
    """Exactly the budget, one result a slot, nothing left running, every report there once."""
    counts = study.slots.counts()
    assert sum(counts[state] for state in ENDED) == trials == sum(counts.values())
    found = {trial.number: trial for trial in study.trials()}
    assert not [t for t in found.values() if t.state == TrialState.RUNNING]
    told = [t for t in found.values() if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(told) == counts["COMPLETE"] + counts["PRUNED"] == trials
    with study.store.engine.connect() as connection:
        slots = connection.execute(
            sa.select(slot_table.c.trial_number, slot_table.c.result).where(
                slot_table.c.study_id == study.study_id
            )
        ).all()
    assert len({slot.trial_number for slot in slots}) == trials
    for slot in slots:
        trial, result = found[slot.trial_number], json.loads(slot.result)
        assert (trial.value, trial.user_attrs["reason"]) == (epochs / 100, "completed")
        assert (result["value"], result["reason"]) == (epochs / 100, "completed")
        assert [r.epoch for r in study.history(slot.trial_number)] == [*range(1, epochs + 1)]
        assert sorted(trial.intermediate_values) == [*range(1, epochs + 1)]


def _serve(url: str | None, artifacts: Path, study: str, epochs: int, seconds: float) -> int:
    """Serve a study (or all) until idle; the exit code."""
    metrics = [epoch / 100 for epoch in range(1, epochs + 1)]

    def child(config: Any, data: Any, workdir: Path, free: Any, probe: Any = None) -> Child:
        crashes = 1 if POINT.endswith("give-back") else None
        return Child(metrics, workdir, seconds=seconds, classes=8, crashes_after=crashes)

    store, interrupt = open_store(url), Interrupt()
    service = Service(
        store,
        Artifacts(artifacts),
        Console(file=io.StringIO()),
        interrupt,
        Registration(store, new_owner(), "cpu"),
        lambda study: View(),
        study or None,
        until_idle=True,
        load_data=lambda spec: NoData(),  # type: ignore[arg-type,return-value]
        make_child=child,
        timing=Timing(0.02, look=slots.LEASE_SECONDS / 4, fence=0.8 * slots.LEASE_SECONDS),
        idle_seconds=0.2,
    )
    with interrupt.listen():
        finished = service.run()
    store.close()
    sys.stdout.flush()
    return 0 if finished else 130


class Child(FakeChild):
    """One that may be killed with its worker while it writes."""

    def keep(self, epoch: int) -> None:
        super().keep(epoch)
        if POINT == "mid-checkpoint":
            _die()


class NoData:
    """Data that nobody looks at."""

    fingerprint = "f" * 64


class View:
    """Says what happens, a line at once each, for the test to read."""

    def say(self, *words: object) -> None:
        os.write(1, (" ".join(map(str, words)) + "\n").encode())

    def trial_started(self, number: int, config: Any, attempt: int) -> None:
        self.say("started", number, attempt)

    def trial_resumed(self, number: int, epoch: int, dropped: int) -> None:
        if dropped:
            self.say("dropped", number, epoch, dropped)

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


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _before(owner: Any, name: str, point: str, when: Any = lambda *a, **k: True) -> None:
    """Die before the method does anything."""
    original = getattr(owner, name)

    def patched(*args: Any, **kwargs: Any) -> Any:
        if point == POINT and when(*args, **kwargs):
            _die()
        return original(*args, **kwargs)

    setattr(owner, name, patched)


def _after(owner: Any, name: str, point: str, when: Any = lambda *a, **k: True) -> None:
    """Die when the method has done everything."""
    original = getattr(owner, name)

    def patched(*args: Any, **kwargs: Any) -> Any:
        answer = original(*args, **kwargs)
        if point == POINT and when(*args, **kwargs):
            _die()
        return answer

    setattr(owner, name, patched)


def _mine() -> None:
    """Lay the points at which a worker may die."""
    _before(Space, "sample", "asked-not-sampled")
    _after(Space, "sample", "sampled-not-kept")
    _after(Study, "ask", "asked-not-claimed")
    _before(Slots, "_set", "claim-not-stored", lambda *a, **k: k.get("state") == "RUNNING")
    _after(Slots, "_set", "claim-not-committed", lambda *a, **k: k.get("state") == "RUNNING")
    _after(Slots, "claim", "claimed")
    _before(Study, "report", "before-report")
    _after(reports, "store", "report-not-committed")
    _after(Study, "report", "reported")
    _before(Slots, "end", "before-end")
    _before(optuna_writer, "end", "result-not-told")
    _after(Slots, "_end", "result-not-committed")
    _after(Slots, "end", "told")
    _before(KeptModels, "keep", "before-tidy")
    _before(Slots, "give_back", "before-give-back")
    _after(Slots, "give_back", "after-give-back")
    _after(Registration, "enter", "entered")
    _before(Registration, "leave", "before-leave")
    _after(confirming, "plan", "half-planned")
    _after(confirming, "create_confirmation", "created-not-planned")
    _before(Study, "history", "before-first-look")
    _before(Registration, "works_on", "before-registration")
    _after(Registration, "works_on", "registered")
