"""A study in the store: created once from its study file, reopened by name, drawn from by slots."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import optuna
import sqlalchemy as sa
from optuna.study import Study as OptunaStudy
from optuna.trial import FrozenTrial, TrialState

from search.database import optuna_writer
from search.database.optuna_draft import Draft
from search.database.optuna_private import give_id, id_of_study
from search.database.store import Store, UnknownStudy
from search.database.tables import control_table, study_table
from search.stopping.rules import asks_running, optuna_pruner
from search.studies import reports
from search.studies.configs import CONFIG, drawn_config
from search.studies.draws import Outside, draw
from search.studies.earlier import (
    EARLIER,
    Beginning,
    create_earlier,
    earlier_counts,
    numbered_after,
    read_earlier,
)
from search.studies.owners import LAUNCHED_BY, new_owner, user
from search.studies.queue import enqueue_first
from search.studies.reports import Stored
from search.studies.samplers import build_sampler, other_seed
from search.studies.slots import Claim, Slots
from search.studies.trial_facts import TrialFacts
from spaces.config import TrialConfig
from spaces.data import AnyDataSpec
from spaces.difference import CHANGEABLE, spec_difference
from spaces.errors import InputError, did_you_mean
from spaces.space import Space
from spaces.spec import BESIDE, StudySpec
from trainers.report import EpochReport


@dataclass(frozen=True)
class Begun:
    """A trial as it was begun: its parameters, and its config."""

    trial: FrozenTrial
    config: TrialConfig


@dataclass
class Study:
    """An open study.

    Attributes:
        uid: tells studies of equal name in different stores apart, for instance on disk.
        owner: name under which slots are claimed.
        fingerprint: of the data set that the study was created with.
        beginning: what it begins with, where it was created here.
    """

    store: Store
    spec: StudySpec
    space: Space
    study_id: int
    uid: str
    fingerprint: str
    owner: str = field(default_factory=new_owner)
    beginning: Beginning | None = None
    _begun: Begun | None = None  # the trial that was begun here last
    _ids: dict[int, int] = field(default_factory=dict)  # of trials, by number

    @property
    def slots(self) -> Slots:
        """The study's slots, as this worker sees them."""
        attempts = self.spec.budget.max_attempts
        return Slots(self.store, self.study_id, self.owner, attempts)

    @property
    def metric(self) -> str:
        """The metric's name, as in mIoU."""
        return self.spec.metric_name

    @property
    def full_epochs(self) -> int:
        """Epochs of a trial in full, those of all its folds together."""
        return self.spec.full_epochs

    @cached_property
    def earlier(self) -> list[FrozenTrial]:
        """Ended trials of other studies that this one began with, and that its sampler and its
        stopping rule know; read once, as they never change."""
        return read_earlier(self.store, self.spec.name) if self.spec.from_studies else []

    @property
    def begins_with(self) -> dict[str, int]:
        """{earlier study: how many of its trials} this one began with."""
        return earlier_counts(self.store, self.spec.name) if self.spec.from_studies else {}

    def data_spec(self, config: TrialConfig) -> AnyDataSpec:
        """The data that a trial trains on: a confirmation draws a split of its own for each seed,
        where the validation images are drawn from the train images, and folds likewise."""
        data, fresh = self.spec.data, {"seed": config.train.seed}
        if self.spec.confirms is None:
            return data
        if data.folds is not None:
            return data.model_copy(update={"folds": data.folds.model_copy(update=fresh)})
        if data.val is None or data.val.fraction is None:
            return data
        return data.model_copy(update={"val": data.val.model_copy(update=fresh)})

    def optuna(self, slot: int = 0) -> optuna.Study:
        """Open the Optuna study with the sampler of a slot."""
        return optuna.load_study(
            study_name=self.spec.name,
            storage=self.store.storage,
            sampler=build_sampler(self.spec.sampler, self._seed, slot, self.space.priors()),
            pruner=_pruner(self),
        )

    def over(self, trials: Sequence[FrozenTrial]) -> OptunaStudy:
        """Optuna's study with just these trials, for what only reads them: no look at the store."""
        draft = Draft(self.store.storage, self.study_id, self.spec.name, trials)
        return draft.study(optuna.samplers.RandomSampler(), optuna.pruners.NopPruner())

    def ask(
        self, slot: int, connection: sa.Connection | None = None, outside: Outside | None = None
    ) -> int:
        """Begin a new trial for a slot; its config is kept with it. Returns its number.

        Args:
            connection: the transaction that holds the study's lock; None takes the lock.
            outside: what is known to be outside of the limits, and drawn anew.
        """
        if connection is None:
            with self.store.locked(self.study_id) as connection:
                return self.ask(slot, connection, outside)
        if self.spec.beside is not None:
            return self._begin_planned(connection)
        draft, config = draw(
            self.spec, self.space, self._seed, slot, self._draft, _pruner(self), outside
        )
        trial = draft.trial
        assert trial is not None
        trial.number -= len(self.earlier)
        attrs = {**draft.system_attrs, CONFIG: config.flat()}
        begun = optuna_writer.begin(connection, self.study_id, trial, attrs)
        if begun is None:  # somebody who knows no slots has taken it from the queue
            return self.ask(slot, connection, outside)
        optuna_writer.put_study_attrs(connection, self.study_id, draft.study_attrs)
        trial.number = begun.number
        give_id(trial, begun.trial_id)
        trial.system_attrs |= attrs
        self._begun = Begun(trial, config)
        self._ids[begun.number] = begun.trial_id
        return begun.number

    def _draft(self) -> Draft:
        """What a new trial is drawn in: it knows all trials, those of earlier studies first."""
        known = numbered_after(self.earlier, self.all_trials())
        return Draft(self.store.storage, self.study_id, self.spec.name, known)

    @property
    def _seed(self) -> int:
        return other_seed(self.spec.seed, self.spec.from_studies)

    def _begin_planned(self, connection: sa.Connection) -> int:
        """Begin the next trial that was planned; no sampler has a part in it."""
        trial = next(t for t in self.all_trials() if t.state == TrialState.WAITING)
        begun = optuna_writer.begin(connection, self.study_id, trial, {}, whole=True)
        assert begun is not None, trial.number
        self._ids[begun.number] = begun.trial_id
        return begun.number

    def trial_id(self, number: int) -> int:
        if number not in self._ids:
            storage = self.store.storage
            self._ids[number] = storage.get_trial_id_from_study_id_trial_number(
                self.study_id, number
            )
        return self._ids[number]

    def trial(self, number: int) -> FrozenTrial:
        return self.store.storage.get_trial(self.trial_id(number))

    def begun(self, number: int) -> Begun:
        """A trial as it was begun; the last one needs no reading."""
        if self._begun is None or self._begun.trial.number != number:
            trial = self.trial(number)
            self._begun = Begun(trial, self.config(trial))
        return self._begun

    def trials(self) -> list[FrozenTrial]:
        """All trials that have been begun for a slot, by number."""
        return [trial for trial in self.all_trials() if not _of_no_slot(trial)]

    def config(self, trial: FrozenTrial) -> TrialConfig:
        """The effective config of a trial, with the decode settings that it chose."""
        flat = drawn_config(trial)
        if flat is None:
            config = self.space.config(trial.params)
        else:
            config = type(self.space.base)().replace(flat)
        return config.replace(TrialFacts.of(trial).decode)

    def report(self, claim: Claim, report: EpochReport) -> Stored | None:
        """Store an epoch's report and prolong the lease; the same epoch again changes nothing.

        Returns:
            None where the slot is another worker's by now: the report is not stored.
        """
        trial_id = self.trial_id(claim.trial_number)
        with self.store.engine.begin() as connection:
            beside = asks_running(self.spec.pruner)
            return reports.store(connection, self.slots, claim, trial_id, report, beside=beside)

    def forget_epochs(self, claim: Claim, after: int) -> bool:
        """Drop what is stored of a trial's later epochs; False where the slot is not ours."""
        trial_id = self.trial_id(claim.trial_number)
        with self.store.engine.begin() as connection:
            return reports.forget(connection, self.slots, claim, trial_id, after)

    def history(self, number: int) -> list[EpochReport]:
        """The reports of a trial, first epoch first."""
        return self.histories([number])[number]

    def histories(self, numbers: Iterable[int]) -> dict[int, list[EpochReport]]:
        """{trial: its reports, first epoch first}."""
        return reports.histories(self.store, self.study_id, numbers)

    def take_settings(self, spec: StudySpec) -> None:
        """Store what a launch may change, where the workers look for it."""
        until = {"until": spec.budget.until}
        update = {name: getattr(spec, name) for name in CHANGEABLE}
        update["budget"] = self.spec.budget.model_copy(update=until)
        if all(getattr(self.spec, name) == value for name, value in update.items()):
            return
        self.spec = self.spec.model_copy(update=update)
        with self.store.engine.begin() as connection:
            connection.execute(
                sa.update(study_table)
                .where(study_table.c.study_id == self.study_id)
                .values(spec=self.spec.to_json())
            )

    def all_trials(self) -> list[FrozenTrial]:
        """Optuna's, those that wait and those that nobody has claimed included.

        Raises:
            UnknownStudy: the study was deleted.
        """
        try:
            return self.store.storage.get_all_trials(self.study_id, deepcopy=False)
        except KeyError:
            raise UnknownStudy(f"study {self.spec.name} was deleted") from None


