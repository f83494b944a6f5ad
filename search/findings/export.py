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
from search.files.bucket_copies import fetch_model
from search.findings.answer import answer_of
from search.findings.plots import plot_curves
from search.findings.versions import git_commit, versions
from search.studies.study import Study
from search.studies.trial_facts import TrialFacts
from spaces.config import TrialConfig
from spaces.data import AnyDataSpec
from spaces.errors import InputError
from spaces.paths import unfinished
from spaces.spec import dump_run_config
from trainers.checkpoint import WEIGHTS
from trainers.data import file_digest
from trainers.report import EpochReport


def export_study(study: Study, artifacts: Artifacts, to: Path, number: int | None = None) -> Path:
    """Write the best trial (or trial `number`) of a study into the folder `to`.

    The weights are those of its median fresh seed, where it was confirmed.

    Raises:
        InputError: nothing to export, the weights are not on this machine, or `to` is in use.
    """
    answer = answer_of(study)
    trial = answer.pick(number)
    source, run = study, trial  # whose weights
    if number is None and answer.confirmed is not None:
        assert answer.confirmation.study is not None
        source = answer.confirmation.study
        run = source.trial(answer.confirmed.median_run.number)
    workdir = artifacts.workdir(source, run.number)
    facts, origin = TrialFacts.of(run), TrialFacts.of(trial).origin
    model = workdir / f"model-{facts.best_epoch}"
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
    if known and file_digest(str(model / WEIGHTS)) != known:
        raise InputError(
            f"the weights of {named} in {model} are not what the trial has written: their SHA-256 "
            "differs; export another trial, or train its config again"
        )
    config = source.config(run)
    provenance = {
        "study": study.spec.name,
        "study_uid": study.uid,
        "trial": trial.number,
        "origin": origin or study.spec.sampler.name,
        "metric": study.metric,
        "value": run.value,
        "trivial_score": facts.trivial_score,
        "reason": facts.reason,
        "epochs": facts.epochs,
        "best_epoch": facts.best_epoch,
        "data_fingerprint": study.fingerprint,
        "model_sha256": known,
        "hardware": facts.hardware,
        "answer": None if number is not None else answer.to_json(),
    }
    return write_result(
        to,
        data=source.data_spec(config),
        config=config,
        model=model,
        history=source.history(run.number),
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
