"""The one exception that means: the input was wrong, nothing was started (exit code 2)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input from the user; its message is complete and is shown without a traceback."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` for the nearest of the known names, or an empty string.

    A dotted name also matches by its last part: `learning_rate` is near to nothing, but
    `train.lr` is near to `optim.lr`.
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    if not near:
        alias = _ALIASES.get(given.rsplit(".", 1)[-1].lower())
        near = [alias] if alias in names else []
    if not near:
        last = given.rsplit(".", 1)[-1]
        by_last = {name.rsplit(".", 1)[-1]: name for name in reversed(names)}
        hits = difflib.get_close_matches(last, by_last, n=1, cutoff=0.7)
        near = [by_last[hit] for hit in hits]
    return f"; did you mean {near[0]}?" if near else ""


# What people type by habit from other tools, and our dotted name for it.
_ALIASES = {
    "learning_rate": "optim.lr",
    "image_size": "data.resolution",
    "img_size": "data.resolution",
    "input_size": "data.resolution",
    "backbone": "model.encoder",
    "architecture": "model.arch",
    "dice_weight": "loss.region_share",
    "max_weight_ratio": "loss.class_weights.max_ratio",
    "optimizer": "optim.name",
    "n_trials": "trials",
    "max_trials": "trials",
    "num_trials": "trials",
}