def _of_no_slot(trial: FrozenTrial) -> bool:
    """Whether a trial waits in the queue, or was lost by an older version before it had a slot."""
    lost = trial.state == TrialState.FAIL and TrialFacts.of(trial).reason is None
    return lost or trial.state == TrialState.WAITING


def create_or_resume(
    store: Store,
    spec: StudySpec,
    fingerprint: str,
    trials: int | None,
    begin: Callable[[], Beginning] = Beginning,
) -> Study:
    """Create the study of a spec, or reopen it where it exists.

    Args:
        fingerprint: of the data set as it is now.
        trials: total budget, where it differs from the file's.
        begin: finds what a new study begins with.

    Raises:
        InputError: a study of this name has another spec, or its data have changed.
    """
    with store.study_lock(0):
        try:
            study = open_study(store, spec.name)
        except UnknownStudy:
            study = create(store, spec, fingerprint, begin())
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
    study.slots.extend(trials or spec.budget.trials)
    return study


def open_study(store: Store, name: str) -> Study:
    """Open a study by name; raises UnknownStudy with the nearest name."""
    names = study_names(store)
    if name not in names:
        known = f"; known: {', '.join(names)}" if names else "; the store has no study yet"
        raise UnknownStudy(f"no study {name} in {store.shown}{did_you_mean(name, names) or known}")
    return open_study_by_id(store, store.storage.get_study_id_from_name(name))


