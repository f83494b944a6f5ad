"""Workers that die, freeze, or lose the database, for real: every result counts once."""

from __future__ import annotations

import contextlib
import itertools
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState
from typer.testing import CliRunner

from search.cli import app
from search.database.store import Store, open_store
from search.database.tables import slot_table
from search.studies.configs import drawn_config
from search.studies.heartbeats import workers
from search.studies.study import Study, create_or_resume, open_study
from spaces.spec import StudySpec
from tests.noop import POINTS, check_each_once, crew, open_and_close, victims
from tests.waiting import Running

MakeSpec = Callable[..., StudySpec]
Start = Callable[..., Running]
# at each of them another table has been written, and another has not
SIX = (
    "sampled-not-kept",
    "claim-not-committed",
    "mid-checkpoint",
    "report-not-committed",
    "result-not-told",
    "before-give-back",
)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts `count` workers of trials that cost nothing, in one process group."""
    begun: list[Running] = []

    def run(
        url: str,
        folder: Path,
        study: str = "small",
        *,
        epochs: int = 3,
        seconds: float = 0.0,
        lease: float = 60,
        count: int = 1,
    ) -> Running:
        begun.append(Running.fork(crew, url, folder, study, epochs, seconds, lease, count))
        return begun[-1]

    yield run
    for running in begun:
        running.kill()


def finish(worker: Running, code: int = 0) -> list[str]:
    """Wait for its end; its lines."""
    out = worker.finish(code)
    assert "not-shown" not in out and "Traceback" not in out, out
    return worker.lines


def make(store: Store, make_spec: MakeSpec, name: str = "small", trials: int = 2) -> Study:
    spec = make_spec(name=name, trials=trials, epochs=3, starting_points="true")
    return create_or_resume(store, spec, "f" * 64, None)


@pytest.mark.parametrize("points", [SIX, pytest.param(POINTS, marks=pytest.mark.cluster)], ids=len)
def test_a_worker_killed_anywhere_loses_and_doubles_nothing(
    points: Sequence[str], any_postgres: str, make_spec: MakeSpec, start: Start, tmp_path: Path
) -> None:
    store = open_store(any_postgres)
    studies = {point: make(store, make_spec, point) for point in points}
    queued = {point: len(study.optuna().trials) for point, study in studies.items()}
    killed = Running.fork(victims, any_postgres, tmp_path, points, 3)
    lines = finish(killed)
    fates = [line for line in lines if line.startswith(("killed", "survived"))]
    assert fates == [f"killed {point}" for point in points], "\n".join(lines)
    durable = {
        point: {n: len(study.history(n)) for n in (t.number for t in study.trials())}
        for point, study in studies.items()
    }
    params = {
        point: {t.number: t.params for t in study.trials() if drawn_config(t)}
        for point, study in studies.items()
    }
    finish(start(any_postgres, tmp_path, ""))
    for point, study in studies.items():
        check_with_starting_points(study, queued[point])
        for number, reports in durable[point].items():  # acknowledged reports remain
            assert len(study.history(number)) >= reports, point
        with store.engine.connect() as connection:
            used = set(
                connection.execute(
                    sa.select(slot_table.c.trial_number).where(
                        slot_table.c.study_id == study.study_id
                    )
                ).scalars()
            )
        for number in used & set(params[point]):  # the same trial, with the same parameters
            assert study.trial(number).params == params[point][number], point
    assert {worker["state"] for worker in workers(store)} == {"lost"}
    store.close()


def check_with_starting_points(study: Study, queued: int) -> None:
    """`check_each_once`, and no recipe of the field was lost with the worker that had drawn it."""
    check_each_once(study, trials=2)
    origins = {t.user_attrs.get("origin") for t in study.trials() if t.state == TrialState.COMPLETE}
    assert None not in origins and len(origins) == min(2, queued), origins


def test_a_killed_process_group_is_taken_over(
    any_postgres: str, make_spec: MakeSpec, start: Start, tmp_path: Path
) -> None:
    store = open_store(any_postgres)
    study = make(store, make_spec)
    first = start(any_postgres, tmp_path, seconds=0.5, count=2)
    first.line("epoch")
    first.kill()
    finish(start(any_postgres, tmp_path))
    check_each_once(study, trials=2)
    store.close()


def test_a_frozen_worker_is_refused_when_it_wakes(
    any_postgres: str, make_spec: MakeSpec, start: Start, tmp_path: Path
) -> None:
    store = open_store(any_postgres)
    study = make(store, make_spec, trials=1)
    frozen = start(any_postgres, tmp_path / "a", seconds=1, lease=2)
    frozen.line("epoch")
    frozen.send_all(signal.SIGSTOP)
    try:
        time.sleep(2.5)  # beyond its lease
        other = start(any_postgres, tmp_path / "b", lease=2)
        lines = finish(other)
        assert "ended 0 COMPLETE completed" in lines
    finally:
        frozen.send_all(signal.SIGCONT)
    assert not [line for line in finish(frozen) if line.startswith("ended")]
    check_each_once(study, trials=1)
    store.close()


@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.cluster)])
def test_eight_workers_end_exactly_the_budget(
    rounds: int, postgres_url: str, make_spec: MakeSpec, start: Start, tmp_path: Path
) -> None:
    store = open_store(postgres_url)
    for round_ in range(rounds):
        study = make(store, make_spec, f"round-{round_}", trials=40)
        lines = finish(start(postgres_url, tmp_path, study.spec.name, count=8))
        assert sum(line.startswith("ended") for line in lines) == 40
        check_each_once(study, trials=40)
    store.close()


def test_two_studies_share_workers_fairly(
    postgres_url: str, make_spec: MakeSpec, start: Start, tmp_path: Path
) -> None:
    store = open_store(postgres_url)
    one, two = (make(store, make_spec, name, trials=12) for name in ("one", "two"))
    finish(start(postgres_url, tmp_path, "", seconds=0.2, count=2))  # long beside their starts
    begun = [
        (trial.datetime_start, study.study_id) for study in (one, two) for trial in study.trials()
    ]
    order = [study_id for _, study_id in sorted(begun)]
    half = order[: len(order) // 2]
    assert 3 <= sum(study_id == one.study_id for study_id in half) <= 9, half
    for study in (one, two):
        check_each_once(study, trials=12)
    store.close()


def wait_for_trials(running: Running, count: int) -> None:
    """Read a crew's lines until so many trials have reported an epoch: all of it is at work."""
    seen: set[str] = set()
    while len(seen) < count:
        seen.add(running.line("epoch").split()[1])


