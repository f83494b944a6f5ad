"""Which models an ensemble has, and how its folder names them.

The folder of an ensemble looks as any export does, but in place of `model/` it has `members/`: each
is an export of its own, with its config and its weights. `ensemble.json` lists them, and says how
often each was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spaces.config import TrialConfig
from spaces.errors import InputError
from spaces.paths import MODEL, MODELS, inside
from spaces.run_config import load_run_config
from trainers.checkpoint import WEIGHTS, fold_models
from trainers.durable import Damaged, read_json, write_json

LIST, MEMBERS = "ensemble.json", "members"


@dataclass(frozen=True)
class Member:
    """A trial in an ensemble.

    Attributes:
        folder: an export of its own, or where a trial has left its weights.
        models: the folder of its weights, or those of each fold.
        draws: how often it counts in the mean.
    """

    folder: Path
    config: TrialConfig
    models: tuple[Path, ...]
    draws: int = 1

    def of_fold(self, index: int) -> Member:
        """The same with the model of one fold alone, from 0."""
        return replace(self, models=(self.models[index],))

    @property
    def model(self) -> Path:
        """Its one model."""
        (model,) = self.models
        return model


Ensemble = Sequence[Member]


def shares(members: Ensemble) -> list[float]:
    """What each member's probabilities count in the mean; 1 together."""
    total = sum(member.draws for member in members)
    return [member.draws / total for member in members]


def is_ensemble(folder: Path) -> bool:
    """Whether an exported folder is one of `segtune ensemble`."""
    return (folder / LIST).is_file()


def write_list(folder: Path, draws: dict[str, int], config: TrialConfig) -> None:
    """Write `ensemble.json` of {name of a folder in members/: draws}.

    Args:
        config: of the ensemble, whose decode settings are noted: those that differ later, by an
            edit of its config.yaml or by `--set`, are the members' too.
    """
    members = [{"folder": f"{MEMBERS}/{name}", "draws": count} for name, count in draws.items()]
    write_json(folder / LIST, {"members": members, "decode": _decode(config)}, indent=1)


def read_members(folder: Path, config: TrialConfig) -> list[Member]:
    """Return the members of an ensemble's folder.

    Args:
        config: of the ensemble. Where its decode settings are not those that it was written with,
            those of the members are changed alike.

    Raises:
        InputError: the list, or a member, is damaged or missing.
    """
    path = folder / LIST
    try:
        tree = read_json(path)
        listed = [(one["folder"], one["draws"]) for one in tree["members"]]
        before = dict(tree["decode"])
        whole = listed and all(isinstance(n, str) and type(d) is int and d > 0 for n, d in listed)
    except (Damaged, KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise InputError(
            f"{path} must list members, each with its folder and its draws (1 or more), and decode "
            "settings, but does not; make the ensemble again"
        )
    now = _decode(config)
    changes = {name: value for name, value in now.items() if before.get(name, value) != value}
    found = []
    for name, draws in listed:
        member = inside(folder, name)
        _, own = load_run_config(member / "config.yaml", splits=False)
        if type(own) is not type(config):
            raise InputError(f"{member} is of task {own.task}, but {folder} of {config.task}")
        weights = member / (MODELS if (member / MODELS).is_dir() else MODEL)
        models = tuple(fold_models(weights))
        for file in (model / part for model in models for part in ("config.json", WEIGHTS)):
            if not file.is_file():  # else the name is looked up on a hub
                raise InputError(f"{folder} has no {file.relative_to(folder)}; make it again")
        found.append(Member(member, own.replace(changes), models, draws))
    if len({len(member.models) for member in found}) > 1:
        raise InputError(f"{folder}: its members must have as many models each; make it again")
    return found


def _decode(config: TrialConfig) -> dict[str, Any]:
    return {name: value for name, value in config.flat().items() if name.startswith("decode.")}
