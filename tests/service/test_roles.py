"""The roles of a shared store: each command under the smallest that it needs, and what others get.

On a server that asks for passwords, over TCP.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import psycopg2
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from search.cli import app
from search.dashboard.server import make_app
from search.database import locks
from search.database.migrations import SCHEMA_VERSION, migrate
from search.database.people import add_user, has_users, set_role
from search.database.retry import is_away
from search.database.roles import DASHBOARD, JOBS, OWNER, READER, ROLES, WORKER, roles_sql
from search.database.sessions import (
    begin_session,
    end_sessions,
    key_of,
    new_token,
    of_session,
    of_token,
)
from search.database.store import Store, open_store
from search.database.tables import AFTER, schema_table
from search.files.artifacts import Artifacts
from search.files.shown import attach
from search.samples.streets import write_streets
from search.studies import jobs, slots
from search.studies.confirmations import create_confirmation
from search.studies.finishing import close_all, reopen_all
from search.studies.job_runs import claim
from search.studies.limits import close, reopen, stopped
from search.studies.looks import Look, Score, add_look, looks_of
from search.studies.study import Study, create_or_resume, open_study, study_names
from search.studies.trial_facts import TrialFacts
from spaces.errors import InputError
from spaces.spec import StudySpec
from tests.fake_child import report
from tests.noop import crew
from tests.stores import small_study
from tests.waiting import Running
from trainers.checkpoint import weights_digest

MakeSpec = Callable[..., StudySpec]
PASSWORD = "of-a-role"
FINGERPRINT = "f" * 64


@dataclass(frozen=True)
class Shared:
    """A store with roles; `url` is that of its administrator.

    Attributes:
        artifacts: where its trials' files are.
    """

    url: str
    artifacts: Path

    def of(self, role: str) -> str:
        """Its URL for a role."""
        url = sa.make_url(self.url).set(username=role, password=PASSWORD)
        return url.render_as_string(hide_password=False)

    @contextlib.contextmanager
    def open(self, role: str) -> Iterator[Store]:
        with contextlib.closing(open_store(self.of(role))) as store:
            yield store

    def run(self, role: str, *words: str) -> Result:
        """Run a command as a role."""
        place = {"SEGTUNE_STORE": self.of(role), "SEGTUNE_ARTIFACTS": str(self.artifacts)}
        answer = CliRunner().invoke(app, list(words), env=place)
        assert answer.exception is None or isinstance(answer.exception, SystemExit), answer.output
        return answer

    def rows(self) -> dict[str, list[Any]]:
        """All that the tables hold."""
        engine = sa.create_engine(self.url)
        with engine.connect() as connection:
            names = sorted(sa.inspect(connection).get_table_names())
            found = {
                name: sorted(map(repr, connection.execute(sa.text(f"SELECT * FROM {name}"))))
                for name in names
            }
        engine.dispose()
        return found


@pytest.fixture
def shared(tcp_url: str, tmp_path: Path) -> Shared:
    """A store whose tables are there, with what `segtune migrate --roles` prints run in it."""
    printed = CliRunner().invoke(app, ["migrate", "--roles"]).output
    assert printed == roles_sql()
    execute(tcp_url, printed)
    made = Shared(tcp_url, tmp_path / "artifacts")
    give_passwords(made, tmp_path / "password", dict.fromkeys(ROLES, PASSWORD))  # runs it again
    return made


def give_passwords(shared: Shared, file: Path, passwords: dict[str, str]) -> None:
    """`segtune migrate --password-file` for each, as the administrator."""
    for role, password in passwords.items():
        file.write_text(f"{password}\n")
        words = ["migrate", "--password-file", f"{role}={file}"]
        answer = CliRunner().invoke(app, words, env={"SEGTUNE_STORE": shared.url})
        assert answer.exit_code == 0 and role in answer.output, answer.output
        assert password not in answer.output


def execute(url: str, statements: str) -> None:
    plain = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with contextlib.closing(psycopg2.connect(plain)) as connection:
        connection.autocommit = True
        connection.cursor().execute(statements)


def refuses(url: str, *statements: str) -> None:
    """The server refuses each of these to a role."""
    for statement in statements:
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            execute(url, statement)


def ended_study(store: Store, spec: StudySpec, artifacts: Path) -> Study:
    """A study with one trial that has ended, whose weights are there, and one that is open."""
    study = create_or_resume(store, spec, FINGERPRINT, None)
    claim = study.slots.claim(study.ask)
    assert claim is not None and study.report(claim, report(1, 0.5, classes=8))
    model = Artifacts(artifacts).workdir(study, claim.trial_number) / "model-1"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "config.json").write_text("{}")
    facts = TrialFacts(
        epochs=1, best_epoch=1, seconds=1.0, hardware={}, model_sha256=weights_digest(model)
    )
    assert study.slots.end(claim, slots.Result("COMPLETE", 0.5, "completed", facts.at_end()))
    return study


def worse_trials(study: Study, count: int) -> None:
    """End so many trials more, which leave no weights."""
    study.slots.extend(2 + count)
    for _ in range(count):
        claim = study.slots.claim(study.ask)
        assert claim is not None and study.report(claim, report(1, 0.25, classes=8))
        facts = TrialFacts(epochs=1, best_epoch=1, seconds=1.0, hardware={})
        assert study.slots.end(claim, slots.Result("COMPLETE", 0.25, "completed", facts.at_end()))


@pytest.fixture
def ended(shared: Shared, make_spec: MakeSpec) -> Shared:
    """With a study that a worker's role has made and run a trial of."""
    with shared.open(WORKER) as store:
        ended_study(store, make_spec(trials=2), shared.artifacts)
    return shared


