"""`segtune evaluate --tta`, `--postprocess`, `--keep`: what val chooses for an exported model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import typer

from search.cli.options import console
from search.cli.settings import with_settings
from spaces.errors import InputError

if TYPE_CHECKING:  # they bring torch
    from spaces.config import TrialConfig
    from spaces.data import AnyDataSpec
    from trainers.evaluate import Evaluation
    from trainers.gains import Part
    from trainers.members import Ensemble
    from trainers.tasks import Data


def check_choice(
    config: TrialConfig,
    split: str,
    settings: Sequence[str],
    *,
    tta: str | None,
    postprocess: str | None,
    keep: bool,
    others: bool,
) -> None:
    """Refuse options that do not go together.

    Args:
        others: whether --against or --cleval are there.
    """
    asked = "--keep" if keep else ""
    if tta is not None or postprocess is not None:
        asked = "--tta" if postprocess is None else "--postprocess"
        if (tta is not None and postprocess is not None) or others:
            raise InputError(
                f"{asked} stands alone, without --tta, --postprocess, --against and --cleval: one "
                "question at a time"
            )
    elif keep and not settings:
        raise InputError(
            "--keep has nothing to keep: give it beside --tta all or --postprocess all, or beside "
            "--set, as in --set decode.tta=hflip"
        )
    if asked and split != "val":
        raise InputError(
            f"{asked} goes with --data val, which chooses; {split} must choose nothing, or it says "
            "nothing of new images any more"
        )
    if postprocess is not None and config.task != "segmentation":
        raise InputError("--postprocess is of masks, but this is text detection")


def parts_of(
    folder: Path,
    models: Sequence[Path | Ensemble],
    config: TrialConfig,
    settings: list[str],
    data: Data,
) -> list[Part]:
    """The model with the data it is scored on; of folds each one with what was chosen for it."""
    from trainers.gains import Part

    if len(models) == 1:
        return [Part(models[0], config, data)]
    chosen = json.loads((folder / "provenance.json").read_text())["fold_decode"]
    return [
        Part(model, with_settings(config.replace(decode), settings), fold)
        for model, decode, fold in zip(models, chosen, data.folds, strict=True)
    ]


def choose(
    folder: Path,
    parts: Sequence[Part],
    spec: AnyDataSpec,
    config: TrialConfig,
    settings: Sequence[str],
    *,
    tta: str | None,
    postprocess: str | None,
    keep: bool,
) -> None:
    """Print what views or post-processing gain on val; keep what gains beyond noise."""
    from search.findings import gains
    from search.findings.export import renew_card
    from spaces.metric import metric_name
    from trainers.image_counts import score_of
    from trainers.postprocess import KINDS
    from trainers.views import VIEWS

    metric, score = metric_name(config.metric, spec), score_of(config.metric, spec)
    if tta is not None:
        values = gains.asked_names("--tta", tta, list(VIEWS))
        choice = gains.choose_views(parts, metric, score, values, console())
    else:
        assert postprocess is not None
        kinds = gains.asked_names("--postprocess", postprocess, list(KINDS))
        choice = gains.choose_postprocessing(parts, metric, score, kinds, console())
    if keep:
        changes = _changes(config, settings) | choice.changes
        typer.echo(gains.keep(folder, replace(choice, changes=changes)))
        renew_card(folder)


def keep_settings(
    folder: Path, config: TrialConfig, settings: Sequence[str], found: Sequence[Evaluation]
) -> None:
    """Keep what --set says, because the user says so."""
    from search.findings.export import renew_card
    from search.findings.gains import Choice, keep

    value = fmean(one.scores.metric for one in found)
    images = sum(len(one.images.counts) for one in found)
    figures = {"metric": found[0].metric, "value": value, "images": images}
    typer.echo(keep(folder, Choice(_changes(config, settings), figures)))
    renew_card(folder)


def _changes(config: TrialConfig, settings: Sequence[str]) -> dict[str, Any]:
    """{dotted name: value} of what --set names."""
    names = [setting.partition("=")[0] for setting in settings]
    return {name: config.flat()[name] for name in names}
