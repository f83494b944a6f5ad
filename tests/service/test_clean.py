"""`segtune clean`: what goes, and above all what stays."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from search.clean import LOCK, checkpoints_needed
from search.cli import app
from search.database.store import open_store
from search.files.artifacts import OF_STORE, Artifacts, store_here
from search.studies.slots import Result
from search.studies.study import Study, create_or_resume
from spaces.spec import StudySpec
from trainers.cache_folder import Entry, Make, entry

MakeSpec = Callable[..., StudySpec]
OLD = 10**9  # 2001


@pytest.fixture
def study(tmp_path: Path, make_spec: MakeSpec) -> Iterator[Study]:
    """Of a trial that has ended, and one that runs; both with a checkpoint and a model."""
    store = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    found = create_or_resume(store, make_spec(trials=2), "f" * 64, None)
    artifacts = Artifacts(tmp_path / "a")
    artifacts.mark(found)
    for _ in range(2):
        claim = found.slots.claim(found.ask)
        assert claim
        folder = artifacts.workdir(found, claim.trial_number)
        for name in ("last.json", "state-3.pt", "model-2/model.safetensors", "trial.log", LOCK):
            write(folder / name)
        if claim.trial_number == 0:
            assert found.slots.end(claim, Result("COMPLETE", 0.5, "completed", {}))
    yield found
    store.close()


def write(path: Path, content: str = "x" * 1000, *, old: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    if old:
        for one in (path, path.parent):
            os.utime(one, (OLD, OLD))
    return path


def cached(key: str) -> Entry:
    def build(make: Make) -> None:
        make("images", (10,), "uint8")[:] = 1

    found = entry("arrays", key, lambda: 10, build, key)
    assert found is not None
    return found


@contextmanager
def in_use(path: Path) -> Iterator[None]:
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def clean(study: Study, *words: str) -> tuple[int, str]:
    database = study.store.engine.url.database
    folder = Path(str(database)).parent / "a"
    command = ["clean", "--store", f"sqlite:///{database}", "--artifacts", str(folder)]
    answer = CliRunner().invoke(app, [*command, *words])
    return answer.exit_code, answer.output


def test_what_nothing_needs_goes_and_the_rest_stays(study: Study, tmp_path: Path) -> None:
    kept, here = tmp_path / "a", store_here(study.store)
    ended, running = (Artifacts(kept).workdir(study, number) for number in (0, 1))
    goes = [
        ended / "last.json",
        ended / "state-3.pt",
        write(kept / "gone-0123abcd" / OF_STORE, here, old=True),
        write(ended / "state-4.pt.tmp", old=True),
        write(kept / "workers" / "small-1.log", old=True),
        cached("idle").folder,
    ]
    used = cached("used")
    stays = [
        *(path for path in running.rglob("*") if path.is_file()),
        ended / "model-2" / "model.safetensors",
        ended / "trial.log",
        write(kept / "gone-4567abcd" / OF_STORE, "another store", old=True),
        write(kept / "older-89ababcd" / "trial-0000" / "last.json", old=True),
        write(kept / "young-cdefabcd" / OF_STORE, here),
        write(kept / "busy-0000abcd" / OF_STORE, here, old=True),
        write(kept / "busy-0000abcd" / "trial-0000" / LOCK, old=True),
        write(kept / "shown" / ".picture.png.0123.tmp"),
        write(kept / "workers" / "small-0.log", old=True),
        write(kept / "workers" / "small-2.log"),
        used.folder,
    ]
    os.utime(kept / "busy-0000abcd", (OLD, OLD))
    with in_use(stays[-3]), in_use(kept / "busy-0000abcd" / "trial-0000" / LOCK):
        code, said = clean(study)
        assert code == 2 and "nothing was removed: without a terminal" in said, said
        assert all(path.exists() for path in (*goes, *stays))
        for kind in (
            "cache: 1,",
            "checkpoints: 1,",
            "studies: 1,",
            "temporary files: 1,",
            "logs: 1",
        ):
            assert kind in said, said
        code, said = clean(study, "--yes")
        assert code == 0 and "removed" in said, said
        assert [path for path in goes if path.exists()] == []
        assert [path for path in stays if not path.exists()] == []
        code, said = clean(study)
        assert code == 0 and said.splitlines()[1:] == ["nothing to remove"]
        assert checkpoints_needed(Artifacts(kept), study.store) == [3 * 1000]
        assert said.startswith("     0 MB  checkpoints that stay: 1, of trials that go"), said


def test_what_is_used_by_the_time_it_is_removed_stays(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = Artifacts(tmp_path / "a").workdir(study, 0)
    folder = cached("idle").folder
    taken: list[object] = []

    def taken_meanwhile(path: Path) -> bool:
        taken.append(cached("idle"))
        return original(path)

    import search.clean

    original = search.clean.cache_folder.remove_unused
    monkeypatch.setattr(search.clean.cache_folder, "remove_unused", taken_meanwhile)
    code, said = clean(study, "--yes")
    assert code == 0 and "1 are in use by now, and stay" in said, said
    assert folder.exists() and taken and not (ended / "last.json").exists()
