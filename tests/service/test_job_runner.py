"""`segtune jobs`: commands that really run, are heard and ended, and whose results stay."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from optuna.artifacts.exceptions import ArtifactNotFound
from rich.console import Console

from search.database.store import Store, open_store
from search.database.tables import job_table
from search.delete import delete_study
from search.files.artifacts import Artifacts
from search.files.results import FOLDER, Results, zip_folder
from search.findings.export import export_study
from search.studies.heartbeats import Registration, workers
from search.studies.job_runs import beat, claim
from search.studies.jobs import (
    CANCELLED,
    DEVICE,
    ENDED,
    FAILED,
    LOST,
    WAITING,
    Job,
    ask,
    cancel,
    find,
    lines_of,
)
from search.studies.owners import new_owner
from search.studies.study import create_or_resume, open_study
from search.work.command import Command
from search.work.job_runner import JobRunner, Pace
from search.work.watchers import Interrupt
from spaces.errors import INTERRUPTED, InputError
from spaces.spec import StudySpec
from tests.waiting import Running, until

QUICK = Pace(write=0.05, look=0.05, idle=0.05, grace=0.5)
PATIENT = "import time\nprint('begun', flush=True)\ntime.sleep(600)\n"
MAKES = """\
import os, sys
to = sys.argv[sys.argv.index("--to") + 1]
os.makedirs(to + "/model")
open(to + "/config.yaml", "w").write("a: 1")
open(to + "/model/weights", "wb").write(bytes(1000))
print("wrote", to, "for", os.environ["SEGTUNE_STORE"])
"""


@dataclass
class Served:
    """A store whose jobs a runner of this process serves.

    Attributes:
        said: by the runner.
    """

    store: Store
    artifacts: Artifacts
    said: io.StringIO = field(default_factory=io.StringIO)
    interrupt: Interrupt = field(default_factory=Interrupt)

    def runner(self, script: str, **given: Any) -> JobRunner:
        """One whose commands are a Python script in place of segtune's."""
        url = self.store.engine.url.render_as_string(hide_password=False)
        settings: dict[str, Any] = {
            "environment": {**os.environ, "SEGTUNE_STORE": url},
            "until_idle": True,
            "pace": QUICK,
            "program": (sys.executable, "-c", script),
        }
        return JobRunner(
            self.store,
            self.artifacts,
            Console(file=self.said, width=200),
            self.interrupt,
            Registration(self.store, new_owner(), DEVICE),
            **settings | given,
        )

    def run(self, script: str, arguments: str = "{}", **given: Any) -> tuple[Job, str]:
        """Ask for a job and run it; returns it with its lines."""
        number = ask(self.store, "export", arguments, "roads")
        assert self.runner(script, **given).run()
        return self.job(number), lines_of(self.store, number)

    def job(self, number: int) -> Job:
        job = find(self.store, number)
        assert job is not None
        return job

    @contextlib.contextmanager
    def beside(self, script: str, **given: Any) -> Iterator[int]:
        """Run a job in a thread, from its first line on; gives its number."""
        number = ask(self.store, "export", "{}", "roads")
        runner = self.runner(script, **given)
        thread = threading.Thread(target=runner.run)
        thread.start()
        until(lambda: "begun" in lines_of(self.store, number))
        yield number
        thread.join()

    @property
    def files(self) -> list[Path]:
        return [path for path in (self.artifacts.folder / FOLDER).rglob("*") if path.is_file()]


