"""Jobs on a study file from a browser: segtune's own check and launch, as a runner runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from search.database.store import Store
from search.files.artifacts import Artifacts
from search.files.results import Results, text_in
from search.studies.heartbeats import workers
from search.studies.jobs import ENDED, FAILED, Job, ask, find, lines_of
from search.studies.owners import PERSON, launcher, user
from search.studies.study import open_study, study_names
from spaces.paths import ROOTS
from spaces.spec import StudySpec
from tests.service.test_job_runner import Served
from tests.service.test_job_runner import served as served
from tests.stores import TCP, small_study
from tests.waiting import Running

SHOWS = f"""\
import os, sys
print(sys.argv[1:], os.environ[{ROOTS!r}], os.environ[{PERSON!r}])
print(open(sys.argv[2], encoding="utf-8").read())
"""


def asked(store: Store, kind: str, file: str, study: str = "roads", by: str = "max") -> int:
    return ask(store, kind, json.dumps({"file": file}), study, by)


def looks_at(store: Store, folder: Path, by: str = "mia") -> int:
    return ask(store, "init", json.dumps({"folder": str(folder)}), None, by)


def ended(store: Store, number: int) -> tuple[Job, str]:
    job = find(store, number)
    assert job is not None
    return job, lines_of(store, number)


def test_a_command_finds_the_file_the_roots_and_who_has_asked(
    served: Served, tmp_path: Path
) -> None:
    roots = (tmp_path / "a", tmp_path / "b")
    check, launch = (asked(served.store, kind, "name: straße") for kind in ("check", "launch"))
    assert served.runner(SHOWS, roots=roots).run()
    job, lines = ended(served.store, check)
    assert (job.state, job.result) == (ENDED, None)
    assert lines == f"['check', 'study.yaml'] {roots[0]}:{roots[1]} max\nname: straße"
    _, lines = ended(served.store, launch)
    assert lines.startswith("['launch', 'study.yaml', '--new', '--on', 'local', '--workers', '0']")


@pytest.mark.parametrize("kind", ["check", "launch", "init"])
def test_a_runner_without_roots_takes_no_study_file(served: Served, kind: str) -> None:
    if kind == "init":
        number = looks_at(served.store, Path("/data"))
    else:
        number = asked(served.store, kind, "name: roads")
    assert served.runner("raise SystemExit('it ran')").run()
    job, lines = ended(served.store, number)
    assert (job.state, job.code) == (FAILED, None)
    assert lines.startswith("this runner takes no study file") and "--data-root DIR" in lines


def test_who_has_asked_is_who_has_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PERSON, "max")
    assert user() == "max"
    monkeypatch.setenv(PERSON, "")  # where nobody has a name
    assert "@" in user()


@pytest.mark.parametrize("store_url", ["embedded", TCP], indirect=True)  # what workers share
def test_a_study_is_checked_and_launched_for_the_workers_that_serve_the_store(
    store: Store, store_url: str, streets: Path, tmp_path: Path
) -> None:
    """The real runner and the real commands; the file's own workers and trackers start nothing.

    Of a folder below its root it writes a study file; one outside it refuses.
    """
    text = small_study(Path("."), name="roads") + (
        "workers: {on: slurm, count: 4, partition: gpu}\ntrackers: [wandb]\n"
    )
    numbers = [
        asked(store, "check", text),
        asked(store, "launch", text),
        asked(store, "launch", text, by="olga"),
        asked(store, "launch", small_study(streets.parent, name="other"), "other", by="olga"),
        looks_at(store, streets),
        looks_at(store, streets.parent),
        looks_at(store, Path("/absent")),
    ]
    home = tmp_path / "home"
    environment = {
        "SEGTUNE_STORE": store_url,
        "SEGTUNE_ARTIFACTS": str(tmp_path / "artifacts"),
        "SEGTUNE_HOME": str(home),
        "PATH": "",  # neither sbatch nor anything else could be started
    }
    root = ("--data-root", str(streets))
    Running.segtune("jobs", "--until-idle", *root, env=environment).finish()
    checked, launched, again, outside, looked, *refused = (ended(store, n) for n in numbers)
    assert (checked[0].state, checked[0].code) == (ENDED, 0), checked[1]
    assert checked[1].startswith("study roads: 3 trials of 2 epochs") and "ok: " in checked[1]
    assert (launched[0].state, launched[0].code) == (ENDED, 0), launched[1]
    assert "study roads started" in launched[1] and "left to the workers" in launched[1]
    assert (again[0].state, again[0].code) == (FAILED, 2)
    assert "study roads is in" in again[1] and "give this one another name" in again[1]
    assert (outside[0].state, outside[0].code) == (FAILED, 2)
    assert "lies outside of the folders that study files may name here" in outside[1]
    assert "(study.yaml line 4)" in outside[1]  # by which the editor finds the line
    assert (looked[0].state, looked[0].code) == (ENDED, 0), looked[1]
    assert f"{streets} looks like pairs of images and masks" in looked[1]
    assert "pixels of 8 of 8 train masks; segtune check reads all" in looked[1]
    assert looked[0].result is not None
    file, size = Results(Artifacts(tmp_path / "artifacts")).open(looked[0].result)
    with file:
        made = StudySpec.of_text(text_in(file, size, "study.yaml", 10**5) or "")
    assert made.data.train.images == str(streets / "train" / "images")
    for (job, lines), given in zip(refused, (streets.parent, "/absent"), strict=True):
        assert (job.state, job.code, job.result) == (FAILED, 2, None)
        assert (
            f"--from: '{given}' lies outside of the folders that study files may name here: "
            f"{streets} (segtune init)"
        ) in lines
    assert study_names(store) == ["roads"]
    study = open_study(store, "roads")
    assert launcher(store, study.study_id) == "max"
    counts = study.slots.counts()
    assert counts["OPEN"] == 3 == sum(counts.values()) and workers(store) == []
    assert study.spec.data.train.images == str(streets / "train" / "images")
    assert not (home / "slurm").exists()