def open_study_by_id(store: Store, study_id: int, owner: str | None = None) -> Study:
    """Open a study; `owner` is the name under which a worker of many studies claims slots.

    Raises:
        UnknownStudy: it was deleted.
    """
    with store.engine.connect() as connection:
        row = connection.execute(
            sa.select(study_table.c.uid, study_table.c.spec, study_table.c.fingerprint).where(
                study_table.c.study_id == study_id
            )
        ).one_or_none()
    if row is None:
        raise UnknownStudy(f"study {study_id} of {store.shown} was deleted")
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
    """Names of the store's segtune studies, oldest first; those beside another are not there."""
    with store.engine.connect() as connection:
        ids = set(connection.execute(sa.select(study_table.c.study_id)).scalars())
    names = [s.study_name for s in store.storage.get_all_studies() if id_of_study(s) in ids]
    return [name for name in names if not name.endswith(BESIDE)]


def _pruner(study: Study) -> optuna.pruners.BasePruner:
    return optuna_pruner(study.spec.pruner, study.space.base.train.epochs)


def create(
    store: Store, spec: StudySpec, fingerprint: str, beginning: Beginning | None = None
) -> Study:
    """Create a study without slots; one of this name must not be there."""
    _clear_half_created(store, spec.name)
    study = optuna.create_study(study_name=spec.name, storage=store.storage, direction="maximize")
    study.set_metric_names([spec.metric_name])
    study.set_user_attr("task", spec.task)
    study.set_user_attr(LAUNCHED_BY, user())
    space, beginning = spec.search_space(), beginning or Beginning()
    if spec.beside is None:
        enqueue_first(study, spec, space, beginning)
    earlier = create_earlier(store, spec.name) if beginning.known else None
    uid = uuid.uuid4().hex
    with store.engine.begin() as connection:
        connection.execute(
            study_table.insert().values(
                study_id=id_of_study(study), uid=uid, spec=spec.to_json(), fingerprint=fingerprint
            )
        )
        connection.execute(
            control_table.insert().values(study_id=id_of_study(study), opened_at=store.now())
        )
        if earlier is not None:
            optuna_writer.add_ended(connection, earlier, beginning.known)
    return Study(store, spec, space, id_of_study(study), uid, fingerprint, beginning=beginning)


def _clear_half_created(store: Store, name: str) -> None:
    """Remove what a creation that was killed has left; refuse a foreign study of that name."""
    for summary in store.storage.get_all_studies():
        if summary.study_name == name + EARLIER:  # also where Optuna's dashboard deleted the study
            store.storage.delete_study(id_of_study(summary))
        if summary.study_name != name:
            continue
        trials = store.storage.get_all_trials(id_of_study(summary), deepcopy=False)
        if any(trial.state != TrialState.WAITING for trial in trials):
            raise InputError(
                f"{store.shown} holds an Optuna study {name} that segtune did not make; give "
                "yours another name"
            )
        store.storage.delete_study(id_of_study(summary))
