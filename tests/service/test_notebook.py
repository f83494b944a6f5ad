"""A study in a notebook: docs/notebook.md as it stands, and what it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest
from optuna.trial import TrialState

import search
from search.database.store import open_store
from search.studies.study import Study
from search.studies.study import open_study as open_in_store
from spaces.errors import InputError
from spaces.run_config import load_run_config
from spaces.text_detection import default_space

PAGE = Path(__file__).resolve().parents[2] / "docs" / "notebook.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_page_runs_as_it_stands(
    finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGTUNE_STORE", finished.url)
    monkeypatch.setenv("SEGTUNE_ARTIFACTS", str(finished.artifacts))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    assert len(BLOCKS) >= 6
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), names)
    store = open_store(finished.url)
    inner = open_in_store(store, "my-study")
    trials, curves = names["trials"], names["everything"]
    assert list(trials["number"]) == [0, 1, 2] and set(trials["reason"]) == {"completed"}
    assert names["value"] == trials["value"].max() == curves["mIoU"].max()
    config = inner.config(inner.trial(names["number"]))
    assert names["config"] == config.flat()
    assert trials["optim.lr"][names["number"]] == config.optim.lr
    assert len(curves) == 6 and set(names["curves"]["trial"]) == {names["number"]}
    assert load_run_config(Path("best/config.yaml"))[1] == config
    assert Path("report.html").stat().st_size < 6_000_000
    store.close()


NAME = "scripted-text_detection"


def test_a_dataframe_has_every_trial_and_its_effective_settings(
    hostile_stores: dict[str, str],
) -> None:
    url = hostile_stores["text_detection"]
    with search.open_study(NAME, url) as study:
        frame = study.dataframe()
        everything = study.dataframe(all_settings=True)
        best = study.best
        assert study.best_config(best.number) == study.best_config()
    assert len(frame) == 21 and list(frame.columns[:3]) == ["number", "state", "reason"]
    space = default_space(4)
    assert set(frame.columns[8:]) == set(space.dims)
    assert set(everything.columns[8:]) == set(space.base.flat())
    ended = frame["value"].notna()
    assert (frame["decode.box_thresh"][ended] == 0.4).all()  # chosen inside the trials
    assert frame["value"].dtype == float and frame["epochs"].dtype == "Int64"
    assert frame["value"].max() == best.value
    assert set(frame["state"]) == {"COMPLETE", "PRUNED", "FAIL"}
    assert frame["origin"][20] == "random" and frame["origin"][0] != "random"
    assert frame["epochs"].isna().sum() == 2  # unfit and crashed


def test_curves_are_tidy(hostile_stores: dict[str, str]) -> None:
    with search.open_study(NAME, hostile_stores["text_detection"]) as study:
        curves = study.curves()
        none = study.curves(trials=[])
    assert list(curves.columns) == [
        "trial", "epoch", "Hmean",
        "train_pixel", "train_threshold", "train_dice", "train_total", "train_share",
        "val_pixel", "val_threshold", "val_dice", "val_total", "lr", "seconds",
    ]  # fmt: skip
    assert not curves.duplicated(["trial", "epoch"]).any()
    assert curves.groupby("trial")["epoch"].max().max() == 4
    assert isinstance(none, pd.DataFrame) and none.empty


def test_figures_go_by_name_and_a_wrong_one_says_the_nearest(
    hostile_stores: dict[str, str],
) -> None:
    with search.open_study(NAME, hostile_stores["text_detection"]) as study:
        figures = study.figures()
        assert {"history", "box-thresh", "early-stopping"} <= set(figures)
        assert sum(name.startswith("slice ") for name in figures) == 6
        assert isinstance(study.figure("history"), go.Figure)
        assert study.importances() == {} and "importances" not in figures  # its values are formulas
        with pytest.raises(InputError, match="no graph histroy; did you mean history"):
            study.figure("histroy")
        html = study._repr_html_()
        assert "Hmean 0.6240, one seed" in html and "<table " in html and "<script" not in html
        assert NAME in repr(study)


def test_a_study_is_seen_as_it_is_now(tmp_path: Path, scripted_study: Callable[..., Study]) -> None:
    from search.studies.slots import Result

    url = f"sqlite:///{tmp_path / 'store.db'}"
    inner = scripted_study(url, "segmentation", endings=["oom"])
    inner.slots.extend(2)
    with search.open_study("scripted-segmentation", url) as study:
        with pytest.raises(InputError, match="has no finished trial yet"):
            _ = study.best
        assert study.curves().empty and "No trial has ended" in study._repr_html_()
        claim = inner.slots.claim(inner.ask)
        assert claim is not None and list(study.dataframe()["state"]) == ["PRUNED", "RUNNING"]
        assert study.dataframe()["reason"].isna().tolist() == [False, True]
        inner.slots.give_back(claim, counts=False)
        assert list(study.dataframe()["state"]) == ["PRUNED", "INTERRUPTED"]
        claim = inner.slots.claim(inner.ask)
        assert claim is not None
        inner.slots.end(claim, Result("COMPLETE", 0.5, "completed", {"best_epoch": 1}))
        assert study.best == (1, 0.5, None, 0) and inner.trial(1).state == TrialState.COMPLETE
    inner.store.close()


def test_a_wrong_name_says_the_nearest(hostile_stores: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean scripted-text_detection"):
        search.open_study("scripted-text-detection", hostile_stores["text_detection"])
    with pytest.raises(InputError, match="does not exist; is its name right"):
        search.open_study("x", f"sqlite:///{tmp_path / 'none.db'}")
    with (
        search.open_study(NAME, hostile_stores["text_detection"], tmp_path / "a") as study,
        pytest.raises(InputError, match="the weights of trial"),
    ):
        study.export(tmp_path / "best")


def test_importing_search_imports_nothing_heavy() -> None:
    code = (
        "import sys, search\n"
        "heavy = {'torch', 'optuna', 'pandas', 'plotly', 'pydantic', 'sqlalchemy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert 'open_study' in dir(search) and callable(search.open_study)\n"
        "assert 'torch' not in sys.modules\n"
        "import search.studies.study\n"
        "assert search.open_study is not search.studies.study.open_study\n"
        "try:\n    search.nothing\nexcept AttributeError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "module 'search' has no attribute 'nothing'\n", done.stderr
