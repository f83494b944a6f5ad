"""A study file from a stranger: what it may read, and how little of that is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from spaces.errors import InputError
from spaces.sources import files_elsewhere
from spaces.spec import StudySpec
from spaces.yamlfile import parse_yaml
from trainers.data import find_samples
from trainers.dbnet.icdar import read_coco_text, read_icdar

SECRETS = [
    "root:$6$f9Kx2kq1$Zsecretsecret:19000:0:99999:7:::\n",
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n",
    "# aws\naws_secret_access_key = wJalrXUtnFEMIK7MDENG\n",
    "127.0.0.1\tlocalhost router.internal\n",
    "a" * 101 + "\n",
    "<!DOCTYPE html><title>Intranet of ACME</title>\n",
    '{"auths": {"registry.example": "dXNlcjpwYXNz"}}\n',
]


def study(folder: Path, classes: str = "classes.txt") -> Path:
    (folder / "images").mkdir(exist_ok=True)
    file = folder / "study.yaml"
    file.write_text(
        "name: theirs\ntask: segmentation\ndata:\n  train: {images: images, masks: images}\n"
        f"  val: {{fraction: 0.5}}\n  classes: {classes}\n"
    )
    return file


def pipe(path: Path) -> None:
    os.mkfifo(path)


def giant(path: Path) -> None:
    """1 GB that takes no room on the disk."""
    path.touch()
    os.truncate(path, 10**9)


@pytest.mark.parametrize(
    ("make", "says"), [(pipe, "not a plain file"), (giant, "it has more than [0-9]+ bytes")]
)
@pytest.mark.parametrize("name", ["study.yaml", "classes.txt", "classes.json", "list.txt", "t.txt"])
def test_a_pipe_or_a_giant_is_refused_unread(
    make: Callable[[Path], None], says: str, name: str, tmp_path: Path
) -> None:
    file = study(tmp_path, name)
    (tmp_path / name).unlink(missing_ok=True)
    make(tmp_path / name)
    with pytest.raises((InputError, OSError), match=says):
        if name == "list.txt":
            split = {"train": {"list": str(tmp_path / name)}, "val": {"fraction": 0.5}}
            data = StudySpec.of({"name": "x", "task": "segmentation", "data": split | CLASSES}).data
            find_samples(data.train, "train")  # type: ignore[arg-type]
        elif name == "t.txt":
            read_icdar(tmp_path / name)
        else:
            StudySpec.load(file)


CLASSES = {"classes": ["a", "b"]}


def test_a_device_is_no_file_of_classes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a plain file"):
        StudySpec.load(study(tmp_path, "/dev/zero"))


@pytest.mark.parametrize("secret", SECRETS)
def test_what_is_no_class_name_is_hardly_quoted(secret: str, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text(secret)
    with pytest.raises(InputError, match=r"classes\.txt line 1: .* is no class name") as caught:
        StudySpec.load(study(tmp_path))
    shared = [n for n in range(len(secret)) if secret[:n].strip() in str(caught.value)]
    assert max(shared) <= 14  # 12 characters, and their quotes
    (tmp_path / "list.txt").write_text(secret.replace(" ", "").strip() + " x\n")
    split = {"train": {"list": str(tmp_path / "list.txt")}, "val": {"fraction": 0.5}}
    data = StudySpec.of({"name": "x", "task": "segmentation", "data": split | CLASSES}).data
    with pytest.raises(InputError) as caught:
        find_samples(data.train, "train")  # type: ignore[arg-type]
    assert secret[13:30] not in str(caught.value)


def test_labels_that_are_none_are_hardly_quoted(tmp_path: Path) -> None:
    for secret in SECRETS:
        (tmp_path / "labels").write_text(secret)
        for read in (read_icdar, read_coco_text):
            if secret.startswith("#"):
                continue  # a comment says nothing
            with pytest.raises(ValueError) as caught:
                read(tmp_path / "labels")
            assert secret[14:34] not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        "9" * 5000,
        '{"classes": ["a"], "ignore_index": "secret"}',
        '["a", "b\\u0007"]',
    ],
)
def test_json_that_is_no_list_of_names_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(InputError, match=r"^data\.classes: ") as caught:
        StudySpec.load(study(tmp_path, "classes.json"))
    assert len(str(caught.value)) < 400 and "secret" not in str(caught.value)


def test_names_as_data_sets_have_them_are_read(tmp_path: Path) -> None:
    names = ["__ignore__", "traffic light", "construction--barrier--curb", "door;double door"]
    names += ["Rider (other)", "N/A", "3rd rail", "água", "हिन्दी", "天空", "person's bag, open"]
    (tmp_path / "classes.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    assert StudySpec.load(study(tmp_path)).data.names == names


def test_what_is_read_from_elsewhere_is_known(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "classes.txt").write_text("road\nsky\n")
    (tmp_path / "here" / "own.txt").write_text("road\nsky\n")
    (tmp_path / "here" / "link.txt").symlink_to(tmp_path / "classes.txt")
    outside = {"data.classes": tmp_path / "classes.txt"}
    assert files_elsewhere(study(tmp_path / "here", "../classes.txt")) == outside
    assert files_elsewhere(study(tmp_path / "here", "link.txt")) == outside
    assert files_elsewhere(study(tmp_path / "here", "own.txt")) == {}
    assert files_elsewhere(study(tmp_path / "here", "[road, sky]")) == {}


def test_aliases_multiply_no_text() -> None:
    bomb = f"a: &a {'x' * 100_000}\nb: [{'*a, ' * 40_000}]\n"
    with pytest.raises(InputError, match="more than 1000000 characters, aliases included"):
        parse_yaml(bomb, "study.yaml")
