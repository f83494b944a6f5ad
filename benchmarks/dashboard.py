"""The study page's data at 3,000 trials of 100 epochs: optuna-dashboard alone, cached, and ours.

    python -m benchmarks.dashboard [--trials 3000] [--epochs 100] [--to benchmarks/dashboard.md]

The three answer the same request side by side in one run, each from a storage of its own on the
embedded Postgres. Between refreshes a running trial reports and another one ends. Notes and graphs
are in the store, written by the workers' own code.
"""

from __future__ import annotations

import datetime
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.report import heading, parser, publish, spread, table

SPEC = """\
name: large
task: segmentation
data:
  train: {{images: data/train/images, masks: data/train/masks}}
  val: {{images: data/val/images, masks: data/val/masks}}
  classes: data/classes.json
space: {{train.epochs: {epochs}}}
use_starting_points: false
budget: {{trials: {trials}}}
"""
RUNNING = 4
REFRESHES = 5


def main() -> None:
    """Make the study, ask for it, print the figures."""
    command = parser(__doc__ or "")
    command.add_argument("--trials", type=int, default=3000)
    command.add_argument("--epochs", type=int, default=100)
    given = command.parse_args()
    with tempfile.TemporaryDirectory(prefix="segtune-dashboard-") as folder:
        text = report(measure(Path(folder), given.trials, given.epochs), given.trials, given.epochs)
    publish(text, given.to)


def measure(folder: Path, trials: int, epochs: int) -> dict[str, dict[str, list[float]]]:
    """Return {who: {first: [seconds, bytes], refresh: seconds, refresh_bytes: bytes}}."""
    os.environ["SEGTUNE_HOME"] = str(folder / "home")
    from optuna.storages import RDBStorage, get_storage
    from optuna_dashboard import wsgi

    from search.dashboard.publish import Publisher
    from search.dashboard.study_page import StudyData
    from search.database.store import open_store
    from search.files.artifacts import Artifacts
    from search.samples.streets import write_streets
    from search.studies.study import create_or_resume
    from spaces.spec import StudySpec

    write_streets(folder / "data", train=2, val=1, size=(32, 32))
    (folder / "study.yaml").write_text(SPEC.format(trials=trials, epochs=epochs))
    store = open_store()
    study = create_or_resume(store, StudySpec.load(folder / "study.yaml"), "f" * 64, trials)
    fill(study, trials, epochs)
    Publisher(study, Artifacts(folder / "artifacts")).refresh()
    url = store.engine.url.render_as_string(hide_password=False)
    ours = open_store(url)
    alone = RDBStorage(url)
    cached = get_storage(RDBStorage(url))
    apps = {
        "optuna-dashboard": wsgi(alone),
        "optuna-dashboard, cached storage": wsgi(cached),
        "segtune dashboard": StudyData(wsgi(ours.storage), ours),
    }
    path = f"/api/studies/{study.study_id}"
    found: dict[str, dict[str, list[float]]] = {name: {} for name in apps}
    for name, app in apps.items():
        found[name]["first"] = list(_get(app, path))
    for _ in range(REFRESHES):
        _go_on(study, epochs)
        after = next(t.number for t in study.trials() if not t.state.is_finished())
        for name, app in apps.items():
            cache = getattr(app, "_inmemory_cache", None)
            if cache is not None:  # it would answer with trials that are up to ten seconds old
                cache._trials_last_fetched_at.clear()
            seconds, size = _get(app, path, f"after={after}")
            found[name].setdefault("refresh", []).append(seconds)
            found[name]["refresh_bytes"] = [size]
    for opened in (store, ours):
        opened.close()
    return found


def fill(study: Any, trials: int, epochs: int) -> None:
    """Give a study ended trials with every attribute that a worker stores, and a few running."""
    import optuna
    import sqlalchemy as sa
    from optuna.storages._rdb import models
    from optuna.trial import TrialState

    from search.database.tables import control_table, epoch_table, slot_table
    from search.studies.configs import CONFIG

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
        row = {"trial_id": number + 1, "number": number, "study_id": study.study_id}
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
                    "trial_id": number + 1,
                    "param_name": name,
                    "param_value": distribution.to_internal_repr(value),
                    "distribution_json": optuna.distributions.distribution_to_json(distribution),
                }
            )
        tables[models.TrialSystemAttributeModel].append(
            {"trial_id": number + 1, "key": CONFIG, "value_json": json.dumps(config.flat())}
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
                    "trial_id": number + 1,
                    "objective": 0,
                    "value": max(curve),
                    "value_type": "FINITE",
                }
            )
        for name, value in attrs.items():
            tables[models.TrialUserAttributeModel].append(
                {"trial_id": number + 1, "key": name, "value_json": json.dumps(value)}
            )
        for epoch, value in enumerate(curve, start=1):
            tables[models.TrialIntermediateValueModel].append(
                {
                    "trial_id": number + 1,
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


def _report(epoch: int, metric: float) -> dict[str, Any]:
    losses = {"total": 1 / epoch, "pixel": 1 / epoch, "region": 1 / epoch}
    return {"epoch": epoch, "metric": metric, "train": losses, "val": losses, "seconds": 1.5}


def _go_on(study: Any, epochs: int) -> None:
    """A running trial reports, and another one ends, if more than one is left."""
    from optuna.trial import TrialState

    storage = study.store.storage
    running = [t for t in study.trials() if not t.state.is_finished()]
    trial = running[-1]
    storage.set_trial_intermediate_value(trial._trial_id, max(trial.intermediate_values) + 1, 0.5)
    if len(running) > 1:
        storage.set_trial_user_attr(running[0]._trial_id, "reason", "completed")
        storage.set_trial_state_values(running[0]._trial_id, TrialState.COMPLETE, [0.4])


def _get(app: Callable[..., Any], path: str, query: str = "") -> tuple[float, int]:
    """Seconds and bytes of an answer."""
    import io

    status: list[str] = []
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.url_scheme": "http",
    }
    began = time.perf_counter()
    body = b"".join(app(environ, lambda code, headers, *rest: status.append(code)))
    seconds = time.perf_counter() - began
    assert status[0].startswith("200"), (status, body[:300])
    return seconds, len(body)


def report(found: dict[str, dict[str, list[float]]], trials: int, epochs: int) -> str:
    """The figures as Markdown."""
    rows = [
        [
            name,
            f"{f['first'][0]:.2f} s, {f['first'][1] / 1e6:.1f} MB",
            f"{spread(f['refresh'], 2, 's')}, {f['refresh_bytes'][0] / 1e3:.0f} kB",
        ]
        for name, f in found.items()
    ]
    return f"""\
{heading(f"The dashboard at {trials:,} trials of {epochs} epochs", "dashboard")}
Answers to the study page's request, embedded Postgres. The three answer side by side in one run; a
refresh is the median of {REFRESHES}, each after a trial has reported and another has ended.

{table(["who answers", "first data", "refresh"], rows)}
"""


if __name__ == "__main__":
    main()