# ---------------------------------------------------------------- what each role does


def test_a_reader_looks_at_everything_and_takes_the_best_away(
    ended: Shared, tmp_path: Path
) -> None:
    with ended.open(WORKER) as store:
        worse_trials(open_study(store, "small"), 9)  # a replay needs 10
    study = tmp_path / "study.yaml"
    data = write_streets(tmp_path / "data", train=2, val=1, size=(40, 48))
    study.write_text(small_study(data, name="other"))
    before = ended.rows()
    for words in (
        ["status"],
        ["status", "small"],
        ["studies"],
        ["report", "small", "--to", "-", "--format", "md"],
        ["export", "small", "--to", str(tmp_path / "best"), "--no-test"],
        ["migrate"],  # there is nothing to do
        ["replay", "small"],
        ["doctor"],
        ["clean"],
        ["check", str(study)],
    ):
        answer = ended.run(READER, *words)
        assert answer.exit_code == 0, (words, answer.output)
        assert PASSWORD not in answer.output
    written = [path for path in (tmp_path / "best").rglob("*") if path.is_file()]
    assert tmp_path / "best" / "model" / "model.safetensors" in written
    assert not [path for path in written if PASSWORD.encode() in path.read_bytes()]
    with ended.open(READER) as store:
        dashboard = make_app(store, Artifacts(ended.artifacts))
        for page in ("/dashboard", "/api/studies", "/api/studies/1", "/csv/1"):
            assert ask(dashboard, page) == "200 OK", page
    assert ended.rows() == before


def ask(dashboard: Any, path: str, method: str = "GET", body: bytes = b"") -> str:
    """The status of a page."""
    environ: dict[str, Any] = {"PATH_INFO": path, "HTTP_HOST": "localhost"}
    environ |= {"REQUEST_METHOD": method, "CONTENT_LENGTH": str(len(body))}
    environ |= {"CONTENT_TYPE": "application/json", "wsgi.input": io.BytesIO(body)}
    setup_testing_defaults(environ)
    statuses: list[str] = []
    answer = dashboard(environ, lambda status, headers, info=None: statuses.append(status))
    b"".join(answer)
    if hasattr(answer, "close"):
        answer.close()
    return statuses[0]


def test_a_dashboard_that_allows_writes_needs_a_role_that_may(ended: Shared) -> None:
    statuses = {}
    for version, role in ((1, READER), (1, WORKER), (2, DASHBOARD)):
        note = b'{"version": %d, "body": "good"}' % version
        with ended.open(role) as store:
            dashboard = make_app(store, Artifacts(ended.artifacts), allow_writes=True)
            statuses[role] = [
                ask(dashboard, "/api/studies/1/note", "PUT", note),
                ask(dashboard, "/api/studies/1/1/note", "PUT", note),
            ]
    written, refused = "204 No Content", "500 Internal Server Error"
    assert statuses == {
        READER: [refused] * 2,
        WORKER: [written] * 2,
        DASHBOARD: [written] * 2,
    }


