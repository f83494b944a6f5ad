"""Commands about an exported config and its model; neither fails for want of a store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli.options import StoreOption, console
from search.cli.settings import with_settings
from spaces.errors import InputError

if TYPE_CHECKING:  # they bring torch
    from trainers.data import SegmentationData
    from trainers.text_data import TextData


def train(
    config: Annotated[Path, typer.Argument(help="An exported config.yaml", show_default=False)],
    to: Annotated[Path, typer.Option("--to", help="Folder to write", show_default=False)],
) -> None:
    """Train an exported config in full. Ctrl-C saves; the same line resumes."""
    from spaces.spec import load_run_config

    data_spec, trial_config = load_run_config(config)

    from search.findings.manifest import check_export
    from search.retrain import retrain

    for line in check_export(config.parent, config_alone=True):
        typer.echo(line, err=True)

    raise typer.Exit(retrain(data_spec, trial_config, to, console()))


def evaluate(
    folder: Annotated[Path, typer.Argument(help="An exported folder", show_default=False)],
    data: Annotated[
        str,
        typer.Option("--data", help="Split: train, val or test; its study records looks at test"),
    ] = "val",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Another decode setting: decode.box_thresh=0.4 (repeatable)"),
    ] = None,
    cleval: Annotated[
        bool, typer.Option("--cleval", help="Text detection: also the CLEval scores")
    ] = False,
    store: StoreOption = None,
) -> None:
    """Score an exported model on a split; draw its five best and five worst images."""
    from spaces.data import fold_count
    from spaces.paths import MODEL, MODELS
    from spaces.spec import load_run_config

    data_spec, trial_config = load_run_config(folder / "config.yaml")
    trial_config = with_settings(trial_config, settings or [])
    count = fold_count(data_spec) if (folder / MODELS).is_dir() else 1
    models = [MODEL] if count == 1 else [f"{MODELS}/fold-{k}" for k in range(1, count + 1)]
    for model in models:
        for name in ("config.json", "model.safetensors"):  # else the name is looked up on a hub
            if not (folder / model / name).is_file():
                raise InputError(f"{folder} has no {model}/{name}; give a folder that export wrote")
    if data_spec.folds is not None and count == 1 and data == "val":
        raise InputError(
            f"{folder} was trained on all images (export --refit), so that no val is left to score "
            "it on; give --data test, or export without --refit"
        )

    from search.findings.manifest import check_export
    from search.findings.scoring import TEST, record_evaluation
    from search.findings.tables import show_fold_scores, show_scores
    from trainers.tasks import evaluate as run_evaluation
    from trainers.tasks import load_data

    for line in check_export(folder):
        typer.echo(line, err=True)
    checked = load_data(data_spec)
    checked.split(data)
    pictures = folder / f"evaluation-{data}"
    found = []
    if count > 1:
        chosen = json.loads((folder / "provenance.json").read_text())["fold_decode"]
        folds: Sequence[SegmentationData | TextData] = checked.folds
        for fold, model, decode in zip(folds, models, chosen, strict=True):
            config = with_settings(trial_config.replace(decode), settings or [])
            to = pictures / f"fold-{fold.fold}"
            found.append(run_evaluation(folder / model, config, fold, data, to, cleval=cleval))
        show_fold_scores(found, data, console())
    else:
        found.append(
            run_evaluation(folder / MODEL, trial_config, checked, data, pictures, cleval=cleval)
        )
        show_scores(found[0], data_spec.class_names, data, console())
    if data == TEST:
        recorded = record_evaluation(folder, data_spec, trial_config, found, settings or [], store)
        for line in recorded:
            typer.echo(line)
    typer.echo(f"pictures of the best and worst images: {pictures}")


def predict(
    folder: Annotated[Path, typer.Argument(help="An exported folder", show_default=False)],
    images: Annotated[
        list[str],
        typer.Argument(
            help="Image files, folders with all below them, lists (.txt, a path a line) or "
            "patterns in quotes",
            show_default=False,
        ),
    ],
    to: Annotated[Path, typer.Option("--to", help="Folder to write", show_default=False)],
    overlay: Annotated[bool, typer.Option("--overlay", help="Pictures to look at, too")] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Float16 arrays (.npy), too")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Predict again what is there already")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Another decode setting: decode.box_thresh=0.4 (repeatable)"),
    ] = None,
) -> None:
    """Predict masks or text boxes of new images. The same line goes on where it was."""
    from spaces.spec import load_run_config

    _, config = load_run_config(folder / "config.yaml", splits=False)
    config = with_settings(config, settings or [])

    from search.findings.manifest import check_export
    from search.predict import Wanted, predict_files
    from trainers.predict import Predictor

    for line in check_export(folder):
        typer.echo(line, err=True)
    code = predict_files(
        folder,
        Predictor(folder, config),
        images,
        to,
        Wanted(overlay, probabilities),
        overwrite=overwrite,
        console=console(),
        complain=lambda said: typer.echo(f"segtune: {said}", err=True),
    )
    raise typer.Exit(code)
