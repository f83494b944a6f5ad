"""What is taken for granted of Optuna and optuna-dashboard beyond what they promise.

Both are pinned to one minor version. When another one is installed, these tests fail and say which
module to look at; what they hold is what that module was written for.
"""

from __future__ import annotations

import ast
import inspect
import json
import math
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial
from optuna_dashboard import _custom_plot_data, _importance, _note, _serializer
from optuna_dashboard._inmemory_cache import _CachedExtraStudyProperty
from optuna_dashboard.artifact import _backend
from packaging.requirements import Requirement

from search.dashboard import optuna_dashboard_private
from search.database import optuna_private
from search.files import shown
from spaces.space import Int

ROOT = Path(__file__).resolve().parents[3]
MODULES = {
    "optuna": "search/database/optuna_private.py",
    "optuna-dashboard": "search/dashboard/optuna_dashboard_private.py",
}
READ = {"optuna": "5.0", "optuna-dashboard": "0.21"}  # the minors that these tests were written for
HELD_BY = {
    "optuna": "test_optuna_reader.py, test_optuna_draft.py and test_statements.py",
    "optuna-dashboard": "test_study_page.py, test_publish.py and test_dashboard.py",
}


def advice(package: str, installed: str) -> str:
    return (
        f"{package} {installed} is installed; {MODULES[package]} was written for {READ[package]}. "
        f"Read what has changed in the private parts that it uses, bring it and what this file "
        f"says of them up to date, and run {HELD_BY[package]} of tests/service. Then set READ here "
        "and the range in pyproject.toml to the new minor version"
    )


OPTUNA = advice("optuna", version("optuna"))
DASHBOARD = advice("optuna-dashboard", version("optuna-dashboard"))

# ---------------------------------------------------------------- versions


def complaint(package: str, installed: str) -> str | None:
    """What to do about an installed version; None where it is the one that was read."""
    return None if installed.startswith(f"{READ[package]}.") else advice(package, installed)


@pytest.mark.parametrize("package", MODULES)
def test_the_installed_minor_is_the_one_that_was_read(package: str) -> None:
    told = complaint(package, version(package))
    assert told is None, told


@pytest.mark.parametrize(("package", "newer"), [("optuna", "5.1.0"), ("optuna-dashboard", "1.0.0")])
def test_another_minor_is_told_with_what_to_do(package: str, newer: str) -> None:
    told = complaint(package, newer)
    assert told is not None and newer in told and MODULES[package] in told
    assert (ROOT / MODULES[package]).is_file() and "pyproject.toml" in told
    for name in HELD_BY[package].replace(",", "").replace(" and", "").split():
        assert (ROOT / "tests/service" / name).is_file(), name


