"""`model.init` in the commands: told by check, bound to the study, recorded, not needed later."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from search.cli import app
from search.work.preflight import preflight, settled
from spaces.config import ModelConfig
from spaces.difference import spec_difference
from spaces.errors import InputError
from spaces.run_config import dump_run_config
from spaces.spec import StudySpec
from tests.stores import small_study
from trainers.checkpoint import save_model, weights_digest
from trainers.image_counts import ImageCounts
from trainers.initial_weights import digest
from trainers.models import build_model
from trainers.predict import Predictor

pytestmark = pytest.mark.slow


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, words)])


@pytest.fixture
def study(streets: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a study file beside an export `best/`, of three classes more than its own."""
    config = StudySpec.load(_file(tmp_path, streets)).search_space().base.flat()
    network = build_model(_model(config), 11)
    counts = ImageCounts(np.zeros((1, 1, 3), np.int64))
    save_model(tmp_path, 1, network, counts).rename(tmp_path / "model")
    (tmp_path / "best").mkdir()
    (tmp_path / "model").rename(tmp_path / "best" / "model")
    return lambda *lines: _file(tmp_path, streets, *lines)


def _file(folder: Path, streets: Path, *lines: str) -> Path:
    text = small_study(streets, name="fine")
    path = folder / "study.yaml"
    path.write_text(text.replace("space:\n", "space:\n" + "".join(f"  {line}\n" for line in lines)))
    return path


def _model(flat: dict[str, Any]) -> ModelConfig:
    names = ("arch", "encoder", "encoder_weights")
    return ModelConfig(**{name: flat[f"model.{name}"] for name in names})


def test_check_tells_what_matches(study: Callable[..., Path]) -> None:
    answer = run("check", study("model.init: [null, best/]"))
    assert answer.exit_code == 0, answer.output
    (line,) = [one for one in answer.output.splitlines() if one.startswith("model.init: ")]
    assert "Unet with mobilenet_v2 begins with" in line and "best (Unet, mobilenet_v2)" in line
    assert (
        "2 of another shape, left as they begin: segmentation_head.0.weight (8, 16" in answer.output
    )


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("model.init: bost/",), r"bost does not exist; did you mean .*best\? \(.*line"),
        (("model.init: best",), "mobilenet_v2 has no 'best' weights"),
        (("model.init: other/",), "Unet with mobilenet_v2, so nothing of it fits model.encoder"),
    ],
)
def test_what_cannot_be_begun_with_stops_check(
    lines: tuple[str, ...], said: str, study: Callable[..., Path], tmp_path: Path
) -> None:
    path = study(*lines)
    if "other" in lines[0]:
        (tmp_path / "best").rename(tmp_path / "other")
        path.write_text(path.read_text().replace("encoder: mobilenet_v2", "encoder: resnet18"))
    answer = run("check", path)
    assert answer.exit_code == 2
    assert re.search(said, answer.output), answer.output


def test_a_study_is_bound_to_its_weights(study: Callable[..., Path], tmp_path: Path) -> None:
    path = study("model.init: [null, best/]")
    spec = StudySpec.load(path)
    begun = settled(spec, preflight(spec))
    weights = tmp_path / "best" / "model" / "model.safetensors"
    assert begun.init_sha256 == {str(tmp_path / "best"): weights_digest(weights.parent)}
    stored = StudySpec.from_json(begun.to_json())
    preflight(stored)
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(InputError, match=r"the weights in .*best have changed since study fine"):
        preflight(stored)
    again = settled(StudySpec.load(path), preflight(StudySpec.load(path)))
    assert "init_sha256" in spec_difference(stored, again)


def test_a_model_is_trained_from_it_and_needs_it_no_more(
    study: Callable[..., Path], tmp_path: Path
) -> None:
    spec = StudySpec.load(study())
    config = spec.search_space().base.replace({"train.epochs": 1})
    (tmp_path / "config.yaml").write_text(dump_run_config(spec.data, config))
    to, best = tmp_path / "tuned", tmp_path / "best"
    words = ("train", tmp_path / "config.yaml", "--to", to, "--set")
    gone = run(*words, f"model.init={tmp_path}/gone/")
    assert gone.exit_code == 2 and "gone does not exist on this machine" in gone.output
    answer = run(*words, f"model.init={best}/")
    assert answer.exit_code == 0, answer.output
    facts = json.loads((to / "provenance.json").read_text())
    assert facts["init_sha256"] == digest(str(best))
    assert f"init: {best}" in (to / "config.yaml").read_text()
    shutil.rmtree(best)
    (mask,) = Predictor(to).predict([np.zeros((20, 30, 3), np.uint8)])
    assert np.shape(mask) == (20, 30)
    scored = run("evaluate", to)
    assert scored.exit_code == 0, scored.output
