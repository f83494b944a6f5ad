"""What `model.init` may say: a path to weights, the name of an encoder's, or nothing.

A path has a slash in it or ends as a file of weights does, so that its meaning depends on no folder
that happens to be there. Everything else is a name, as `model.encoder_weights` takes it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from spaces.config import ModelConfig
from spaces.sources import existing
from spaces.space import EntryError, Space
from spaces.text_detection import TextModelConfig
from spaces.yamlfile import Document

INIT, ENCODER_WEIGHTS = "model.init", "model.encoder_weights"
FILES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def is_path(init: Any) -> TypeGuard[str]:
    """Whether a value of `model.init` is the path of weights, and not a name."""
    return isinstance(init, str) and ("/" in init or init.endswith(FILES))


def encoder_weights(config: ModelConfig | TextModelConfig) -> str | None:
    """The name of the weights that the encoder begins with where no path gives them."""
    named = config.init is not None and not is_path(config.init)
    return config.init if named else config.encoder_weights


def absolute(init: Any, folder: Path) -> Any:
    """Return a value with its path made absolute; anything else is returned as it is."""
    return str((folder / Path(init).expanduser()).resolve()) if is_path(init) else init


def resolve_entry(space: Any, document: Document, folder: Path) -> None:
    """Make the paths of a study file's `model.init` absolute; each must exist.

    Raises:
        InputError: with the line of the first that does not.
    """

    def resolved(entry: Any) -> Any:
        if isinstance(entry, list):
            return [resolved(one) for one in entry]
        if isinstance(entry, dict) and "choices" in entry:
            return {**entry, "choices": resolved(entry["choices"])}
        if not is_path(entry):
            return entry
        return str(existing(folder, entry, INIT, document.where(("space", INIT))))

    if isinstance(space, dict) and INIT in space:
        space[INIT] = resolved(space[INIT])


def settle(space: Space, named: Collection[str]) -> Space:
    """Let no two starts of a space be the same one.

    In `model.init: [null, imagenet]` null means the weights of `model.encoder_weights`; so where
    the file does not name those, they are none.

    Raises:
        EntryError: the file names them, and they are among the names of `model.init`.
    """
    inits = space.values(INIT)
    twice = [w for w in space.values(ENCODER_WEIGHTS) if w is not None and w in inits]
    if None not in inits or not twice:
        return space
    if ENCODER_WEIGHTS not in named:
        return replace(space, base=space.base.replace({ENCODER_WEIGHTS: None}))
    raise EntryError(
        (INIT,),
        f"null and {twice[0]} begin alike beside {ENCODER_WEIGHTS}: {twice[0]}; leave one of the "
        f"two out, or write {ENCODER_WEIGHTS}: null",
    )


def starts(space: Space, **of: str) -> list[dict[str, Any]]:
    """{dotted name: value} of init and encoder weights, for each way in which a network can begin.

    Args:
        of: the network's own `arch`, `encoder` and `decoder`, where `when` binds `model.init`.
    """
    found: list[dict[str, Any]] = []
    condition = space.when.get(INIT, {}) if INIT in space.dims else {}
    drawn = all(value in condition.get(f"model.{name}", (value,)) for name, value in of.items())
    for init in space.values(INIT) if drawn else [space.base.flat()[INIT]]:
        named = init is not None and not is_path(init)
        for weights in [None] if named else space.values(ENCODER_WEIGHTS):
            found.append({"init": init, "encoder_weights": weights})
    return found
