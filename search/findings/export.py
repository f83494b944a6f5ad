"""What a user takes away: the config, the weights, where they come from, and the curves."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

from search.files.artifacts import Artifacts
from search.findings.answer import answer_of
from search.findings.plots import plot_curves
from search.findings.scoring import look_at_test
from search.findings.versions import git_commit, versions
from search.findings.weights import weights_of
from search.studies.study import Study
from search.studies.trial_facts import TrialFacts
from spaces.config import TrialConfig
from spaces.data import AnyDataSpec
from spaces.errors import InputError
from spaces.paths import unfinished
from spaces.spec import dump_run_config
from trainers.report import EpochReport


def export_study(
    study: Study,
    artifacts: Artifacts,
    to: Path,
    number: int | None = None,
    *,
    test: bool = True,
) -> Path:
    """Write the best trial (or trial `number`) of a study into the folder `to`.

    The weights are those of its median fresh seed, where it was confirmed.

    Args:
        test: score the best trial and the baseline on the test split, where the study has one.

    Raises:
        InputError: nothing to export, the weights are not on this machine, `to` is in use, or the
            test split cannot be scored.
    """
    answer = answer_of(study)
    trial = answer.pick(number)
    weights = weights_of(answer, trial, artifacts, fresh=number is None)
    facts, origin = TrialFacts.of(weights.run), TrialFacts.of(trial).origin
    config = weights.study.config(weights.run)
    look = None
    if test and number is None and study.spec.data.test is not None:
        look = look_at_test(answer, weights, artifacts)
    provenance = {
        "study": study.spec.name,
        "study_uid": study.uid,
        "trial": trial.number,
        "origin": origin or study.spec.sampler.name,
        "metric": study.metric,
        "value": weights.run.value,
        "trivial_score": facts.trivial_score,
        "reason": facts.reason,
        "epochs": facts.epochs,
        "best_epoch": facts.best_epoch,
        "data_fingerprint": study.fingerprint,
        "model_sha256": weights.sha256,
        "hardware": facts.hardware,
        "answer": None if number is not None else answer.to_json(),
        "test": look,
    }
    return write_result(
        to,
        data=weights.study.data_spec(config),
        config=config,
        model=weights.model,
        history=weights.study.history(weights.run.number),
        metric=study.metric,
        provenance=provenance,
    )


def write_result(
    to: Path,
    *,
    data: AnyDataSpec,
    config: TrialConfig,
    model: Path,
    history: list[EpochReport],
    metric: str,
    provenance: dict[str, Any],
) -> Path:
    """Write config.yaml, model/, provenance.json and curves.png; complete, or not at all.

    `to` may hold an earlier result, which is replaced; any other content is refused.
    """
    check_target(to)
    temporary = unfinished(to)
    temporary.mkdir(parents=True)
    (temporary / "config.yaml").write_text(dump_run_config(data, config), encoding="utf-8")
    shutil.copytree(model, temporary / "model")
    title = f"{provenance.get('study', 'run')}, trial {provenance.get('trial', '-')}"
    plot_curves(history, config, metric, title, temporary / "curves.png")
    facts = {
        **provenance,
        "seed": config.train.seed,
        "classes": data.names,
        "versions": versions(),
        "git_commit": git_commit(),
        "host": {"system": platform.platform(), "cores": os.cpu_count()},
        "exported": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    (temporary / "provenance.json").write_text(json.dumps(facts, indent=2) + "\n")
    if to.exists():
        shutil.rmtree(to)
    temporary.rename(to)
    return to


def check_target(to: Path) -> None:
    """Raise InputError unless `to` is new, empty, or an earlier result."""
    existing = next(p for p in (to, *to.absolute().parents) if p.exists())
    if not existing.is_dir():
        raise InputError(f"--to {to}: {existing} is a file; name a folder")
    if to.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise InputError(f"--to {to} is where you are; name another folder")
    if to.is_dir() and any(to.iterdir()) and not (to / "provenance.json").exists():
        raise InputError(f"--to {to} holds other files; name a new or empty folder")
    if not os.access(existing, os.W_OK):
        raise InputError(f"--to {to} cannot be written")
