"""Checkpoints that survive a kill at any instant: temporary name, fsync, rename.

`state-N.pt` holds the tensors that a run needs to go on after epoch N, `model-N/` the weights of
the best epoch N in the layout of smp's `save_pretrained`. Both are written first; renaming
`last.json`, which names them with their SHA-256 and holds the history, commits the epoch; only then
older ones are removed. Whatever is durable is consistent, and damage to it is seen.

`state-N-shared.pt` is that of a paused trial: it lacks the weights that are in `model-N/`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from spaces.errors import InputError
from spaces.paths import clear, inside
from trainers.durable import (
    Damaged,
    check_files,
    digests,
    durable,
    file_digest,
    is_damage,
    read_json,
    sync_folder,
    write_json,
)
from trainers.image_counts import FILE as IMAGES
from trainers.image_counts import ImageCounts
from trainers.memory import is_out_of_memory

LAST = "last.json"
WEIGHTS = "model.safetensors"
SHARED = "shared"  # in a state: the part whose other tensors are those of `model-N/`
FOLD_MODELS = "model-folds"  # in place of `model-N/`: a folder for each fold, and images.npz of all

_PLAIN = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_OF_A_RUN = rf"last\.json|state-[0-9]+(?:-shared)?\.pt|model-[0-9]+/{_PLAIN}"
_OF_FOLDS = (
    rf"fold-[0-9]+/(?:result\.json|{_OF_A_RUN})|"
    rf"{FOLD_MODELS}/(?:images\.npz|fold-[0-9]+/{_PLAIN})"
)
_NAME = re.compile(f"{_OF_A_RUN}|{_OF_FOLDS}")


def trial_file(workdir: Path, name: str) -> Path:
    """Return the path of a file of a trial, whose name comes from a bucket or a JSON file.

    Raises:
        InputError: no trial writes a file of this name, or a link leads out of the folder.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} is no file of a trial, such as {LAST} or model-7/{WEIGHTS}")
    return inside(workdir, name)


def save_state(workdir: Path, epoch: int, state: dict[str, Any]) -> str:
    """Write `state-<epoch>.pt`, durable before this returns; `commit` makes it the last one.

    Returns:
        Its SHA-256.
    """
    with durable(workdir / f"state-{epoch}.pt") as file:
        torch.save(state, file)  # type: ignore[arg-type]  # needs no more than `write`
    return file.digest


def commit(workdir: Path, epoch: int, best_epoch: int, state: str, facts: dict[str, Any]) -> None:
    """Make `state-<epoch>.pt` and `model-<best_epoch>/` the ones to resume from; drop the others.

    Args:
        state: as `save_state` returned it.
        facts: what JSON can hold, returned by `load_facts`.
    """
    files = {f"state-{epoch}.pt": state} | _model_digests(workdir, best_epoch)
    write_json(workdir / LAST, {"epoch": epoch, "best_epoch": best_epoch, **facts, "files": files})
    _remove_states(workdir, but=f"state-{epoch}.pt")
    remove_models(workdir, but=best_epoch)


def share_weights(workdir: Path) -> None:
    """Write the last state anew, without the weights that `model-N/` holds too, to the bit.

    So a trial that waits takes less room, by a quarter with AdamW, where its last epoch is its best
    one. `load_state` gives the same as before.
    """
    facts = load_facts(workdir)
    if facts is None or facts["epoch"] != facts["best_epoch"] or "files" not in facts:
        return
    epoch, name = facts["epoch"], f"state-{facts['epoch']}-shared.pt"
    if name in facts["files"]:
        return
    state = load_state(workdir, facts)
    part = "model" if state["average"] is None else "average"  # what `save_model` has written
    saved = load_file(workdir / f"model-{epoch}" / WEIGHTS)
    own = {key: value for key, value in state[part].items() if not _same(value, saved.get(key))}
    with durable(workdir / name) as file:
        torch.save({**state, part: own, SHARED: part}, file)  # type: ignore[arg-type]
    others = {key: value for key, value in facts["files"].items() if not key.startswith("state-")}
    write_json(workdir / LAST, {**facts, "files": {name: file.digest, **others}})
    _remove_states(workdir, but=name)


def _same(one: Tensor, other: Tensor | None) -> bool:
    """Whether two tensors on the CPU are the same to the bit."""
    if other is None or one.shape != other.shape or one.dtype != other.dtype:
        return False
    bits = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return torch.equal(*bits)


def _remove_states(workdir: Path, but: str) -> None:
    for path in workdir.glob("state-*"):
        if path.name != but:
            clear(path)