def test_a_reader_changes_nothing_and_is_told_so_in_one_line(
    ended: Shared, make_spec: MakeSpec
) -> None:
    before = ended.rows()
    for words in (
        ["stop", "small"],
        ["resume", "small"],
        ["worker", "--until-idle"],
        ["jobs", "--until-idle"],
        ["delete", "small", "--yes"],
    ):
        answer = ended.run(READER, *words)
        assert answer.exit_code == 2 and answer.output.count("\n") == 1, (words, answer.output)
        said = f"segtune: the role {READER} may not do this in "
        assert answer.output.startswith(said) and "permission denied for " in answer.output
        assert "docs/operations.md" in answer.output and PASSWORD not in answer.output
    with ended.open(READER) as store:
        score = Score(trial=0, model_sha256="0", val=0.5, value=0.5, interval=None)
        look = Look(when="now", by="me", command="export", images=1, score=score)
        for forbidden in (
            lambda: create_or_resume(store, make_spec(name="new"), FINGERPRINT, None),
            lambda: add_look(open_study(store, "small"), look),  # what an export with a test does
        ):
            with pytest.raises(InputError, match=f"the role {READER} may not do this"):
                forbidden()
    assert ended.rows() == before
    assert (ended.artifacts).is_dir() and len(list(ended.artifacts.rglob("model-1"))) == 1


def test_a_workers_role_is_enough_for_workers_and_not_for_more(
    ended: Shared, make_spec: MakeSpec, tmp_path: Path
) -> None:
    import optuna

    with ended.open(WORKER) as store:
        study = open_study(store, "small")
        assert ended.run(WORKER, "stop", "small", "--now").exit_code == 0
        assert ended.run(WORKER, "resume", "small").exit_code == 0
        study.slots.extend(5)
        # a real worker's loop: it enters itself, claims, reports, publishes what it has found
        out = Running.fork(crew, ended.of(WORKER), tmp_path, "", 3, 0.0, 4.0, 1).finish()
        assert out.count("COMPLETE") == 4 and "not shown" not in out, out
        assert study.slots.counts()["COMPLETE"] == 5
        confirmation = create_confirmation(study)
        picture = tmp_path / "a.png"
        picture.write_bytes(b"png")
        attach(Artifacts(tmp_path).shown, confirmation, None, picture)
        score = Score(trial=0, model_sha256="0", val=0.5, value=0.5, interval=None)
        look = Look(when="now", by="me", command="export", images=1, score=score)
        assert add_look(study, look) == len(looks_of(study)) == 1
        optuna.create_study(study_name="half", storage=store.storage).enqueue_trial({"a": 1.0})
        create_or_resume(store, make_spec(name="half"), FINGERPRINT, None)
    before = ended.rows()
    answer = ended.run(WORKER, "delete", "small", "--yes")
    assert answer.exit_code == 2 and f"the role {WORKER} may not do this" in answer.output
    assert ended.rows() == before and list(ended.artifacts.rglob("model-1"))
    for statement in (
        "DELETE FROM segtune_slot",
        "DELETE FROM trials",  # their values, which it cannot remove, keep them
        "UPDATE segtune_epoch SET metric = 1",
        "UPDATE trial_values SET value = 1",
        "UPDATE segtune_schema SET version = 1",
        "DROP TABLE segtune_worker",
        "CREATE TABLE mine (a int)",
    ):
        with pytest.raises(psycopg2.Error):
            execute(ended.of(WORKER), statement)


