"""Scores on the test split: computed once for the same weights; each time they are told counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import sqlalchemy as sa

from search.database.store import has_store, open_store
from search.files.artifacts import Artifacts
from search.findings.answer import Answer
from search.findings.evidence import image_interval
from search.findings.gains import value_on_val
from search.findings.looks import counted, over_images
from search.findings.weights import Weights, weights_of
from search.studies.looks import Beside, Look, Score, add_look, looks_of, now
from search.studies.owners import user
from search.studies.study import Study, open_study
from search.studies.trial_facts import TrialFacts
from spaces.config import TrialConfig
from spaces.data import AnyDataSpec
from spaces.errors import InputError
from spaces.paths import MODEL, MODELS
from trainers.checkpoint import fold_models, weights_digest
from trainers.evaluate import Evaluation
from trainers.image_counts import Counts, score_of
from trainers.members import MEMBERS, is_ensemble
from trainers.tasks import Data, check_metric, load_data, score_model

TEST = "test"
UNRECORDED = "not recorded as a look at the test split"


def look_at_test(answer: Answer, winner: Weights, artifacts: Artifacts) -> dict[str, Any]:
    """Score the winner and the baseline on the test split, and store that it was looked at.

    Weights that an earlier export has scored are not scored again: its figures are given out once
    more, which is one more look.

    Returns:
        The look as JSON, and `looks`: how many there are with it.

    Raises:
        InputError: the data cannot be read, or are not those that the study began with.
    """
    study = answer.study
    baseline, missing = _baseline(answer, artifacts)
    look = _known(study, winner, baseline)
    if look is None:
        look = _scored(answer, winner, baseline)
    look = look.model_copy(update={"missing": missing})
    return {**look.model_dump(mode="json"), "looks": add_look(study, look)}


def _known(study: Study, winner: Weights, baseline: Weights | None) -> Look | None:
    """The figures of an earlier export of the same weights, looked at again."""
    wanted = winner.sha256, None if baseline is None else baseline.sha256
    for look in reversed(looks_of(study)):
        beside = None if look.baseline is None else look.baseline.model_sha256
        if look.command == "export" and (look.score.model_sha256, beside) == wanted:
            return look.again()
    return None


def _baseline(answer: Answer, artifacts: Artifacts) -> tuple[Weights | None, str | None]:
    """The best starting point's weights, else why there are none."""
    if answer.baseline is None:
        return None, "no starting point has a value"
    if answer.baseline.number == answer.trial.number:
        return None, "the winner is itself the best starting point"
    try:
        return weights_of(answer, answer.baseline, artifacts, fresh=True), None
    except InputError as error:
        return None, str(error)


def _scored(answer: Answer, winner: Weights, baseline: Weights | None) -> Look:
    data = _test_data(answer.study)
    mine, counts = _score(winner, data)
    theirs, difference = None, None
    if baseline is not None:
        theirs, other = _score(baseline, data)
        gain = answer.evidence.difference_on(counts, other)
        if gain is not None:
            seeds = answer.evidence.noise[1] > 0
            difference = Beside(mean=gain.mean, half_width=gain.half, seeds=seeds)
    return Look(
        when=now(),
        by=user(),
        command="export",
        images=len(counts[0]),
        score=mine,
        baseline=theirs,
        difference=difference,
    )


def _score(weights: Weights, data: Data) -> tuple[Score, list[Counts]]:
    """The score of weights, and the counts of each of their models."""
    config, facts = weights.study.config(weights.run), TrialFacts.of(weights.run)
    chosen = facts.fold_decode or [{}]
    splits = data.folds or [data]  # the test split of all of them is the same
    found = [
        score_model(model, config.replace(dict(decode)), split, TEST)
        for model, decode, split in zip(fold_models(weights.model), chosen, splits, strict=True)
    ]
    counts = [one.images.counts for one in found]
    scored = Score(
        trial=weights.trial,
        model_sha256=weights.sha256,
        val=weights.run.value,
        value=fmean(one.scores.metric for one in found),
        interval=image_interval(score_of(config.metric, weights.study.spec.data), counts),
    )
    return scored, counts


def _test_data(study: Study) -> Data:
    """The study's data, as they were when it began."""
    leave = "leave the test split unread with --no-test"
    try:
        data = load_data(study.spec.data)
    except InputError as error:
        raise InputError(
            f"the test split cannot be scored: {error}; put it back, or {leave}"
        ) from None
    if data.fingerprint != study.fingerprint:
        raise InputError(
            f"study {study.spec.name} cannot be scored on test: its data are not those that it "
            f"began with; put them back, or {leave}"
        )
    check_metric(study.spec.metric, data)
    return data


def record_evaluation(
    folder: Path,
    spec: AnyDataSpec,
    config: TrialConfig,
    found: Sequence[Evaluation],
    settings: Sequence[str],
    store: str | None,
) -> list[str]:
    """Store, with the study that a folder was exported from, that its test split was looked at.

    Args:
        spec: the data that were read.
        found: one evaluation, or those of the models of the folds.
        settings: `name=value` of each decode setting that is not the exported one.
        store: URL of the study's store; None: the default one.

    Returns:
        A sentence each: the interval; how often the split was looked at by now, or why this look
        could not be stored.
    """
    counts = [one.images.counts for one in found]
    images = len(counts[0])
    interval = image_interval(score_of(config.metric, spec), counts)
    said = [] if interval is None else [over_images(interval, images)]
    path = folder / "provenance.json"
    facts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "study_uid" not in facts:
        return [*said, f"{UNRECORDED}: {folder} was not exported from a study"]
    if is_ensemble(folder):
        weights = folder / MEMBERS
        others = ", ".join(t for t in facts["ensemble"]["draws"] if t != str(facts["trial"]))
        settings = [f"trials {others} in an ensemble", *settings]
    else:
        weights = folder / (MODEL if len(found) == 1 else MODELS)
    mine = Score(
        trial=facts["trial"],
        model_sha256=weights_digest(weights),
        val=None if settings or "refit" in facts else value_on_val(facts),
        value=fmean(one.scores.metric for one in found),
        interval=interval,
        settings=tuple(settings),
    )
    look = Look(when=now(), by=user(), command="evaluate", images=images, score=mine)
    try:
        return [*said, counted(_record(facts["study"], facts["study_uid"], spec, look, store))]
    except (InputError, sa.exc.SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        return [*said, f"{UNRECORDED}: {error}"]


def _record(name: str, uid: str, spec: AnyDataSpec, look: Look, store: str | None) -> int:
    """Store a look with the study that has this name and uid; return how many it has."""
    if not has_store(store):
        raise InputError("there is no store on this machine; name the study's with --store")
    with closing(open_store(store, create=False)) as opened:
        study = open_study(opened, name)
        if study.uid != uid:
            raise InputError(f"{opened.shown} has another study of the name {name}")
        # a fresh seed has drawn a split of its own
        if spec.val is not None and spec.val.fraction is not None:
            assert study.spec.data.val is not None
            val = spec.val.model_copy(update={"seed": study.spec.data.val.seed})
            spec = spec.model_copy(update={"val": val})
        if load_data(spec).fingerprint != study.fingerprint:
            raise InputError(f"these are not the data that study {name} began with")
        return add_look(study, look)
