"""A study in the store: created once from its study file, reopened by name, drawn from by slots."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

from search.budget import CONFIG, UNCLAIMED, Budget, Claim, drawn_config, new_owner
from search.pruning import Curve, optuna_pruner, warmup_end
from search.store import Store, control_table, epoch_table, study_table
from spaces.config import BaseTrialConfig
from spaces.errors import InputError, did_you_mean
from spaces.space import Space
from spaces.spec import SamplerSpec, StudySpec, spec_difference
from spaces.starting import starting_params


@dataclass
class Study:
    """An open study.

    Attributes:
        uid: tells studies of equal name in different stores apart, for instance on disk.
        owner: name under which slots are claimed.
        fingerprint: of the data set that the study was created with.
    """

    store: Store
    spec: StudySpec
    space: Space
    study_id: int
    uid: str
    fingerprint: str
    owner: str = field(default_factory=new_owner)

    @property
    def budget(self) -> Budget:
        """The study's slots, as this worker sees them."""
        attempts = self.spec.budget.max_attempts
        return Budget(self.store, self.study_id, self.owner, attempts)

    @property
    def metric(self) -> str:
        return self.spec.data.metric

    def optuna(self, slot: int = 0) -> optuna.Study:
        """Open the Optuna study with the sampler of a slot."""
        return optuna.load_study(
            study_name=self.spec.name,
            storage=self.store.storage,
            sampler=build_sampler(self.spec.sampler, self.spec.seed, slot),
            pruner=optuna_pruner(self.spec.pruner, self.space.base.train.epochs),
        )

    def ask(self, slot: int) -> int:
        """Begin a new trial for a slot; its config is kept with it. Returns its number."""
        trial = self.optuna(slot).ask()
        config = self.space.sample(trial)
        self.store.storage.set_trial_system_attr(trial._trial_id, CONFIG, config.flat())
        return trial.number

    def trial_id(self, number: int) -> int:
        return self.store.storage.get_trial_id_from_study_id_trial_number(self.study_id, number)

    def trial(self, number: int) -> FrozenTrial:
        return self.store.storage.get_trial(self.trial_id(number))

    def trials(self) -> list[FrozenTrial]:
        """All trials that have been begun for a slot, by number."""
        trials = self.store.storage.get_all_trials(self.study_id, deepcopy=False)
        return [
            trial
            for trial in trials
            if trial.state != TrialState.WAITING and trial.user_attrs.get("reason") != UNCLAIMED
        ]

    def config(self, trial: FrozenTrial) -> BaseTrialConfig:
        """The effective config of a trial, with the decode settings that it chose."""
        flat = drawn_config(trial)
        if flat is None:
            config = self.space.config(trial.params)
        else:
            config = type(self.space.base)().replace(flat)
        return config.replace(trial.user_attrs.get("decode", {}))

    def report(self, claim: Claim, report: Mapping[str, Any]) -> bool:
        """Store an epoch's report and prolong the lease; the same epoch again changes nothing.

        Returns:
            False where the slot is another worker's by now: the report is not stored.
        """
        row = {
            "study_id": self.study_id,
            "trial_number": claim.trial_number,
            "epoch": report["epoch"],
            "metric": report["metric"],
            "report": json.dumps(report),
        }
        insert = _insert(self.store)(epoch_table).values(row)
        with self.store.engine.begin() as connection:
            if not self.budget.renew_in(connection, claim):
                return False
            connection.execute(insert.on_conflict_do_nothing())
        self.store.storage.set_trial_intermediate_value(
            self.trial_id(claim.trial_number), report["epoch"], report["metric"]
        )
        return True

    def history(self, number: int) -> list[dict[str, Any]]:
        """The reports of a trial, first epoch first."""
        with self.store.engine.connect() as connection:
            rows = connection.execute(
                sa.select(epoch_table.c.report)
                .where(
                    epoch_table.c.study_id == self.study_id,
                    epoch_table.c.trial_number == number,
                )
                .order_by(epoch_table.c.epoch)
            ).scalars()
            return [json.loads(row) for row in rows]

    def curve(self, number: int) -> Curve:
        """The metric of a trial by epoch."""
        with self.store.engine.connect() as connection:
            values = connection.execute(
                sa.select(epoch_table.c.metric)
                .where(
                    epoch_table.c.study_id == self.study_id,
                    epoch_table.c.trial_number == number,
                )
                .order_by(epoch_table.c.epoch)
            ).scalars()
            return Curve(tuple(values), warmup_end(self.config(self.trial(number))))

    def workdir(self, artifacts: Path, number: int) -> Path:
        """The folder of a trial's files."""
        return artifacts / f"{self.spec.name}-{self.uid[:8]}" / f"trial-{number:04d}"


