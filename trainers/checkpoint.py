"""Checkpoints that survive a kill at any instant: temporary name, fsync, rename.

`state-N.pt` holds the tensors that a run needs to go on after epoch N, `model-N/` the weights of
the best epoch N in the layout of smp's `save_pretrained`. Both are written first; renaming
`last.json`, which names them and holds the history, commits the epoch; only then older ones are
removed. Whatever is durable is consistent.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import pickle
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import segmentation_models_pytorch as smp
import torch
from safetensors import SafetensorError
from torch import nn

from spaces.errors import InputError
from trainers.data import file_digest
from trainers.image_counts import FILE as IMAGES
from trainers.image_counts import ImageCounts
from trainers.memory import is_out_of_memory

LAST = "last.json"
WEIGHTS = "model.safetensors"
FOLD_MODELS = "model-folds"  # in place of `model-N/`: a folder for each fold, and images.npz of all

# what reading a checkpoint raises whose files are missing, cut or overwritten
_DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, pickle.PickleError)
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.EIO)


def save_state(workdir: Path, epoch: int, state: dict[str, Any]) -> None:
    """Write `state-<epoch>.pt`, durable before this returns; `commit` makes it the last one."""
    path = workdir / f"state-{epoch}.pt"
    with _durable(path) as file:
        torch.save(state, file)


def commit(workdir: Path, epoch: int, best_epoch: int, facts: dict[str, Any]) -> None:
    """Make `state-<epoch>.pt` and `model-<best_epoch>/` the ones to resume from; drop the others.

    Args:
        facts: what JSON can hold, returned by `load_last`.
    """
    with _durable(workdir / LAST) as file:
        file.write(json.dumps({"epoch": epoch, "best_epoch": best_epoch, **facts}).encode())
    _sync_folder(workdir)
    for path in workdir.glob("state-*"):
        if path.name != f"state-{epoch}.pt":
            path.unlink()
    remove_models(workdir, but=best_epoch)


class Last(NamedTuple):
    """The last committed epoch: what `commit` was told of it, and its state, on the CPU."""

    facts: dict[str, Any]
    state: dict[str, Any]


def load_last(workdir: Path) -> Last | None:
    """Return the checkpoint to go on from; None where there is none, or it is damaged.

    A run begins anew then: it would else fail in each of its attempts. The trial's log says so.
    """
    if not (workdir / LAST).exists():
        return None
    try:
        *paths, last = files(workdir)
        for path in paths:
            path.stat()
        facts = json.loads(last.read_text())
        return Last(facts, _load_state(paths[0]))
    except _DAMAGED as error:
        if is_out_of_memory(error) or (isinstance(error, OSError) and error.errno not in _GONE):
            raise  # of the machine, not of the file
        print(f"{workdir / LAST}: the checkpoint is damaged ({error}); begins anew", flush=True)
        return None


def _load_state(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def files(workdir: Path) -> list[Path]:
    """The files of the last committed epoch; the one that commits them is the last.

    Raises:
        FileNotFoundError: there is none, or a later epoch has taken its place meanwhile.
    """
    facts = json.loads((workdir / LAST).read_text())
    model = workdir / f"model-{facts['best_epoch']}"
    return [workdir / f"state-{facts['epoch']}.pt", *sorted(model.iterdir()), workdir / LAST]


def remove_last(workdir: Path) -> None:
    """Delete what a run would resume from; its models stay."""
    for path in last_paths(workdir):  # first what commits the others
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def last_paths(workdir: Path) -> list[Path]:
    """What a run would resume from: files, and with folds folders."""
    return [workdir / LAST, *workdir.glob("state-*"), *workdir.glob("fold-*")]


def write_json(path: Path, facts: dict[str, Any]) -> None:
    """Write a file that is whole and durable once this returns."""
    with _durable(path) as file:
        file.write(json.dumps(facts).encode())
    _sync_folder(path.parent)


def weights_digest(model: Path) -> str:
    """SHA-256 of a trial's best weights; with folds, of those of all of them."""
    folds = sorted(model.glob(f"fold-*/{WEIGHTS}"))
    if not folds:
        return file_digest(str(model / WEIGHTS))
    return hashlib.sha256("".join(file_digest(str(path)) for path in folds).encode()).hexdigest()


def save_model(workdir: Path, epoch: int, model: nn.Module, images: ImageCounts) -> Path:
    """Write `model-<epoch>/` (config.json, model.safetensors, images.npz) and return it.

    Args:
        images: what each validation image adds to the model's score.
    """
    folder = workdir / f"model-{epoch}"
    temporary = workdir / f"model-{epoch}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.save_pretrained(str(temporary))  # type: ignore[operator]
        images.save(temporary / IMAGES)
        for path in temporary.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    _sync_folder(workdir)
    return folder


def load_model(folder: Path) -> nn.Module:
    """Load what `save_model` wrote: an smp model with its weights, on the CPU.

    Raises:
        InputError: the folder does not hold a whole model.
    """
    for name in ("config.json", WEIGHTS):
        if not (folder / name).is_file():  # smp would ask the Hugging Face Hub for it
            raise InputError(f"{folder} must hold a model, but has no {name}; export it again")
    try:
        return _load(folder)
    except (KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{folder} is damaged ({error}); export it again") from error


def _load(folder: Path) -> nn.Module:
    with contextlib.redirect_stdout(io.StringIO()):  # the hub's mixin prints where it reads from
        model: nn.Module = smp.from_pretrained(str(folder))
    return model


def remove_models(workdir: Path, but: int | None) -> None:
    """Delete every `model-N/` but that of epoch `but`, and what a kill left half written."""
    for path in workdir.glob("model-*"):
        if but is None or path.name != f"model-{but}":
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _durable(path: Path) -> Iterator[BinaryIO]:
    """A file to write to; it takes `path`'s place, fsynced, when the block ends well."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)  # a full disk must not keep the half that did fit
        raise
    temporary.replace(path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
