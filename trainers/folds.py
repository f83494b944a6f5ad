"""A trial whose data have folds: it trains on each in turn, and its value is their mean.

A fold trains in `fold-N/` as any run does. When it has ended, `fold-N/result.json` says so, and its
best weights are in `model-folds/fold-N/`: a resumed trial repeats its reports, and goes on in the
first fold that has not ended. `last.json` says which epoch of all is durable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median_low
from typing import Any

import numpy as np

from spaces.config import TrialConfig
from spaces.errors import InputError
from spaces.paths import clear
from spaces.space import Free
from trainers import checkpoint
from trainers.durable import Damaged, check_files, digests, durable, read_json, write_json
from trainers.image_counts import FILE as IMAGES
from trainers.image_counts import ImageCounts
from trainers.report import EpochReport
from trainers.tasks import Data
from trainers.train import TrialResult, check_same_run, train

RESULT = "result.json"
WHOLE = ("completed", "patience", "health:trivial")  # reasons of a fold that counts


def train_trial(
    config: TrialConfig,
    data: Data,
    workdir: Path,
    on_epoch: Callable[[EpochReport], None],
    should_stop: Callable[[], str | None] = lambda: None,
    free: Mapping[str, Free] | None = None,
    on_fold: Callable[[float], None] = lambda value: None,
    on_resumed: Callable[[], None] = lambda: None,
) -> TrialResult:
    """Train one config on a data set, fold by fold where it has folds; `train` says the rest.

    Patience and alarms are those of a fold; an alarm in one of them ends the trial. The value is
    the mean over the folds that have ended; before one has, that of the first one's best epoch.
    Each fold chooses free decode settings for itself; the result has their median.

    Args:
        on_epoch: the epochs of fold N are counted from (N - 1) * train.epochs + 1.
        on_fold: called with the value of each fold that has ended, after its last report.
        on_resumed: called once, when all that an earlier attempt has kept has been repeated.
    """
    if not data.folds:
        return train(config, data, workdir, on_epoch, should_stop, free, on_resumed)
    results: list[TrialResult] = []
    history: list[EpochReport] = []
    for number, fold in enumerate(data.folds, 1):

        def report(epoch: EpochReport, number: int = number) -> None:
            at = (number - 1) * config.train.epochs + epoch.epoch
            write_json(workdir / checkpoint.LAST, {"epoch": at, "fold": number})
            history.append(replace(epoch, epoch=at, fold=number))
            on_epoch(history[-1])

        result = _ended(workdir, number, config, fold)
        if result is None:
            _put_back(workdir, number)
            folder, on_resumed, said = workdir / f"fold-{number}", _nothing, on_resumed
            result = train(config, fold, folder, report, should_stop, free, said)
            if result.reason in WHOLE:
                result = _keep(workdir, number, result, config, fold)
        else:
            for epoch in result.history:
                report(epoch)
        results.append(result)
        if result.reason not in WHOLE:
            break
        assert result.value is not None
        on_fold(result.value)
        if result.reason == "health:trivial":
            break
    on_resumed()  # where all had ended
    return _together(workdir, results, history, data)


def checkpoint_files(workdir: Path, *, check: bool = False) -> tuple[int, list[Path]]:
    """(epoch, files) of a trial's last checkpoint; those that commit others after them.

    Args:
        check: compare their SHA-256; checkpoints of earlier versions have none.

    Raises:
        FileNotFoundError: there is none; or the trial has gone on, or has ended, meanwhile.
        Damaged: a file is not as it was written.
    """
    facts = _facts(workdir)
    if "fold" not in facts:
        return facts["epoch"], checkpoint.files(workdir, facts, check=check)
    paths: list[Path] = []
    for number in range(1, facts["fold"] + 1):
        folder = workdir / f"fold-{number}"
        if (folder / RESULT).exists():
            paths += [*_model_files(workdir, number, check=check), folder / RESULT]
        else:
            paths += checkpoint.files(folder, _facts(folder), check=check)
    return facts["epoch"], [*paths, workdir / checkpoint.LAST]


def _facts(workdir: Path) -> dict[str, Any]:
    facts = checkpoint.load_facts(workdir)
    if facts is None:
        raise FileNotFoundError(workdir / checkpoint.LAST)
    return facts


def _model_files(workdir: Path, number: int, *, check: bool) -> list[Path]:
    """The weights of a fold that has ended; raises as `checkpoint_files` does."""
    result = workdir / f"fold-{number}" / RESULT
    model, listed = _model(workdir, number), read_json(result).get("files")
    if listed is None:  # of an earlier version
        return sorted(model.iterdir())
    try:
        paths = [
            checkpoint.trial_file(workdir, f"{model.relative_to(workdir)}/{name}")
            for name in listed
        ]
    except InputError as error:
        raise Damaged(f"{result} is damaged: {error}") from None
    if check:
        check_files(model, listed)
    return paths


def _nothing() -> None: ...


def _together(
    workdir: Path, results: list[TrialResult], history: list[EpochReport], data: Data
) -> TrialResult:
    """The result of a trial from those of its folds."""
    last, folds = results[-1], tuple(r for r in results if r.reason in WHOLE)
    shown = folds or tuple(results[:1])  # no fold has ended: what the first one has come to
    values = [result.value for result in shown if result.value is not None]
    epochs = [result.best_epoch for result in shown if result.best_epoch is not None]
    trivial = [result.trivial_score for result in results if result.trivial_score is not None]
    model = workdir / checkpoint.FOLD_MODELS
    if folds:
        with durable(model / IMAGES) as file:
            file.write(_in_order(model, data.folds[: len(folds)]).to_bytes())
    return TrialResult(
        reason=last.reason,
        value=fmean(values) if values else None,
        best_epoch=median_low(epochs) if epochs else None,
        decode={
            name: median_low(result.decode[name] for result in shown) for name in shown[0].decode
        },
        model=model if folds else None,
        history=history,
        hardware=last.hardware
        | {"peak_memory_mb": max(r.hardware.get("peak_memory_mb", 0) for r in results)},
        trivial_score=fmean(trivial) if trivial else None,
        parameters=last.parameters,
        folds=folds,
    )


def _in_order(model: Path, folds: Sequence[Data]) -> ImageCounts:
    """The counts of all images that folds have validated on, in the order of their paths."""
    found: list[tuple[str, np.ndarray]] = []
    for number, fold in enumerate(folds, 1):
        counts = ImageCounts.from_bytes((model / f"fold-{number}" / IMAGES).read_bytes()).counts
        images = [sample.image for sample in fold.split("val")]
        found += zip(images, counts, strict=True)
    return ImageCounts(np.stack([counts for _, counts in sorted(found, key=lambda one: one[0])]))


# ---------------------------------------------------------------- a fold that has ended


def _keep(
    workdir: Path, number: int, result: TrialResult, config: TrialConfig, fold: Data
) -> TrialResult:
    """Move a fold's weights to those of the trial, and write its result, durable."""
    folder, model = workdir / f"fold-{number}", _model(workdir, number)
    assert result.model is not None
    model.parent.mkdir(exist_ok=True)
    clear(model)
    result.model.rename(model)
    facts = {
        name: getattr(result, name)
        for name in ("reason", "value", "best_epoch", "decode", "hardware", "parameters")
    }
    trivial = result.trivial_score
    facts |= {
        "trivial_score": None if trivial is None or math.isinf(trivial) else trivial,
        "history": [report.to_json() for report in result.history],
        "config": config.model_dump(mode="json"),
        "fingerprint": fold.fingerprint,
        "files": digests(model, model.iterdir()),
    }
    write_json(folder / RESULT, facts)
    checkpoint.remove_last(folder)
    return replace(result, model=model)


