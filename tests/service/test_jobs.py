"""Jobs in the store: who may ask for how many, one runner each, and what becomes of the others."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
import sqlalchemy as sa

from search.database.audit import deeds
from search.database.store import Store, open_store
from search.database.tables import job_table
from search.studies import jobs
from search.studies.deletion import delete_rows
from search.studies.heartbeats import Registration
from search.studies.job_kinds import command
from search.studies.job_runs import (
    FORGET_DAYS,
    RESULT_DAYS,
    RESULTS,
    beat,
    claim,
    end,
    forget_results,
    give_back,
    stale_results,
)
from search.studies.jobs import (
    CANCELLED,
    DEVICE,
    ENDED,
    FAILED,
    LOST,
    MOST_OF_USER,
    MOST_WAITING,
    RUNNING,
    WAITING,
    Job,
    ask,
    cancel,
    find,
    is_served,
    latest,
    lines_of,
)
from search.studies.owners import new_owner
from search.studies.slots import LEASE_SECONDS
from search.studies.study import create_or_resume
from spaces.errors import InputError
from spaces.spec import StudySpec
from tests.statements import Statements
from tests.stores import sqlite_too

OWNER = "far:1:runner"  # of another host: nobody here knows whether its process lives


def asked(store: Store, **given: Any) -> int:
    return ask(store, **{"kind": "export", "arguments": "{}", "study": "roads", **given})


def taken(store: Store, owner: str = OWNER) -> Job:
    job = claim(store, owner)
    assert job is not None
    return job


def state(store: Store, number: int) -> str:
    job = find(store, number)
    assert job is not None
    return job.state


def silent_for(store: Store, seconds: float) -> None:
    """As if runners had shown no sign of life for so long."""
    with store.engine.begin() as connection:
        connection.execute(sa.update(job_table).values(seen_at=job_table.c.seen_at - seconds))


@sqlite_too
def test_a_job_waits_runs_and_ends(store: Store) -> None:
    first, second = asked(store, arguments='{"trial": 3}', by="max"), asked(store)
    job = taken(store)
    assert (job.number, job.state, job.words) == (first, RUNNING, "export --trial 3")
    assert job.begun_at is not None and job.begun_at >= job.asked_at
    assert taken(store) == job  # an answer was lost
    assert taken(store, "far:2:other").number == second and claim(store, "far:3:third") is None
    assert beat(store, job, lines="one\ntwo") == "ours" and lines_of(store, first) == "one\ntwo"
    assert beat(store, job, result="key") == "ours"
    assert find(store, first).result is None  # type: ignore[union-attr] # it is half there
    for _ in range(2):  # an answer was lost
        assert end(store, job, ENDED, 0, "one\ntwo\nthree")
    done = find(store, first)
    assert done is not None and (done.state, done.code, done.result) == (ENDED, 0, "key")
    assert done.ended_at is not None and not done.open and done.length == 13
    assert not end(store, job, FAILED, 1, "") and beat(store, job) == "gone"
    assert [one.number for one in latest(store)] == [second, first]
    assert [one.number for one in latest(store, "max")] == [first]
    assert find(store, second + 1) is None and lines_of(store, second + 1) == ""


@sqlite_too
def test_only_so_many_wait(store: Store) -> None:
    for _ in range(MOST_OF_USER):
        number = asked(store, by="max")
    with pytest.raises(InputError, match=f"{MOST_OF_USER} of your jobs wait already"):
        asked(store, by="max", address="192.0.2.1")
    assert deeds(store) == []  # what is refused is not written down as done
    cancel(store, number, "max")
    assert asked(store, by="max")
    for _ in range(MOST_WAITING - MOST_OF_USER):  # without a name each is one of all
        asked(store)
    with pytest.raises(InputError, match=f"{MOST_WAITING} jobs wait already.*segtune jobs"):
        asked(store, by="olga")
    taken(store)
    assert asked(store, by="max")


def test_many_who_ask_at_once_are_not_too_many(store: Store, store_url: str) -> None:
    answers: list[object] = []
    ready = threading.Barrier(8)

    def once() -> None:
        with closing(open_store(store_url)) as own:
            ready.wait()
            try:
                answers.append(asked(own, by="max", address="192.0.2.1"))
            except InputError as error:
                answers.append(str(error))

    threads = [threading.Thread(target=once) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = [answer for answer in answers if isinstance(answer, int)]
    assert len(answers) == 8 and len(numbers) == MOST_OF_USER == len(deeds(store)), answers
    assert {one.number for one in latest(store)} == set(numbers)


def test_each_job_is_claimed_once(store: Store, store_url: str) -> None:
    numbers = {asked(store) for _ in range(12)}
    found: list[int] = []

    def serve(owner: str) -> None:
        with closing(open_store(store_url)) as own:
            while (job := claim(own, owner)) is not None:
                found.append(job.number)
                assert end(own, job, ENDED, 0, "")

    threads = [threading.Thread(target=serve, args=(f"far:{i}:x",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(numbers)


@sqlite_too
def test_a_job_whose_runner_is_silent_is_lost_and_its_late_word_is_refused(store: Store) -> None:
    number = asked(store)
    job = taken(store)
    silent_for(store, LEASE_SECONDS - 5)
    assert state(store, number) == RUNNING and claim(store, "far:2:other") is None
    silent_for(store, 10)
    assert state(store, number) == LOST  # before any runner has stored it
    assert claim(store, "far:2:other") is None  # and nobody begins it again
    lost = find(store, number)
    assert lost is not None and lost.stored_state == LOST and lost.ended_at is not None
    assert beat(store, job, lines="late") == "gone" and not end(store, job, ENDED, 0, "late")
    assert lines_of(store, number) == ""


def test_a_runner_of_this_machine_that_is_dead_has_lost_its_job_at_once(store: Store) -> None:
    number = asked(store)
    with os.popen("exit 0") as gone:  # a process that has ended, and was waited for
        gone.read()
    dead = f"{socket.gethostname()}:{2**22 - 3}:x"
    assert taken(store, dead).number == number and state(store, number) == LOST
    alive = asked(store)
    assert taken(store, new_owner()).number == alive and state(store, alive) == RUNNING


@sqlite_too
def test_who_does_not_want_a_job_any_more_ends_it(store: Store) -> None:
    waits, runs = asked(store), asked(store)
    cancel(store, waits, "max", "192.0.2.1")
    assert state(store, waits) == CANCELLED  # before any runner has stored it
    job = taken(store)
    assert job.number == runs
    stored = find(store, waits)
    assert stored is not None and stored.stored_state == CANCELLED
    cancel(store, runs, "olga", "192.0.2.1")
    cancel(store, runs, "max", "192.0.2.1")  # it is as good as over
    assert beat(store, job) == "cancelled" and state(store, runs) == RUNNING
    assert end(store, job, CANCELLED, None, "")
    cancel(store, runs, "max", "192.0.2.1")
    said = [(deed.who, deed.what, deed.study) for deed in deeds(store)]
    assert said == [
        ("olga", f"cancel job {runs}", "roads"),
        ("max", f"cancel job {waits}", "roads"),
    ]


def test_a_job_that_is_given_back_begins_anew(store: Store) -> None:
    number = asked(store)
    job = taken(store)
    beat(store, job, lines="half", result="key")
    give_back(store, job)
    assert state(store, number) == WAITING and lines_of(store, number) == ""
    assert taken(store, "far:2:other").number == number and beat(store, job) == "gone"
    give_back(store, job)  # it is no longer ours to give
    assert state(store, number) == RUNNING


def test_results_go_when_they_are_old_or_many_and_halves_at_once(store: Store) -> None:
    def done(how: str, days: float = 0.0) -> int:
        number = asked(store)
        job = taken(store)
        beat(store, job, result=f"key-{number}")
        assert end(store, job, how, 0, "")
        with store.engine.begin() as connection:
            this = sa.update(job_table).where(job_table.c.number == number)
            connection.execute(this.values(ended_at=job_table.c.ended_at - days * 24 * 3600))
        return number

    forgotten = done(ENDED, FORGET_DAYS + 1)
    old, half = done(ENDED, RESULT_DAYS + 0.1), done(LOST)
    kept = [done(ENDED) for _ in range(RESULTS + 2)]
    asked(store)
    beat(store, taken(store), result="now")  # which is being written
    gone = {forgotten, old, half, *kept[:2]}
    assert sorted(stale_results(store)) == [(number, f"key-{number}") for number in sorted(gone)]
    forget_results(store, sorted(gone))
    assert stale_results(store) == []
    assert find(store, forgotten) is None
    for number in (old, half, *kept):
        job = find(store, number)
        assert job is not None and (job.result is not None) == (number in kept[2:])


@sqlite_too
def test_a_runner_is_known_while_it_lives(store: Store) -> None:
    number = asked(store)
    assert not is_served(store)
    worker = Registration(store, "far:1:worker", "cpu")
    worker.enter()
    assert not is_served(store)
    runner = Registration(store, OWNER, DEVICE)
    runner.enter()
    assert is_served(store)
    with Statements.of(store) as one:
        job = find(store, number)
    assert job is not None and job.served and len(one) == 1
    runner.leave()
    assert not is_served(store)


def test_a_study_that_is_deleted_takes_its_jobs_along(
    store: Store, make_spec: Callable[..., StudySpec]
) -> None:
    study = create_or_resume(store, make_spec(name="roads"), "f" * 64, None)
    gone, other = asked(store), asked(store, study="lanes")
    job = taken(store)
    delete_rows([study])
    assert find(store, gone) is None and state(store, other) == WAITING
    assert beat(store, job) == "gone"


@pytest.mark.parametrize(
    ("kind", "arguments", "said"),
    [
        ("exports", "{}", "did you mean export"),
        ("sh", "{}", "a job must be one of export"),
        ("export", "", "Invalid JSON"),
        ("export", "[]", "export: "),
        ("export", '{"to": "/etc"}', "to: "),
        ("export", '{"trial": "3"}', "trial: must be a whole number"),
        ("export", '{"trial": -1}', "trial: "),
        ("export", '{"trial": true}', "trial: "),
        ("export", '{"test": "; rm -rf"}', "test: "),
        ("export", '{"onnx": true, "config_only": true}', "exclude each other"),
        ("init", "{}", "folder: "),
        ("init", '{"folder": "data"}', "folder: "),
        ("init", '{"folder": "--to"}', "folder: "),
        ("init", '{"folder": "/a\\nb"}', "folder: "),
        ("predict", "{}", "image: "),
        ("predict", '{"image": "../a.png"}', "image: "),
        ("predict", '{"image": "/etc/a.png"}', "image: "),
        ("predict", '{"image": "-a.png"}', "image: "),
        ("predict", '{"image": "a.png\\n"}', "image: "),
        ("predict", '{"image": "a.txt"}', "image: "),
        ("predict", '{"image": "a.png", "trial": -1}', "trial: "),
    ],
)
def test_what_is_no_job_is_not_asked_for(
    store: Store, kind: str, arguments: str, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        ask(store, kind, arguments, "roads")
    assert latest(store) == []
    with pytest.raises(InputError):  # nor run, where somebody has written it into the store
        command(kind, arguments, "roads", "in", "out")
    row = {"kind": kind, "arguments": arguments, "asked_by": "", "state": WAITING, "asked_at": 0}
    with store.engine.begin() as connection:
        connection.execute(sa.insert(job_table).values(**row))
    [shown] = latest(store)
    assert shown.words == kind


@pytest.mark.parametrize("study", [None, "", "--to", "-x", "a/b", "..", "a b", "a\nb", "a" * 101])
def test_a_command_takes_the_name_of_a_study_and_nothing_else(study: str | None) -> None:
    with pytest.raises(InputError):
        command("export", "{}", study, "in", "out")
    given = '{"trial": 3, "test": false, "onnx": true}'
    words = ["export", "roads", "--to", "out", "--trial", "3", "--no-test", "--onnx"]
    assert command("export", given, "roads", "in", "out") == words
    words = ["init", "--to", "out/study.yaml", "--from", "/data/-a b"]
    assert command("init", '{"folder": "/data/-a b"}', None, "in", "out") == words


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        ("check", '{"file": "name: x"}', ["in/study.yaml"]),
        ("launch", '{"file": "x"}', ["in/study.yaml", "--new", "--on", "local", "--workers", "0"]),
        ("confirm", '{"top": 3}', ["roads", "--leave", "--top", "3"]),
        ("confirm", '{"top": 3, "seeds": 1}', ["roads", "--leave", "--top", "3", "--seeds", "1"]),
        ("resume", '{"trials": 40}', ["roads", "--trials", "40"]),
        ("delete", "{}", ["roads", "--yes"]),
        ("predict", '{"image": "a.png"}', ["study:roads", "in/a.png", "--to", "out", "--overlay"]),
    ],
)
def test_what_each_kind_runs(kind: str, arguments: str, words: list[str]) -> None:
    assert command(kind, arguments, "roads", "in", "out") == [kind, *words]


def test_the_bounds_are_those_that_are_documented() -> None:
    assert (jobs.MOST_WAITING, jobs.MOST_OF_USER, jobs.SHOWN) == (20, 3, 50)
    assert (RESULTS, RESULT_DAYS, FORGET_DAYS) == (20, 7, 30)
