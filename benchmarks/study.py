"""Run an example study in a home of its own, export its best trial, and evaluate it again."""

from __future__ import annotations

import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.studies.trial_facts import TrialFacts
from trainers.report import Scores

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@dataclass(frozen=True)
class Outcome:
    """What a study came to, and the exported folder."""

    seconds: float
    summary: dict[str, Any]
    best: Any
    epoch_seconds: list[float]
    evaluated: Scores
    export: Path


def run_example(name: str, folder: Path) -> Outcome:
    """Launch examples/<name>.yaml in the home that there is; export to folder/best."""
    from rich.console import Console

    from search.database.store import open_store
    from search.files.artifacts import Artifacts
    from search.findings.answer import best_trial
    from search.findings.export import export_study
    from search.findings.facts import summary
    from search.launch import launch
    from search.studies.study import open_study
    from spaces.run_config import load_run_config
    from spaces.spec import StudySpec
    from trainers.tasks import evaluate, load_data

    spec = StudySpec.load(EXAMPLES / f"{name}.yaml")
    spec = spec.model_copy(update={"confirm": None})  # the search alone
    artifacts = Artifacts(folder / "artifacts")
    store = open_store()
    began = time.perf_counter()
    assert launch(spec, store, artifacts, Console(width=160)) == 0
    seconds = time.perf_counter() - began
    study = open_study(store, spec.name)
    best = best_trial(study)
    epochs = [r.seconds for trial in study.trials() for r in study.history(trial.number)]
    to = export_study(study, artifacts, folder / "best")
    found = summary(study)
    store.close()
    data, config = load_run_config(to / "config.yaml")
    again = evaluate(to / "model", config, load_data(data), "val", to / "evaluation-val")
    return Outcome(seconds, found, best, epochs, again.scores, to)


def show(outcome: Outcome) -> None:
    """Print one line a figure."""
    found, best, metric = outcome.summary, outcome.best, outcome.summary["metric"]
    print(f"machine            {platform.machine()}, {os.cpu_count()} cores")
    print(f"wall time          {outcome.seconds / 60:.1f} min")
    print(f"trials             {len(found['trials'])}, ended by {found['reasons']}")
    print(f"best val {metric:<10}{best.value:.4f} (trial {best.number})")
    print(f"chosen inside      {TrialFacts.of(best).decode}")
    print(f"epochs             {found['epochs']}, saved {found['epochs_saved']:.1%}")
    print(f"seconds an epoch   {statistics.median(outcome.epoch_seconds):.1f} (median)")
    print(f"export, evaluated  {outcome.evaluated.metric:.6f}, study {best.value:.6f}")
