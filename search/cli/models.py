"""Commands about an exported config and its model; neither fails for want of a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli.choosing import check_choice, choose, keep_settings, parts_of
from search.cli.options import ArtifactsOption, StoreOption, closing_store, console
from search.cli.settings import with_settings
from spaces.errors import InputError
from spaces.paths import MODEL, MODELS

if TYPE_CHECKING:  # they bring torch
    from spaces.config import TrialConfig
    from spaces.data import AnyDataSpec
    from trainers.members import Ensemble

OF_STUDY = "study:"  # before a study's name, where a folder is taken too

DecodeOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Another decode setting: decode.box_thresh=0.4 (repeatable)"),
]


def train(
    config: Annotated[Path, typer.Argument(help="An exported config.yaml", show_default=False)],
    to: Annotated[Path, typer.Option("--to", help="Folder to write", show_default=False)],
    seed: Annotated[
        int | None, typer.Option(min=0, help="Another seed", show_default="that of the config")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs", show_default="those of the config")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Another setting: optim.lr=1e-3 (repeatable)"),
    ] = None,
) -> None:
    """Train an exported config in full. Ctrl-C saves; the same line resumes."""
    from spaces.run_config import load_run_config

    data_spec, trial_config = load_run_config(config)
    given = {"train.seed": seed, "train.epochs": epochs}
    options = [f"{name}={value}" for name, value in given.items() if value is not None]
    trial_config = with_settings(trial_config, [*options, *(settings or [])], within="")

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
    settings: DecodeOption = None,
    against: Annotated[
        Path | None,
        typer.Option(
            help="Another exported folder: also the difference on the same images",
            show_default=False,
        ),
    ] = None,
    cleval: Annotated[
        bool, typer.Option("--cleval", help="Text detection: also the CLEval scores")
    ] = False,
    tta: Annotated[
        str | None,
        typer.Option(
            "--tta",
            help="Instead the gain and the cost of test-time augmentation on val: all, or values "
            "of decode.tta behind commas",
            show_default=False,
        ),
    ] = None,
    postprocess: Annotated[
        str | None,
        typer.Option(
            "--postprocess",
            help="Instead the gain of post-processing masks on val: all, smallest_area or "
            "fill_holes",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep",
            help="Write into the folder's config.yaml what gains beyond noise (--tta, "
            "--postprocess), and what --set says",
        ),
    ] = False,
    store: StoreOption = None,
) -> None:
    """Score an exported model on a split; draw its five best and five worst images."""
    from spaces.run_config import load_run_config

    data_spec, trial_config = load_run_config(folder / "config.yaml")
    trial_config = with_settings(trial_config, settings or [])
    models = _models(folder, data_spec, trial_config, data)
    check_choice(
        trial_config,
        data,
        settings or [],
        tta=tta,
        postprocess=postprocess,
        keep=keep,
        others=cleval or against is not None,
    )
    other = None if against is None else _comparable(against, data_spec, trial_config, data)

    from search.findings.manifest import check_export
    from search.findings.scoring import TEST, record_evaluation
    from search.findings.tables import show_difference, show_fold_scores, show_scores
    from trainers.tasks import evaluate as run_evaluation
    from trainers.tasks import load_data

    for checked_folder in (folder, *([] if against is None else [against])):
        for line in check_export(checked_folder):
            typer.echo(line, err=True)
    checked = load_data(data_spec)
    checked.split(data)
    parts = parts_of(folder, models, trial_config, settings or [], checked)
    if tta is not None or postprocess is not None:
        choose(
            folder,
            parts,
            data_spec,
            trial_config,
            settings or [],
            tta=tta,
            postprocess=postprocess,
            keep=keep,
        )
        return
    pictures = folder / f"evaluation-{data}"
    several = len(parts) > 1
    found = [
        run_evaluation(*part, data, pictures / f"fold-{k}" if several else pictures, cleval=cleval)
        for k, part in enumerate(parts, start=1)
    ]
    if several:
        show_fold_scores(found, data, console())
    else:
        show_scores(found[0], data_spec.class_names, data, console())
    looks = [(folder, trial_config, found, settings or [])]
    if against is not None and other is not None:
        to = pictures / f"against-{against.resolve().name}"
        [theirs] = _models(against, data_spec, other, data)
        beside = run_evaluation(theirs, other, checked, data, to, cleval=cleval)
        show_difference(found[0], beside, folder, against, data_spec, trial_config, console())
        looks.append((against, other, [beside], []))
    if data == TEST:
        for of, config, scored, changed in looks:
            for line in record_evaluation(of, data_spec, config, scored, changed, store):
                typer.echo(line)
    typer.echo(f"pictures of the best and worst images: {pictures}")
    if keep:
        keep_settings(folder, trial_config, settings or [], found)


def _models(
    folder: Path, data_spec: AnyDataSpec, config: TrialConfig, split: str
) -> Sequence[Path | Ensemble]:
    """The folder of the model, or those of the models of the folds; of an ensemble its members.

    Raises:
        InputError: one is missing, or no image of the split was held out from it.
    """
    from spaces.data import fold_count
    from trainers.members import is_ensemble, read_members

    if is_ensemble(folder):
        members, folds = read_members(folder, config), fold_count(data_spec)
        if len(members[0].models) != folds:
            raise InputError(
                f"{folder / 'config.yaml'}: data.folds.count is {folds}, but a member of the "
                f"ensemble has {len(members[0].models)} models; put the number back"
            )
        return [[member.of_fold(k) for member in members] for k in range(folds)]
    count = fold_count(data_spec) if (folder / MODELS).is_dir() else 1
    there = len(list((folder / MODELS).glob("fold-*")))
    if count > 1 and there != count:
        raise InputError(
            f"{folder / 'config.yaml'}: data.folds.count is {count}, but {folder / MODELS} has "
            f"{there} models, one for each fold; put the number back"
        )
    names = [MODEL] if count == 1 else [f"{MODELS}/fold-{k}" for k in range(1, count + 1)]
    for model in names:
        for name in ("config.json", "model.safetensors"):  # else the name is looked up on a hub
            if not (folder / model / name).is_file():
                raise InputError(f"{folder} has no {model}/{name}; give a folder that export wrote")
    if data_spec.folds is not None and count == 1 and split == "val":
        raise InputError(
            f"{folder} was trained on all images (export --refit), so that no val is left to score "
            "it on; give --data test, or export without --refit"
        )
    return [folder / name for name in names]


def _comparable(
    against: Path, data_spec: AnyDataSpec, config: TrialConfig, split: str
) -> TrialConfig:
    """The config of another export that can be scored on the same images by the same metric."""
    from spaces.run_config import load_run_config

    other_spec, other = load_run_config(against / "config.yaml", splits=False)
    if type(other) is not type(config):
        raise InputError(f"--against {against} is of task {other.task}, not {config.task}")
    if other_spec.class_names != data_spec.class_names:
        raise InputError(
            f"--against {against} has the classes {', '.join(other_spec.class_names)}, not "
            f"{', '.join(data_spec.class_names)}"
        )
    if data_spec.folds is not None or (against / MODELS).is_dir():
        raise InputError("--against compares single models, but an export of folds has several")
    _models(against, other_spec, other, split)
    return other.model_copy(update={"metric": config.metric})


def predict(
    model: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER",
            help="An exported folder; or study:NAME, for the best trial of a study",
            show_default=False,
        ),
    ],
    images: Annotated[
        list[str],
        typer.Argument(
            help="Image files, folders with all below them, lists (.txt, a path a line) or "
            "patterns in quotes",
            show_default=False,
        ),
    ],
    to: Annotated[Path, typer.Option("--to", help="Folder to write", show_default=False)],
    trial: Annotated[
        int | None, typer.Option(help="With study:NAME: this trial instead of the best one")
    ] = None,
    overlay: Annotated[bool, typer.Option("--overlay", help="Pictures to look at, too")] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Float16 arrays (.npy), too")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Predict again what is there already")
    ] = False,
    runtime: Annotated[
        str, typer.Option("--runtime", help="torch, or onnx: what export --onnx has written")
    ] = "torch",
    settings: DecodeOption = None,
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
) -> None:
    """Predict masks or text boxes of new images. The same line goes on where it was."""
    from spaces.run_config import load_run_config

    with _exported(model, trial, store, artifacts) as folder:
        _, config = load_run_config(folder / "config.yaml", splits=False)
        config = with_settings(config, settings or [])

        from search.findings.manifest import check_export
        from search.predict import Wanted, predict_files
        from trainers.predict import Predictor

        for line in check_export(folder):
            typer.echo(line, err=True)
        code = predict_files(
            Predictor(folder, config, runtime),
            images,
            to,
            Wanted(overlay, probabilities),
            overwrite=overwrite,
            console=console(),
            complain=lambda said: typer.echo(f"segtune: {said}", err=True),
        )
    raise typer.Exit(code)


@contextmanager
def _exported(
    given: str, trial: int | None, store: str | None, artifacts: str | None
) -> Iterator[Path]:
    """A folder that export wrote: the one that is given, or that of a study, while it is needed."""
    if not given.startswith(OF_STUDY):
        if trial is not None:
            raise InputError(
                f"--trial is for {OF_STUDY}NAME, but got the folder {given}, which holds one trial"
            )
        yield Path(given)
        return
    from search.files.artifacts import open_artifacts
    from search.findings.export import export_model
    from search.studies.study import open_study

    with TemporaryDirectory(prefix="segtune-predict-") as folder:
        to = Path(folder) / "model"
        with closing_store(store) as opened:
            study = open_study(opened, given.removeprefix(OF_STUDY))
            export_model(study, open_artifacts(artifacts), to, trial)
        yield to
