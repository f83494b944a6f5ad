"""`segtune ensemble`: the kept models of a study that are best together, in one exported folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, median_low
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from search.files.artifacts import Artifacts
from search.findings.answer import answer_of
from search.findings.evidence import CONFIDENCE, Difference, difference_on
from search.findings.export import check_target, write_ensemble
from search.findings.onnx_models import agreement_lines, make_onnx
from search.findings.weights import MissingWeights, weights_of
from search.studies.study import Study
from spaces.config import MetricConfig
from spaces.data import AnyDataSpec
from spaces.errors import DONE, FAILED, InputError
from spaces.sections import EnsembleSpec
from spaces.space import Free
from trainers.checkpoint import WEIGHTS, fold_models
from trainers.ensemble import Shares, Step, greedy
from trainers.image_counts import score_of
from trainers.members import Ensemble, Member
from trainers.onnx_network import FILE, Agreement, check_onnx_installed
from trainers.report import Validation
from trainers.tasks import Data, check_metric, load_data, load_means


@dataclass(frozen=True)
class Scored:
    """What a mean of models scores on val: once, or on each fold."""

    folds: Sequence[Validation]

    @property
    def value(self) -> float:
        return fmean(fold.scores.metric for fold in self.folds)

    @property
    def decode(self) -> dict[str, float]:
        """The decode settings that were chosen; of folds their median, as a trial's are."""
        chosen = [fold.scores.decode for fold in self.folds]
        return {name: median_low(one[name] for one in chosen) for name in chosen[0]}

    def gain(self, before: Scored, metric: MetricConfig, data: AnyDataSpec) -> Difference | None:
        """This one less another; the interval is over all images that were scored."""
        counts, others = (
            np.concatenate([fold.images.counts for fold in one.folds]) for one in (self, before)
        )
        found = difference_on(score_of(metric, data), [counts], [others])
        return None if found is None else Difference(self.value - before.value, found.half, 1)


@dataclass(frozen=True)
class Candidates:
    """The trials whose weights are here, best first, and what they are scored on.

    Attributes:
        seconds: that each one's networks take for an image, once they were scored.
    """

    members: Ensemble
    trials: Sequence[int]
    data: Data
    free: dict[str, Free]
    seconds: list[float]

    def score(self, means: Shares) -> list[Scored]:
        """Score means of them; the networks of one fold are in memory at a time."""
        found, seconds = [], []
        for k, split in enumerate(self.data.folds or [self.data]):
            members = [member.of_fold(k) for member in self.members]
            task, networks = load_means(members, members[0].config, split, self.free)
            found.append(task.score_means(networks, means, "val"))
            seconds.append(task.seconds)
        self.seconds[:] = np.sum(seconds, axis=0).tolist()
        return [Scored(folds) for folds in zip(*found, strict=True)]


def make_ensemble(
    study: Study,
    artifacts: Artifacts,
    to: Path,
    *,
    size: int | None,
    from_folds: bool,
    onnx: bool = False,
    console: Console,
) -> int:
    """Choose models of a study's best trials, print each step, write the folder; exit code.

    Args:
        size: draws at most; None: those that the study plans, else 5.
        from_folds: a member is the models of all folds of a trial.
        onnx: also each network as model.onnx beside its weights, where both score alike on val.

    Raises:
        InputError: `to` is in use, there are not two models to choose from, the data are not those
            that the study began with, or a model.onnx cannot be had.
    """
    check_target(to)
    if onnx:
        check_onnx_installed()
    planned = study.spec.ensemble
    draws = size or (planned or EnsembleSpec()).size
    found = _candidates(study, artifacts, from_folds)
    console.print(
        f"{len(found.members)} models to choose from, on {len(found.data.split('val'))} images of "
        "val, which are scored once for each draw"
        if not found.data.folds
        else f"{len(found.members)} trials to choose from, on {len(found.data.folds)} folds",
        highlight=False,
    )
    metric, data = study.spec.metric, study.spec.data
    table, steps = _table(study.metric), list[Step[Scored]]()
    for step in greedy(found.score, len(found.members), draws):
        _add_row(table, step, steps, found, metric, data)
        steps.append(step)
        said = f"draw {len(steps)}: trial {found.trials[step.added]}"
        console.print(f"{said}, {study.metric} {step.scored.value:.4f}", highlight=False)
    console.print(table)
    chosen = [k for k, count in enumerate(steps[-1].draws) if count]
    names = ", ".join(str(found.trials[k]) for k in chosen)
    if len(chosen) == 1:
        console.print(
            f"no other model makes trial {names} better: nothing is written; take it alone with: "
            f"segtune export {study.spec.name} --trial {names} --to DIR",
            highlight=False,
            soft_wrap=True,
        )
        return FAILED
    final, first = steps[-1], steps[0]
    best = found.members[first.added].config.replace(final.scored.decode)
    members = [replace(found.members[k], draws=final.draws[k]) for k in chosen]
    with TemporaryDirectory(prefix="segtune-onnx-") as made:
        graphs = Path(made) if onnx else None
        agreements = _make_onnx(study, found, chosen, graphs) if graphs else []
        write_ensemble(
            to,
            data=data,
            config=best,
            members=members,
            provenance={
                **_provenance(study, found, steps, metric, data),
                **({"onnx": agreements} if agreements else {}),
            },
            onnx=graphs,
        )
    files = [f"{FILE} of trial {found.trials[k]}" for k in chosen for _ in found.members[k].models]
    lines = agreement_lines(agreements, study.metric, files) if agreements else []
    for line in [*lines, *_said(study, to, steps, names, len(chosen), found)]:
        console.print(line, highlight=False, soft_wrap=True)
    return DONE


