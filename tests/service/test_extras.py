"""Without the extras s3, slurm and ray: each is named where it is needed, all else works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from search.database.store import open_store
from search.studies.study import study_names
from tests.waiting import Running

PACKAGES = ("boto3", "botocore", "submitit", "ray")

Segtune = Callable[..., str]


@pytest.fixture
def without_extras(tcp_url: str, tmp_path: Path) -> Segtune:
    """Runs a command where none of the three packages can be imported."""
    environment = {"SEGTUNE_STORE": tcp_url, "SEGTUNE_HOME": str(tmp_path / "home")}

    def run(*words: str | Path, code: int = 0) -> str:
        running = Running.segtune(*words, env=environment, without=PACKAGES)
        return running.finish(code)

    return run


@pytest.mark.parametrize(
    ("options", "extra"),
    [
        (("--on", "slurm"), "slurm"),
        (("--on", "ray"), "ray"),
        (("--artifacts", "s3://a-bucket/prefix"), "s3"),
    ],
)
def test_an_absent_extra_is_named_and_nothing_begins(
    without_extras: Segtune,
    tcp_url: str,
    make_spec: Callable[..., object],
    tmp_path: Path,
    options: tuple[str, ...],
    extra: str,
) -> None:
    make_spec()
    answer = without_extras("launch", tmp_path / "small.yaml", *options, code=2)
    assert f"pip install 'segtune[{extra}]'" in answer and "Traceback" not in answer
    store = open_store(tcp_url)
    assert study_names(store) == []
    store.close()


def test_everything_else_works_without_them(
    without_extras: Segtune, make_spec: Callable[..., object], tmp_path: Path
) -> None:
    make_spec(trials=1)
    without_extras("launch", tmp_path / "small.yaml")
    for command in (
        ("status", "small"),
        ("export", "small", "--to", tmp_path / "best"),
        ("report", "small", "--to", tmp_path / "report.html"),
        ("stop", "small"),
    ):
        without_extras(*command)
    assert (tmp_path / "best" / "config.yaml").exists()