def _put_back(workdir: Path, number: int) -> None:
    """Undo what `_keep` had begun when it was killed: the run's checkpoint names these weights."""
    model, folder = _model(workdir, number), workdir / f"fold-{number}"
    if not model.exists():
        return
    try:
        best = _facts(folder)["best_epoch"]
    except (FileNotFoundError, Damaged):
        clear(model)
        return
    clear(folder / f"model-{best}")
    model.rename(folder / f"model-{best}")


def _ended(workdir: Path, number: int, config: TrialConfig, fold: Data) -> TrialResult | None:
    """What a fold came to in an earlier attempt; None where it has not ended, or is damaged.

    Raises:
        InputError: it is the result of another config or of other data.
    """
    path = workdir / f"fold-{number}" / RESULT
    try:
        facts = read_json(path)
        check_same_run(path, facts.pop("config"), facts.pop("fingerprint"), config, fold)
        _model_files(workdir, number, check=True)
    except FileNotFoundError:
        return None
    except Damaged as damage:
        print(f"{damage}; fold {number} begins anew", flush=True)
        clear(path)
        clear(_model(workdir, number))
        return None
    facts.pop("files", None)
    history = [EpochReport.from_json(report) for report in facts.pop("history")]
    return TrialResult(model=_model(workdir, number), history=history, **facts)


def _model(workdir: Path, number: int) -> Path:
    return workdir / checkpoint.FOLD_MODELS / f"fold-{number}"
