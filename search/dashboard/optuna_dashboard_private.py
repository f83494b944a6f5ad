"""All that search/ uses of optuna-dashboard's private parts: keys of attributes, and JSON answers.

Nothing else in search/ imports a private module of optuna-dashboard; only the keys of files, which
a lower room writes, stand in search/files/shown.py. What is taken for granted here is written down
in tests/unit/search/test_private_formats.py, which fails, and says what to do, when another minor
version of optuna-dashboard is installed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial
from optuna_dashboard import _custom_plot_data, _note, _serializer
from optuna_dashboard._inmemory_cache import _CachedExtraStudyProperty
from optuna_dashboard.artifact import _backend

from search.database.optuna_private import FrozenStudy
from spaces.space import Dimension, Float, Int

# as patterns of SQL's LIKE: the whole of a study's own note, and which trials have one
NOTES = ("dashboard:note%", "dashboard:%:note_ver")
_OF_TRIAL = re.compile(r"dashboard:(?:artifacts:)?(\d+):")

# ---------------------------------------------------------------- notes and graphs, as attributes


def note(attrs: Mapping[str, Any]) -> tuple[str, int]:
    """A study's own note and its version; an empty one of version 0 where there is none."""
    found = _note.get_note_from_system_attrs(dict(attrs), None)
    return found["body"], found["version"]


def note_attrs(body: str, version: int, trial_id: int | None) -> dict[str, Any]:
    """The study's system attributes that hold a trial's note, or its own where that is None."""
    return {_note.note_ver_key(trial_id): version, **_note.split_body(body, trial_id)}


def note_prefixes() -> list[str]:
    """What the keys of a study's own note begin with."""
    return [_note.note_ver_key(None), _note.note_str_key_prefix(None)]


def has_note(attrs: Mapping[str, Any], trial_id: int) -> bool:
    """Whether a trial has a note."""
    return _note.note_ver_key(trial_id) in attrs


def graph_attrs(name: str, figure: str) -> dict[str, str]:
    """The study's system attributes that hold a graph, given as Plotly's JSON."""
    found: dict[str, str] = _custom_plot_data.split_plot_data(figure, graph_prefix(name))
    return found


def graph_prefix(name: str) -> str:
    """What the keys of a graph begin with."""
    return f"{_custom_plot_data.SYSTEM_ATTR_PLOT_DATA}{name}:"


def trial_of(key: str) -> int | None:
    """The id of the trial that a study's system attribute belongs to; None: the study itself."""
    match = _OF_TRIAL.match(key)
    return None if match is None else int(match[1])


# ---------------------------------------------------------------- answers as JSON


def importances_json(
    importances: Mapping[str, float], dims: Mapping[str, Dimension]
) -> list[dict[str, Any]]:
    """What the card of importances is told of a study."""
    kinds = {Int: "IntDistribution", Float: "FloatDistribution"}
    return [
        {
            "name": name,
            "importance": share,
            "distribution": kinds.get(type(dims[name]), "CategoricalDistribution"),
        }
        for name, share in importances.items()
    ]


class StudyJson:
    """What a study's page is told beside its trials; gathered from trials once they are told."""

    def __init__(self) -> None:
        self._gathered = _CachedExtraStudyProperty()

    def add(self, trials: Sequence[FrozenTrial]) -> None:
        """Take in trials that are new, or have not ended."""
        self._gathered.update(list(trials))

    def of(self, study: FrozenStudy) -> dict[str, Any]:
        """The JSON of a study, without its trials."""
        graphs = _custom_plot_data.get_plotly_graph_objects(study.system_attrs)
        detail: dict[str, Any] = _serializer.serialize_study_detail(
            study,
            [],
            [],
            self._gathered.intersection_search_space,
            self._gathered.union_search_space,
            self._gathered.union_user_attrs,
            self._gathered.has_intermediate_values,
            dict(sorted(graphs.items())),
            [],
        )
        del detail["trials"], detail["best_trials"]
        return detail


def trial_json(study_id: int, trial: FrozenTrial, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a trial.

    Args:
        attrs: those of the study's system attributes that are this trial's.
    """
    found: dict[str, Any] = _serializer.serialize_frozen_trial(study_id, trial, dict(attrs))
    return found


def artifact_meta(
    storage: BaseStorage, study_id: int, trial_id: int | None, artifact_id: str
) -> dict[str, Any] | None:
    """What is stored of a trial's file, or a study's where `trial_id` is None; None: nothing.

    Raises:
        KeyError: there is no such study or trial.
    """
    found: dict[str, Any] | None
    if trial_id is None:
        found = _backend.get_study_artifact_meta(storage, study_id, artifact_id)
    else:
        found = _backend.get_trial_artifact_meta(storage, study_id, trial_id, artifact_id)
    return found
