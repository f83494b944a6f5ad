"""What a user takes away: the config, the weights, where they come from, and the curves."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from optuna.trial import FrozenTrial

from search.files.artifacts import Artifacts
from search.findings.answer import Answer, answer_of
from search.findings.ensemble_card import ensemble_card, member_card
from search.findings.fronts import fastest_within
from search.findings.manifest import as_exported, replace_files, write_manifest
from search.findings.model_card import README, model_card
from search.findings.onnx_models import make_onnx
from search.findings.plots import plot_curves
from search.findings.scoring import look_at_test
from search.findings.versions import git_commit, versions
from search.findings.weights import MissingWeights, Weights, run_of, weights_of
from search.studies.study import Study
from search.studies.trial_facts import TrialFacts
from spaces.config import TrialConfig
from spaces.data import AnyDataSpec
from spaces.errors import InputError
from spaces.initial_weights import INIT
from spaces.paths import MODEL, MODELS, unfinished
from spaces.run_config import dump_run_config, load_run_config
from trainers.checkpoint import fold_models, weights_digest
from trainers.members import MEMBERS, Member, is_ensemble, write_list
from trainers.onnx_network import FILE, Agreement, check_onnx_installed
from trainers.report import EpochReport


def export_study(
    study: Study,
    artifacts: Artifacts,
    to: Path,
    number: int | None = None,
    *,
    test: bool = True,
    config_only: bool = False,
    onnx: bool = False,
    within: float | None = None,
) -> Path:
    """Write the best trial (or trial `number`, or the fastest) of a study into the folder `to`.

    The weights are those of its median fresh seed, where it was confirmed; with folds there are
    those of each. A trial that was named is written without them where they are not here.

    Args:
        test: score the best trial and the baseline on the test split, where the study has one.
        config_only: leave the weights out in any case, and the test split unread.
        within: the fastest trial whose value is at most so far below the best one's.
        onnx: also each network as model.onnx beside its weights, where both score alike on val.

    Raises:
        InputError: nothing to export, the weights are not on this machine, `to` is in use, the test
            split cannot be scored, or a model.onnx cannot be had.
    """
    if onnx:
        check_onnx_installed()
    if within is not None:
        number = fastest_within(answer_of(study).ranking, within, study.spec.name).number
    chosen = choose(study, number)
    weights = None
    if not config_only:
        try:
            weights = weights_of(chosen.answer, chosen.trial, artifacts, fresh=chosen.best)
        except MissingWeights as error:
            if chosen.best or onnx:
                raise InputError(f"{error}; --config-only leaves them out") from None
    if not onnx or weights is None:
        return _export(to, chosen, weights, artifacts, test=test)
    with TemporaryDirectory(prefix="segtune-onnx-") as made:
        models = fold_models(weights.model)
        found = make_onnx(chosen.source, chosen.run, models, Path(made))
        return _export(to, chosen, weights, artifacts, Path(made), found, test=test)


def export_model(study: Study, artifacts: Artifacts, to: Path, number: int | None = None) -> None:
    """Write a trial as `export_study` does, always with its weights, the test split left unread.

    Raises:
        InputError: no such trial has a value, or its weights are not on this machine.
    """
    chosen = choose(study, number)
    weights = weights_of(chosen.answer, chosen.trial, artifacts, fresh=chosen.best)
    _export(to, chosen, weights, artifacts, test=False)


def _export(
    to: Path,
    chosen: Chosen,
    weights: Weights | None,
    artifacts: Artifacts,
    onnx: Path | None = None,
    agreements: Sequence[Agreement] = (),
    *,
    test: bool,
) -> Path:
    look, study = None, chosen.study
    if test and chosen.best and weights is not None and study.spec.data.test is not None:
        look = look_at_test(chosen.answer, weights, artifacts)
    return write_result(
        to,
        data=chosen.source.data_spec(chosen.config),
        config=chosen.config,
        model=None if weights is None else weights.model,
        onnx=onnx,
        history=chosen.source.history(chosen.run.number),
        metric=study.metric,
        provenance={
            **chosen.provenance,
            "model_sha256": None if weights is None else weights.sha256,
            "test": look,
            **({"onnx": [asdict(one) for one in agreements]} if agreements else {}),
        },
    )


def export_configs(study: Study, to: Path) -> int:
    """Write `trial-N.yaml` of every trial that has ended, for `segtune train`; return how many.

    What each has come to stands in `provenance.json` and above its config.
    """
    check_target(to)
    ended = [trial for trial in study.trials() if trial.state.is_finished()]
    if not ended:
        raise InputError(f"no trial of study {study.spec.name} has ended yet")
    temporary = unfinished(to)
    temporary.mkdir(parents=True)
    trials = {}
    for trial in ended:
        facts = TrialFacts.of(trial)
        value = "no value" if trial.value is None else f"{study.metric} {trial.value:.6f}"
        said = f"# study {study.spec.name}, trial {trial.number}: {value}, {facts.reason}\n"
        config = dump_run_config(study.spec.data, study.config(trial))
        name = f"trial-{trial.number}.yaml"
        (temporary / name).write_text(said + config, encoding="utf-8")
        trials[name] = {"trial": trial.number, "value": trial.value, "reason": facts.reason}
    about = {"study": study.spec.name, "study_uid": study.uid, "metric": study.metric}
    text = json.dumps({**about, "trials": trials}, indent=2)
    (temporary / "provenance.json").write_text(f"{text}\n")
    _put(temporary, to)
    return len(trials)


@dataclass(frozen=True)
class Chosen:
    """What is exported of a study.

    Attributes:
        trial: of the search.
        source, run: the study and the trial in it whose weights they are: a fresh seed's, where
            the best trial was confirmed.
        best: whether the study answers with it; else the user has named it.
    """

    study: Study
    trial: FrozenTrial
    source: Study
    run: FrozenTrial
    answer: Answer
    best: bool

    @cached_property
    def config(self) -> TrialConfig:
        return self.source.config(self.run)

    @property
    def provenance(self) -> dict[str, Any]:
        facts, origin = TrialFacts.of(self.run), TrialFacts.of(self.trial).origin
        init = self.study.spec.init_sha256.get(self.config.flat()[INIT])
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
            "parameters": facts.parameters,
            "latency_ms": facts.latency_ms,
            "trivial_score": facts.trivial_score,
            "reason": facts.reason,
            "epochs": facts.epochs,
            "best_epoch": facts.best_epoch,
            **(folds if facts.folds else {}),
            "data_fingerprint": self.study.fingerprint,
            **({"init_sha256": init} if init is not None else {}),
            "hardware": facts.hardware,
            "answer": self.answer.to_json() if self.best else None,
        }


def choose(study: Study, number: int | None) -> Chosen:
    """Return what is exported; raises InputError where no such trial has ended with a value."""
    answer, best = answer_of(study), number is None
    trial = answer.pick(number)
    source, run = run_of(answer, trial, fresh=best)
    return Chosen(study, trial, source, run, answer, best)


def write_result(
    to: Path,
    *,
    data: AnyDataSpec,
    config: TrialConfig,
    model: Path | None,
    history: list[EpochReport],
    metric: str,
    provenance: dict[str, Any],
    onnx: Path | None = None,
) -> Path:
    """Write config.yaml, model/, README.md, provenance.json, curves.png, manifest.json, or nothing.

    The models of folds go to models/fold-1/ .. in place of model/; without a model there is none,
    and no README.md.

    `to` may hold an earlier result, which is replaced; any other content is refused.

    Args:
        onnx: a folder of the model.onnx that belong beside the weights.
    """
    check_target(to)
    temporary = unfinished(to)
    temporary.mkdir(parents=True)
    (temporary / "config.yaml").write_text(dump_run_config(data, config), encoding="utf-8")
    if model is not None:
        target = temporary / (MODEL if fold_models(model) == [model] else MODELS)
        _copy_model(model, target)
        if onnx is not None:
            shutil.copytree(onnx, target, dirs_exist_ok=True)
    title = f"{provenance.get('study', 'run')}, trial {provenance.get('trial', '-')}"
    plot_curves(history, config, metric, title, temporary / "curves.png")
    _finish(temporary, to, data, config, provenance)
    return to


def write_ensemble(
    to: Path,
    *,
    data: AnyDataSpec,
    config: TrialConfig,
    members: Sequence[Member],
    provenance: dict[str, Any],
    onnx: Path | None = None,
) -> Path:
    """Write config.yaml, ensemble.json, members/, README.md, provenance.json, manifest.json.

    As above; a member has a README.md of its own.

    Args:
        config: whose decode settings count.
        members: each is written to members/ under the name of its folder.
        onnx: a folder of the model.onnx that belong beside the weights, by the members' names.
    """
    check_target(to)
    temporary = unfinished(to)
    temporary.mkdir(parents=True)
    (temporary / "config.yaml").write_text(dump_run_config(data, config), encoding="utf-8")
    for member in members:
        folder = temporary / MEMBERS / member.folder.name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(dump_run_config(data, member.config), encoding="utf-8")
        for model in member.models:
            folds = len(member.models) > 1
            target = folder / (f"{MODELS}/{model.name}" if folds else MODEL)
            _copy_model(model, target)
            if onnx is not None:
                made = onnx / member.folder.name / (model.name if folds else "")
                shutil.copy2(made / FILE, target)
        card = member_card(folder, data, member.config, provenance["study"])
        (folder / README).write_text(card, encoding="utf-8")
    write_list(temporary, {member.folder.name: member.draws for member in members}, config)
    digest = weights_digest(temporary / MEMBERS)
    _finish(temporary, to, data, config, {**provenance, "model_sha256": digest})
    return to


def _copy_model(model: Path, to: Path) -> None:
    """Without smp's README, which says that the weights are under a licence that nobody chose."""
    shutil.copytree(model, to, ignore=shutil.ignore_patterns(README))


def _finish(
    temporary: Path, to: Path, data: AnyDataSpec, config: TrialConfig, provenance: dict[str, Any]
) -> None:
    """Write provenance and manifest, and rename the folder to what it is called."""
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
    if any((temporary / name).is_dir() for name in (MODEL, MODELS, MEMBERS)):
        (temporary / README).write_text(_card(temporary, data, config, facts), encoding="utf-8")
    write_manifest(temporary)
    _put(temporary, to)


def renew_card(folder: Path) -> None:
    """Write README.md again where it is as exported, after a change of config or provenance."""
    if not as_exported(folder, README):
        return
    data, config = load_run_config(folder / "config.yaml", splits=False)
    facts = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    replace_files(folder, {README: _card(folder, data, config, facts)})


def _card(folder: Path, data: AnyDataSpec, config: TrialConfig, facts: dict[str, Any]) -> str:
    make = ensemble_card if is_ensemble(folder) else model_card
    return make(folder, data, config, facts)


def _put(temporary: Path, to: Path) -> None:
    """Rename a folder to one that may be an earlier result."""
    if to.exists():
        shutil.rmtree(to)
    temporary.rename(to)


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