@pytest.fixture
def served(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return Served(store, Artifacts(tmp_path / "artifacts"))


def test_what_a_command_makes_is_kept_as_a_zip_and_what_it_prints_is_stored(
    served: Served, tmp_path: Path
) -> None:
    job, lines = served.run(MAKES)
    assert (job.state, job.code) == (ENDED, 0) and job.result is not None
    assert lines.startswith("wrote roads for ") and "segtune-job-" not in lines
    assert "result: 0 MB" in lines
    file, size = Results(served.artifacts).open(job.result)
    with file, zipfile.ZipFile(file) as archive:
        assert archive.namelist() == ["roads/config.yaml", "roads/model/weights"]
        assert archive.read("roads/config.yaml") == b"a: 1"
        assert size == served.files[0].stat().st_size > 1000
    assert not list(tmp_path.glob("segtune-job-*"))
    assert workers(served.store) == []  # it has left
    assert f"job {job.number}: ended" in served.said.getvalue()


def test_a_command_is_given_its_words_and_no_shell(served: Served) -> None:
    script = "import sys, os\nprint(sys.argv[1:])\nprint(os.getppid())"
    job, lines = served.run(script, '{"trial": 3, "test": false}')
    assert lines.startswith("['export', 'roads', '--to', 'roads', '--trial', '3', '--no-test']\n")
    assert lines.endswith(str(os.getpid())) and (job.state, job.result) == (ENDED, None)


def test_a_command_that_fails_says_so_and_leaves_nothing(served: Served) -> None:
    job, lines = served.run(f"{MAKES}\nsys.exit('no room')")
    assert (job.state, job.code, job.result) == (FAILED, 1, None) and "no room" in lines
    assert served.files == []
    job, lines = served.run("import os\nos.kill(os.getpid(), 9)")
    assert (job.state, job.code) == (FAILED, -signal.SIGKILL)


def test_a_job_that_is_none_fails_with_its_reason_and_runs_nothing(served: Served) -> None:
    """As somebody could write it who may write into the store."""
    for kind, arguments, study in (("sh", "{}", "roads"), ("export", "{}", "--to=/etc")):
        row = {"kind": kind, "arguments": arguments, "study": study, "asked_by": ""}
        with served.store.engine.begin() as connection:
            added = sa.insert(job_table).values(**row, state=WAITING, asked_at=0)
            number = connection.execute(added.returning(job_table.c.number)).scalar_one()
        assert served.runner("raise SystemExit('it ran')").run()
        job = served.job(number)
        assert (job.state, job.code) == (FAILED, None)
        assert lines_of(served.store, number).startswith(("a job must be", "study: must be"))


def test_a_link_in_what_was_made_is_not_followed(served: Served, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of somebody else")
    job, lines = served.run(f"{MAKES}\nos.symlink({str(tmp_path / 'secret')!r}, to + '/x')")
    assert (job.state, job.result) == (FAILED, None) and served.files == []
    assert "the result could not be kept: InputError" in lines and "plain file" in lines
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="plain file"):
        zip_folder(folder, tmp_path / "a.zip")


def test_who_cancels_ends_the_command_with_all_that_it_has_begun(served: Served) -> None:
    script = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print('begun', other.pid, flush=True)\ntime.sleep(600)\n"
    )
    with served.beside(script) as number:
        other = int(lines_of(served.store, number).split()[1])
        cancel(served.store, number, "olga")
    job = served.job(number)
    assert (job.state, job.cancelled_by, job.code) == (CANCELLED, "olga", None)
    until(lambda: is_gone(other))


def test_a_runner_that_is_told_to_stop_lets_its_job_wait_again(served: Served) -> None:
    with served.beside(PATIENT) as number:
        served.interrupt.count = 1
    assert served.job(number).state == WAITING and lines_of(served.store, number) == ""
    served.interrupt.count = 0
    assert served.runner(MAKES).run() and served.job(number).state == ENDED


def test_what_takes_too_long_is_ended(served: Served) -> None:
    job, lines = served.run(PATIENT, pace=Pace(longest=0.5, write=0.1, look=0.1, grace=1.0))
    assert job.state == FAILED and lines.startswith("begun\nended: it took longer than")


def test_a_job_of_a_deleted_study_ends_and_nothing_stays(
    served: Served, make_spec: Callable[..., StudySpec]
) -> None:
    study = create_or_resume(served.store, make_spec(name="roads"), "f" * 64, None)
    kept, _ = served.run(MAKES)
    assert len(served.files) == 1 and kept.result is not None
    with served.beside(PATIENT) as number:
        assert delete_study(study, served.artifacts) == []
    assert find(served.store, number) is None and served.files == []
    assert f"job {number}: gone" in served.said.getvalue()


def test_old_results_are_removed_by_the_runner(served: Served) -> None:
    old, _ = served.run(MAKES)
    assert old.result is not None
    with served.store.engine.begin() as connection:
        connection.execute(sa.update(job_table).values(ended_at=job_table.c.ended_at - 8 * 86400))
    new, _ = served.run(MAKES)
    assert served.job(old.number).result is None and new.result is not None
    assert [path.name for path in served.files] == [new.result]
    with pytest.raises(ArtifactNotFound):
        Results(served.artifacts).open(old.result)


