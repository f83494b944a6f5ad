"""`train.compile`: torch.compile for the batch shapes that come often, with a cache that lasts."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
import torch._functorch.config
from torch import Tensor, nn
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from spaces.errors import InputError
from spaces.paths import cache_dir
from trainers.models import short_message

FOLDER = "TORCHINDUCTOR_CACHE_DIR"  # torch sets it itself, to a folder under /tmp


def compile_model(
    model: nn.Module, usual: Callable[[Tensor], bool] | None, *, several_gradients: bool = False
) -> None:
    """Let a network run compiled, in place; its weights keep their names.

    Each shape costs a minute or more to compile, so a batch that comes once an epoch is not
    worth it: it runs as before. What was compiled is kept in `compile/` of the cache folder, for
    all trials to come.

    Args:
        usual: tells whether a batch (B, 3, H, W) is of a shape that is compiled, one graph each;
            None compiles all shapes with one graph of symbolic sizes.
        several_gradients: whether a graph is asked for more than one, so that its buffers must
            outlive the first; holds for the process.

    Raises:
        InputError: there is no compiler here that works.
    """
    if os.environ.get(FOLDER, default_cache_dir()) == default_cache_dir():  # not the user's own
        os.environ[FOLDER] = str(cache_dir() / "compile")
    if several_gradients:
        torch._functorch.config.donated_buffer = False
    _check(next(model.parameters()).device)
    plain = model.forward
    compiled = torch.compile(plain, dynamic=usual is None)

    def forward(images: Tensor) -> Tensor:
        run = compiled if usual is None or usual(images) else plain
        return run(images)

    model.forward = forward


def _check(device: torch.device) -> None:
    """Compile the smallest function there is."""
    try:
        torch.compile(_double)(torch.ones(2, device=device))
    except Exception as error:
        needs = "a C++ compiler (g++)" if device.type == "cpu" else "Triton and a C compiler (gcc)"
        raise InputError(
            f"train.compile: torch.compile does not work here: {short_message(error)}; it needs "
            f"{needs}; install it, or set train.compile: false"
        ) from error


def _double(values: Tensor) -> Tensor:
    return values + values
