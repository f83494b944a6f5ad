"""Fixtures of all tests: a home of their own, and the real data where it is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SEGTUNE_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(autouse=True)
def segtune_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep every test away from the user's own studies and caches."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGTUNE_HOME", str(folder))
        patch.delenv("SEGTUNE_STORE", raising=False)
        patch.delenv("SEGTUNE_ARTIFACTS", raising=False)
        yield folder


@pytest.fixture(scope="session")
def camvid() -> Path:
    """The CamVid folder; absent on a laptop is a skip, in CI an error."""
    return _real_data("camvid")


def _real_data(name: str) -> Path:
    folder = DATA / name
    if not folder.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"{folder} is missing, but CI must have it")
        pytest.skip(f"{folder} is not here; set SEGTUNE_DATA to run this test")
    return folder
