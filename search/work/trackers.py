"""Trackers people already use: each logs a trial's epochs to the place that its users look at.

Tracked (tracker_feed.py) feeds them; none is called from the thread that supervises a trial.
"""

from __future__ import annotations

import fcntl
import importlib
import logging
import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from spaces.errors import InputError
from spaces.paths import no_link
from spaces.spec import StudySpec
from trainers.report import EpochReport

CALL_SECONDS = 20.0  # how long W&B may take to begin or to finish a run


@dataclass(frozen=True)
class TrackedTrial:
    """What trackers know of a trial; `uid` is the study's, `config` is {dotted name: value}."""

    study: str
    uid: str
    number: int
    config: dict[str, Any]
    metric: str
    artifacts: Path

    @property
    def name(self) -> str:
        return f"trial-{self.number:04d}"

    @property
    def group(self) -> str:
        """The name of the study's folder, which tells studies of equal name apart."""
        return f"{self.study}-{self.uid[:8]}"


class Tracker(Protocol):
    """A trial's run in a tracker; the constructor opens it, or reopens it for a later attempt.

    Attributes:
        needs: the module that its extra brings.
        logged: epochs that the run has already; a resumed trial repeats their reports.
    """

    needs: ClassVar[str]
    logged: int

    def log(self, epoch: int, values: dict[str, float]) -> None: ...

    def end(self, state: str, reason: str, value: float | None) -> None:
        """Close the run; `state` is COMPLETE, PRUNED, FAILED, or RETRY where it will go on."""


class TensorBoard:
    """Event files in <artifacts>/tensorboard/<study>/<trial>, with the config for its HParams."""

    needs = "tensorboard.summary.writer.event_file_writer"

    def __init__(self, trial: TrackedTrial) -> None:
        # what torch's SummaryWriter is made of; these import neither torch nor TensorFlow
        from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder = trial.artifacts / "tensorboard" / trial.group / trial.name
        files = sorted(folder.glob("events.out.tfevents.*"))
        events = (event for file in files for event in LegacyEventFileLoader(str(file)).Load())
        self.logged = max((event.step for event in events), default=0)
        self.writer = EventFileWriter(str(folder))
        if not files:
            plain = {
                k: v if isinstance(v, int | float) else str(v) for k, v in trial.config.items()
            }
            self._add(hparams_pb(plain, trial_id=trial.name), step=0)

    def log(self, epoch: int, values: dict[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._add(Summary(value=scalars), epoch)
        self.writer.flush()
        self.logged = epoch

    def end(self, state: str, reason: str, value: float | None) -> None:
        if value is not None:
            self.log(self.logged, {"value": value})
        self.writer.close()

    def _add(self, summary: Any, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self.writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))


class WandB:
    """A run of the project named after the study; WANDB_MODE and the like are the user's."""

    needs = "wandb.sdk"

    def __init__(self, trial: TrackedTrial) -> None:
        import wandb

        wandb.setup(settings=wandb.Settings(silent=True))  # so it never asks for a key
        folder = Path(os.environ.get("WANDB_DIR") or trial.artifacts)
        folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or trial.study,
            group=trial.group,
            name=trial.name,
            id=f"{trial.uid[:16]}-{trial.number:04d}",
            resume="allow",
            reinit="create_new",
            dir=str(folder),
            config=trial.config,
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                x_disable_meta=True,  # the command line may hold the store's password
                init_timeout=CALL_SECONDS,
                finish_timeout=CALL_SECONDS,
            ),
        )
        # offline there is nobody to ask how far an earlier attempt has come
        self.memory = folder / "wandb" / f"{self.run.id}.epochs" if self.run.offline else None
        if self.memory is None:
            self.logged = self.run.step - 1 if self.run.resumed else 0
        else:
            self.logged = int(self.memory.read_text()) if self.memory.exists() else 0

    def log(self, epoch: int, values: dict[str, float]) -> None:
        self.run.log(values, step=epoch)
        if self.memory is not None:
            with open(self.memory, "w", opener=no_link) as memory:
                memory.write(str(epoch))

    def end(self, state: str, reason: str, value: float | None) -> None:
        self.run.summary.update({"state": state, "reason": reason, "value": value})
        self.run.finish(exit_code=0 if state in ("COMPLETE", "PRUNED") else 1)