@pytest.mark.parametrize("package", MODULES)
def test_only_that_minor_can_be_installed(package: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed = {(r := Requirement(line)).name: r.specifier for line in project["dependencies"]}
    major, minor = READ[package].split(".")
    inside, outside = f"{READ[package]}.99", f"{major}.{int(minor) + 1}.0"
    assert inside in allowed[package] and outside not in allowed[package], MODULES[package]


def test_every_table_belongs_to_a_study_or_a_trial_and_is_deleted_with_it(tmp_path: Path) -> None:
    """What `segtune delete` and the roles go by."""
    storage = RDBStorage(f"sqlite:///{tmp_path / 'store.db'}")
    there = set(sa.inspect(storage.engine).get_table_names())
    storage.engine.dispose()
    tables = optuna_private.optuna_tables()
    assert there == {table.name for table in tables} | set(optuna_private.VERSIONS), OPTUNA
    assert all({"study_id", "trial_id"} & set(table.c.keys()) for table in tables), OPTUNA


# ---------------------------------------------------------------- one module each


def said_of_private_parts(path: Path) -> Iterator[str]:
    """Private modules of either package that a file imports, and private names of Optuna in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{name.name}" for name in node.names]
        elif isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        elif isinstance(node, ast.FunctionDef):
            names = [f"optuna.{node.name}"] if node.name in dir(RDBStorage) else []
        for name in names:
            first, *rest = name.split(".")
            if first in ("optuna", "optuna_dashboard") and any(part[0] == "_" for part in rest):
                if not rest[-1].startswith("__"):
                    yield name
            elif isinstance(node, ast.Attribute) and node.attr in ("_trial_id", "_study_id"):
                yield name


def test_nothing_else_knows_private_parts() -> None:
    knowing = {
        str(path.relative_to(ROOT)): said
        for path in sorted((ROOT / "search").rglob("*.py"))
        if (said := sorted(set(said_of_private_parts(path))))
    }
    ours = {module: knowing.pop(module) for module in MODULES.values()}
    assert all(ours.values())  # private parts are recognised
    assert knowing == {}, f"what is private is imported by {' and '.join(MODULES.values())} alone"


# ---------------------------------------------------------------- Optuna

ATTRS = {"key": "VARCHAR(512)", "value_json": "TEXT"}
STATES = "RUNNING COMPLETE PRUNED FAIL WAITING"
COLUMNS = {
    "studies": {"study_id": "INTEGER not null", "study_name": "VARCHAR(512) not null"},
    "study_system_attributes": {
        "study_system_attribute_id": "INTEGER not null",
        "study_id": "INTEGER",
        **ATTRS,
    },
    "study_user_attributes": {
        "study_user_attribute_id": "INTEGER not null",
        "study_id": "INTEGER",
        **ATTRS,
    },
    "trials": {
        "trial_id": "INTEGER not null",
        "number": "INTEGER",
        "study_id": "INTEGER",
        "state": f"{STATES} not null",
        "datetime_start": "DATETIME",
        "datetime_complete": "DATETIME",
    },
    "trial_params": {
        "param_id": "INTEGER not null",
        "trial_id": "INTEGER",
        "param_name": "VARCHAR(512)",
        "param_value": "FLOAT",
        "distribution_json": "TEXT",
    },
    "trial_values": {
        "trial_value_id": "INTEGER not null",
        "trial_id": "INTEGER not null",
        "objective": "INTEGER not null",
        "value": "FLOAT",
        "value_type": "FINITE INF_POS INF_NEG not null",
    },
    "trial_intermediate_values": {
        "trial_intermediate_value_id": "INTEGER not null",
        "trial_id": "INTEGER not null",
        "step": "INTEGER not null",
        "intermediate_value": "FLOAT",
        "intermediate_value_type": "FINITE INF_POS INF_NEG NAN not null",
    },
    "trial_user_attributes": {
        "trial_user_attribute_id": "INTEGER not null",
        "trial_id": "INTEGER",
        **ATTRS,
    },
    "trial_system_attributes": {
        "trial_system_attribute_id": "INTEGER not null",
        "trial_id": "INTEGER",
        **ATTRS,
    },
}
UNIQUE = {  # what ON CONFLICT relies on
    "study_system_attributes": {"study_id", "key"},
    "study_user_attributes": {"study_id", "key"},
    "trial_params": {"trial_id", "param_name"},
    "trial_values": {"trial_id", "objective"},
    "trial_intermediate_values": {"trial_id", "step"},
    "trial_user_attributes": {"trial_id", "key"},
    "trial_system_attributes": {"trial_id", "key"},
}
TABLES = {t.name: t for t in vars(optuna_private).values() if isinstance(t, sa.Table)}


def column_form(column: sa.Column[Any]) -> str:
    kind = column.type
    form = " ".join(kind.enums) if isinstance(kind, sa.Enum) else str(kind)
    return form if column.nullable else f"{form} not null"


def test_columns_of_optunas_tables() -> None:
    found = {n: {c.name: column_form(c) for c in t.columns} for n, t in TABLES.items()}
    assert found == COLUMNS, OPTUNA


def test_what_is_unique_in_optunas_tables() -> None:
    found = {
        name: {column.name for column in rule.columns}
        for name, table in TABLES.items()
        for rule in table.constraints
        if isinstance(rule, sa.UniqueConstraint)
    }
    assert found == UNIQUE, OPTUNA


def test_the_tables_that_optuna_makes_are_those_that_it_defines() -> None:
    storage = RDBStorage("sqlite://")
    made = sa.inspect(storage.engine)
    for name, columns in COLUMNS.items():
        assert {column["name"] for column in made.get_columns(name)} == set(columns), OPTUNA
    assert storage.get_current_version() == storage.get_head_version() == "v3.2.0.a", OPTUNA


def test_states_by_name() -> None:
    assert " ".join(state.name for state in TrialState) == STATES, OPTUNA


@pytest.mark.parametrize(
    ("value", "stored", "kind"),
    [
        (0.5, 0.5, "FINITE"),
        (math.inf, None, "INF_POS"),
        (-math.inf, None, "INF_NEG"),
        (math.nan, None, "NAN"),
    ],
)
def test_values_as_they_are_stored(value: float, stored: float | None, kind: str) -> None:
    step = optuna_private.step_row(7, 3, value)
    assert step.pop("intermediate_value_type").name == kind, OPTUNA
    assert step == {"trial_id": 7, "step": 3, "intermediate_value": stored}, OPTUNA
    back = optuna_private.number(stored, kind)
    assert back == value or (math.isnan(back) and math.isnan(value))
    if kind != "NAN":  # which a trial's value may not be
        row = optuna_private.value_row(7, value)
        assert row.pop("value_type").name == kind, OPTUNA
        assert row == {"trial_id": 7, "objective": 0, "value": stored}, OPTUNA


@pytest.mark.parametrize(
    ("distribution", "value", "stored", "attributes"),
    [
        (
            FloatDistribution(1e-4, 1e-2, log=True),
            1e-3,
            1e-3,
            {"low": 1e-4, "high": 1e-2, "log": True, "step": None},
        ),
        (
            FloatDistribution(0, 1, step=0.5),
            0.5,
            0.5,
            {"low": 0.0, "high": 1.0, "log": False, "step": 0.5},
        ),
        (IntDistribution(1, 8), 3, 3.0, {"low": 1, "high": 8, "log": False, "step": 1}),
        (
            CategoricalDistribution(("adamw", None, 4)),
            4,
            2,
            {"choices": ["adamw", None, 4]},
        ),
    ],
)
def test_parameters_as_they_are_stored(
    distribution: Any, value: Any, stored: float, attributes: dict[str, Any]
) -> None:
    row = optuna_private.param_row(7, "a", value, distribution)
    text = row.pop("distribution_json")
    assert row == {"trial_id": 7, "param_name": "a", "param_value": stored}, OPTUNA
    assert json.loads(text) == {
        "name": type(distribution).__name__,
        "attributes": attributes,
    }, OPTUNA
    assert text == distribution_to_json(distribution)
    assert json_to_distribution(text).to_external_repr(stored) == value, OPTUNA


def test_optuna_reads_trials_through_the_hook() -> None:
    class Hooked(optuna_private.OwnReads):
        asked: tuple[Any, ...] = ()

        def read_trials(self, *asked: Any) -> list[optuna.trial.FrozenTrial]:
            self.asked = asked
            return []

    storage = Hooked("sqlite://")
    study = optuna.create_study(storage=optuna_private.cached(storage))
    study_id = optuna_private.id_of_study(study)
    assert study.trials == [] and storage.asked == (study_id, None, set(), -1), OPTUNA


def test_ids() -> None:
    study = optuna.create_study()
    study.add_trial(create_trial(value=1.0))
    (trial,) = study.trials
    assert optuna_private.id_of_trial(trial) == 0, OPTUNA
    optuna_private.give_id(trial, 9)
    assert optuna_private.id_of_trial(trial) == 9
    assert study.trials[0].number == 0


# ---------------------------------------------------------------- optuna-dashboard

STUDY_KEYS = (
    "artifacts directions feedback_component_type has_intermediate_values "
    "intersection_search_space is_preferential name note plotly_graph_objects "
    "union_search_space union_user_attrs user_attrs"
)
TRIAL_KEYS = (
    "artifacts constraints datetime_complete datetime_start fixed_params "
    "intermediate_values note number params state study_id trial_id user_attrs values"
)


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (_note.note_ver_key, "trial_id"),
        (_note.note_str_key_prefix, "trial_id"),
        (_note.split_body, "note_str trial_id"),
        (_note.get_note_from_system_attrs, "system_attrs trial_id"),
        (_custom_plot_data.split_plot_data, "plot_data_str key_prefix"),
        (_custom_plot_data.get_plotly_graph_objects, "system_attrs"),
        (
            _serializer.serialize_study_detail,
            "study best_trials trials intersection union union_user_attrs has_intermediate_values "
            "plotly_graph_objects skipped_trial_numbers",
        ),
        (_serializer.serialize_frozen_trial, "study_id trial study_system_attrs"),
        (_backend.get_study_artifact_meta, "storage study_id artifact_id"),
        (_backend.get_trial_artifact_meta, "storage study_id trial_id artifact_id"),
        (_CachedExtraStudyProperty.update, "self trials"),
    ],
)
def test_functions_of_optuna_dashboard(function: Callable[..., Any], parameters: str) -> None:
    assert " ".join(inspect.signature(function).parameters) == parameters, DASHBOARD


def test_a_note_as_attributes() -> None:
    whole = {
        "dashboard:note_ver": 3,
        "dashboard:note_str:0": "a" * 2045,
        "dashboard:note_str:1": "b",
    }
    body = "a" * 2045 + "b"
    assert optuna_dashboard_private.note_attrs(body, 3, None) == whole, DASHBOARD
    assert optuna_dashboard_private.note(whole) == (body, 3), DASHBOARD
    assert optuna_dashboard_private.note({}) == ("", 0), DASHBOARD
    found = optuna_dashboard_private.note_attrs("c", 1, 7)
    assert found == {"dashboard:7:note_ver": 1, "dashboard:7:note_str:0": "c"}, DASHBOARD
    assert optuna_dashboard_private.has_note(found, 7)
    assert not optuna_dashboard_private.has_note(found, 8)
    assert all(key.startswith(tuple(optuna_dashboard_private.note_prefixes())) for key in whole)


def test_notes_are_found_by_their_patterns() -> None:
    keys = {
        **optuna_dashboard_private.note_attrs("a", 1, None),
        **optuna_dashboard_private.note_attrs("b", 1, 7),
    }
    with sa.create_engine("sqlite://").connect() as connection:
        found = {
            key
            for key in keys
            for pattern in optuna_dashboard_private.NOTES
            if connection.execute(sa.select(sa.literal(key).like(pattern))).scalar()
        }
    assert found == {"dashboard:note_ver", "dashboard:note_str:0", "dashboard:7:note_ver"}, (
        DASHBOARD
    )


def test_a_graph_as_attributes() -> None:
    found = optuna_dashboard_private.graph_attrs("loss", "x" * 2046)
    assert found == {
        "dashboard:plot_data:loss:0": "x" * 2045,
        "dashboard:plot_data:loss:1": "x",
    }, DASHBOARD
    assert all(key.startswith(optuna_dashboard_private.graph_prefix("loss")) for key in found)
    assert _custom_plot_data.get_plotly_graph_objects(found) == {"loss": "x" * 2046}, DASHBOARD


def test_keys_of_files_are_optuna_dashboards() -> None:
    assert shown.OF_STUDY == _backend.ARTIFACTS_ATTR_PREFIX == "artifacts:", DASHBOARD
    assert shown.OF_TRIALS == _backend.DASHBOARD_ARTIFACTS_ATTR_PREFIX == "dashboard:artifacts:", (
        DASHBOARD
    )


def test_attributes_are_sorted_to_their_trials() -> None:
    keys = {
        "dashboard:7:note_ver": 7,
        "dashboard:7:note_str:0": 7,
        f"{shown.OF_TRIALS}8:5e9d": 8,
        f"{shown.OF_STUDY}5e9d": None,
        "dashboard:note_ver": None,
        "dashboard:plot_data:7:0": None,
    }
    assert {key: optuna_dashboard_private.trial_of(key) for key in keys} == keys, DASHBOARD


def test_files_of_studies_and_trials() -> None:
    study = optuna.create_study()
    study.add_trial(create_trial(value=1.0))
    storage, study_id = study._storage, optuna_private.id_of_study(study)
    for key in (f"{shown.OF_STUDY}a", f"{shown.OF_TRIALS}0:b"):
        storage.set_study_system_attr(study_id, key, json.dumps({"filename": key}))
    meta = optuna_dashboard_private.artifact_meta
    assert meta(storage, study_id, None, "a") == {"filename": "artifacts:a"}, DASHBOARD
    assert meta(storage, study_id, 0, "b") == {"filename": "dashboard:artifacts:0:b"}, DASHBOARD
    assert meta(storage, study_id, 0, "a") is None


def test_importances_as_the_card_is_told_them() -> None:
    trial = create_trial(value=1.0, params={"x": 1}, distributions={"x": IntDistribution(0, 2)})
    found = optuna_dashboard_private.importances_json({"x": 0.5}, {"x": Int(0, 2)})
    assert found == _importance.convert_to_importance_type({"x": 0.5}, [trial]), DASHBOARD


def test_keys_of_the_json_answers() -> None:
    trial = create_trial(value=1.0, params={"x": 1}, distributions={"x": IntDistribution(0, 2)})
    gathered = optuna_dashboard_private.StudyJson()
    gathered.add([trial])
    study = optuna_private.FrozenStudy(
        "s", None, {}, {}, 1, directions=[optuna.study.StudyDirection.MAXIMIZE]
    )
    assert " ".join(sorted(gathered.of(study))) == STUDY_KEYS, DASHBOARD
    found = optuna_dashboard_private.trial_json(1, trial, {})
    assert " ".join(sorted(found)) == TRIAL_KEYS, DASHBOARD
