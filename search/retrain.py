"""An exported config trained in full (`segtune train`), or on all images (`export --refit`)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from search.findings.export import check_target, choose, write_result
from search.findings.wording import epoch_named
from search.studies.study import Study
from search.studies.trial_facts import TrialFacts
from search.work.watchers import Interrupt
from spaces.config import TrialConfig
from spaces.data import AnyDataSpec
from spaces.errors import DONE, INTERRUPTED, InputError
from spaces.initial_weights import INIT, is_path
from spaces.metric import metric_name
from trainers.checkpoint import weights_digest
from trainers.folds import train_trial
from trainers.initial_weights import digest
from trainers.report import EpochReport
from trainers.tasks import check_extras, check_metric, load_data
from trainers.train import TrialResult, refit

PREEMPTED = "preempted"  # why a run has ended that Ctrl-C has ended
RESUMES = "interrupted; the last epoch is saved. The same command resumes it"


def retrain(spec: AnyDataSpec, config: TrialConfig, to: Path, console: Console) -> int:
    """Train a config and write config.yaml, model/, provenance.json, curves.png; exit code."""
    check_target(to)
    check_extras(config.metric)
    data, metric = load_data(spec), metric_name(config.metric, spec)
    check_metric(config.metric, data)
    init = config.flat()[INIT]
    sha256 = digest(init) if is_path(init) else None
    workdir = to.with_name(f".{to.name}.work")

    def show(report: EpochReport) -> None:
        console.print(
            f"{epoch_named(report, config.train.epochs)}: {metric} {report.metric:.4f}, "
            f"loss {report.train.total:.4f}, {report.images_per_s:.0f} images/s",
            highlight=False,
        )

    with _interrupted() as should_stop:
        result = train_trial(config, data, workdir, show, should_stop)
    if result.reason == PREEMPTED:
        console.print(RESUMES)
        return INTERRUPTED
    if result.model is None:
        console.print(f"training ended without a single epoch: {result.reason}")
        return 1
    write_result(
        to,
        data=spec,
        config=config,
        model=result.model,
        history=result.history,
        metric=metric,
        provenance={
            "metric": metric,
            "value": result.value,
            "trivial_score": result.trivial_score,
            "reason": result.reason,
            "epochs": len(result.history),
            "best_epoch": result.best_epoch,
            **_of_folds(result),
            "data_fingerprint": data.fingerprint,
            **({} if sha256 is None else {"init_sha256": sha256}),
            "hardware": result.hardware,
        },
    )
    shutil.rmtree(workdir)
    console.print(
        f"wrote {to}: {metric} {result.value:.4f} at epoch {result.best_epoch} ({result.reason})",
        highlight=False,
    )
    return DONE


def refit_study(study: Study, to: Path, number: int | None, console: Console) -> int:
    """Train the best config (or that of trial `number`) on the images of all folds; exit code.

    It trains for the median of the folds' best epochs.

    Raises:
        InputError: the study has no folds, nothing to export, or its data have changed.
    """
    if study.spec.data.folds is None:
        raise InputError(
            f"--refit: study {study.spec.name} has no data.folds, so no median of best epochs to "
            "train for; leave it out"
        )
    check_target(to)
    chosen = choose(study, number)
    facts, config = TrialFacts.of(chosen.run), chosen.config
    epochs = facts.best_epoch
    assert epochs is not None
    spec = chosen.source.data_spec(config)
    data = load_data(spec)
    if data.fingerprint != study.fingerprint:
        raise InputError(f"the data of study {study.spec.name} have changed since it began")
    workdir = to.with_name(f".{to.name}.work")
    history: list[EpochReport] = []

    def show(report: EpochReport) -> None:
        history.append(report)
        console.print(
            f"epoch {report.epoch}/{epochs}: loss {report.train.total:.4f}, "
            f"{report.images_per_s:.0f} images/s",
            highlight=False,
        )

    with _interrupted() as should_stop:
        model = refit(config, data, epochs, workdir, show, should_stop)
    if model == PREEMPTED:
        console.print(RESUMES)
        return INTERRUPTED
    if isinstance(model, str):
        console.print(f"training ended early: {model}")
        return 1
    images = len(data.split("train"))
    write_result(
        to,
        data=spec,
        config=config,
        model=model,
        history=history,
        metric=study.metric,
        provenance={
            **chosen.provenance,
            "refit": {"epochs": epochs, "images": images},
            "model_sha256": weights_digest(model),
        },
    )
    shutil.rmtree(workdir)
    console.print(
        f"wrote {to}: trained on all {images} images for {epochs} epochs; no image is left to "
        f"score it on: the folds had {study.metric} {chosen.run.value:.4f}",
        highlight=False,
    )
    return DONE


@contextmanager
def _interrupted() -> Iterator[Callable[[], str | None]]:
    """Listen for Ctrl-C; what it gives is asked after each step, and ends the run after one."""
    interrupt = Interrupt()
    with interrupt.listen():
        yield lambda: PREEMPTED if interrupt.count else None


def _of_folds(result: TrialResult) -> dict[str, Any]:
    """What provenance says of folds, where there are any."""
    if not result.folds:
        return {}
    return {
        "folds": [fold.value for fold in result.folds],
        "fold_epochs": [fold.best_epoch for fold in result.folds],
        "fold_decode": [fold.decode for fold in result.folds],
    }
