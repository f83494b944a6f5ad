"""Trials drawn in memory and stored whole are what Optuna's own ask, suggest and tell make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from search.database import optuna_writer
from search.database.store import Store, open_store
from search.studies.configs import CONFIG
from search.studies.slots import Result
from search.studies.study import Study, create_or_resume
from spaces.spec import StudySpec

MakeSpec = Callable[..., StudySpec]
SPACE: dict[str, Any] = {
    "train.epochs": 2,
    "optim.name": ["adamw", "sgd"],
    "optim.momentum": {"low": 0.5, "high": 0.99, "when": {"optim.name": "sgd"}},
    "optim.lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "loss.warmup_epochs": {"low": 0, "high": 2},
    "train.batch_size": [4, 8],
}


PRIOR = {"center": 1e-3, "spread": "1.001x"}  # qmc takes none


def make(store: Store, folder: Path, name: str, sampler: str) -> Study:
    rate = {**SPACE["optim.lr"], **({} if sampler == "qmc" else {"prior": PRIOR})}
    tree: dict[str, Any] = {
        "name": name,
        "task": "segmentation",
        "data": {
            split: {"images": f"{folder}/{split}", "masks": f"{folder}/{split}"}
            for split in ("train", "val")
        }
        | {"classes": ["road", "other"]},
        "space": {**SPACE, "optim.lr": rate},
        "use_default_space": False,
        "use_starting_points": sampler == "tpe",
        "sampler": {"name": sampler, "startup_trials": 3},
        "budget": {"trials": 10},
    }
    return create_or_resume(store, StudySpec.of(tree), "f" * 64, None)


def ask_as_optuna_does(study: Study, slot: int) -> int:
    trial = study.optuna(slot).ask()
    config = study.space.sample(trial)
    study.store.storage.set_trial_system_attr(trial._trial_id, CONFIG, config.flat())
    return trial.number


def tell_as_optuna_does(study: Study, number: int, result: Result) -> None:
    storage, trial_id = study.store.storage, study.trial_id(number)
    for name, value in {"reason": result.reason, **result.attrs}.items():
        storage.set_trial_user_attr(trial_id, name, value)
    state = TrialState.FAIL if result.state == "FAILED" else TrialState[result.state]
    values = None if result.value is None else [result.value]
    storage.set_trial_state_values(trial_id, state, values)


def tell_as_slots_do(study: Study, number: int, result: Result) -> None:
    state = TrialState.FAIL if result.state == "FAILED" else TrialState[result.state]
    attrs = {"reason": result.reason, **result.attrs}
    with study.store.engine.begin() as connection:
        optuna_writer.end(connection, study.study_id, number, state, result.value, attrs)


def plain(trial: FrozenTrial) -> dict[str, Any]:
    """A trial without its id and its times."""
    facts = {
        name: getattr(trial, name)
        for name in ("number", "state", "values", "params", "distributions", "user_attrs")
    }
    facts["started"] = trial.datetime_start is not None
    facts["ended"] = trial.datetime_complete is not None
    attrs = trial.system_attrs  # a CMA-ES state holds pickled arrays, equal where the draws are
    return facts | {"system": {k: v for k, v in attrs.items() if "optimizer" not in k}}


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "cmaes", "qmc"])
def test_every_sampler_draws_as_on_optunas_storage(
    sampler: str, store: Store, tmp_path: Path
) -> None:
    """In a queue of recipes, beside a trial that runs, failed and pruned ones."""
    ours = make(store, tmp_path, "ours", sampler)
    theirs = make(store, tmp_path, "theirs", sampler)
    results = [
        Result("COMPLETE", 0.5, "completed", {"epochs": 2, "per_class": [0.5, None]}),
        Result("PRUNED", 0.25, "median", {"bar": 0.3}),
        Result("PRUNED", None, "oom", {}),
        Result("FAILED", None, "crashed", {"error": 'no "GPU"'}),
        Result("COMPLETE", 0.75, "completed", {}),
    ]
    for slot in range(9):
        one, other = ours.ask(slot), ask_as_optuna_does(theirs, slot)
        assert one == other
        if slot != 2:  # it goes on running: the constant liar's
            tell_as_slots_do(ours, one, results[slot % 5])
            tell_as_optuna_does(theirs, other, results[slot % 5])
    url = store.engine.url.render_as_string(hide_password=False)
    optunas = RDBStorage(url)  # reads both
    found, expected = (optunas.get_all_trials(study.study_id) for study in (ours, theirs))
    assert [plain(trial) for trial in found] == [plain(trial) for trial in expected]
    for one_trial, other_trial in zip(found, expected, strict=True):
        assert one_trial.system_attrs.keys() == other_trial.system_attrs.keys()
        if one_trial.datetime_start and other_trial.datetime_start:
            apart = other_trial.datetime_start - one_trial.datetime_start
            assert abs(apart.total_seconds()) < 300  # the same clock, the same zone
    assert len({tuple(trial.params.items()) for trial in found if trial.params}) > 5
    looked = {t.number for t in found[:3] if 9.9e-4 < t.params.get("optim.lr", 0) < 1.01e-3}
    assert looked == {"tpe": {2}, "qmc": set()}.get(sampler, {0, 2})  # tpe begins with recipes
    optunas.engine.dispose()


def test_a_told_trial_is_not_told_again(store: Store, tmp_path: Path) -> None:
    study = make(store, tmp_path, "ours", "random")
    number = study.ask(0)
    tell_as_slots_do(study, number, Result("COMPLETE", 0.5, "completed", {"epochs": 2}))
    told = study.trial(number)
    tell_as_slots_do(study, number, Result("PRUNED", 0.25, "median", {"epochs": 1}))
    assert repr(study.trial(number)) == repr(told)


def test_a_trial_that_somebody_took_from_the_queue_is_left_to_them(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user of Optuna asks the same study between our look and our writing; not on sqlite."""
    store = open_store(postgres_url)
    study = make(store, tmp_path, "ours", "tpe")
    queued = [t.number for t in study.optuna().trials]
    original, taken = type(study.space).sample, []

    def sample(space: Any, suggest: Any) -> Any:
        if not taken:
            taken.append(optuna.load_study(study_name="ours", storage=store.storage).ask().number)
        return original(space, suggest)

    monkeypatch.setattr(type(study.space), "sample", sample)
    number = study.ask(0)
    assert taken[0] == queued[0] and number == queued[1]
    assert study.trial(taken[0]).params == {}  # nothing of ours
    assert study.trial(number).user_attrs["origin"]
    store.close()


def test_what_a_draft_never_needs_is_refused(store: Store, tmp_path: Path) -> None:
    from search.database.optuna_draft import Draft

    study = make(store, tmp_path, "ours", "random")
    draft = Draft(store.storage, study.study_id, "ours", [])
    for call in (
        draft.get_all_studies,
        lambda: draft.delete_study(1),
        lambda: draft.set_trial_user_attr(-1, "k", 1),
        lambda: draft.set_trial_intermediate_value(-1, 1, 0.5),
    ):
        with pytest.raises(NotImplementedError):
            call()