def _make_onnx(
    study: Study, found: Candidates, chosen: Sequence[int], to: Path
) -> list[dict[str, Any]]:
    """Write a folder of model.onnx for each member; how they compare, for provenance.json."""
    agreements: list[Agreement] = []
    for k in chosen:
        member, trial = found.members[k], found.trials[k]
        folder = to / member.folder.name
        try:
            agreements += make_onnx(study, study.trial(trial), member.models, folder)
        except InputError as error:
            raise InputError(f"trial {trial}: {error}") from None
    return [asdict(one) for one in agreements]


def _candidates(study: Study, artifacts: Artifacts, from_folds: bool) -> Candidates:
    """The best trials of the search whose weights can be had."""
    name, folds = study.spec.name, study.spec.data.folds
    if folds is not None and not from_folds:
        raise InputError(
            f"study {name} has data.folds, so that each member is {folds.count} models; take them "
            "with --from-folds"
        )
    if folds is None and from_folds:
        raise InputError(f"--from-folds: study {name} has no data.folds; leave it out")
    answer = answer_of(study)
    members, trials = [], []
    for trial in answer.ranking[: study.spec.keep_models]:
        try:
            model = weights_of(answer, trial, artifacts, fresh=False).model
        except MissingWeights:
            continue
        folder = model.with_name(f"trial-{trial.number}")
        members.append(Member(folder, study.config(trial), tuple(fold_models(model))))
        trials.append(trial.number)
    if len(members) < 2:
        raise InputError(
            f"an ensemble needs two models or more, but of study {name} there "
            f"{'is one' if members else 'are none'} here: keep_models is "
            f"{study.spec.keep_models}, {len(answer.ranking)} trials have a value; see "
            "--artifacts, or plan it before the study begins, with `ensemble: {size: 5}`"
        )
    data = load_data(study.spec.data)
    if data.fingerprint != study.fingerprint:
        raise InputError(
            f"the data of study {name} have changed since it began; put them back, as its val "
            "split chooses the models"
        )
    check_metric(study.spec.metric, data)
    return Candidates(members, trials, data, study.space.free(), [])


def _table(metric: str) -> Table:
    table = Table(title="drawn, one after another", title_justify="left")
    for column in (
        "draw",
        "trial",
        metric,
        f"gain, {CONFIDENCE:.0%} interval over images",
        "models",
        "MB",
        "ms an image",
    ):
        table.add_column(column, justify="right")
    return table


def _add_row(
    table: Table,
    step: Step[Scored],
    before: Sequence[Step[Scored]],
    found: Candidates,
    metric: MetricConfig,
    data: AnyDataSpec,
) -> None:
    models, megabytes, ms = _cost(step, found)
    table.add_row(
        str(len(before) + 1),
        str(found.trials[step.added]),
        f"{step.scored.value:.4f}",
        _gain_text(step.scored.gain(before[-1].scored, metric, data)) if before else "-",
        str(models),
        f"{megabytes:.0f}",
        f"{ms:.0f}" if ms >= 10 else f"{ms:.1f}",
    )


def _cost(step: Step[Scored], found: Candidates) -> tuple[int, float, float]:
    """(Networks, MB of weights, ms an image) of what was drawn by now."""
    chosen = [k for k, count in enumerate(step.draws) if count]
    models = [model for k in chosen for model in found.members[k].models]
    size = sum((model / WEIGHTS).stat().st_size for model in models)
    return len(models), size / 1e6, 1000 * sum(found.seconds[k] for k in chosen)


def _gain_text(gain: Difference | None) -> str:
    if gain is None:
        return "a single image has none"
    return f"{gain.mean:+.4f} ({gain.mean - gain.half:+.4f} to {gain.mean + gain.half:+.4f})"


def _provenance(
    study: Study,
    found: Candidates,
    steps: Sequence[Step[Scored]],
    metric: MetricConfig,
    data: AnyDataSpec,
) -> dict[str, Any]:
    first, final = steps[0], steps[-1]
    gain = final.scored.gain(first.scored, metric, data)
    folds = {
        "folds": [fold.scores.metric for fold in final.scored.folds],
        "fold_decode": [fold.scores.decode for fold in final.scored.folds],
    }
    return {
        "study": study.spec.name,
        "study_uid": study.uid,
        "trial": found.trials[first.added],
        "metric": study.metric,
        "value": final.scored.value,
        **(folds if len(final.scored.folds) > 1 else {}),
        "ensemble": {
            "draws": {
                str(trial): count
                for trial, count in zip(found.trials, final.draws, strict=True)
                if count
            },
            "candidates": list(found.trials),
            "steps": [
                {"trial": found.trials[step.added], "value": step.scored.value} for step in steps
            ],
            "gain": None if gain is None else {"mean": gain.mean, "half_width": gain.half},
        },
        "data_fingerprint": study.fingerprint,
    }


def _said(
    study: Study, to: Path, steps: Sequence[Step[Scored]], names: str, count: int, found: Candidates
) -> list[str]:
    """What was found, a sentence each."""
    first, final = steps[0], steps[-1]
    gain = final.scored.gain(first.scored, study.spec.metric, study.spec.data)
    latency = _cost(final, found)[2] / max(_cost(first, found)[2], 1e-9)
    test = study.spec.data.test
    lines = [
        f"wrote {to}: {count} models (trials {names}); their mean has {study.metric} "
        f"{final.scored.value:.4f} on val, the best one alone {first.scored.value:.4f}: "
        f"{_gain_text(gain)}; their networks take {latency:.1f} times as long",
        "val has chosen the models, so this says too much"
        + ("" if test is not None else "; only images that chose nothing can tell (data.test)"),
    ]
    split = "val" if test is None else "test"
    return [*lines, f"next: segtune evaluate {to} --data {split}"]
