"""The command line itself: quick to answer, every command documented, demo data reproducible."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer.main
from PIL import Image
from typer.testing import CliRunner

from search.cli import app
from search.samples.receipts import write_receipts
from search.samples.streets import CLASSES, VOID, write_streets
from spaces.config import SegmentationConfig, parameter_types
from spaces.text_detection import TextDetectionConfig

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_help_imports_neither_torch_nor_optuna() -> None:
    code = (
        "import sys\n"
        "from search.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'optuna', 'sqlalchemy', 'pydantic', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "launch" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_stands_in_the_readme(command: str) -> None:
    answer = CliRunner().invoke(app, [command, "--help"])
    assert answer.exit_code == 0
    assert len(answer.output.splitlines()) > 3
    assert re.search(rf"segtune {command}\b", (ROOT / "README.md").read_text()), command


def test_options_that_take_part_in_a_study_are_documented() -> None:
    for command in typer.main.get_command(app).commands.values():  # type: ignore[attr-defined]
        for parameter in command.params:
            if parameter.name != "help" and parameter.param_type_name == "option":
                assert parameter.help, f"{command.name} {parameter.name} has no help"


def test_schema_is_printed_for_editors() -> None:
    answer = CliRunner().invoke(app, ["spaces", "--schema"])
    schema = json.loads(answer.output)
    for part, config in zip(
        schema["oneOf"], (SegmentationConfig, TextDetectionConfig), strict=True
    ):
        assert set(part["properties"]["space"]["properties"]) == set(parameter_types(config))


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("segmentation", ("loss.region_share", "loss.class_weights.max_ratio", "optim.lr")),
        ("text_detection", ("loss.dice_weight", "decode.box_thresh", "model.decoder")),
    ],
)
def test_spaces_shows_every_default_dimension(task: str, names: tuple[str, ...]) -> None:
    answer = CliRunner().invoke(app, ["spaces", task])
    for name in names:
        assert name in answer.output


def test_init_of_text_detection_writes_a_file_that_launches(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["init", "text_detection", str(tmp_path)]).exit_code == 0
    write_receipts(tmp_path / "data", train=3, val=2, size=(120, 80))
    from spaces.spec import StudySpec
    from trainers.tasks import load_data

    spec = StudySpec.load(tmp_path / "study.yaml")
    assert len(load_data(spec.data).split("val")) == 2
    assert spec.search_space().free()["decode.box_thresh"].values()[0] == 0.1


def test_init_writes_a_file_that_only_lacks_its_data(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    assert CliRunner().invoke(app, ["init", "segmentation", str(folder)]).exit_code == 0
    write_streets(folder / "data", train=3, val=2, size=(32, 32))
    text = (folder / "study.yaml").read_text()
    names = ", ".join(CLASSES)
    (folder / "study.yaml").write_text(
        text.replace("[background, thing]", f"[{names}]").replace("# ignore_index", "ignore_index")
    )
    from spaces.spec import StudySpec
    from trainers.tasks import load_data

    spec = StudySpec.load(folder / "study.yaml")
    assert len(load_data(spec.data).split("train")) == 3


def test_sample_data_are_a_function_of_the_seed(tmp_path: Path) -> None:
    one = write_streets(tmp_path / "one", train=3, val=1, seed=1)
    two = write_streets(tmp_path / "two", train=3, val=1, seed=1)
    other = write_streets(tmp_path / "other", train=3, val=1, seed=2)
    name = Path("train/images/street_0001.png")
    assert (one / name).read_bytes() == (two / name).read_bytes()
    assert (one / name).read_bytes() != (other / name).read_bytes()


def test_sample_data_have_every_class_and_the_imbalance_of_streets(tmp_path: Path) -> None:
    write_streets(tmp_path, train=24, val=1)
    counts = np.zeros(256, dtype=np.int64)
    for path in (tmp_path / "train" / "masks").iterdir():
        counts += np.bincount(np.asarray(Image.open(path)).ravel(), minlength=256)
    shares = counts[: len(CLASSES)] / counts[: len(CLASSES)].sum()
    assert counts[VOID] > 0
    assert set(np.nonzero(counts)[0]) == {*range(len(CLASSES)), VOID}
    assert shares[CLASSES.index("road")] > 0.1
    assert 0 < shares[CLASSES.index("person")] < 0.03
