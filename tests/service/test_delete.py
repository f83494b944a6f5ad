"""A study deleted: all of it and nothing else, not under a worker, and no worker ends by it."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from optuna.trial import TrialState
from rich.console import Console
from typer.testing import CliRunner, Result

from search.cli import app
from search.dashboard.publish import PICTURES
from search.database.store import Store, UnknownStudy, open_store
from search.database.tables import slot_table, study_table
from search.files.artifacts import Artifacts
from search.files.shown import attach
from search.launch import run as run_study
from search.studies import slots
from search.studies.confirmations import create_confirmation
from search.studies.deletion import delete_rows
from search.studies.heartbeats import Registration, workers
from search.studies.limits import close
from search.studies.study import Study, create_or_resume, study_names
from search.work.drawing import draw
from search.work.service import Service
from search.work.supervision import Timing
from search.work.watchers import Interrupt
from spaces.paths import take_away
from spaces.spec import StudySpec
from tests.fake_child import report, whole
from tests.scripted import NoData, Quiet
from tests.stores import sqlite_too
from trainers.pictures import picture_folder

MakeSpec = Callable[..., StudySpec]
FINGERPRINT = "f" * 64


def rows(store: Store) -> dict[str, list[str]]:
    """All that every table of a store holds."""
    with store.engine.connect() as connection:
        names = sorted(sa.inspect(connection).get_table_names())
        return {
            name: sorted(map(repr, connection.execute(sa.text(f"SELECT * FROM {name}"))))
            for name in names
        }


def files(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def fill(store: Store, spec: StudySpec, folder: Path) -> Study:
    """A study with one of everything: ended and open trials, a confirmation, notes, files."""
    study, artifacts = create_or_resume(store, spec, FINGERPRINT, None), Artifacts(folder)
    claim = study.slots.claim(study.ask)
    assert claim is not None and study.report(claim, report(1, 0.5))
    assert study.slots.end(claim, slots.Result("COMPLETE", 0.5, "completed", {"a": 1}))
    other = study.slots.claim(study.ask)
    assert other is not None and study.slots.give_back(other, counts=False)
    confirmation = create_confirmation(study)
    study.optuna().enqueue_trial({"optim.lr": 1e-3}, user_attrs={"origin": "a recipe"})
    store.storage.set_study_user_attr(study.study_id, "note", "x")
    picture = folder / "curves.png"
    for one, trial_id in ((study, None), (study, study.trial_id(0)), (confirmation, None)):
        workdir = artifacts.workdir(one, 0)
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "trial.log").write_text("log")
        picture.write_bytes(b"png")
        attach(artifacts.shown, one, trial_id, picture)
        picture.unlink()
    events = folder / "tensorboard" / f"{spec.name}-{study.uid[:8]}" / "trial-0000"
    events.mkdir(parents=True)
    (events / "events").write_bytes(b"events")
    return study


def delete(store: Store, folder: Path, *words: str, code: int = 0, answer: str = "") -> Result:
    """Run `segtune delete` over a store; its exit code must be `code`."""
    url = store.engine.url.render_as_string(hide_password=False)
    place = {"SEGTUNE_STORE": url, "SEGTUNE_ARTIFACTS": str(folder)}
    done = CliRunner().invoke(app, ["delete", *words], env=place, input=answer)
    assert isinstance(done.exception, SystemExit) or done.exception is None, done.output
    assert done.exit_code == code, done.output
    return done


@sqlite_too
def test_a_study_goes_with_all_that_any_table_or_folder_has_of_it(
    store: Store, make_spec: MakeSpec, tmp_path: Path
) -> None:
    folder = tmp_path / "artifacts"
    folder.mkdir()
    fill(store, make_spec(name="other"), folder)
    before = rows(store), files(folder)
    fill(store, make_spec(name="small"), folder)
    assert rows(store) != before[0] and len(files(folder)) == 2 * len(before[1])
    out = delete(store, folder, "small", "--yes").output
    assert "deleted study small" in out and "its confirmation included" in out
    assert (rows(store), files(folder)) == before
    assert not list(folder.glob("small-*"))
    fill(store, make_spec(name="small"), folder)  # the name is free again
    assert "did you mean small?" in delete(store, folder, "smal", "--yes", code=2).output


def test_nothing_goes_before_somebody_has_said_yes(
    tmp_path: Path, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "artifacts"
    folder.mkdir()
    with contextlib.closing(open_store(f"sqlite:///{tmp_path / 'store.db'}")) as store:
        fill(store, make_spec(), folder)
        before = rows(store), files(folder)
        out = delete(store, folder, "small", code=2, answer="y\n").output  # a pipe is nobody
        assert out.startswith("segtune: delete asks first, and nobody is there; with --yes goes")
        assert (rows(store), files(folder)) == before
        monkeypatch.setattr("search.cli.kept.somebody_is_there", lambda: True)
        assert "delete study small" in delete(store, folder, "small", code=1, answer="n\n").output
        assert (rows(store), files(folder)) == before
        delete(store, folder, "small", answer="y\n")
        assert study_names(store) == []


def test_a_study_that_workers_run_is_refused_and_a_frozen_one_is_refused_when_it_wakes(
    store: Store, make_spec: MakeSpec, tmp_path: Path
) -> None:
    study = create_or_resume(store, make_spec(), FINGERPRINT, None)
    study.owner = "far:4711:x"
    registration = Registration(store, study.owner, "cuda:0")
    registration.enter()
    registration.works_on("small", 0)
    claim = study.slots.claim(study.ask)
    assert claim is not None
    before = rows(store)
    out = delete(store, tmp_path, "small", "--yes", code=2).output
    assert "process 4711 on far (trial 0). First stop it: segtune stop small --now" in out
    assert rows(store) == before
    with store.engine.begin() as connection:  # it has frozen
        connection.execute(sa.update(slot_table).values(lease_until=store.now() - 1))
    delete(store, tmp_path, "small", "--yes")
    assert [worker["study"] for worker in workers(store)] == [None]
    after = rows(store)
    assert study.report(claim, report(1, 0.5)) is None
    assert not study.slots.end(claim, slots.Result("COMPLETE", 0.5, "completed", {}))
    assert not study.slots.renew(claim)
    with pytest.raises(UnknownStudy, match="was deleted"):
        study.slots.claim(study.ask)
    assert rows(store) == after


def test_names_from_the_store_lead_nowhere_else(tmp_path: Path, make_spec: MakeSpec) -> None:
    """Whoever may write into the store gives a study a uid that is a way out of the folder."""
    folder, kept = tmp_path / "artifacts", tmp_path / "kept"
    for path in (folder / "small-", kept):
        path.mkdir(parents=True)
    (kept / "mine").write_text("mine")
    with contextlib.closing(open_store(f"sqlite:///{tmp_path / 'store.db'}")) as store:
        create_or_resume(store, make_spec(), FINGERPRINT, None)
        with store.engine.begin() as connection:
            connection.execute(sa.update(study_table).values(uid="/../../k" + "e" * 20))
        done = delete(store, folder, "small", "--yes", code=1)
        assert "which is none; look for its files in" in done.output
        assert (kept / "mine").read_text() == "mine" and folder.is_dir()
        assert study_names(store) == []


# ---------------------------------------------------------------- workers that meet it


class Spoiler(Quiet):
    """Says what a watcher is told, and deletes a study at one moment."""

    def __init__(self, moment: str, victim: Study, own: Study) -> None:
        super().__init__()
        self.moment, self.victim, self.own = moment, victim, own
        self.done = False

    def spoil(self, moment: str, *, on: bool) -> None:
        if moment == self.moment and on and not self.done:
            self.done = True
            with self.victim.store.engine.begin() as connection:  # as after a freeze
                connection.execute(
                    sa.update(slot_table)
                    .where(slot_table.c.study_id == self.victim.study_id)
                    .values(lease_until=0.0)
                )
            delete_rows([self.victim])

    def trial_started(self, number: int, config: Any, attempt: int) -> None:
        self.spoil("another's trial starts", on=self.own.study_id != self.victim.study_id)

    def epoch_ended(self, number: int, report: Any) -> None:
        self.spoil("an epoch ends", on=self.own.study_id == self.victim.study_id)

    def trial_ended(self, *told: Any) -> None:
        self.spoil("its result is stored", on=self.own.study_id == self.victim.study_id)


@pytest.fixture
def two(postgres_url: str, make_spec: MakeSpec) -> Iterator[tuple[Store, Study, Study]]:
    with contextlib.closing(open_store(postgres_url)) as store:
        yield (
            store,
            *(
                create_or_resume(store, make_spec(name=name, trials=count), FINGERPRINT, None)
                for name, count in (("one", 1), ("two", 2))
            ),
        )


@pytest.mark.parametrize(
    "moment",
    ["it is opened", "an epoch ends", "its result is stored", "another's trial starts"],
)
def test_a_worker_that_meets_a_deleted_study_serves_the_others(
    moment: str, two: tuple[Store, Study, Study], tmp_path: Path
) -> None:
    """A real worker's loop; only the training is not real."""
    store, one, other = two
    text, watchers = io.StringIO(), []

    def watch(study: Study) -> Spoiler:
        watchers.append(Spoiler(moment, one, study))
        watchers[-1].spoil("it is opened", on=study.study_id == one.study_id)
        return watchers[-1]

    service = Service(
        store,
        Artifacts(tmp_path),
        Console(file=text, width=200),
        Interrupt(),
        Registration(store, "here:1:x", "cpu"),
        watch,
        until_idle=True,
        load_data=lambda spec: Data(),  # type: ignore[arg-type,return-value]
        make_child=whole,
        timing=Timing(0.02, look=0.05),
        idle_seconds=0.2,
    )
    assert service.run()
    assert any(watcher.done for watcher in watchers)
    assert study_names(store) == ["two"] and other.slots.counts()["COMPLETE"] == 2
    assert {trial.state for trial in other.trials()} == {TrialState.COMPLETE}
    assert text.getvalue().count("was deleted") == 1
    assert workers(store) == []


