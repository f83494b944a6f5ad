"""What a user takes away: the config, the weights, where they come from, and the curves."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from search.files.artifacts import Artifacts
from search.files.bucket_copies import fetch_model
from search.findings.answer import Answer, answer_of
from search.findings.plots import plot_curves
from search.findings.versions import git_commit, versions
from search.studies.study import Study
from search.studies.trial_facts import TrialFacts
from spaces.config import TrialConfig
from spaces.data import AnyDataSpec
from spaces.errors import InputError
from spaces.paths import unfinished
from spaces.spec import dump_run_config
from trainers.checkpoint import FOLD_MODELS, weights_digest
from trainers.folds import fold_models
from trainers.report import EpochReport

MODEL, MODELS = "model", "models"  # folders of an export: the weights, or those of each fold


def export_study(study: Study, artifacts: Artifacts, to: Path, number: int | None = None) -> Path:
    """Write the best trial (or trial `number`) of a study into the folder `to`.

    The weights are those of its median fresh seed, where it was confirmed; with folds there are
    those of each.

    Raises:
        InputError: nothing to export, the weights are not on this machine, or `to` is in use.
    """
    chosen = choose(study, number)
    trial, source, run = chosen.trial, chosen.source, chosen.run
    workdir, facts = artifacts.workdir(source, run.number), TrialFacts.of(run)
    model = workdir / (FOLD_MODELS if facts.folds else f"model-{facts.best_epoch}")
    named = f"trial {trial.number}" + (
        f" (run {run.number} of its seeds)" if run is not trial else ""
    )
    if artifacts.bucket is not None and not model.is_dir():
        fetch_model(artifacts.bucket, artifacts.key(source, run.number), model)
    if not model.is_dir():
        raise InputError(
            f"the weights of {named} are not in {workdir}: they were made on another machine (see "
            f"--artifacts), or were not among the keep_models={study.spec.keep_models} best"
        )
    known = facts.model_sha256
    if known and weights_digest(model) != known:
        raise InputError(
            f"the weights of {named} in {model} are not what the trial has written: their SHA-256 "
            "differs; export another trial, or train its config again"
        )
    return write_result(
        to,
        data=source.data_spec(chosen.config),
        config=chosen.config,
        model=model,
        history=source.history(run.number),
        metric=study.metric,
        provenance=chosen.provenance,
    )


@dataclass(frozen=True)
class Chosen:
    """What is exported of a study.

    Attributes:
        trial: of the search.
        source, run: the study and the trial in it whose weights they are: a fresh seed's, where
            the best trial was confirmed.
        answer: None where the user has named the trial.
    """

    study: Study
    trial: FrozenTrial
    source: Study
    run: FrozenTrial
    answer: Answer | None

    @cached_property
    def config(self) -> TrialConfig:
        return self.source.config(self.run)

    @property
    def provenance(self) -> dict[str, Any]:
        facts, origin = TrialFacts.of(self.run), TrialFacts.of(self.trial).origin
        folds = {
            "folds": facts.folds,
            "fold_epochs": facts.fold_epochs,
            "fold_decode": facts.fold_decode,
        }
        return {
            "study": self.study.spec.name,
            "study_uid": self.study.uid,
            "trial": self.trial.number,
            "origin": origin or self.study.spec.sampler.name,
            "metric": self.study.metric,
            "value": self.run.value,
            "trivial_score": facts.trivial_score,
            "reason": facts.reason,
            "epochs": facts.epochs,
            "best_epoch": facts.best_epoch,
            **(folds if facts.folds else {}),
            "data_fingerprint": self.study.fingerprint,
            "model_sha256": facts.model_sha256,
            "hardware": facts.hardware,
            "answer": None if self.answer is None else self.answer.to_json(),
        }


def choose(study: Study, number: int | None) -> Chosen:
    """Return what is exported; raises InputError where no such trial has ended with a value."""
    answer = answer_of(study)
    trial = answer.pick(number)
    if number is not None or answer.confirmed is None:
        return Chosen(study, trial, study, trial, answer if number is None else None)
    source = answer.confirmation.study
    assert source is not None
    run = source.trial(answer.confirmed.median_run.number)
    return Chosen(study, trial, source, run, answer)


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

    The models of folds go to models/fold-1/ .. in place of model/.

    `to` may hold an earlier result, which is replaced; any other content is refused.
    """
    check_target(to)
    temporary = unfinished(to)
    temporary.mkdir(parents=True)
    (temporary / "config.yaml").write_text(dump_run_config(data, config), encoding="utf-8")
    shutil.copytree(model, temporary / (MODEL if fold_models(model) == [model] else MODELS))
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
