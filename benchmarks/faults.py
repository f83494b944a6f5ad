"""300 trials that train nothing, four workers, a fault every ten seconds: exactly one result each.

    python -m benchmarks.faults [--seed 0] [--trials 300] [--to benchmarks/faults.md]

Everything but the training is real: the embedded Postgres, slots, leases, reports, results, and
how workers and server die. `segtune status` is run after each fault, and may not hang.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg2

from benchmarks.report import called, heading, parser, publish, table
from search.database.embedded import EmbeddedServer
from search.database.retry import until_it_answers
from search.database.store import open_store
from search.studies.study import Study
from tests.noop import check_each_once, crew, noop_study
from tests.waiting import Running, until

WORKERS, TRIALS, EPOCHS = 4, 300, 5
EPOCH_SECONDS = 0.2
EVERY = 10.0  # seconds between two faults
LEASE = 10.0  # seconds
PAUSE = 5.0  # seconds that a server hangs, or is full


def main() -> None:
    """Run the soak, and write its log."""
    given = parser(__doc__ or "")
    given.add_argument("--seed", type=int, default=0)
    given.add_argument("--trials", type=int, default=TRIALS)
    options = given.parse_args()
    with tempfile.TemporaryDirectory(prefix="segtune-faults-") as folder:
        soak = Soak(Path(folder), options.seed)
        seconds = soak.run(options.trials)
    publish(report(soak.log, seconds, options.trials, options.seed), options.to)


@dataclass
class Soak:
    """A study, its workers, and what happens to them.

    Attributes:
        log: (seconds since the start, fault, results so far) of each fault.
        workers: those that should be at work.
        left: those that a fault has ended.
        later: what ends a fault that lasts, and when.
    """

    folder: Path
    seed: int
    log: list[tuple[float, str, int]] = field(default_factory=list)
    workers: list[Running] = field(default_factory=list)
    left: list[Running] = field(default_factory=list)
    later: list[tuple[float, Callable[[], object]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.env = {"SEGTUNE_HOME": str(self.folder / "home"), "SEGTUNE_STORE": ""}
        self.server = EmbeddedServer(self.folder / "home" / "postgres")

    def run(self, trials: int) -> float:
        """Until each trial has its one result; the seconds that it took.

        Raises:
            AssertionError: a result is missing or double, or a command fails or hangs.
        """
        self.server.start()
        store = open_store(self.server.url)
        study = noop_study(self.folder, store, trials, EPOCHS)
        try:
            seconds = self.trouble(study, trials)
            for worker in [*self.workers, *self.left]:
                assert "Traceback" not in worker.finish(None), worker
            check_each_once(study, trials, EPOCHS)
        finally:
            for worker in [*self.workers, *self.left]:
                worker.kill()
            store.close()
            self.server.leave()
            until(lambda: self.server.pid() is None)
        return seconds

    def trouble(self, study: Study, trials: int) -> float:
        """A fault every now and then, each kind once before any comes again."""
        began = time.monotonic()
        due, kinds = began + EVERY, list[str]()
        while (ended := self.ended(study)) < trials or self.later:
            for entry in [entry for entry in self.later if entry[0] < time.monotonic()]:
                self.later.remove(entry)
                entry[1]()
            self.workers = [w for w in self.workers if w.returncode != 0]  # it saw nothing to do
            while ended < trials and len(self.workers) < WORKERS:
                self.hire()
            if time.monotonic() > due and ended < trials:
                kinds = kinds or self.random.sample(sorted(FAULTS), len(FAULTS))
                self.log.append((time.monotonic() - began, kinds[-1], ended))
                FAULTS[kinds.pop()](self)
                Running.segtune("status", "soak", env=self.env).finish()  # and it does not hang
                due = time.monotonic() + EVERY
            time.sleep(0.2)
        return time.monotonic() - began

    def ended(self, study: Study) -> int:
        """Results so far."""
        self.server.start()
        counts = until_it_answers(study.slots.counts)
        return counts["COMPLETE"] + counts["PRUNED"] + counts["FAILED"]

    def hire(self) -> None:
        """Start a worker."""
        given = (None, self.folder / "artifacts", "soak", EPOCHS, EPOCH_SECONDS, LEASE, 1)
        self.workers.append(Running.fork(crew, *given, env=self.env))

    def dismiss(self) -> Running:
        """One that is at work, and is not counted on any more."""
        begun = until(lambda: [w for w in self.workers if any(map(_started, w.lines))])
        worker = self.random.choice(begun)
        self.workers.remove(worker)
        self.left.append(worker)
        return worker

    def after(self, seconds: float, what: Callable[[], object]) -> None:
        self.later.append((time.monotonic() + seconds, what))


def _worker_killed(soak: Soak) -> None:
    soak.dismiss().kill()


def _worker_freezes(soak: Soak) -> None:
    worker = soak.dismiss()
    worker.send_all(signal.SIGSTOP)
    soak.after(1.3 * LEASE, lambda: worker.send_all(signal.SIGCONT))


def _worker_told(soak: Soak) -> None:
    soak.dismiss().send(signal.SIGTERM)


def _terminal_closed(soak: Soak) -> None:
    soak.dismiss().send_all(signal.SIGHUP)


def _server_killed(soak: Soak) -> None:
    os.kill(_server(soak), signal.SIGKILL)


def _server_killed_and_pid_file_damaged(soak: Soak) -> None:
    pid = _server(soak)
    (soak.server.data / "postmaster.pid").write_text("1")
    os.kill(pid, signal.SIGKILL)


def _server_hangs(soak: Soak) -> None:
    server = psutil.Process(_server(soak))
    family = [server, *server.children()]
    for process in family:
        _tell(process, signal.SIGSTOP)
    time.sleep(PAUSE)
    for process in family:
        _tell(process, signal.SIGCONT)


def _connections_run_out(soak: Soak) -> None:
    taken = []
    with contextlib.suppress(psycopg2.OperationalError):
        while True:
            taken.append(psycopg2.connect(soak.server.url.replace("+psycopg2", "")))
    time.sleep(PAUSE)
    for connection in taken:
        connection.close()


def _killed_and_its_trials_folder_goes(soak: Soak) -> None:
    worker = soak.dismiss()
    worker.kill()
    number = int(list(filter(_started, worker.lines))[-1].split()[1])
    for folder in (soak.folder / "artifacts").rglob(f"trial-{number:04d}"):
        shutil.rmtree(folder)


FAULTS: dict[str, Callable[[Soak], None]] = {
    "a worker is killed": _worker_killed,
    "a worker freezes beyond its lease": _worker_freezes,
    "a worker gets SIGTERM": _worker_told,
    "a worker's terminal is closed": _terminal_closed,
    "the embedded server is killed": _server_killed,
    "it is killed, and its pid file damaged": _server_killed_and_pid_file_damaged,
    f"it hangs for {PAUSE:.0f} s": _server_hangs,
    f"its connections run out for {PAUSE:.0f} s": _connections_run_out,
    "a worker is killed, and its trial's folder goes": _killed_and_its_trials_folder_goes,
}


def report(log: list[tuple[float, str, int]], seconds: float, trials: int, seed: int) -> str:
    """The log as Markdown."""
    rows = [[f"{when:.0f} s", fault, str(ended)] for when, fault, ended in log]
    return (
        heading(f"{trials} trials under random faults", called("faults"))
        + f"\n{trials} results after {seconds:.0f} s, each trial with exactly one, each of its "
        f"{EPOCHS} epochs stored once. {WORKERS} workers, leases of {LEASE:.0f} s, seed {seed}. "
        "`segtune status` ended with code 0 after each fault.\n\n"
        + table(["after", "fault", "results so far"], rows)
        + "\n"
    )


def _started(line: str) -> bool:
    return line.startswith("started")


def _server(soak: Soak) -> int:
    pid = soak.server.pid()
    assert pid is not None
    return pid


def _tell(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


if __name__ == "__main__":
    main()