def _model_digests(workdir: Path, epoch: int) -> dict[str, str]:
    """SHA-256 of the files of `model-<epoch>/`, which are read once for all epochs to come."""
    folder = workdir / f"model-{epoch}"
    before = load_facts(workdir) or {}
    known = {
        name: digest
        for name, digest in before.get("files", {}).items()
        if name.startswith(f"{folder.name}/")
    }
    return known or digests(workdir, folder.iterdir())


def load_facts(workdir: Path) -> dict[str, Any] | None:
    """Return what `commit` was told of the last epoch, or None where there is no checkpoint.

    Raises:
        Damaged: `last.json` is not as it was written.
    """
    path = workdir / LAST
    try:
        facts = read_json(path)
    except FileNotFoundError:
        return None
    for name in ("epoch", "fold" if "fold" in facts else "best_epoch"):
        if type(facts.get(name)) is not int or facts[name] < 1:  # file names are made of it
            raise Damaged(f"{path} is damaged: {name} is {facts.get(name)!r}")
    return facts


def files(workdir: Path, facts: dict[str, Any], *, check: bool = False) -> list[Path]:
    """The files of the last committed epoch; the one that commits them is the last.

    Args:
        facts: as `load_facts` returned them.
        check: compare their SHA-256; checkpoints of earlier versions have none.

    Raises:
        FileNotFoundError: a later epoch has taken its place meanwhile.
        Damaged: one is missing, or not as it was written; where they are checked.
    """
    listed = facts.get("files")
    if listed is None:
        model = workdir / f"model-{facts['best_epoch']}"
        found = [workdir / f"state-{facts['epoch']}.pt", *sorted(model.iterdir())]
        if check and not found[0].is_file():
            raise Damaged(f"{found[0]} is missing")
    else:
        try:
            found = [trial_file(workdir, name) for name in listed]
        except InputError as error:
            raise Damaged(f"{workdir / LAST} is damaged: {error}") from None
        if check:
            check_files(workdir, listed)
    return [*found, workdir / LAST]


def load_state(workdir: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the state of the last committed epoch, on the CPU; no code in it is run.

    Raises:
        Damaged: it is not there, or holds something else than `save_state` writes.
    """
    epoch = facts["epoch"]
    path = workdir / f"state-{epoch}-shared.pt"
    if path.name not in facts.get("files", ()):
        path = workdir / f"state-{epoch}.pt"
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if SHARED in state:
            part = state.pop(SHARED)
            state[part] = load_file(workdir / f"model-{epoch}" / WEIGHTS) | state[part]
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, SafetensorError) as error:
        if is_out_of_memory(error) or (isinstance(error, OSError) and not is_damage(error)):
            raise  # of the machine, not of the file
        said = str(error).partition("\n")[0]
        raise Damaged(f"{path} cannot be loaded ({type(error).__name__}: {said})") from None
    return state


def remove_last(workdir: Path) -> None:
    """Delete what a run would resume from; its models stay."""
    for path in last_paths(workdir):  # first what commits the others
        clear(path)


def last_paths(workdir: Path) -> list[Path]:
    """What a run would resume from: files, and with folds folders."""
    return [workdir / LAST, *workdir.glob("state-*"), *workdir.glob("fold-*")]


def fold_models(model: Path) -> list[Path]:
    """The folders of a trial's weights: one for each fold, else the one that it is given."""
    return sorted(model.glob("fold-*"), key=lambda path: int(path.name[5:])) or [model]


def weights_digest(model: Path) -> str:
    """SHA-256 of a trial's best weights; of several models, folds or members, of all of them."""
    several = sorted(model.glob(f"*/**/{WEIGHTS}"))
    if not several:
        return file_digest(model / WEIGHTS)
    return hashlib.sha256("".join(file_digest(path) for path in several).encode()).hexdigest()


def save_model(workdir: Path, epoch: int, model: nn.Module, images: ImageCounts) -> Path:
    """Write `model-<epoch>/` (config.json, model.safetensors, images.npz) and return it.

    Args:
        images: what each validation image adds to the model's score.
    """
    folder = workdir / f"model-{epoch}"
    temporary = workdir / f"model-{epoch}.tmp"
    clear(temporary)
    temporary.mkdir(parents=True)
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
    clear(folder)
    temporary.rename(folder)
    sync_folder(workdir)
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
        # its config may name weights to begin with, which smp would fetch, and which are replaced
        model: nn.Module = smp.from_pretrained(str(folder), encoder_weights=None)
    return model


def remove_models(workdir: Path, but: int | None) -> None:
    """Delete every `model-N/` but that of epoch `but`, and what a kill left half written."""
    for path in workdir.glob("model-*"):
        if but is None or path.name != f"model-{but}":
            shutil.rmtree(path, ignore_errors=True)
