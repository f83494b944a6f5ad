"""Stores that every service test runs against: embedded Postgres, a TCP server, sqlite."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from search.sample_data import write_streets
from search.store import Store, open_store, start_embedded
from spaces.spec import StudySpec

SPEC = """\
name: {name}
task: segmentation
data:
  train: {{images: {data}/train/images, masks: {data}/train/masks}}
  val: {{images: {data}/val/images, masks: {data}/val/masks}}
  classes: {data}/classes.json
space:
  train.epochs: {epochs}
  train.precision: fp32
  train.patience: 0
  health.grad_norm: 0
  train.batch_size: 4
  data.resolution: 32x32
  data.augment: none
  model.arch: Unet
  model.encoder: mobilenet_v2
  model.encoder_weights: null
  loss.warmup_epochs: {{low: 0, high: 1}}
  optim.lr: {{low: 1e-4, high: 1e-2, log: true}}
use_default_space: false
use_starting_points: {starting_points}
sampler: random
budget: {{trials: {trials}}}
pruner: {pruner}
"""


@pytest.fixture(scope="session")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn data set of 8 + 4 images."""
    return write_streets(tmp_path_factory.mktemp("streets"), train=8, val=4, size=(40, 48))


@pytest.fixture
def make_spec(streets: Path, tmp_path: Path) -> Callable[..., StudySpec]:
    """Write and load a small study file."""

    def make(
        name: str = "small",
        trials: int = 3,
        epochs: int = 2,
        pruner: str = "none",
        starting_points: str = "false",
    ) -> StudySpec:
        path = tmp_path / f"{name}.yaml"
        path.write_text(
            SPEC.format(
                name=name,
                data=streets,
                trials=trials,
                epochs=epochs,
                pruner=pruner,
                starting_points=starting_points,
            )
        )
        return StudySpec.load(path)

    return make


@pytest.fixture(scope="session")
def embedded_url() -> Iterator[str]:
    """An embedded Postgres of this test session; each test gets a database of its own.

    Outside of pytest's own folder, whose rights another session would reset under the server.
    """
    with tempfile.TemporaryDirectory(prefix="segtune-embedded-") as folder:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SEGTUNE_HOME", folder)
            server = start_embedded()
        yield server.get_uri()
        server.cleanup()


@pytest.fixture(params=["embedded", "tcp", "sqlite"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty store of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store.db'}"
        return
    if request.param == "embedded":
        server = request.getfixturevalue("embedded_url")
    else:
        server = request.getfixturevalue("tcp_postgres").url
    yield from fresh_database(server)


@pytest.fixture
def postgres_url(embedded_url: str) -> Iterator[str]:
    """The URL of an empty database on the embedded Postgres."""
    yield from fresh_database(embedded_url)


def fresh_database(server: str) -> Iterator[str]:
    """Create a database on a server and drop it after the test."""
    url = sa.make_url(server).set(drivername="postgresql+psycopg2")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    name = f"test_{uuid.uuid4().hex[:12]}"
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    yield url.set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """An open, empty store of each kind."""
    opened = open_store(store_url)
    yield opened
    opened.close()
