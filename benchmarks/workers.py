"""What many workers ask of one Postgres: statements, connections, the server's time and memory.

    python -m benchmarks.workers [--counts 10 40] [--faster 10] [--seconds 60] [--store URL]
                                 [--to benchmarks/workers.md]

Workers are processes with the real supervision; their trials train nothing, and an epoch takes
EPOCH_SECONDS. All that the clock decides goes `--faster` times as fast, so that K workers ask what
K x faster workers would. Then claims alone, which a study takes one after another. Needs a server
on this machine, whose processes can be looked at: the embedded one (100 connections), or `--store`.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import random
import statistics
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.home import own_home
from benchmarks.report import called, heading, parser, publish, spread, table

if TYPE_CHECKING:
    from search.database.store import Store

EPOCH_SECONDS, EPOCHS = 10.0, 30
CLAIMS = 15
SPREAD, SETTLE = 20.0, 5.0  # seconds over which workers begin; until what they ask is counted
ENDED = (0, 1000, 10_000)


@dataclass(frozen=True)
class Load:
    """What so many workers asked of the server.

    Attributes:
        statements: a second, of one worker at its ordinary pace.
        connections: of one worker.
        milliseconds: the server's processor time, of one statement.
        mib: memory that one connection alone holds.
        answer: milliseconds that a worker waited for an answer, of one statement.
        trials: that began while it was measured.
    """

    workers: int
    statements: float
    connections: float
    milliseconds: float
    mib: float
    answer: float
    trials: int


def main() -> None:
    """Measure, print, and write where that is asked for."""
    options = parser(__doc__)
    options.add_argument("--counts", type=int, nargs="+", default=(10, 40))
    options.add_argument("--faster", type=float, default=10.0)
    options.add_argument("--seconds", type=float, default=60.0)
    options.add_argument(
        "--store",
        help="a server on this machine, instead of the embedded one; its password in $PGPASSWORD",
    )
    given = options.parse_args()
    with own_home() as folder:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        from search.database.store import open_store
        from search.database.url import refuse_password

        url = refuse_password(given.store) if given.store else None
        with contextlib.closing(open_store(url)) as store:
            loads = [load(store, Path(folder), count, given) for count in given.counts]
        claims = {ended: claim_times(Path(folder), ended) for ended in ENDED}
    publish(report(given, loads, claims), given.to)


def load(store: Store, folder: Path, count: int, given: argparse.Namespace) -> Load:
    """Let `count` workers serve one study for a while; what they asked of the server meanwhile."""
    from search.studies.study import create_or_resume
    from tests.scripted import make_spec

    name = f"workers-{uuid.uuid4().hex[:8]}"
    rule = {"name": "quantile", "pause_below": None}  # a scripted trial cannot go on where it was
    spec = make_spec(folder, name, trials=100_000, pruner=rule)
    study = create_or_resume(store, spec, "f" * 64, None)
    url = store.engine.url.render_as_string(hide_password=False)
    store.engine.dispose()  # no connection of ours is to be counted, or inherited
    store._optuna.engine.dispose()
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(count + 1)
    begin, end = context.Event(), context.Event()
    crew = []
    for index in range(count):
        ours, theirs = context.Pipe()
        work = (url, name, folder / str(index), index, given.faster, ready, begin, end, theirs)
        process = context.Process(target=_serve, args=work, daemon=True)
        process.start()
        crew.append((process, ours))
    ready.wait(timeout=120)
    time.sleep(SPREAD + SETTLE)
    begun_before = len(study.trials())
    before = _server(store)
    begin.set()
    start = time.monotonic()
    time.sleep(given.seconds)
    after, private = _server(store), _private(store)
    begun_after = len(study.trials())
    seconds = time.monotonic() - start
    end.set()
    asked = waited = 0.0
    for process, pipe in crew:
        statements, answering = pipe.recv()
        asked, waited = asked + statements, waited + answering
        process.join()
        assert process.exitcode == 0, process.exitcode
    return Load(
        count,
        asked / seconds / count / given.faster,
        len(private) / count,
        1000 * (after - before) / asked,
        statistics.median(private) / 2**20,
        1000 * waited / asked,
        begun_after - begun_before,
    )


def _serve(
    url: str,
    name: str,
    folder: Path,
    seed: int,
    faster: float,
    ready: Any,
    begin: Any,
    end: Any,
    pipe: Connection,
) -> None:
    """One worker's process: serve until `end`, and tell statements and seconds since `begin`."""
    from unittest import mock

    import sqlalchemy as sa

    from search.dashboard import publish
    from search.database.store import open_store
    from search.studies.heartbeats import Registration
    from search.studies.owners import new_owner
    from search.studies.study import open_study
    from search.work.supervision import Timing
    from tests import scripted as s
    from tests.fake_child import FakeChild

    rng = random.Random(seed)
    counted = [0.0, 0.0]
    asked: dict[Any, float] = {}

    def before(connection: Any, *rest: Any) -> None:
        asked[connection] = time.perf_counter()

    def after(connection: Any, *rest: Any) -> None:
        if begin.is_set():
            counted[0] += 1
            counted[1] += time.perf_counter() - asked[connection]

    class Patient(s.Quiet):
        """A watcher that lets the worker ask again."""

        def store_away(self, error: BaseException) -> None: ...

    class Paced(FakeChild):
        """A trial whose epochs take their time."""

        due = 0.0

        def receive(self, timeout: float) -> Any:
            if end.is_set():
                self.stop("preempted")
            left = self.due - time.monotonic()
            if self.word is None and left > 0:
                time.sleep(min(left, timeout / faster))
                return None
            self.due = time.monotonic() + EPOCH_SECONDS / faster
            return super().receive(timeout)

    store = open_store(url)
    registration = Registration(store, new_owner(), "cpu")
    registration.enter()
    supervisor = s.new_worker(
        open_study(store, name),
        folder,
        make_child=lambda *given: Paced(s.curve(rng, EPOCHS)),
        timing=Timing(look=Timing.look / faster),
    )
    supervisor.registration, supervisor.watcher = registration, Patient()
    with (
        mock.patch.object(publish, "REFRESH_SECONDS", publish.REFRESH_SECONDS / faster),
        mock.patch.object(publish, "NEW_BEST_SECONDS", publish.NEW_BEST_SECONDS / faster),
    ):
        for engine in (store.engine, store._optuna.engine):
            sa.event.listen(engine, "before_cursor_execute", before)
            sa.event.listen(engine, "after_cursor_execute", after)
        ready.wait(timeout=120)
        time.sleep(rng.uniform(0, SPREAD))  # they are out of step
        while not end.is_set():
            supervisor.serve_one()
    pipe.send(tuple(counted))
    store.close()


