"""Trials read in bulk are the trials that Optuna itself reads."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial

from search.database.optuna_reader import BulkStorage
from search.database.store import Store
from tests.stores import sqlite_too


@pytest.fixture
def storages(store: Store) -> tuple[BulkStorage, Callable[[], RDBStorage]]:
    """Ours, and Optuna's own over the same database."""
    url = store.engine.url.render_as_string(hide_password=False)
    return BulkStorage(url, skip_table_creation=True), lambda: RDBStorage(url)


def fill(storage: RDBStorage) -> int:
    study = optuna.create_study(storage=storage, direction="maximize")
    for kind in range(4):
        trial = study.ask()
        trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        trial.suggest_categorical("arch", ["Unet", "FPN", None])
        if kind:
            trial.suggest_int("b", 2, 16, step=2)
        trial.report([0.25, math.nan, math.inf, -math.inf][kind], step=7)
        trial.report(0.5, step=2)
        trial.set_user_attr("config", {"a": [1, None, "x<y>"]})
        if kind < 3:
            state = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL][kind]
            study.tell(trial, 0.1 * kind if kind == 0 else None, state=state)
    study.enqueue_trial({"lr": 1e-3})
    study.add_trial(create_trial(value=math.inf, system_attrs={"k": 1}))
    return study._study_id


@sqlite_too
def test_the_trials_are_equal(storages: tuple[BulkStorage, Callable[[], RDBStorage]]) -> None:
    ours, stock = storages
    study_id = fill(stock())
    theirs = stock().get_all_trials(study_id)
    found = ours.get_all_trials(study_id)
    assert len(found) == 6
    for mine, other in zip(found, theirs, strict=True):
        assert repr(mine) == repr(other)  # NaN is not equal to itself
        assert mine._trial_id == other._trial_id
    for states in [(TrialState.RUNNING,), (TrialState.COMPLETE, TrialState.FAIL), ()]:
        mine, other = (s.get_all_trials(study_id, states=states) for s in (ours, stock()))
        assert [t.number for t in mine] == [t.number for t in other]


def test_only_what_was_asked_for_is_read(
    storages: tuple[BulkStorage, Callable[[], RDBStorage]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, stock = storages
    study_id = fill(stock())
    ids = [t._trial_id for t in stock().get_all_trials(study_id)]
    some = ours._get_trials(study_id, None, {ids[1], ids[5]}, ids[3])
    assert [t._trial_id for t in some] == [ids[1], ids[4], ids[5]]
    assert ours._get_trials(study_id, None, set(), ids[-1]) == []
    # too many to be named: all later ones are read, which the cache takes as well
    monkeypatch.setattr("search.database.optuna_reader.MOST_IDS", 1)
    more = ours._get_trials(study_id, None, {ids[1], ids[3]}, ids[3])
    assert [t._trial_id for t in more] == ids[1:]


def test_a_study_that_is_not_there(
    storages: tuple[BulkStorage, Callable[[], RDBStorage]],
) -> None:
    with pytest.raises(KeyError):
        storages[0].get_all_trials(12345)


def test_times_are_local(
    storages: tuple[BulkStorage, Callable[[], RDBStorage]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna stores UTC and shows local time."""
    ours, stock = storages
    study_id = fill(stock())
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    try:
        theirs, found = stock().get_all_trials(study_id), ours.get_all_trials(study_id)
        assert [(t.datetime_start, t.datetime_complete) for t in found] == [
            (t.datetime_start, t.datetime_complete) for t in theirs
        ]
    finally:
        monkeypatch.undo()
        time.tzset()