def test_a_runner_of_jobs_deletes_studies_and_a_worker_cannot_have_it_done(
    ended: Shared, make_spec: MakeSpec
) -> None:
    with ended.open(DASHBOARD) as store:
        number = jobs.ask(store, "delete", "{}", "small")
    answer = ended.run(WORKER, "jobs", "--until-idle")
    assert answer.exit_code == 2 and answer.output.count("\n") == 1, answer.output
    assert f"the role {WORKER} may not do this" in answer.output
    with ended.open(JOBS) as store:
        create_confirmation(open_study(store, "small"))
        create_or_resume(store, make_spec(name="other"), FINGERPRINT, None)
        job = jobs.find(store, number)
        assert job is not None and job.state == jobs.WAITING
    for words in (["stop", "small", "--now"], ["jobs", "--until-idle"], ["resume", "other"]):
        answer = ended.run(JOBS, *words)
        assert answer.exit_code == 0, (words, answer.output)
    with ended.open(READER) as store:
        job, said = jobs.find(store, number), jobs.lines_of(store, number)
        assert job is not None and job.state == jobs.ENDED and study_names(store) == ["other"], said
        assert said.startswith("deleted study small of ") and said.count("\n") == 0
    assert not list(ended.artifacts.rglob("model-1"))
    before = ended.rows()
    refuses(
        ended.of(JOBS),
        "INSERT INTO segtune_job SELECT * FROM segtune_job",
        "UPDATE segtune_epoch SET metric = 1",
        "UPDATE trial_values SET value = 1",
        "DELETE FROM segtune_schema",
        "DROP TABLE segtune_worker",
        "CREATE TABLE mine (a int)",
    )
    assert ended.rows() == before


def test_only_the_dashboards_role_keeps_sessions_and_none_but_the_owner_changes_users(
    ended: Shared,
) -> None:
    """Else a reader could guess at passwords, or write itself the session of an owner."""
    with ended.open(OWNER) as store:
        add_user(store, "ann", "owner", PASSWORD, "test")
        token = new_token(store, "ann", "ci", "test")
    with ended.open(DASHBOARD) as store:
        key = key_of(store, "ann", PASSWORD)
        assert key and has_users(store)
        session = begin_session(store, "ann", key, 60.0, "192.0.2.1")
        execute(ended.url, "UPDATE segtune_session SET seen_at = 0")  # to be seen again
        assert of_session(store, session) and of_token(store, token)
        end_sessions(store, "ann", "192.0.2.1")
        assert of_session(store, session) is None
        for change in (
            lambda: set_role(store, "ann", "reader", "test"),
            lambda: new_token(store, "ann", "mine", "test"),
        ):
            with pytest.raises(InputError, match=f"the role {DASHBOARD} may not do this"):
                change()
        assert study_names(store) == ["small"]
        image = {"image": "a.png"}
        number = jobs.ask(
            store, "predict", json.dumps(image), "small", "ann", "192.0.2.1", b"an image"
        )
        jobs.cancel(store, number, "ann", "192.0.2.1")
        job = jobs.find(store, number)
        assert job is not None and job.state == jobs.CANCELLED
        study = open_study(store, "small")
        close_all(study, AFTER)
        assert stopped(study) == AFTER
        reopen_all(study)
        assert stopped(study) is None
        store.storage.set_study_system_attr(study.study_id, "dashboard:note_ver", 1)
        with pytest.raises(InputError, match=f"the role {DASHBOARD} may not do this"):
            claim(store, "me")
    before = ended.rows()
    for statement in (
        "UPDATE segtune_job SET kind = 'x'",
        "UPDATE segtune_job SET state = 'waiting'",
        "UPDATE segtune_job SET asked_by = 'bob'",
        "DELETE FROM segtune_job",
        "UPDATE segtune_audit SET who = 'bob'",
        "DELETE FROM segtune_audit",
        "UPDATE segtune_user SET role = 'owner'",
        "UPDATE segtune_session SET name = 'ann'",
        "UPDATE segtune_token SET token = 'mine'",
        "DELETE FROM segtune_slot",
        "DELETE FROM segtune_control",
        "UPDATE segtune_study SET spec = '{}'",
        "UPDATE trial_values SET value = 1",
        "DELETE FROM study_system_attributes",
        "CREATE TABLE mine (a int)",
    ):
        with pytest.raises(psycopg2.Error):
            execute(ended.of(DASHBOARD), statement)
    for role in (READER, WORKER, JOBS):
        with ended.open(role) as store:
            assert has_users(store)
        refuses(
            ended.of(role),
            "SELECT password FROM segtune_user",
            "SELECT key FROM segtune_user",
            "SELECT * FROM segtune_session",
            "SELECT * FROM segtune_token",
            "SELECT * FROM segtune_audit",
            "INSERT INTO segtune_session VALUES ('t', 'ann', 'k', 0, 1e12, 0, '')",
            "INSERT INTO segtune_token VALUES ('t', 'ann', 'k', 'ci', 0, 0)",
            "INSERT INTO segtune_audit VALUES (1, 0, 'ann', 'x', NULL, '')",
            "DELETE FROM segtune_user",
        )
    for role in (READER, WORKER):
        refuses(
            ended.of(role),
            "INSERT INTO segtune_job SELECT * FROM segtune_job",
            "UPDATE segtune_job SET kind = 'delete'",
            "UPDATE segtune_job SET cancelled_by = 'ann'",
            "DELETE FROM segtune_job",
        )
    assert ended.rows() == before


