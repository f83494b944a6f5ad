"""A study file from a browser names nothing outside of the runner's data roots."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spaces.errors import InputError
from spaces.paths import ROOTS
from spaces.sources import existing
from spaces.spec import StudySpec

OUTSIDE = "lies outside of the folders that study files may name here"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of two roots, with a data set; beside it lies what nobody is to read."""
    root = tmp_path / "root"
    for folder in (root / "images", tmp_path / "second", tmp_path / "private" / "images"):
        folder.mkdir(parents=True)
    for folder in (root, tmp_path / "private"):
        (folder / "classes.txt").write_text("road\n")
        (folder / "weights.pt").touch()
    (root / "link").symlink_to(tmp_path / "private")
    (root / "inner").symlink_to(root / "images")
    monkeypatch.setenv(ROOTS, os.pathsep.join((str(root), str(tmp_path / "second"))))
    return root


def load(
    folder: Path, images: str = "images", classes: str = "[road]", init: str = ""
) -> StudySpec:
    """Load a file that lies elsewhere, as that of a job does."""
    folder.mkdir(exist_ok=True)
    file = folder / "study.yaml"
    file.write_text(
        f"name: theirs\ntask: segmentation\ndata:\n  train: {{images: {images}, masks: images}}\n"
        f"  val: {{fraction: 0.5}}\n  classes: {classes}\n" + (init and f"space: {{{init}}}\n")
    )
    return StudySpec.load(file)


def test_what_lies_below_a_root_is_found_from_there(root: Path, tmp_path: Path) -> None:
    job = tmp_path / "job"
    for given in ("images", str(root / "images"), "../root/images", "inner", "./inner/../images"):
        spec = load(job, given, "classes.txt", "model.init: [weights.pt, imagenet]")
        assert spec.data.train.images == str(root / "images")
        assert spec.space["model.init"] == [str(root / "weights.pt"), "imagenet"]
    (tmp_path / "second" / "more").mkdir()
    assert load(job, "more").data.train.images == str(tmp_path / "second" / "more")
    job_s_own = job / "images"
    job_s_own.mkdir()
    assert load(job, "images").data.train.images == str(root / "images")  # not beside the file


@pytest.mark.parametrize("given", ["private", "absent"])  # what is there, and what is not
@pytest.mark.parametrize(
    "path", ["{above}/{given}/images", "../{given}/images", "images/../../{given}", "link/{given}"]
)
def test_what_lies_outside_is_refused_whether_it_is_there_or_not(
    root: Path, tmp_path: Path, path: str, given: str
) -> None:
    named = path.format(above=tmp_path, given=given)
    with pytest.raises(InputError) as refused:
        load(tmp_path / "job", named)
    assert str(refused.value) == (
        f"data.train.images: {named!r} {OUTSIDE}: {root}, {tmp_path / 'second'} "
        f"({tmp_path / 'job' / 'study.yaml'} line 4)"
    )


@pytest.mark.parametrize(
    ("classes", "init", "line"),
    [
        ("../private/classes.txt", "", "data.classes.* line 6"),
        ("link/classes.txt", "", "data.classes.* line 6"),
        ("[road]", "model.init: ../private/weights.pt", "model.init.* line 7"),
        ("[road]", "model.init: [null, link/weights.pt]", "model.init.* line 7"),
        ("[road]", "model.init: {choices: [link/weights.pt]}", "model.init.* line 7"),
    ],
)
def test_neither_classes_nor_weights_come_from_outside(
    root: Path, tmp_path: Path, classes: str, init: str, line: str
) -> None:
    with pytest.raises(InputError, match=line) as refused:
        load(tmp_path / "job", "images", classes, init)
    assert OUTSIDE in str(refused.value)


def test_homes_are_no_way_out_and_nobody_is_told_whose_there_are(
    root: Path, tmp_path: Path
) -> None:
    said = set()
    for name in ("daemon", "nobody-of-this-name"):
        with pytest.raises(InputError) as refused:
            existing(tmp_path, f"~{name}/x", "data.classes", "line 1")
        said.add(str(refused.value).replace(name, "NAME"))
    assert len(said) == 1 and "does not exist" in said.pop()


def test_a_path_that_is_none_is_refused(root: Path, tmp_path: Path) -> None:
    for given in ('"a\\0b"', "x" * 5000):
        with pytest.raises(InputError, match=r"data\.train\.images: .* cannot be read"):
            load(tmp_path / "job", given)
