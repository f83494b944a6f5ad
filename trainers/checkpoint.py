"""Checkpoints that survive a kill at any instant: temporary name, fsync, rename.

`last.pt` holds everything that a run needs to go on; `model-N/` holds the weights of the best epoch
N in the layout of smp's `save_pretrained`. The model is written first, `last.pt` names it, and only
then older models are removed: whatever is durable is consistent.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from safetensors import SafetensorError
from torch import nn

from spaces.errors import InputError

LAST = "last.pt"


def save_last(workdir: Path, state: dict[str, Any]) -> None:
    """Write `last.pt`: durable before this returns, or the old one is still whole."""
    temporary = workdir / f"{LAST}.tmp"
    with open(temporary, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(workdir / LAST)
    _sync_folder(workdir)


def load_last(workdir: Path) -> dict[str, Any] | None:
    """Return the state of `last.pt` on the CPU, or None where there is none."""
    path = workdir / LAST
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def save_model(workdir: Path, epoch: int, model: nn.Module) -> Path:
    """Write `model-<epoch>/` (config.json, model.safetensors) and return it."""
    folder = workdir / f"model-{epoch}"
    temporary = workdir / f"model-{epoch}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(str(temporary))  # type: ignore[operator]
    for path in temporary.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    _sync_folder(workdir)
    return folder


def load_model(folder: Path) -> nn.Module:
    """Load what `save_model` wrote: an smp model with its weights, on the CPU.

    Raises:
        InputError: the folder does not hold a whole model.
    """
    for name in ("config.json", "model.safetensors"):
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


def remove_old_models(workdir: Path, keep: int | None) -> None:
    """Delete every `model-N/` but that of epoch `keep`, and what a kill left half written."""
    for path in workdir.glob("model-*"):
        if keep is None or path.name != f"model-{keep}":
            shutil.rmtree(path, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