def test_an_owner_deletes_and_brings_old_tables_up_to_date(ended: Shared) -> None:
    for role in (READER, WORKER):
        execute(ended.url, f"UPDATE segtune_schema SET version = {SCHEMA_VERSION - 1}")
        for words in (["status"], ["stop", "small"], ["migrate"]):
            answer = ended.run(role, *words)
            assert answer.exit_code == 2 and answer.output.count("\n") == 1, answer.output
            assert (
                f"has schema {SCHEMA_VERSION - 1}, this segtune needs {SCHEMA_VERSION}, and the "
                f"role {role} may not change that" in answer.output
            )
            assert answer.output.endswith("run: segtune migrate\n")
    answer = ended.run(OWNER, "migrate")
    assert answer.exit_code == 0 and f"schema {SCHEMA_VERSION}" in answer.output
    assert json.loads(ended.run(READER, "studies", "--json").output)["studies"]
    assert ended.run(OWNER, "delete", "small", "--yes").exit_code == 0
    with ended.open(READER) as store:
        assert study_names(store) == []


def test_an_empty_database_is_set_up_by_its_owner_alone(
    own_database: Shared, make_spec: MakeSpec
) -> None:
    answer = own_database.run(WORKER, "status")
    assert answer.exit_code == 2 and "has no tables yet, and the role segtune_worker" in (
        answer.output
    )
    assert own_database.rows() == {}


@pytest.fixture
def own_database(shared: Shared) -> Iterator[Shared]:
    """An empty database on the same server."""
    name = f"{sa.make_url(shared.url).database}_empty"
    execute(shared.url, f"CREATE DATABASE {name} TEMPLATE template1")
    url = sa.make_url(shared.url).set(database=name).render_as_string(hide_password=False)
    yield Shared(url, shared.artifacts)
    execute(shared.url, f"DROP DATABASE {name} WITH (FORCE)")


# ---------------------------------------------------------------- locks


@contextlib.contextmanager
def session(url: str, *statements: str) -> Iterator[int]:
    """A session of somebody's that keeps what its statements have locked; its process there."""
    plain = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with contextlib.closing(psycopg2.connect(plain, application_name="intruder")) as connection:
        for statement in statements:
            connection.cursor().execute(statement)
        yield connection.info.backend_pid


def test_a_reader_who_takes_every_lock_stops_nobody(ended: Shared) -> None:
    """Opening, claiming, reporting, publishing, stopping: before, each waited for ever or 15 s."""
    keys = [(0x5E67, 0), *((first, one) for first in (0x5E68, 0x5E69) for one in range(4))]
    taken = [f"SELECT pg_advisory_lock({a}, {b})" for a, b in keys]
    with session(ended.of(READER), *taken, "SELECT * FROM segtune_study, trials"):
        for role in (READER, WORKER, OWNER):
            with ended.open(role) as store:
                study = open_study(store, "small")
        with ended.open(WORKER) as store:
            study = open_study(store, "small")
            claim = study.slots.claim(study.ask)
            assert claim is not None and study.report(claim, report(1, 0.25, classes=8))
            store.replace_study_attrs(study.study_id, ["segtune:test"], {"segtune:test": 1})
            for change in (lambda: close(store, study.study_id, "now"), study.slots.counts):
                change()
            reopen(store, study.study_id)
            study.slots.extend(3)


