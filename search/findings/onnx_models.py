"""The networks of a run as ONNX, each held against its weights on val before it is given out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from search.studies.study import Study
from search.studies.trial_facts import TrialFacts
from spaces.errors import InputError
from trainers.onnx_network import FILE, Agreement, check_agreement, compare, write_onnx
from trainers.tasks import load_data


def make_onnx(study: Study, run: FrozenTrial, models: Sequence[Path], to: Path) -> list[Agreement]:
    """Write the model.onnx of each model of a run into `to`, of folds into `to/fold-1` and so on.

    Args:
        study: that has run it.
        models: the folder of its model, or those of the folds.

    Returns:
        How each compares with its network on val.

    Raises:
        InputError: one scores otherwise, or the data are not those that the study began with.
    """
    if load_data(study.spec.data).fingerprint != study.fingerprint:
        name = study.spec.name
        raise InputError(
            f"--onnx: the data of study {name}, on which a model.onnx is scored, are not "
            "those that it began with; put them back, or export without --onnx"
        )
    config = study.config(run)
    spec = study.data_spec(config)
    data = load_data(spec)
    chosen = TrialFacts.of(run).fold_decode or [{}] * len(models)
    found = []
    for model, decode, split in zip(models, chosen, data.folds or [data], strict=True):
        folder = to / model.name if len(models) > 1 else to
        folder.mkdir(parents=True, exist_ok=True)
        write_onnx(model, config, spec, folder / FILE)
        found.append(compare(model, folder, config.replace(dict(decode)), split))
        check_agreement(found[-1], study.metric)
    return found


def agreement_lines(
    stored: Sequence[Mapping[str, Any]], metric: str, files: Sequence[str] = ()
) -> list[str]:
    """`model.onnx has mIoU 0.4460 on val, torch 0.4460; ...`, a sentence each.

    Args:
        stored: agreements as in provenance.json.
        files: what to call each of them.
    """
    found = [Agreement(**one) for one in stored]
    return [
        f"{file} has {metric} {one.score:.4f} on val, torch {one.torch_score:.4f}; their "
        f"probabilities differ by {one.difference:.2g} at most; on this CPU {one.images_per_s:.2f} "
        f"images/s, torch {one.torch_images_per_s:.2f}"
        for one, file in zip(found, files or [FILE] * len(found), strict=True)
    ]