@pytest.mark.parametrize(
    "seconds", [5, *(pytest.param(seconds, marks=pytest.mark.cluster) for seconds in (0, 20))]
)
def test_training_goes_on_while_the_database_is_away(
    seconds: int, own_postgres: Any, make_spec: MakeSpec, start: Start, tmp_path: Path
) -> None:
    """Stopped without a goodbye (-m immediate), and started again, under four workers."""
    store = open_store(own_postgres.url)
    study = make(store, make_spec, trials=8)
    running = start(own_postgres.url, tmp_path, epochs=4, seconds=0.5, count=4)
    wait_for_trials(running, 4)
    own_postgres.stop(signal.SIGQUIT)
    time.sleep(seconds)
    own_postgres.start()
    lines = finish(running)
    assert sum(line.startswith("ended") for line in lines) == 8
    if seconds:
        assert any(line.startswith("away") for line in lines)
    store.close()
    store = open_store(own_postgres.url)
    check_each_once(open_study(store, study.spec.name), trials=8, epochs=4)
    store.close()


def test_a_server_without_a_connection_left_is_waited_for(
    own_postgres: Any, make_spec: MakeSpec, start: Start, tmp_path: Path
) -> None:
    """Other clients take every connection, those of two workers too."""
    with contextlib.closing(psycopg2.connect(own_postgres.url)) as admin:
        admin.autocommit = True
        admin.cursor().execute("ALTER SYSTEM SET max_connections = 12")
    own_postgres.stop()
    own_postgres.start()
    store = open_store(own_postgres.url)
    study = make(store, make_spec, trials=6)
    running = start(own_postgres.url, tmp_path, seconds=0.3, count=2)
    wait_for_trials(running, 2)
    store.engine.dispose()
    with contextlib.ExitStack() as others:
        admin = others.enter_context(contextlib.closing(psycopg2.connect(own_postgres.url)))
        admin.autocommit = True  # so that it sees what is, not what was
        while _drop_workers(admin) + _take_connections(own_postgres.url, others):
            pass
        named = {"SEGTUNE_STORE": own_postgres.url}
        answer = CliRunner().invoke(app, ["status", "small"], env=named)
        assert answer.exit_code == 2 and answer.output.count("\n") == 1, answer.output
        assert "takes no more connections" in answer.output and "max_connections" in answer.output
        time.sleep(2)
    assert any(line.startswith("away") for line in finish(running))
    check_each_once(study, trials=6)
    store.close()


