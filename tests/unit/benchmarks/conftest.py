"""A tiny drawn data set for benchmarks that really train."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.plain import Setup
from benchmarks.throughput import study_spec
from search.samples.streets import write_streets
from trainers.tasks import load_data


@pytest.fixture(scope="session")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 + 4 drawn images of 40 x 48: two whole batches and a rest."""
    return write_streets(tmp_path_factory.mktemp("streets"), train=18, val=4, size=(40, 48))


@pytest.fixture
def setup(streets: Path, tmp_path: Path) -> Setup:
    """Two epochs at 32 x 64."""
    return Setup(load_data(study_spec(streets, tmp_path)), "32x64", 2, 0, 0, 1)
