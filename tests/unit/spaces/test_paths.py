"""Names that come from elsewhere, links that others have planted, folders that are ours alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spaces.errors import InputError
from spaces.paths import clear, inside, no_link, private_folder
from trainers.checkpoint import trial_file

OUT = ["../x", "a/../../x", "/etc/x", "", ".", "..", "a//x", "a/./x", "a\\x", "a\0x", "a/"]


@pytest.mark.parametrize("name", OUT)
def test_a_name_that_leads_out_of_its_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leads out of it"):
        inside(tmp_path, name)


def test_a_link_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    for name in ("artifacts", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "artifacts" / "trial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="or the link on its way"):
        inside(tmp_path / "artifacts", "trial/last.json")
    (tmp_path / "mine").symlink_to(tmp_path / "artifacts")  # the folder itself may be one
    assert inside(tmp_path / "mine", "x") == tmp_path / "mine" / "x"


@pytest.mark.parametrize(
    "name",
    [
        *(
            "last.json",
            "state-12.pt",
            "state-12-shared.pt",
            "model-7/config.json",
            "model-7/model.safetensors",
        ),
        *("fold-2/last.json", "fold-2/state-1.pt", "fold-2/model-1/images.npz"),
        *("fold-1/result.json", "model-folds/images.npz", "model-folds/fold-1/README.md"),
    ],
)
def test_what_a_trial_writes_is_known(name: str, tmp_path: Path) -> None:
    assert trial_file(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    "name",
    [
        *OUT,
        *("model-7/../../x", "model-7/.profile", "model-7/a/b", "model-x/a", "state-1.pt.tmp"),
        *("trial.log", "lock", "pictures/a.png", "fold-1/fold-2/last.json", "last.json\n"),
        *("result.json", "fold-x/last.json", "model-folds/fold-1/../x", "state-\u0661.pt"),
    ],
)
def test_what_no_trial_writes_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no file of a trial"):
        trial_file(tmp_path, name)


@pytest.mark.parametrize("mode", ["wb", "ab", "rb"])
def test_a_planted_link_is_not_written_through(mode: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / "trial.log").symlink_to(target)
    with (
        pytest.raises(InputError, match=r"trial\.log must be a plain file"),
        open(tmp_path / "trial.log", mode, opener=no_link),
    ):
        pass
    assert target.read_text() == "precious"
    clear(tmp_path / "trial.log")
    assert target.exists() and not (tmp_path / "trial.log").is_symlink()


def test_a_planted_pipe_makes_nobody_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lock")
    for mode in ("w", "r"):
        with (
            pytest.raises(InputError, match="lock must be a plain file"),
            open(tmp_path / "lock", mode, opener=no_link),
        ):
            pass


def test_a_private_folder_is_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("SEGTUNE_HOME", str(home))
    before = os.umask(0o002)
    try:
        folder = private_folder("slurm")
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (home, folder)] == [0o700, 0o700]
    home.chmod(0o755)  # others may look
    assert private_folder("slurm") == folder
    for path, mode, fix in ((home, 0o770, "go-w"), (folder, 0o750, "go-rwx")):
        usual = path.stat().st_mode
        path.chmod(mode)
        with pytest.raises(InputError, match=f"chmod {fix} {path}"):
            private_folder("slurm")
        path.chmod(usual)
    folder.rename(tmp_path / "planted")
    folder.symlink_to(tmp_path / "planted")
    with pytest.raises(InputError, match="must be a folder of yours"):
        private_folder("slurm")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a folder away")
def test_somebody_elses_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGTUNE_HOME", str(tmp_path))
    tmp_path.chmod(0o755)
    (tmp_path / "slurm").mkdir(mode=0o700)
    os.chown(tmp_path / "slurm", 12345, 12345)
    with pytest.raises(InputError, match="must be a folder of yours"):
        private_folder("slurm")