def _drop_workers(admin: Any) -> int:
    """End the connections of workers; how many there were."""
    cursor = admin.cursor()
    cursor.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE application_name = 'segtune'"
    )
    return int(cursor.rowcount)


def _take_connections(url: str, held: contextlib.ExitStack) -> int:
    """Hold all connections that are left; how many there were."""
    for count in itertools.count():
        try:
            held.enter_context(contextlib.closing(psycopg2.connect(url)))
        except psycopg2.OperationalError:
            return count
    raise AssertionError


@pytest.mark.cluster
@pytest.mark.parametrize("fault", ["black hole", "reset", "lost commit"])
def test_a_bad_network_loses_and_doubles_nothing(
    fault: str,
    own_postgres: Any,
    proxy_to: Any,
    make_spec: MakeSpec,
    start: Start,
    tmp_path: Path,
) -> None:
    store = open_store(own_postgres.url)
    study = make(store, make_spec, trials=6)
    with proxy_to(own_postgres.host, own_postgres.port) as proxy:
        url = own_postgres.url.replace(f":{own_postgres.port}/", f":{proxy.port}/")
        running = start(url, tmp_path, seconds=0.2, count=2)
        wait_for_trials(running, 2)
        if fault == "black hole":
            proxy.black_hole()
            time.sleep(3)
            proxy.heal()
        elif fault == "reset":
            for _ in range(5):
                proxy.reset()
                time.sleep(0.3)
        else:
            proxy.swallow_commits = 12
        finish(running)
        if fault == "lost commit":
            assert proxy.swallowed >= 10
    check_each_once(study, trials=6)
    store.close()


@pytest.mark.parametrize("count", [8, pytest.param(40, marks=pytest.mark.cluster)])
def test_many_first_starts_at_once(count: int, any_postgres: str) -> None:
    """An empty database, and processes that all find it so."""
    starts = [Running.fork(open_and_close, any_postgres) for _ in range(count)]
    for running in starts:
        running.finish()


def test_an_interrupt_while_the_database_is_away_ends_at_once(
    own_postgres: Any, make_spec: MakeSpec, start: Start, tmp_path: Path
) -> None:
    """The lease returns the slot by itself; the last checkpoint is there."""
    store = open_store(own_postgres.url)
    study = make(store, make_spec, trials=2)
    running = start(own_postgres.url, tmp_path, seconds=0.2, epochs=1000, lease=3, count=2)
    wait_for_trials(running, 2)
    own_postgres.stop(signal.SIGQUIT)
    time.sleep(1)
    running.send(signal.SIGTERM)
    finish(running, code=130)
    store.close()
    own_postgres.start()
    store = open_store(own_postgres.url)
    finish(start(own_postgres.url, tmp_path, epochs=3))
    counts = open_study(store, study.spec.name).slots.counts()
    assert counts["COMPLETE"] == 2, counts
    store.close()