def _server(store: Store) -> float:
    """Seconds of processor time that the server's processes have taken so far, ended ones too."""
    import sqlalchemy as sa

    with store.engine.connect() as connection:
        backend = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
        father = int(_stat(backend)[1])
    store.engine.dispose()
    ticks = sum(int(value) for value in _stat(father)[11:15])  # its own, and of ended children
    for child in Path(f"/proc/{father}/task/{father}/children").read_text().split():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            ticks += sum(int(value) for value in _stat(int(child))[11:13])
    return ticks / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name, from the state on (proc(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _private(store: Store) -> list[int]:
    """Bytes that each of the workers' connections holds alone."""
    import sqlalchemy as sa

    query = (
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' "
        "AND datname = current_database() AND pid <> pg_backend_pid()"
    )
    with store.engine.connect() as connection:
        pids = connection.execute(sa.text(query)).scalars().all()
    store.engine.dispose()
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            kib = [int(line.split()[1]) for line in lines if line.startswith("Private_")]
            found.append(1024 * sum(kib))
    return found


def claim_times(folder: Path, ended: int) -> tuple[list[float], list[float]]:
    """Milliseconds of a worker's claims with a draw by TPE, and of their locks on the study.

    The first claim reads all that there is, later ones what is new.
    """
    from unittest import mock

    from benchmarks import store
    from search.studies.slots import Result
    from search.studies.study import create_or_resume
    from tests.filled import fill_ended
    from tests.scripted import make_spec

    whole: list[float] = []
    held: list[float] = []
    with store.opened(folder) as fresh:
        study = create_or_resume(fresh, make_spec(folder, "claims", trials=1000), "f" * 64, None)
        if ended:
            fill_ended(study, ended)
        locked = fresh.locked

        @contextlib.contextmanager
        def timed(study_id: int) -> Iterator[Any]:
            with locked(study_id) as connection:
                start = time.perf_counter()
                yield connection
                held.append(1000 * (time.perf_counter() - start))

        for number in range(CLAIMS + 1):
            start = time.perf_counter()
            if number == 0:
                study.trials()  # as a worker does before its first claim
            with mock.patch.object(fresh, "locked", timed):
                claim = study.slots.claim(study.ask)
            whole.append(1000 * (time.perf_counter() - start))
            assert claim is not None
            assert study.slots.end(claim, Result("COMPLETE", 0.5, "completed", {}))
    assert len(held) == len(whole)
    return whole, held


def report(
    given: argparse.Namespace,
    loads: Sequence[Load],
    claims: Mapping[int, tuple[list[float], list[float]]],
) -> str:
    """The figures as Markdown."""
    rows = [
        (
            f"{found.workers} ({found.workers * given.faster:,.0f})",
            f"{found.statements:.2f}",
            f"{found.connections:.1f}",
            f"{found.milliseconds:.2f} ms",
            f"{found.answer:.1f} ms",
            f"{found.mib:.1f} MiB",
            f"{found.trials}",
        )
        for found in loads
    ]
    columns = (
        "workers (as many at an ordinary pace)",
        "statements a second of one",
        "connections of one",
        "server's processor time a statement",
        "waited for its answer",
        "memory of a connection",
        "trials begun",
    )
    claimed = [
        (
            f"{ended:,}",
            f"{whole[0]:,.0f} ms ({held[0]:,.0f} ms)",
            f"{spread(whole[1:], 0, 'ms')}",
            f"{spread(held[1:], 0, 'ms')}",
        )
        for ended, (whole, held) in claims.items()
    ]
    return "\n".join(
        [
            heading("What many workers ask of Postgres", called("workers")),
            f"Trials of {EPOCHS} epochs of {EPOCH_SECONDS:.0f} s that train nothing (TPE, the "
            f"quantile rule without pauses), {given.faster:g} times as fast,",
            f"{given.seconds:.0f} s each; workers and server share the machine. Statements: BEGIN, "
            "COMMIT and the check of an",
            "idle connection are not counted; the server's time includes them. Memory: what the "
            "connection's process shares with no other.",
            "",
            table(columns, rows),
            "",
            f"Claims of one worker, with a draw by TPE of 10 parameters, embedded server; {CLAIMS} "
            "later ones, whose trials end at",
            "once. While the lock is held no other worker of the study can claim.",
            "",
            table(("ended trials", "first claim (lock held)", "a later one", "lock held"), claimed),
            "",
        ]
    )


if __name__ == "__main__":
    main()
