"""Study files with the settings of the field: each loads, draws in range and passes the check."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import timm
import yaml
from typer.testing import CliRunner

from search.cli import app
from search.samples.receipts import write_receipts
from search.samples.streets import CLASSES, write_streets
from search.templates import recipes
from search.work.preflight import preflight
from spaces.errors import InputError
from spaces.models import ENCODERS
from spaces.spec import TASKS, StudySpec
from spaces.starting import origin, starting_params
from tests.blobs import write_blobs

ALL = [(task, name) for task in TASKS for name in recipes(task)]
SEARCHES = {"receipts": 2, "lanes-search": 1, "four-way": 0}
"""{those that search: how many recipes are among the first trials as they stand}."""


def written(task: str, name: str, folder: Path) -> StudySpec:
    """Beside folders without files."""
    for split in ("train", "val"):
        for kind in ("images", "labels" if task == "text_detection" else "masks"):
            (folder / "data" / split / kind).mkdir(parents=True)
    answer = CliRunner().invoke(app, ["init", task, str(folder), "--recipe", name])
    assert answer.exit_code == 0, answer.output
    return StudySpec.load(folder / "study.yaml")


def test_every_recipe_is_known() -> None:
    assert len(ALL) == 11 and set(SEARCHES) < {name for _, name in ALL}


@pytest.mark.parametrize(("task", "name"), ALL)
def test_a_recipe_draws_what_it_names(task: str, name: str, tmp_path: Path) -> None:
    """One config, or a search in range; its encoders are known to smp or timm."""
    spec = written(task, name, tmp_path)
    space = spec.search_space()
    assert spec.name == name
    assert bool(space.dims) is (name in SEARCHES)
    named = yaml.safe_load((tmp_path / "study.yaml").read_text())["space"]
    assert set(space.dims) <= set(named)
    for setting, value in named.items():
        if not isinstance(value, list | dict):
            assert str(space.base.flat()[setting]) in (str(value), str(float_of(value))), setting
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20 if space.dims else 1):
        config = space.sample(study.ask())
        encoder = config.flat()["model.encoder"]
        assert encoder in ENCODERS or timm.is_model(encoder.removeprefix("tu-"))
    points = [(point, starting_params(space, point)) for point in spec.starting_points]
    as_they_stand = [p for p, params in points if origin(space, p, params) == p.name]
    if name in SEARCHES:
        assert len(as_they_stand) == SEARCHES[name]


def float_of(value: Any) -> Any:
    """YAML 1.1, which our own reader is not, takes 1e-3 for a text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def test_the_receipts_are_those_of_their_board(tmp_path: Path) -> None:
    """As they stand there; the default space has one that its authors' words do not name."""
    names = ("model.encoder", "model.decoder", "data.resolution", "optim.lr", "train.batch_size")
    decode = ("train.patience", "decode.box_thresh", "decode.max_candidates")
    found = {}
    for name in ("resnet50-unet", "hrnet-fpn"):
        flat = written("text_detection", name, tmp_path / name).search_space().base.flat()
        found[name] = [flat[setting] for setting in names + decode]
    assert found == {
        "resnet50-unet": ["resnet50", "unet", 1024, 1e-3, 4, 3, 0.4, 500],
        "hrnet-fpn": ["tu-hrnet_w44", "fpn", 1280, 5e-4, 8, 0, 0.5, 1000],
    }


@pytest.mark.slow
@pytest.mark.parametrize(("task", "name"), ALL)
def test_a_recipe_passes_the_check_with_data_of_its_layout(
    task: str, name: str, tmp_path: Path
) -> None:
    """Without pretrained weights; that timm's are asked for rightly is another test's."""
    written(task, name, tmp_path)
    shutil.rmtree(tmp_path / "data")
    text = (tmp_path / "study.yaml").read_text().replace("[null, imagenet]", "null")
    text = text.replace("weights: imagenet", "weights: null")
    data = tmp_path / "data"
    if task == "text_detection":
        write_receipts(data, train=3, val=2, size=(480, 300))
    elif "[lane]" in text:
        write_blobs(data, train=2, val=2)
    else:
        write_streets(data, train=3, val=2, size=(32, 32))
        text = text.replace("[background, thing]", f"[{', '.join(CLASSES)}]")
        text = text.replace("# ignore_index", "ignore_index")
    (tmp_path / "study.yaml").write_text(text)
    preflight(StudySpec.load(tmp_path / "study.yaml"))


def test_the_file_is_written_here_where_no_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(app, ["init", "text_detection", "--recipe", "hrnet-fpn"])
    assert answer.exit_code == 0 and "wrote study.yaml;" in answer.output
    assert "name: hrnet-fpn" in (tmp_path / "study.yaml").read_text()


def test_an_unknown_recipe_lists_those_known(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["init", "segmentation", str(tmp_path), "--recipe", "lane"])
    said = answer.output.strip()
    assert answer.exit_code == 2
    assert "segmentation has no recipe 'lane'; known: encoder-decoder, four-way, lanes" in said
    assert said.endswith("did you mean lanes?") and not list(tmp_path.iterdir())


def test_the_package_of_a_metric_is_asked_for_before_any_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cleval", None)
    written("text_detection", "receipts", tmp_path)
    path = tmp_path / "study.yaml"
    path.write_text(path.read_text().replace("# metric: cleval", "metric: cleval"))
    with pytest.raises(InputError, match=r"pip install 'segtune\[cleval\]'"):
        preflight(StudySpec.load(path))  # else: there is no image