class MLflow:
    """A run of the experiment named after the study, on MLFLOW_TRACKING_URI or a local store."""

    needs = "mlflow.tracking"

    def __init__(self, trial: TrackedTrial) -> None:
        from mlflow import MlflowClient, MlflowException
        from mlflow.entities import Param

        for name in ("mlflow", "alembic", "urllib3"):  # they would write into the progress view
            logging.getLogger(name).setLevel(logging.CRITICAL)
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        folder = trial.artifacts / "mlflow"
        folder.mkdir(parents=True, exist_ok=True)
        # workers that begin at once make one store
        with open(folder / "lock", "w", opener=no_link) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
            self.client = MlflowClient(uri)
        try:
            experiment = self.client.create_experiment(trial.study)
        except MlflowException:
            found = self.client.get_experiment_by_name(trial.study)
            if found is None:
                raise
            experiment = found.experiment_id
        key = f"{trial.uid}/{trial.number}"
        runs = self.client.search_runs([experiment], f"tags.segtune_trial = '{key}'", max_results=1)
        if runs:
            self.id = runs[0].info.run_id
            self.client.update_run(self.id, status="RUNNING")
            history = self.client.get_metric_history(self.id, trial.metric)
            self.logged = max((entry.step for entry in history), default=0)
            return
        tags = {"segtune_trial": key, "segtune_study": trial.group}
        self.id = self.client.create_run(experiment, tags=tags, run_name=trial.name).info.run_id
        self.logged = 0
        params = [Param(name, str(value)) for name, value in trial.config.items()]
        for start in range(0, len(params), 100):  # MLflow's limit
            self.client.log_batch(self.id, params=params[start : start + 100])

    def log(self, epoch: int, values: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        plain = {re.sub(r"[^\w. /-]", "_", name): value for name, value in values.items()}
        metrics = [Metric(name, value, now, epoch) for name, value in plain.items()]
        self.client.log_batch(self.id, metrics=metrics)

    def end(self, state: str, reason: str, value: float | None) -> None:
        self.client.set_tag(self.id, "state", state)
        self.client.set_tag(self.id, "reason", reason)
        if value is not None:
            self.client.log_metric(self.id, "value", value)
        status = {"FAILED": "FAILED", "RETRY": "KILLED"}.get(state, "FINISHED")
        self.client.set_terminated(self.id, status)


TRACKERS: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}


def check_trackers(names: Iterable[str]) -> None:
    """Import the trackers' packages; raises InputError with the extra to install."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in names:
        module = TRACKERS[name].needs
        try:
            importlib.import_module(module)
        except Exception as error:
            raise InputError(
                f"trackers: {name} cannot be imported ({error}); install it with: "
                f"pip install 'segtune[{name}]'"
            ) from None


def flatten(report: EpochReport, spec: StudySpec) -> dict[str, float]:
    """Return an epoch's numbers by name: `mIoU`, `train/total`, `IoU/road`, `decode.box_thresh`.

    A class that the validation split lacks has no IoU, and so no entry.
    """
    values = {**report.metrics, spec.metric_name: report.metric, **report.decode}
    if report.per_class is not None:
        ious = zip(spec.data.class_names, report.per_class, strict=True)
        values |= {f"IoU/{name}": iou for name, iou in ious if iou == iou}
    for name, value in report.to_json().items():
        parts = value if isinstance(value, Mapping) and name != "decode" else {"": value}
        for part, number in parts.items():
            if isinstance(number, int | float) and name not in ("epoch", "metric", "metrics"):
                values[f"{name}/{part}".rstrip("/")] = float(number)
    return values
