"""What a trial asks of the store, beside Optuna's own loop on the same Postgres.

    python -m benchmarks.store [--pairs 15] [--finished 1000 10000] [--to benchmarks/store.md]

A trial has 30 epochs and 10 parameters and trains nothing; its metrics beat every median, so that
none is stopped. Ours is the worker's own code from the claim to the published result; the stock one
is `study.optimize` with TPE, `trial.report` and `should_prune` (MedianPruner) on RDBStorage. Pairs
are taken in turns. Then report and verdict alone, beside studies of many finished trials.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.home import own_home
from benchmarks.report import heading, parser, publish, spread, table

if TYPE_CHECKING:
    import optuna
    import sqlalchemy as sa

    from search.database.store import Store
    from search.studies.slots import Claim
    from search.studies.study import Study

WARM = 12  # trials that each study has before the first pair


@dataclass
class Measured:
    """Statements and milliseconds, one of each for every repetition."""

    statements: list[float]
    milliseconds: list[float]

    @staticmethod
    def nothing() -> Measured:
        return Measured([], [])


def main() -> None:
    """Measure, print, and write where that is asked for."""
    options = parser(__doc__)
    options.add_argument("--pairs", type=int, default=15)
    options.add_argument("--finished", type=int, nargs=2, default=(1000, 10_000))
    given = options.parse_args()
    with own_home() as folder:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        whole, refresh = whole_trials(folder, given.pairs)
        look = looks(folder)
        verdicts = report_and_verdict(folder, given.finished, given.pairs)
    publish(report(given, whole, refresh, look, verdicts), given.to)


def whole_trials(folder: Path, pairs: int) -> tuple[dict[str, Measured], Measured]:
    """{who: a whole trial}, and one refresh of what the dashboard shows of ours."""
    from unittest import mock

    import optuna
    from optuna.storages import RDBStorage

    from search.findings.facts import gather
    from search.studies.study import create_or_resume
    from search.work.background import Background
    from tests import scripted as s
    from tests.statements import stock_trial

    rng = random.Random(0)
    with opened(folder) as store, contextlib.ExitStack() as patches:
        for name in ("REFRESH_SECONDS", "NEW_BEST_SECONDS"):  # refreshed when it is told to
            patches.enter_context(mock.patch(f"search.dashboard.publish.{name}", float("inf")))
        spec = s.make_spec(folder, "ours", trials=WARM + pairs)
        worker = s.new_worker(create_or_resume(store, spec, "f" * 64, None), folder)
        storage = RDBStorage(store.engine.url.render_as_string(hide_password=False))
        stock = optuna.create_study(
            storage=storage,
            direction="maximize",
            sampler=optuna.samplers.TPESampler(multivariate=True, group=True, seed=0),
            pruner=optuna.pruners.MedianPruner(),
        )
        assert isinstance(worker.background, Background)
        publisher = worker.background.publisher
        script: list[list[float]] = []
        patches.enter_context(s.scripted(worker, lambda: script[0]))
        engines = (store.engine, store._optuna.engine, storage.engine)
        found = {"segtune": Measured.nothing(), "Optuna's loop": Measured.nothing()}
        refresh = Measured.nothing()
        for repetition in range(WARM + pairs):
            # above all before it, so that neither is stopped
            script[:] = [[repetition + value for value in s.curve(rng)]]
            turns = [
                ("segtune", worker.serve_one),
                ("Optuna's loop", lambda: stock_trial(stock, script[0])),
            ]
            for who, run in turns if repetition % 2 else reversed(turns):
                count(engines, run, found[who] if repetition >= WARM else Measured.nothing())
            count(
                engines,
                lambda: publisher.refresh(gather(worker.study)),
                refresh if repetition >= WARM else Measured.nothing(),
            )
        storage.engine.dispose()
    return found, refresh


def looks(folder: Path) -> int:
    """Statements that a worker asks every few seconds while a trial runs."""
    from search.studies.heartbeats import Registration
    from search.studies.limits import limits
    from search.studies.study import create_or_resume
    from tests.scripted import make_spec
    from tests.statements import Statements

    with opened(folder) as store:
        spec = make_spec(folder, "looks", trials=1, sampler="random")
        study = create_or_resume(store, spec, "f" * 64, None)
        registration = Registration(store, study.owner, "cpu")
        claim = study.slots.claim(study.ask)
        assert claim is not None
        with Statements.of(store) as counted:
            study.slots.renew(claim)
            limits(study)
            registration.seen()
    return len(counted)


def report_and_verdict(
    folder: Path, finished: Sequence[int], trials: int
) -> dict[str, dict[int, Measured]]:
    """{who: {finished trials: a report with its verdict}}; sizes and programs in turns."""
    from search.studies.study import create_or_resume
    from tests.filled import fill_ended
    from tests.scripted import EPOCHS, make_spec

    sides: dict[tuple[str, int], Side] = {}
    found: dict[str, dict[int, Measured]] = {"segtune": {}, "Optuna's median": {}}
    with contextlib.ExitStack() as stores:
        for size in finished:
            for who, kind in (("segtune", Ours), ("Optuna's median", Stock)):
                store = stores.enter_context(opened(folder))
                spec = make_spec(folder, "filled", trials=1, sampler="random")
                study = create_or_resume(store, spec, "f" * 64, None)
                fill_ended(study, size)
                sides[who, size] = kind(study, folder)
                found[who][size] = Measured.nothing()
        for trial in range(trials + 1):
            for side in sides.values():
                side.begin()
            for epoch in range(1, EPOCHS):
                for (who, size), side in sides.items():
                    # not of the first trial: its verdicts read all that has ended, once
                    measured = found[who][size] if trial else Measured.nothing()
                    count(side.engines, partial(side.epoch, epoch), measured)
        for side in sides.values():
            side.close()
    return found


class Ours:
    """Report and verdict as the worker has them."""

    def __init__(self, study: Study, folder: Path) -> None:
        from tests.scripted import new_worker

        self.study, self.worker = study, new_worker(study, folder)
        self.engines = [study.store.engine, study.store._optuna.engine]
        self.claim: Claim | None = None

    def begin(self) -> None:
        """End the trial before, if any, and claim the next."""
        from search.studies.slots import Result

        if self.claim is not None:
            self.study.slots.end(self.claim, Result("COMPLETE", 2.0, "completed", {}))
        self.claim = self.study.slots.claim(self.study.ask)
        assert self.claim is not None
        self.config = self.study.begun(self.claim.trial_number).config
        self.values: list[float] = []

    def epoch(self, epoch: int) -> None:
        from tests.fake_child import report

        assert self.claim is not None
        self.values.append(2.0)  # above every median
        stored = self.study.report(self.claim, report(epoch, 2.0))
        assert stored is not None
        assert self.worker.judge.verdict(self.claim, self.config, self.values, stored) is None

    def close(self) -> None: ...


class Stock:
    """`trial.report` and `trial.should_prune`, MedianPruner, on the same tables."""

    def __init__(self, study: Study, folder: Path) -> None:
        import optuna
        from optuna.storages import RDBStorage

        url = study.store.engine.url.render_as_string(hide_password=False)
        self.storage = RDBStorage(url)
        self.engines = [self.storage.engine]
        self.study = optuna.load_study(
            study_name=study.spec.name,
            storage=self.storage,
            sampler=optuna.samplers.RandomSampler(seed=0),
            pruner=optuna.pruners.MedianPruner(),
        )
        self.trial: optuna.Trial | None = None

    def begin(self) -> None:
        """End the trial before, if any, and begin the next."""
        if self.trial is not None:
            self.study.tell(self.trial, 2.0)
        self.trial = self.study.ask()

    def epoch(self, epoch: int) -> None:
        assert self.trial is not None
        self.trial.report(2.0, epoch)
        assert not self.trial.should_prune()

    def close(self) -> None:
        self.storage.engine.dispose()


Side = Ours | Stock


def count(engines: Sequence[sa.Engine], run: Callable[[], object], to: Measured) -> None:
    """Run something once; the counting is a part of its time, the same for all."""
    from tests.statements import Statements

    with Statements(*engines) as counted:
        began = time.perf_counter()
        run()
        seconds = time.perf_counter() - began
    to.statements.append(len(counted))
    to.milliseconds.append(1000 * seconds)


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Store]:
    """A store in an empty database of its own, on the embedded Postgres of `folder`."""
    import sqlalchemy as sa

    from search.database.embedded import start_embedded
    from search.database.store import open_store

    server = sa.make_url(start_embedded().url)
    name = f"bench_{uuid.uuid4().hex[:12]}"
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    store = open_store(server.set(database=name).render_as_string(hide_password=False))
    try:
        yield store
    finally:
        store.close()


def report(
    given: argparse.Namespace,
    whole: dict[str, Measured],
    refresh: Measured,
    look: int,
    verdicts: dict[str, dict[int, Measured]],
) -> str:
    """The figures as Markdown."""
    from search.work.supervision import Timing
    from tests.scripted import EPOCHS

    small, large = given.finished
    trial_rows = [
        [who, spread(m.statements, 0), spread(m.milliseconds, 0, "ms")] for who, m in whole.items()
    ]
    trial_rows.append(
        [
            "segtune: notes and graphs, at most once a minute",
            spread(refresh.statements, 0),
            spread(refresh.milliseconds, 0, "ms"),
        ]
    )
    verdict_rows = []
    for who, by_size in verdicts.items():
        medians = [statistics.median(by_size[size].milliseconds) for size in (small, large)]
        verdict_rows.append(
            [
                who,
                *(spread(by_size[size].statements, 0) for size in (small, large)),
                *(spread(by_size[size].milliseconds, 2, "ms") for size in (small, large)),
                f"{medians[1] / medians[0]:.2f}",
            ]
        )
    ours = statistics.median(whole["segtune"].statements)
    between = ours - EPOCHS
    return f"""\
{heading("What a trial asks of the store", "store")}
A trial of {EPOCHS} epochs and 10 parameters that trains nothing, embedded Postgres; medians of
{given.pairs} pairs taken in turns (smallest to largest). Neither is stopped early. BEGIN, COMMIT
and the check of an idle connection are not counted, of either.

{table(["a whole trial", "SQL statements", "time"], trial_rows)}

A report with its verdict, beside many finished trials; medians of {given.pairs} trials' epochs, all
four in turns. The last column is the time beside {large:,} over the time beside {small:,}.

{
        table(
            [
                "who",
                f"statements, {small:,}",
                f"statements, {large:,}",
                f"time, {small:,}",
                f"time, {large:,}",
                "ratio",
            ],
            verdict_rows,
        )
    }

In steady state a worker asks {look} statements every {Timing.look:.0f} s (lease, what the user
wants, a sign of life), one an epoch, and {between:.0f} a trial: with epochs of 10 s and trials of
{EPOCHS} of them, {look / Timing.look + 0.1 + between / (10 * EPOCHS):.2f} statements a second.
"""


if __name__ == "__main__":
    main()
