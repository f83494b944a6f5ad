"""The reports of epochs: stored only for the holder of a slot, and read back as curves.

A report costs one statement on Postgres, a verdict none until another trial has ended.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from search.database import optuna_writer
from search.database.store import Store
from search.database.tables import OPEN, PAUSED, RUNNING, control_table, epoch_table, slot_table
from search.studies.slots import Claim, Slots
from trainers.report import EpochReport


@dataclass(frozen=True)
class Stored:
    """A report has been stored.

    Attributes:
        ended: grows whenever a trial of the study ends; None where it was not asked for.
        beside: best metric, by the same epoch, of each other trial that is paused, or runs and has
            come as far; empty where it was not asked for.
    """

    ended: int | None
    beside: tuple[float, ...] = ()


def store(
    connection: sa.Connection,
    slots: Slots,
    claim: Claim,
    trial_id: int,
    report: EpochReport,
    *,
    beside: bool,
) -> Stored | None:
    """Insert a report, for Optuna too, and prolong the lease; None where the slot is not ours.

    What is there already stays as it is.

    Args:
        beside: ask for paused and running trials too.
    """
    row = {
        "study_id": slots.study_id,
        "trial_number": claim.trial_number,
        "epoch": report.epoch,
        "metric": report.metric,
        "report": json.dumps(report.to_json()),
    }
    rows = [(epoch_table, row), optuna_writer.step(trial_id, report.epoch, report.metric)]
    insert = optuna_writer.insert_for(connection.dialect.name)
    if connection.dialect.name != "postgresql":
        if not slots.renew_in(connection, claim):
            return None
        for table, values in rows:
            connection.execute(insert(table).values(values).on_conflict_do_nothing())
        if not beside:
            return Stored(None)
        bests = _beside(slots.study_id, claim.trial_number, report.epoch)
        return Stored(None, tuple(connection.execute(bests).scalars()))
    renewed = slots.renewal(claim).returning(slot_table.c.slot).cte("renewed")
    ended = sa.select(control_table.c.ended).where(control_table.c.study_id == slots.study_id)
    query = sa.select(
        sa.select(sa.func.count()).select_from(renewed).scalar_subquery(),
        ended.scalar_subquery(),
        _array(_beside(slots.study_id, claim.trial_number, report.epoch)) if beside else sa.null(),
    )
    for table, values in rows:
        literals = [
            sa.cast(sa.literal(value, table.c[name].type), table.c[name].type)
            for name, value in values.items()
        ]
        chosen = sa.select(*literals).select_from(renewed)
        inserted = insert(table).from_select(list(values), chosen).on_conflict_do_nothing()
        query = query.add_cte(inserted.cte(f"{table.name}_row"))
    ours, count, bests = connection.execute(query).one()
    return Stored(count, tuple(bests or ())) if ours else None


def forget(
    connection: sa.Connection, slots: Slots, claim: Claim, trial_id: int, after: int
) -> bool:
    """Drop the reports of later epochs, Optuna's too, and prolong the lease.

    Returns:
        False where the slot is not ours: nothing is dropped.
    """
    if not slots.renew_in(connection, claim):
        return False
    mine = (
        epoch_table.c.study_id == slots.study_id,
        epoch_table.c.trial_number == claim.trial_number,
    )
    connection.execute(sa.delete(epoch_table).where(*mine, epoch_table.c.epoch > after))
    optuna_writer.forget_steps(connection, trial_id, after)
    return True


def _array(values: sa.Select[Any]) -> sa.ScalarSelect[Any]:
    """The rows of a query of one column, as one array."""
    rows = values.subquery()
    return sa.select(sa.func.array_agg(rows.c[0])).scalar_subquery()


def _beside(study_id: int, trial_number: int, epoch: int) -> sa.Select[Any]:
    """Best metrics, by an epoch, of the others that are paused, or run and have reported it."""
    reported = epoch_table.c
    # NaN is larger than any number to both kinds of store
    number = sa.and_(reported.epoch <= epoch, reported.metric < math.inf)
    paused = sa.and_(slot_table.c.state == OPEN, slot_table.c.reason == PAUSED)
    best = (
        sa.select(sa.func.max(reported.metric).filter(number).label("best"))
        .join(
            slot_table,
            sa.and_(
                slot_table.c.study_id == reported.study_id,
                slot_table.c.trial_number == reported.trial_number,
            ),
        )
        .where(
            reported.study_id == study_id,
            sa.or_(slot_table.c.state == RUNNING, paused),
            slot_table.c.trial_number != trial_number,
        )
        .group_by(reported.trial_number, slot_table.c.reason)
        .having(sa.or_(sa.func.max(reported.epoch) >= epoch, slot_table.c.reason == PAUSED))
        .subquery()
    )
    return sa.select(best.c.best).where(best.c.best.is_not(None))


def histories(store: Store, study_id: int, numbers: Iterable[int]) -> dict[int, list[EpochReport]]:
    """{trial: its reports, first epoch first}."""
    found: dict[int, list[EpochReport]] = {number: [] for number in numbers}
    with store.engine.connect() as connection:
        rows = connection.execute(
            sa.select(epoch_table.c.trial_number, epoch_table.c.report)
            .where(epoch_table.c.study_id == study_id, epoch_table.c.trial_number.in_(found))
            .order_by(epoch_table.c.trial_number, epoch_table.c.epoch)
        ).all()
    for row in rows:
        found[row.trial_number].append(EpochReport.from_json(json.loads(row.report)))
    return found


def ended_after(
    connection: sa.Connection, study_id: int, ended: int
) -> tuple[int, dict[int, dict[int, float]]]:
    """How far `ended` has grown since, and {trial: {epoch: metric}} of those that ended then.

    FAILED ones are left out, and those outside of the study's limits: no trial is held against
    them.
    """
    reported = sa.and_(
        epoch_table.c.study_id == slot_table.c.study_id,
        epoch_table.c.trial_number == slot_table.c.trial_number,
        slot_table.c.state != "FAILED",
        sa.func.coalesce(slot_table.c.reason, "") != "limit",
    )
    rows = connection.execute(
        sa.select(
            slot_table.c.ended_as,
            slot_table.c.trial_number,
            epoch_table.c.epoch,
            epoch_table.c.metric,
        )
        .join(epoch_table, reported, isouter=True)
        .where(slot_table.c.study_id == study_id, slot_table.c.ended_as > ended)
    ).all()
    found: dict[int, dict[int, float]] = {}
    for row in rows:
        ended = max(ended, row.ended_as)
        if row.epoch is not None:
            found.setdefault(row.trial_number, {})[row.epoch] = row.metric
    return ended, found


def begun(
    connection: sa.Connection, study_id: int
) -> tuple[int, dict[int, dict[int, float]], set[int]]:
    """How far `ended` has grown, {trial: {epoch: metric}} of those not ended, the paused ones."""
    control = sa.select(control_table.c.ended).where(control_table.c.study_id == study_id)
    rows = connection.execute(
        sa.select(
            slot_table.c.trial_number,
            slot_table.c.reason,
            epoch_table.c.epoch,
            epoch_table.c.metric,
            control.scalar_subquery().label("ended"),
        )
        .join(
            epoch_table,
            sa.and_(
                epoch_table.c.study_id == slot_table.c.study_id,
                epoch_table.c.trial_number == slot_table.c.trial_number,
            ),
        )
        .where(slot_table.c.study_id == study_id, slot_table.c.state.in_((OPEN, RUNNING)))
    ).all()
    found: dict[int, dict[int, float]] = {}
    for row in rows:
        found.setdefault(row.trial_number, {})[row.epoch] = row.metric
    paused = {row.trial_number for row in rows if row.reason == PAUSED}
    return rows[0].ended if rows else 0, found, paused


def values(metrics: Mapping[int, float], epochs: int) -> tuple[float, ...]:
    """{epoch: metric} as the values from epoch 1 to the last, NaN for those that are missing.

    Args:
        epochs: of a run in full; what comes behind them is of further folds.
    """
    last = min(max(metrics, default=0), epochs)
    return tuple(metrics.get(epoch, math.nan) for epoch in range(1, last + 1))
