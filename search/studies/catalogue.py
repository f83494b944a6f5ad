"""All studies of a store as a list shows them: one statement for how far they are, two for more.

The first says whether anything has changed, so that a page that asks again and again costs one
statement. What it leaves out, a study's settings and its best trial, is read where it has changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from search.database.optuna_private import (
    STUDIES,
    STUDY_SYSTEM_ATTRS,
    STUDY_USER_ATTRS,
    TRIAL_USER_ATTRS,
    TRIAL_VALUES,
    TRIALS,
)
from search.database.store import Store
from search.database.tables import (
    ENDED,
    OPEN,
    PAUSED,
    RUNNING,
    control_table,
    epoch_table,
    slot_table,
    study_table,
    worker_table,
)
from search.studies.looks import LOOKS
from search.studies.owners import LAUNCHED_BY
from search.studies.slots import LEASE_SECONDS
from search.studies.trained import reported
from spaces.spec import BESIDE, StudySpec

ANSWER = "segtune:answer"  # system attribute: `Answer.to_json` with more, as a worker last found it
OF_TRIALS = "dashboard:artifacts:"  # what the keys of files that are shown with trials begin with


@dataclass(frozen=True)
class Entry:
    """How far a study is, or one that runs beside it.

    Attributes:
        stop: why no new trial begins; None where they do.
        ends: grows with each end of a trial.
        slots: in all.
        ended: of these.
        running: of these, under a lease that holds.
        epochs: that trials have trained which run, or whose lease was lost.
        workers: that say that they work on it.
        answer: the value of ANSWER, JSON; None where no worker has written it.
        launched_by: user@host, JSON; None where an earlier version launched it.
    """

    study_id: int
    uid: str
    name: str
    stop: str | None
    ends: int
    slots: int
    ended: int
    running: int
    epochs: int
    workers: int
    answer: str | None
    launched_by: str | None

    @property
    def beside(self) -> str | None:
        """The study that it runs beside; None for a search."""
        own = (self.name.removesuffix(s) for s in BESIDE if self.name.endswith(s))
        return next(own, None)


@dataclass(frozen=True)
class Best:
    """A study's trial of the highest value.

    Attributes:
        epoch: that had it; None where that is not known.
    """

    trial: int
    value: float
    epoch: int | None


def entries(store: Store) -> list[Entry]:
    """Return every study, oldest first, those beside others included; one statement."""
    now = store.now()
    live = sa.and_(slot_table.c.state == RUNNING, slot_table.c.lease_until >= now)
    slots = (
        sa.select(
            slot_table.c.study_id,
            sa.func.count().label("slots"),
            sa.func.sum(sa.case((slot_table.c.state.in_(ENDED), 1), else_=0)).label("ended"),
            sa.func.sum(sa.case((live, 1), else_=0)).label("running"),
        )
        .group_by(slot_table.c.study_id)
        .subquery()
    )
    epochs = (
        sa.select(slot_table.c.study_id, sa.func.count().label("epochs"))
        .join(epoch_table, reported())
        .where(slot_table.c.state == RUNNING)
        .group_by(slot_table.c.study_id)
        .subquery()
    )
    crew = (
        sa.select(worker_table.c.study, sa.func.count().label("workers"))
        .where(sa.func.abs(now - worker_table.c.seen_at) <= LEASE_SECONDS)
        .group_by(worker_table.c.study)
        .subquery()
    )
    answer, launched = STUDY_SYSTEM_ATTRS.alias(), STUDY_USER_ATTRS.alias()
    query = (
        sa.select(
            study_table.c.study_id,
            study_table.c.uid,
            STUDIES.c.study_name,
            control_table.c.stop,
            control_table.c.ended,
            sa.func.coalesce(slots.c.slots, 0),
            sa.func.coalesce(slots.c.ended, 0),
            sa.func.coalesce(slots.c.running, 0),
            sa.func.coalesce(epochs.c.epochs, 0),
            sa.func.coalesce(crew.c.workers, 0),
            answer.c.value_json,
            launched.c.value_json,
        )
        .join(STUDIES, STUDIES.c.study_id == study_table.c.study_id)
        .join(control_table, control_table.c.study_id == study_table.c.study_id)
        .outerjoin(slots, slots.c.study_id == study_table.c.study_id)
        .outerjoin(epochs, epochs.c.study_id == study_table.c.study_id)
        .outerjoin(crew, crew.c.study == STUDIES.c.study_name)
        .outerjoin(
            answer,
            sa.and_(answer.c.study_id == study_table.c.study_id, answer.c.key == ANSWER),
        )
        .outerjoin(
            launched,
            sa.and_(launched.c.study_id == study_table.c.study_id, launched.c.key == LAUNCHED_BY),
        )
        .order_by(study_table.c.study_id)
    )
    with store.engine.connect() as connection:
        return [Entry(*tuple(row)) for row in connection.execute(query)]


def specs(store: Store, ids: Iterable[int]) -> dict[int, StudySpec]:
    """{study id: its settings} of some studies; asks nothing where there are none."""
    wanted = list(ids)
    if not wanted:
        return {}
    query = sa.select(study_table.c.study_id, study_table.c.spec).where(
        study_table.c.study_id.in_(wanted)
    )
    with store.engine.connect() as connection:
        rows = connection.execute(query).all()
    return {row.study_id: StudySpec.from_json(row.spec) for row in rows}


def bests(store: Store, known: Mapping[int, StudySpec]) -> dict[int, Best]:
    """{study id: its trial of the highest value} of some studies, where there is one.

    With folds only trials count that have trained on all. Asks nothing where there are no studies.
    """
    if not known:
        return {}
    state = sa.type_coerce(TRIALS.c.state, sa.String)
    in_folds = [study_id for study_id, spec in known.items() if spec.data.folds is not None]
    ranked = (
        sa.select(
            TRIALS.c.study_id,
            TRIALS.c.trial_id,
            TRIALS.c.number,
            TRIAL_VALUES.c.value,
            sa.func.row_number()
            .over(
                partition_by=TRIALS.c.study_id,
                order_by=(TRIAL_VALUES.c.value.desc(), state, TRIALS.c.number),
            )
            .label("place"),
        )
        .join(TRIAL_VALUES, TRIAL_VALUES.c.trial_id == TRIALS.c.trial_id)
        .where(
            TRIALS.c.study_id.in_(list(known)),
            TRIAL_VALUES.c.value.is_not(None),
            sa.or_(
                state == "COMPLETE",
                sa.and_(state == "PRUNED", TRIALS.c.study_id.not_in(in_folds)),
            ),
        )
        .subquery()
    )
    epoch = TRIAL_USER_ATTRS.alias()
    query = (
        sa.select(ranked.c.study_id, ranked.c.number, ranked.c.value, epoch.c.value_json)
        .outerjoin(
            epoch, sa.and_(epoch.c.trial_id == ranked.c.trial_id, epoch.c.key == "best_epoch")
        )
        .where(ranked.c.place == 1)
    )
    with store.engine.connect() as connection:
        rows = connection.execute(query).all()
    return {
        study_id: Best(number, value, None if stored in (None, "null") else int(stored))
        for study_id, number, value, stored in rows
    }


@dataclass(frozen=True)
class OneTrial:
    """A trial by its number, as far as a page of its own needs it.

    Attributes:
        uid: its study's.
        state: running, paused, interrupted, or Optuna's in small letters.
    """

    uid: str
    state: str


def one_trial(store: Store, study: str, number: int) -> OneTrial | None:
    """Return a trial of a study, or of one beside it; one statement, None where it is not there."""
    own = sa.and_(
        slot_table.c.study_id == TRIALS.c.study_id, slot_table.c.trial_number == TRIALS.c.number
    )
    query = (
        sa.select(
            study_table.c.uid,
            sa.type_coerce(TRIALS.c.state, sa.String),
            slot_table.c.state,
            slot_table.c.reason,
            slot_table.c.lease_until >= store.now(),
        )
        .join(STUDIES, STUDIES.c.study_id == study_table.c.study_id)
        .join(TRIALS, TRIALS.c.study_id == study_table.c.study_id)
        .outerjoin(slot_table, own)
        .where(STUDIES.c.study_name == study, TRIALS.c.number == number)
    )
    with store.engine.connect() as connection:
        row = connection.execute(query).first()
    if row is None:
        return None
    uid, state, slot, reason, live = row
    if slot == RUNNING and live:
        return OneTrial(uid, "running")
    if slot in (OPEN, RUNNING):
        return OneTrial(uid, "paused" if reason == PAUSED else "interrupted")
    return OneTrial(uid, state.lower())


@dataclass(frozen=True)
class Moment:
    """What changes whenever there is more to tell of a study.

    Attributes:
        known: changes with its trials that begin, pause and end, with what is said of it, and with
            the files that are shown with trials.
        leases: grows with each epoch's report of a trial that runs.
    """

    name: str
    uid: str
    known: tuple[object, ...]
    leases: float | None


def moments(store: Store, names: Sequence[str]) -> list[Moment]:
    """Return those of some studies, oldest first, as far as they exist; one statement."""
    named = STUDIES.c.study_name.in_(list(names))
    slots = (
        sa.select(
            slot_table.c.study_id,
            sa.func.count().label("slots"),
            sa.func.sum(slot_table.c.attempt).label("attempts"),
            sa.func.count(slot_table.c.owner).label("held"),
            sa.func.count(slot_table.c.reason).label("reasons"),
            sa.func.sum(slot_table.c.lease_until).label("leases"),
        )
        .where(slot_table.c.study_id.in_(sa.select(STUDIES.c.study_id).where(named)))
        .group_by(slot_table.c.study_id)
        .subquery()
    )
    attrs = STUDY_SYSTEM_ATTRS
    files = (  # a sum that another one, one less or one that was removed changes
        sa.select(
            sa.func.sum(attrs.c.study_system_attribute_id + sa.func.length(attrs.c.value_json))
        )
        .where(
            attrs.c.study_id == study_table.c.study_id,
            attrs.c.key.like(f"{OF_TRIALS}%"),
        )
        .correlate(study_table)
        .scalar_subquery()
    )
    looks = STUDY_SYSTEM_ATTRS.alias()
    query = (
        sa.select(
            STUDIES.c.study_name,
            study_table.c.uid,
            slots.c.leases,
            study_table.c.spec,
            control_table.c.stop,
            control_table.c.opened_at,
            control_table.c.ended,
            slots.c.slots,
            slots.c.attempts,
            slots.c.held,
            slots.c.reasons,
            sa.func.length(looks.c.value_json),
            files,
        )
        .join(STUDIES, STUDIES.c.study_id == study_table.c.study_id)
        .join(control_table, control_table.c.study_id == study_table.c.study_id)
        .outerjoin(slots, slots.c.study_id == study_table.c.study_id)
        .outerjoin(looks, sa.and_(looks.c.study_id == study_table.c.study_id, looks.c.key == LOOKS))
        .where(named)
        .order_by(study_table.c.study_id)
    )
    with store.engine.connect() as connection:
        rows = connection.execute(query).all()
    return [Moment(name, uid, tuple(rest), leases) for name, uid, leases, *rest in rows]