def create_or_resume(store: Store, spec: StudySpec, fingerprint: str, trials: int | None) -> Study:
    """Create the study of a spec, or reopen it where it exists.

    Args:
        fingerprint: of the data set as it is now.
        trials: total budget, where it differs from the file's.

    Raises:
        InputError: a study of this name has another spec, or its data have changed.
    """
    with store.study_lock(0):
        try:
            study = open_study(store, spec.name)
        except UnknownStudy:
            study = _create(store, spec, fingerprint)
    if difference := spec_difference(study.spec, spec):
        raise InputError(
            f"study {spec.name} exists with another spec; give this one another name, or undo:\n"
            f"{difference}\n(only the budget can grow: segtune launch --trials N)"
        )
    if study.fingerprint != fingerprint:
        raise InputError(
            f"the data of study {spec.name} have changed since it began, so that its results "
            "would not be comparable; give the study another name"
        )
    study.budget.extend(trials or spec.budget.trials)
    return study


class UnknownStudy(InputError):
    """There is no study of that name."""


def open_study(store: Store, name: str) -> Study:
    """Open a study by name; raises UnknownStudy with the nearest name."""
    names = study_names(store)
    if name not in names:
        known = f"; known: {', '.join(names)}" if names else "; the store has no study yet"
        raise UnknownStudy(f"no study {name} in {store.shown}{did_you_mean(name, names) or known}")
    return open_study_by_id(store, store.storage.get_study_id_from_name(name))


def open_study_by_id(store: Store, study_id: int, owner: str | None = None) -> Study:
    """Open a study; `owner` is the name under which a worker of many studies claims slots."""
    with store.engine.connect() as connection:
        row = connection.execute(
            sa.select(study_table.c.uid, study_table.c.spec, study_table.c.fingerprint).where(
                study_table.c.study_id == study_id
            )
        ).one()
    spec = StudySpec.from_json(row.spec)
    return Study(
        store,
        spec,
        spec.search_space(),
        study_id,
        row.uid,
        row.fingerprint,
        owner or new_owner(),
    )


def study_names(store: Store) -> list[str]:
    """Names of the store's segtune studies, oldest first."""
    with store.engine.connect() as connection:
        ids = set(connection.execute(sa.select(study_table.c.study_id)).scalars())
    return [s.study_name for s in store.storage.get_all_studies() if s._study_id in ids]


def build_sampler(spec: SamplerSpec, seed: int, slot: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of a slot.

    Each slot has a seed of its own, derived from the study's: a resumed study goes on with new
    draws instead of repeating its first ones, and two workers never draw the same.
    """
    mixed = int.from_bytes(hashlib.sha256(f"{seed}/{slot}".encode()).digest()[:4], "big")
    if spec.name == "tpe":
        return optuna.samplers.TPESampler(
            n_startup_trials=spec.startup_trials,
            multivariate=True,
            group=True,
            constant_liar=True,
            seed=mixed,
        )
    if spec.name == "gp":
        return optuna.samplers.GPSampler(
            n_startup_trials=spec.startup_trials, seed=mixed, warn_independent_sampling=False
        )
    if spec.name == "cmaes":
        return optuna.samplers.CmaEsSampler(
            n_startup_trials=max(1, spec.startup_trials),
            seed=mixed,
            warn_independent_sampling=False,
        )
    if spec.name == "qmc":  # one sequence, whose position Optuna keeps in the store
        return optuna.samplers.QMCSampler(
            scramble=True,
            seed=seed,
            warn_independent_sampling=False,
            warn_asynchronous_seeding=False,
        )
    assert spec.name == "random", spec.name
    return optuna.samplers.RandomSampler(seed=mixed)


def _create(store: Store, spec: StudySpec, fingerprint: str) -> Study:
    _clear_half_created(store, spec.name)
    study = optuna.create_study(study_name=spec.name, storage=store.storage, direction="maximize")
    study.set_metric_names([spec.data.metric])
    study.set_user_attr("task", spec.task)
    space = spec.search_space()
    if spec.use_starting_points:
        for point in spec.starting_points:
            params = starting_params(space, point)
            if params:
                study.enqueue_trial(params, user_attrs={"origin": point.name}, skip_if_exists=True)
    uid = uuid.uuid4().hex
    with store.engine.begin() as connection:
        connection.execute(
            study_table.insert().values(
                study_id=study._study_id, uid=uid, spec=spec.to_json(), fingerprint=fingerprint
            )
        )
        connection.execute(
            control_table.insert().values(study_id=study._study_id, opened_at=store.now())
        )
    return Study(store, spec, space, study._study_id, uid, fingerprint)


def _clear_half_created(store: Store, name: str) -> None:
    """Remove what a creation that was killed has left; refuse a foreign study of that name."""
    for summary in store.storage.get_all_studies():
        if summary.study_name != name:
            continue
        trials = store.storage.get_all_trials(summary._study_id, deepcopy=False)
        if any(trial.state != TrialState.WAITING for trial in trials):
            raise InputError(
                f"{store.shown} holds an Optuna study {name} that segtune did not make; give "
                "yours another name"
            )
        store.storage.delete_study(summary._study_id)


def _insert(store: Store) -> Any:
    """The dialect's INSERT that knows ON CONFLICT."""
    if store.postgres:
        from sqlalchemy.dialects.postgresql import insert as postgres_insert

        return postgres_insert
    from sqlalchemy.dialects.sqlite import insert as sqlite_insert

    return sqlite_insert
