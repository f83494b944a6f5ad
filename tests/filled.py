"""Studies of thousands of trials that were never trained, written straight into the tables."""

from __future__ import annotations

import datetime
import json
import random
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.storages._rdb import models
from optuna.trial import TrialState

from search.database.tables import control_table, epoch_table, slot_table
from search.studies.configs import CONFIG
from search.studies.study import Study
from tests.scripted import EPOCHS

RUNNING = 4


def fill_ended(study: Study, ended: int) -> None:
    """Give a study ended trials of EPOCHS epochs, RUNNING ones, and 1,000 slots that are free."""
    study.slots.extend(ended + RUNNING + 1000)
    fill(study, ended + RUNNING, EPOCHS)


def fill(study: Study, trials: int, epochs: int) -> None:
    """Give a study trials with every attribute that a worker stores; the last RUNNING still run.

    It must have a slot for each.
    """
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    rng, classes = random.Random(0), len(study.spec.data.names)
    tables: dict[Any, list[dict[str, Any]]] = {
        model: []
        for model in (
            models.TrialModel,
            models.TrialParamModel,
            models.TrialUserAttributeModel,
            models.TrialSystemAttributeModel,
            models.TrialIntermediateValueModel,
            models.TrialValueModel,
        )
    }
    reports, slots = [], []
    with study.store.engine.connect() as connection:
        highest = connection.execute(sa.select(sa.func.max(models.TrialModel.trial_id))).scalar()
    first = (highest or 0) + 1
    now = datetime.datetime.now()
    for number in range(trials):
        trial = drawn.ask()
        config = study.space.sample(trial)
        running = number >= trials - RUNNING
        kind = "completed" if rng.random() < 0.4 else "median"
        last = epochs // 2 if running else epochs if kind == "completed" else epochs * 2 // 3
        state = "RUNNING" if running else "COMPLETE" if kind == "completed" else "PRUNED"
        top = rng.uniform(0.2, 0.7)
        curve = [round(top * (1 - 0.9 ** (e + 1)) + rng.gauss(0, 0.01), 6) for e in range(last)]
        row = {"trial_id": first + number, "number": number, "study_id": study.study_id}
        tables[models.TrialModel].append(
            {
                **row,
                "state": TrialState[state],
                "datetime_start": now,
                "datetime_complete": None if running else now,
            }
        )
        for name, value in trial.params.items():
            distribution = trial.distributions[name]
            tables[models.TrialParamModel].append(
                {
                    "trial_id": first + number,
                    "param_name": name,
                    "param_value": distribution.to_internal_repr(value),
                    "distribution_json": optuna.distributions.distribution_to_json(distribution),
                }
            )
        tables[models.TrialSystemAttributeModel].append(
            {"trial_id": first + number, "key": CONFIG, "value_json": json.dumps(config.flat())}
        )
        attrs: dict[str, Any] = {}
        if not running:
            attrs |= {
                "reason": kind,
                "epochs": last,
                "best_epoch": last,
                "seconds": 1.5 * last,
                "decode": {},
                "hardware": {"device": "cpu", "precision": "bf16", "micro_batch": 8},
                "per_class": [round(top * rng.uniform(0.5, 1.2), 4) for _ in range(classes)],
                "bar": None if kind == "completed" else round(top + 0.05, 4),
            }
            tables[models.TrialValueModel].append(
                {
                    "trial_id": first + number,
                    "objective": 0,
                    "value": max(curve),
                    "value_type": "FINITE",
                }
            )
        for name, value in attrs.items():
            tables[models.TrialUserAttributeModel].append(
                {"trial_id": first + number, "key": name, "value_json": json.dumps(value)}
            )
        for epoch, value in enumerate(curve, start=1):
            tables[models.TrialIntermediateValueModel].append(
                {
                    "trial_id": first + number,
                    "step": epoch,
                    "intermediate_value": value,
                    "intermediate_value_type": "FINITE",
                }
            )
            reports.append(
                {
                    "study_id": study.study_id,
                    "trial_number": number,
                    "epoch": epoch,
                    "metric": value,
                    "report": json.dumps(_report(epoch, value)),
                }
            )
        slots.append({"slot": number, "state": state, "trial_number": number})
    with study.store.engine.begin() as connection:
        for model, rows in tables.items():
            for start in range(0, len(rows), 10_000):
                connection.execute(sa.insert(model.__table__), rows[start : start + 10_000])
        for start in range(0, len(reports), 10_000):
            connection.execute(sa.insert(epoch_table), reports[start : start + 10_000])
        for state in ("RUNNING", "COMPLETE", "PRUNED"):
            chosen = [slot["slot"] for slot in slots if slot["state"] == state]
            connection.execute(
                sa.update(slot_table)
                .where(slot_table.c.study_id == study.study_id, slot_table.c.slot.in_(chosen))
                .values(
                    state=state,
                    trial_number=slot_table.c.slot,
                    ended_as=None if state == "RUNNING" else slot_table.c.slot + 1,
                )
            )
        connection.execute(
            sa.update(control_table)
            .where(control_table.c.study_id == study.study_id)
            .values(ended=sum(slot["state"] != "RUNNING" for slot in slots))
        )
        if study.store.postgres:  # the rows came with ids of their own
            last = "SELECT setval('trials_trial_id_seq', (SELECT max(trial_id) FROM trials))"
            connection.execute(sa.text(last))


def _report(epoch: int, metric: float) -> dict[str, Any]:
    losses = {"total": 1 / epoch, "pixel": 1 / epoch, "region": 1 / epoch}
    return {"epoch": epoch, "metric": metric, "train": losses, "val": losses, "seconds": 1.5}