@pytest.mark.parametrize(
    "statement",
    ["SELECT pg_advisory_lock(24167, 0)", "SELECT * FROM segtune_worker"],
    ids=["the lock of migrations", "a table in a transaction that is left open"],
)
def test_who_keeps_an_upgrade_waiting_is_named(
    statement: str, ended: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(ended.url, "ALTER TABLE segtune_worker ALTER COLUMN study TYPE VARCHAR(90)")
    execute(ended.url, "UPDATE segtune_schema SET version = 5")  # the next one changes that table
    monkeypatch.setattr("search.database.store.migrate", partial(migrate, wait=0.3))
    with session(ended.of(READER), statement) as pid:
        answer = ended.run(OWNER, "migrate")
        assert answer.exit_code == 2 and answer.output.count("\n") == 1, answer.output
        where = "an address that is not shown"  # to a role that is neither's, nor an administrator
        assert f"is locked by intruder as {READER} from {where} (process {pid} of the server)" in (
            answer.output
        )
        assert f"SELECT pg_terminate_backend({pid})" in answer.output
    with contextlib.closing(open_store(ended.url)) as store, store.engine.connect() as connection:
        versions = connection.execute(sa.select(schema_table.c.version)).scalars().all()
        assert versions == [SCHEMA_VERSION]


def test_who_keeps_a_creation_waiting_is_named(ended: Shared, make_spec: MakeSpec) -> None:
    with ended.open(WORKER) as store:
        store.engine.dispose()
        sa.event.listen(store.engine, "connect", hurried)
        with (
            session(ended.url, "SELECT pg_advisory_lock(24168, 0)") as pid,
            pytest.raises(locks.LockHeld, match="is locked by intruder as segtune") as said,
        ):
            create_or_resume(store, make_spec(name="new"), FINGERPRINT, None)
        assert f"(process {pid} of the server)" in str(said.value) and is_away(said.value)
        assert study_names(store) == ["small"]
        create_or_resume(store, make_spec(name="new"), FINGERPRINT, None)


def hurried(connection: Any, record: Any) -> None:
    connection.cursor().execute("SET statement_timeout = 300")
    connection.commit()


def test_who_keeps_the_roles_waiting_is_named(
    ended: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.database.roles.WAIT_SECONDS", 0.3)
    with session(ended.of(READER), "SELECT * FROM trials"):
        give_passwords(ended, tmp_path / "p", {READER: PASSWORD})  # waits for nobody the next times
        execute(ended.url, "ALTER TABLE studies OWNER TO segtune")
        with session(ended.of(READER), "SELECT * FROM studies") as pid:
            words = ["migrate", "--password-file", f"{READER}={tmp_path / 'p'}"]
            answer = CliRunner().invoke(app, words, env={"SEGTUNE_STORE": ended.url})
    assert answer.exit_code == 2 and answer.output.count("\n") == 1, answer.output
    assert "cannot be set up: it is locked by intruder" in answer.output
    assert f"(process {pid} of the server)" in answer.output


# ---------------------------------------------------------------- passwords


@pytest.mark.parametrize("how", ["PGPASSWORD", "PGPASSFILE"])
def test_a_password_may_stand_beside_the_url(
    how: str, shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = sa.make_url(shared.of(READER))
    file = tmp_path / "pgpass"
    file.write_text(f"{url.host}:{url.port}:{url.database}:{url.username}:{PASSWORD}\n")
    file.chmod(0o600)
    monkeypatch.setenv(how, PASSWORD if how == "PGPASSWORD" else str(file))
    bare = f"postgresql://{url.username}@{url.host}:{url.port}/{url.database}"
    answer = CliRunner().invoke(app, ["status", "--store", bare])
    assert answer.exit_code == 0, answer.output


def test_passwords_come_from_files_and_are_not_sent(
    shared: Shared, tmp_path: Path, tcp_postgres: Any
) -> None:
    """Also odd ones; what the log may show of a statement is what the server stores of them."""
    database = sa.make_url(shared.url).database
    execute(shared.url, f"ALTER DATABASE {database} SET log_statement TO 'all'")
    for password in ('it\'s a \\ %s "$1"', "ключ: p@ss{w0rd}"):
        give_passwords(shared, tmp_path / "p", {WORKER: password})
        url = sa.make_url(shared.url).set(username=WORKER, password=password)
        with contextlib.closing(open_store(url.render_as_string(hide_password=False))):
            pass
        logged = (tcp_postgres.folder / "log").read_text()
        assert f"ALTER ROLE {WORKER} PASSWORD 'SCRAM-SHA-256$" in logged and password not in logged
    assert shared.run(WORKER, "status").exit_code == 2  # with the one from before
    answer = shared.run(OWNER, "migrate", "--password-file", f"{READER}={tmp_path / 'p'}")
    assert answer.exit_code == 2 and f"the role {OWNER} may not do this" in answer.output