def test_pictures_that_are_drawn_meanwhile_bring_no_folder_back(tmp_path: Path) -> None:
    """A worker may draw the last trial as its study is deleted: before it begins, and within."""
    pictures = tmp_path / "small-01234567" / "trial-0000" / PICTURES
    pictures.parent.mkdir(parents=True)
    picture_folder(pictures)
    (pictures / "best-1-a.png").write_bytes(b"png")
    take_away(tmp_path / "small-01234567")
    with pytest.raises(FileNotFoundError):
        picture_folder(pictures)
    with pytest.raises(FileNotFoundError):
        draw(None, None, pictures, lambda: False)  # type: ignore[arg-type]
    take_away(tmp_path / "small-01234567")  # gone already
    assert not list(tmp_path.iterdir())


class Data(NoData):
    """Of eight classes."""

    classes = 8


def test_a_launch_whose_study_is_deleted_ends_with_one_line(
    two: tuple[Store, Study, Study], tmp_path: Path
) -> None:
    store, one, _ = two
    one.slots.extend(3)

    def child(*given: Any) -> Any:
        with store.engine.begin() as connection:
            connection.execute(sa.update(slot_table).values(lease_until=0.0))
        delete_rows([one])
        return whole(*given)

    with pytest.raises(UnknownStudy, match="was deleted"):
        run_study(one, Data(), Artifacts(tmp_path), Console(file=io.StringIO()), make_child=child)  # type: ignore[arg-type]


# ---------------------------------------------------------------- what there is


def test_studies_are_listed_with_the_size_of_their_files(
    tmp_path: Path, make_spec: MakeSpec
) -> None:
    folder = tmp_path / "artifacts"
    folder.mkdir()
    url = f"sqlite:///{tmp_path / 'store.db'}"
    place = {"SEGTUNE_STORE": url, "SEGTUNE_ARTIFACTS": str(folder)}
    with contextlib.closing(open_store(url)) as store:
        study = fill(store, make_spec(), folder)
        close(store, study.study_id, "after")
        (Artifacts(folder).workdir(study, 1)).mkdir()
        (Artifacts(folder).workdir(study, 1) / "weights").write_bytes(b"x" * 2_000_000)
    found = json.loads(CliRunner().invoke(app, ["studies", "--json"], env=place).output)
    assert [one["bytes"] for one in found["studies"]] == [2_000_000 + 2 * len("log")]
    shown = CliRunner().invoke(app, ["studies"], env=place).output
    assert "small" in shown and "2.0 MB" in shown
    listed = CliRunner().invoke(app, ["status"], env=place).output
    assert "small" in listed and "MB" not in listed
