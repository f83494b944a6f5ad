"""`model.init` in study files and configs: paths, names, and what would begin alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from spaces.config import ModelConfig
from spaces.defaults import SCRATCH_ENCODER_RATIO
from spaces.errors import InputError
from spaces.initial_weights import encoder_weights, is_path, starts
from spaces.run_config import dump_run_config, load_run_config
from spaces.space import Choice, EntryError, Float, Space
from spaces.spec import StudySpec
from tests.unit.spaces.test_defaults import spec

INIT, WEIGHTS = "model.init", "model.encoder_weights"


@pytest.mark.parametrize(
    ("value", "path"),
    [
        *((path, True) for path in ("best/", "./best", "/a/b", "w.pth", "w.safetensors")),
        *((name, False) for name in ("imagenet", "noisy-student", "best", None)),
    ],
)
def test_what_a_path_is_depends_on_the_text_alone(value: str | None, path: bool) -> None:
    assert is_path(value) is path


def test_a_name_stands_in_place_of_the_encoders_weights() -> None:
    assert encoder_weights(ModelConfig(encoder_weights="ssl")) == "ssl"
    assert encoder_weights(ModelConfig(encoder_weights="ssl", init="imagenet")) == "imagenet"
    assert encoder_weights(ModelConfig(encoder_weights="ssl", init="best/")) == "ssl"


def study_file(folder: Path, *lines: str) -> Path:
    for name in ("images", "masks", "best"):
        (folder / name).mkdir(exist_ok=True)
    text = """
name: s
task: segmentation
data: {train: {images: images, masks: masks}, val: {fraction: 0.2}, classes: [a, b]}
space:
"""
    path = folder / "study.yaml"
    path.write_text(text + "".join(f"  {line}\n" for line in lines))
    return path


@pytest.mark.parametrize("entry", ["[null, imagenet, best/]", "{choices: [null, imagenet, best/]}"])
def test_a_dimension_like_any_other(entry: str, tmp_path: Path) -> None:
    """null is from scratch there: what the file leaves open must not be drawn twice."""
    space = StudySpec.load(study_file(tmp_path, f"{INIT}: {entry}")).search_space()
    assert space.dims[INIT] == Choice((None, "imagenet", f"{tmp_path}/best"))
    assert space.base.flat()[WEIGHTS] is None
    ratio = space.dims["optim.encoder_lr_ratio"]
    assert isinstance(ratio, Float) and ratio.low == SCRATCH_ENCODER_RATIO
    assert [start["init"] for start in starts(space)] == [None, "imagenet", f"{tmp_path}/best"]


def test_a_fixed_path_leaves_the_rest_as_it_was(tmp_path: Path) -> None:
    space = StudySpec.load(study_file(tmp_path, f"{INIT}: best/")).search_space()
    assert (space.base.flat()[INIT], space.base.flat()[WEIGHTS]) == (f"{tmp_path}/best", "imagenet")
    ratio, usual = (s.dims["optim.encoder_lr_ratio"] for s in (space, spec().search_space()))
    assert ratio == usual


def test_two_that_begin_alike_are_refused() -> None:
    with pytest.raises(EntryError, match=rf"null and imagenet begin alike .*{WEIGHTS}: null"):
        spec(**{INIT: [None, "imagenet"], WEIGHTS: "imagenet"}).search_space()


def test_a_path_that_is_not_there_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = study_file(tmp_path, "train.epochs: 3", f"{INIT}: [null, bost/]")
    with pytest.raises(
        InputError, match=r"model\.init: .*/bost does not exist; did you mean .*/best"
    ):
        StudySpec.load(path)


def test_conditions_say_which_networks_draw_it() -> None:
    entry = {"choices": [None, "/w/best"], "when": {"model.encoder": "resnet18"}}
    space = spec(**{INIT: entry, WEIGHTS: None}).search_space()

    def of(encoder: str) -> list[str | None]:
        return [start["init"] for start in starts(space, arch="Unet", encoder=encoder)]

    assert of("resnet18") == [None, "/w/best"] and of("resnet50") == [None]


def test_a_config_loads_where_its_weights_are_gone(tmp_path: Path) -> None:
    """What was trained from them needs them no more; a relative path starts at its folder."""
    given = spec()
    config = Space({}, {}, given.search_space().base).base.replace({INIT: "../gone/"})
    (tmp_path / "config.yaml").write_text(dump_run_config(given.data, config))
    _, loaded = load_run_config(tmp_path / "config.yaml", splits=False)
    assert loaded.flat()[INIT] == str(tmp_path.parent / "gone")


def test_a_study_file_cannot_say_what_its_weights_are(tmp_path: Path) -> None:
    path = study_file(tmp_path, f"{INIT}: best/")
    path.write_text(path.read_text() + "init_sha256: {}\n")
    with pytest.raises(InputError, match="init_sha256: unknown key"):
        StudySpec.load(path)