def test_while_the_result_is_written_the_runner_shows_that_it_lives(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives, words = threading.Event(), []
    number = ask(served.store, "export", "{}", "roads")

    def slow(results: Results, key: str, path: Path) -> None:
        before = seen_at(served.store, number)
        until(lambda: seen_at(served.store, number) > before)
        lives.set()
        until(lambda: "cancelled" in words)

    def heard(*given: Any, **more: Any) -> str:
        words.append(beat(*given, **more))
        return words[-1]

    monkeypatch.setattr(Results, "write", slow)
    monkeypatch.setattr("search.studies.job_runs.beat", heard)
    thread = threading.Thread(target=served.runner(MAKES).run)
    thread.start()
    assert lives.wait(60)
    cancel(served.store, number, "olga")
    thread.join()
    job = served.job(number)
    assert (job.state, job.result) == (CANCELLED, None)


def test_the_file_of_a_job_that_is_no_longer_ours_does_not_stay(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Results.write

    def late(results: Results, key: str, path: Path) -> None:
        write(results, key, path)
        assert len(served.files) == 1
        with served.store.engine.begin() as connection:
            connection.execute(sa.update(job_table).values(state=LOST))

    monkeypatch.setattr(Results, "write", late)
    job, _ = served.run(MAKES)
    assert job.state == LOST and served.files == []
    assert f"job {job.number}: gone" in served.said.getvalue()


def test_a_password_that_is_printed_is_not_stored(tcp_url: str, tmp_path: Path) -> None:
    with closing(open_store(tcp_url)) as store:
        served = Served(store, Artifacts(tmp_path))
        password = str(store.engine.url.password)
        script = f"import os\nprint(os.environ['SEGTUNE_STORE'], {password!r})"
        _, lines = served.run(script)
        assert lines.endswith("***") and password not in lines
        assert lines.startswith("postgresql") and ":***@" in lines


def test_a_command_dies_with_its_runner_and_its_job_is_lost(
    store_url: str, store: Store, tmp_path: Path
) -> None:
    number = ask(store, "export", "{}", "roads")
    runner = Running.fork(serve_until_killed, store_url, tmp_path)
    command = int(until(lambda: lines_of(store, number)).split()[1])
    runner.kill()
    assert find(store, number).state == LOST  # type: ignore[union-attr]
    until(lambda: is_gone(command))
    assert claim(store, new_owner()) is None


def serve_until_killed(url: str, folder: Path) -> None:
    with closing(open_store(url)) as store:
        script = "import os, time\nprint('begun', os.getpid(), flush=True)\ntime.sleep(600)"
        Served(store, Artifacts(folder)).runner(script).run()


def test_a_command_that_prints_much_and_one_that_closes_its_output_are_waited_for() -> None:
    heard: list[bytes] = []
    script = "import os, sys, time\nos.write(1, b'x' * 1_000_000)\nos.close(1); os.close(2)\n"
    with Command(
        [sys.executable, "-c", script + "time.sleep(0.5)\nos._exit(3)"],
        os.environ,
        heard.append,
        1.0,
    ) as child:
        began = time.monotonic()
        while child.runs(0.1):
            assert time.monotonic() - began < 60
        assert child.code == 3
    assert len(b"".join(heard)) == 1_000_000


def test_an_export_as_a_job_is_what_the_command_writes(
    finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real runner and the real command, on a study that was really trained."""
    monkeypatch.setenv("SEGTUNE_HOME", str(finished.folder / "home"))
    artifacts = Artifacts(finished.artifacts)
    environment = {
        "SEGTUNE_STORE": finished.url,
        "SEGTUNE_ARTIFACTS": str(finished.artifacts),
        "TMPDIR": str(tmp_path),
    }
    with closing(open_store(finished.url)) as store:
        study = open_study(store, "my-study")
        number = ask(store, "export", "{}", "my-study")
        failing = ask(store, "export", '{"trial": 99}', "my-study")
        Running.segtune("jobs", "--until-idle", env=environment).finish()
        job = find(store, number)
        assert job is not None and (job.state, job.code) == (ENDED, 0) and job.result
        assert "wrote my-study: trial " in lines_of(store, number)
        refused = find(store, failing)
        assert refused is not None and (refused.state, refused.code) == (FAILED, 2)
        assert "99" in lines_of(store, failing)
        file, _ = Results(artifacts).open(job.result)
        with file, zipfile.ZipFile(file) as archive:
            archive.extractall(tmp_path / "taken")
        export_study(study, artifacts, tmp_path / "best")
    assert contents(tmp_path / "taken" / "my-study") == contents(tmp_path / "best")


def test_the_command_ends_at_a_signal(store_url: str, store: Store, tmp_path: Path) -> None:
    runner = Running.segtune(
        "jobs", env={"SEGTUNE_STORE": store_url, "SEGTUNE_ARTIFACTS": str(tmp_path)}
    )
    until(lambda: [one["device"] for one in workers(store)] == [DEVICE])
    runner.send(signal.SIGTERM)
    runner.finish(INTERRUPTED)
    assert workers(store) == []


def contents(folder: Path) -> dict[str, bytes]:
    """{file: what is in it} but for times, and for what is reckoned from them."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "manifest.json":
            lines = path.read_bytes().splitlines(keepends=True)
            timeless = [line for line in lines if b'"exported"' not in line]
            found[str(path.relative_to(folder))] = b"".join(timeless)
    assert {"config.yaml", "provenance.json", "README.md", "curves.png"} <= set(found)
    return found


def seen_at(store: Store, number: int) -> float:
    query = sa.select(job_table.c.seen_at).where(job_table.c.number == number)
    with store.engine.connect() as connection:
        return float(connection.execute(query).scalar_one())


def is_gone(pid: int) -> bool:
    """Whether a process has ended, or nobody has awaited it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except FileNotFoundError:
        return True
