"""`segtune train`: an exported config, trained in full, into the same kind of folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from rich.console import Console

from search.findings.export import check_target, write_result
from search.work.watchers import Interrupt
from spaces.config import TrialConfig
from spaces.data import AnyDataSpec
from spaces.metric import metric_name
from trainers.report import EpochReport
from trainers.tasks import check_metric, load_data
from trainers.train import train


def retrain(spec: AnyDataSpec, config: TrialConfig, to: Path, console: Console) -> int:
    """Train a config and write config.yaml, model/, provenance.json, curves.png; exit code."""
    check_target(to)
    data, metric = load_data(spec), metric_name(config.metric, spec)
    check_metric(config.metric, data)
    workdir = to.with_name(f".{to.name}.work")

    def show(report: EpochReport) -> None:
        console.print(
            f"epoch {report.epoch}/{config.train.epochs}: {metric} {report.metric:.4f}, "
            f"loss {report.train.total:.4f}, {report.images_per_s:.0f} images/s",
            highlight=False,
        )

    interrupt = Interrupt()
    with interrupt.listen():
        result = train(
            config, data, workdir, show, lambda: "preempted" if interrupt.count else None
        )
    if result.reason == "preempted":
        console.print("interrupted; the last epoch is saved. The same command resumes it")
        return 130
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
            "data_fingerprint": data.fingerprint,
            "hardware": result.hardware,
        },
    )
    shutil.rmtree(workdir)
    console.print(
        f"wrote {to}: {metric} {result.value:.4f} at epoch {result.best_epoch} ({result.reason})",
        highlight=False,
    )
    return 0
