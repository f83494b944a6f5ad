"""The name of a demo's study: resumed in its own folder, another study in another."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.database.store import open_store
from search.demo import write_study
from search.samples.streets import write_streets
from search.studies.study import create
from trainers.tasks import load_data


def test_another_folder_is_another_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGTUNE_HOME", str(tmp_path / "home"))
    for folder in ("here", "elsewhere"):
        write_streets(tmp_path / folder / "data", train=4, val=2, size=(48, 64))
    here, elsewhere = (tmp_path / folder / "study.yaml" for folder in ("here", "elsewhere"))
    store = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    try:
        first = write_study("segmentation", here, store)
        assert first.name == "demo"
        create(store, first, load_data(first.data).fingerprint)
        assert write_study("segmentation", here, store).name == "demo"  # goes on with it
        assert write_study("segmentation", elsewhere, store).name == "demo-2"
        assert "name: demo-2" in elsewhere.read_text()
    finally:
        store.close()
