"""Whose weights stand for a trial, and where they are on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from optuna.trial import FrozenTrial

from search.files.artifacts import Artifacts
from search.files.bucket_copies import fetch_model
from search.findings.answer import Answer
from search.studies.study import Study
from search.studies.trial_facts import TrialFacts
from spaces.errors import InputError
from spaces.paths import clear, inside
from trainers.checkpoint import FOLD_MODELS, weights_digest


class MissingWeights(InputError):
    """The weights of a run are not on this machine."""


@dataclass(frozen=True)
class Weights:
    """Weights of one run.

    Attributes:
        trial: of the search, that they stand for.
        study: that ran it: the search, or its confirmation.
        model: the folder that holds them; with folds, a folder for each of its models.
    """

    trial: int
    study: Study
    run: FrozenTrial
    model: Path
    sha256: str


def run_of(answer: Answer, trial: FrozenTrial, *, fresh: bool) -> tuple[Study, FrozenTrial]:
    """Return the run that stands for a trial of the search, and the study that ran it.

    Args:
        fresh: its median fresh seed, where it has one; else the trial itself.
    """
    candidate = answer.evidence.candidate(trial.number)
    if not fresh or candidate is None or not candidate.runs:
        return answer.study, trial
    assert answer.confirmation.study is not None
    confirmation = answer.confirmation.study
    return confirmation, confirmation.trial(candidate.median_run.number)


def weights_of(answer: Answer, trial: FrozenTrial, artifacts: Artifacts, *, fresh: bool) -> Weights:
    """Find the weights of a trial of the search.

    Args:
        fresh: those of its median fresh seed, where it has one.

    Raises:
        MissingWeights: they are not on this machine.
        InputError: they are not what the trial has written.
    """
    study, run = run_of(answer, trial, fresh=fresh)
    workdir, facts = artifacts.workdir(study, run.number), TrialFacts.of(run)
    model = inside(workdir, FOLD_MODELS if facts.folds else f"model-{facts.best_epoch}")
    named = f"trial {trial.number}" + (
        f" (run {run.number} of its seeds)" if run is not trial else ""
    )
    if artifacts.bucket is not None and not model.is_dir():
        fetch_model(artifacts.bucket, artifacts.key(study, run.number), model)
    if not model.is_dir():
        raise MissingWeights(
            f"the weights of {named} are not in {workdir}: they were made on another machine (see "
            f"--artifacts), or were not among the keep_models={answer.study.spec.keep_models} best"
        )
    digest = weights_digest(model)
    if facts.model_sha256 not in (None, digest):
        if artifacts.bucket is not None:
            clear(model)  # so that what is put right in the bucket is fetched
        raise InputError(
            f"the weights of {named} in {model} are not what the trial has written: their SHA-256 "
            "differs; export another trial, or train its config again"
        )
    return Weights(trial.number, study, run, model, digest)
