"""Trial files in a bucket, over HTTP: a real server that speaks S3's protocol."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer
from optuna.artifacts.exceptions import ArtifactNotFound
from werkzeug.test import Client

from search.dashboard.server import make_app
from search.database.store import Store, open_store
from search.delete import delete_study
from search.files.artifacts import Artifacts, open_artifacts
from search.files.bucket import Bucket, open_bucket
from search.files.bucket_copies import Copies, fetch_checkpoint, fetch_model, latest
from search.files.removal import files_size
from search.files.results import Results
from search.files.shown import attach, detach
from search.findings.export import export_study
from search.findings.report import report_text
from search.studies.job_runs import beat, claim, end
from search.studies.jobs import ENDED, ask
from search.studies.study import Study, create_or_resume, open_study
from search.work.service import new_worker
from search.work.watchers import Interrupt
from spaces.errors import InputError
from spaces.spec import StudySpec
from tests.fake_child import FakeChild, whole
from tests.waiting import Running, until
from trainers.durable import digests, read_json, write_json
from trainers.report import EpochReport
from trainers.tasks import load_data

MakeSpec = Callable[..., StudySpec]
UUID = "0" * 8 + "-0000-0000-0000-" + "0" * 12


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3 server on a free port of 127.0.0.1."""
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def aws(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The usual variables; returns the server's address."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-of-the-tests")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-tests")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    return server


@pytest.fixture
def bucket(aws: str, request: pytest.FixtureRequest) -> Bucket:
    """An empty bucket of its own for each test."""
    import boto3

    name = f"t{abs(hash(request.node.name)) % 10**12}"
    boto3.client("s3").create_bucket(
        Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
    )
    return open_bucket(f"s3://{name}/team/a")


def write_checkpoint(workdir: Path, epoch: int, best: int) -> None:
    """What trainers/checkpoint.py leaves behind after an epoch."""
    workdir.mkdir(exist_ok=True)
    (workdir / f"state-{epoch}.pt").write_bytes(b"state %d" % epoch)
    (workdir / f"model-{best}").mkdir(exist_ok=True)
    (workdir / f"model-{best}" / "model.safetensors").write_bytes(b"weights %d" % best)
    half = workdir / "last.json.tmp"  # as there: `copies` may be reading the one before
    half.write_text(json.dumps({"epoch": epoch, "best_epoch": best}))
    half.replace(workdir / "last.json")


def seal(workdir: Path, **facts: Any) -> None:
    """Give a checkpoint the SHA-256 of its files, as this version writes them."""
    stored = read_json(workdir / "last.json")
    state, model = f"state-{stored['epoch']}.pt", workdir / f"model-{stored['best_epoch']}"
    listed = digests(workdir, [workdir / state, *model.iterdir()])
    write_json(workdir / "last.json", {**stored, "files": listed, **facts})


def copied(bucket: Bucket, workdir: Path, key: str = "s/t") -> str:
    """Copy a checkpoint; returns where it is."""
    thread = copies(bucket)
    thread.checkpoint(key, workdir)
    assert thread.settle(600)
    found = latest(bucket, key)
    assert found is not None
    return found[1]


def no_word(problem: str) -> None:
    raise AssertionError(problem)


def files(folder: Path) -> dict[str, str]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_text() for path in found}


def copies(bucket: Bucket) -> Copies:
    return Copies(bucket, no_word)


def test_objects_lie_under_the_prefix_alone(bucket: Bucket) -> None:
    bucket.write("x/1", io.BytesIO(b"one"))
    bucket.write("x/2", io.BytesIO(b"two"))
    other = open_bucket(f"s3://{bucket.name}/team/b")
    other.write("x/1", io.BytesIO(b"other"))
    assert sorted(bucket.keys("x/")) == ["x/1", "x/2"]
    assert bucket.read("x/1").read() == b"one"
    bucket.remove(["x/1", "x/never"])
    assert list(bucket.keys("")) == ["x/2"]
    assert list(open_bucket(f"s3://{bucket.name}").keys("team/b")) == ["team/b/x/1"]
    with pytest.raises(ArtifactNotFound):
        bucket.read("x/1")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://", "must be a folder or s3://bucket/prefix"),
        ("s3:///prefix", "must be a folder or s3://bucket/prefix"),
        ("gs://bucket/a", "must be a folder or s3://bucket/prefix"),
        ("s3://UPPER_CASE/a", "must be a folder or s3://bucket/prefix"),
        ("s3://bucket/a?b=c", "the prefix must be a plain path"),
        ("s3://bucket/a/../b", "the prefix must be a plain path"),
        ("s3://no-such-bucket/a", "no such bucket"),
    ],
)
def test_what_is_no_bucket_is_refused(aws: str, url: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_artifacts(url)


def test_a_server_that_is_away_and_absent_credentials_are_said(
    aws: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import search.files.bucket

    monkeypatch.setattr(search.files.bucket, "TRIES", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="AWS_ENDPOINT_URL_S3"):
        open_bucket("s3://bucket/a")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(InputError, match="AWS_ACCESS_KEY_ID"):
        open_bucket("s3://bucket/a")


def test_without_boto3_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(InputError, match=r"pip install 'segtune\[s3\]'"):
        open_artifacts("s3://bucket/a")


def test_a_checkpoint_travels_whole(bucket: Bucket, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    assert not fetch_checkpoint(bucket, "study/trial-0001", there, no_word)
    thread = copies(bucket)
    for epoch, best in ((1, 1), (2, 2), (3, 2)):
        write_checkpoint(here, epoch, best)
        for old in (*here.glob("state-*"), *here.glob("model-*/*")):
            if old.name != f"state-{epoch}.pt" and old.parent.name != f"model-{best}":
                old.unlink()
        thread.checkpoint("study/trial-0001", here)
    assert thread.settle(600)
    epoch, key = latest(bucket, "study/trial-0001") or (0, "")
    assert epoch == 3
    assert fetch_checkpoint(bucket, "study/trial-0001", there, no_word)
    assert files(there) == {
        "last.json": (here / "last.json").read_text(),
        "state-3.pt": "state 3",
        "model-2/model.safetensors": "weights 2",
    }
    assert not fetch_checkpoint(bucket, "study/trial-0001", there, no_word)  # it is here now
    kept = {name.split("/")[3] for name in bucket.keys("study/trial-0001/checkpoint/")}
    assert kept == {key.rpartition("/")[2]}  # older ones are gone
    thread.forget_checkpoints("study/trial-0001")
    assert thread.settle(600) and list(bucket.keys("")) == []


def test_a_trial_with_folds_travels_whole(bucket: Bucket, tmp_path: Path) -> None:
    """What it has of the folds that have ended, and the checkpoint of the one that runs; then the
    weights of all."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    write_checkpoint(here / "fold-2", 1, 1)
    ended = {
        "fold-1/result.json": "{}",
        "model-folds/fold-1/config.json": "{}",
        "model-folds/fold-1/model.safetensors": "weights of fold 1",
        "last.json": '{"epoch": 5, "fold": 2}',
    }
    for name, text in ended.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(text)
    thread = copies(bucket)
    thread.checkpoint("s/t", here)
    assert thread.settle(600) and latest(bucket, "s/t") is not None
    assert fetch_checkpoint(bucket, "s/t", there, no_word) and files(there) == files(here)
    thread.model("s/t", here / "model-folds")
    assert thread.settle(600) and fetch_model(bucket, "s/t", tmp_path / "model-folds")
    assert files(tmp_path / "model-folds") == files(here / "model-folds")


def test_the_latest_whole_checkpoint_counts(bucket: Bucket, tmp_path: Path) -> None:
    """A worker that has lost its slot may still be copying, or have died half-way."""
    holder, stale, there = tmp_path / "holder", tmp_path / "stale", tmp_path / "there"
    write_checkpoint(holder, 7, 6)
    write_checkpoint(stale, 4, 4)
    thread = copies(bucket)
    thread.checkpoint("s/t", holder)
    assert thread.settle(600)
    thread.checkpoint("s/t", stale)  # late, and of an earlier epoch
    assert thread.settle(600)
    bucket.write("s/t/checkpoint/000009-0000abcd/state-9.pt", io.BytesIO(b"half"))
    assert fetch_checkpoint(bucket, "s/t", there, no_word)
    assert json.loads((there / "last.json").read_text())["epoch"] == 7
    write_checkpoint(holder, 8, 6)
    thread.checkpoint("s/t", holder)
    assert thread.settle(600)
    assert sorted({name.split("/")[3][:6] for name in bucket.keys("s/t/")}) == ["000008", "000009"]
    write_checkpoint(there, 12, 12)  # what is here is later than what is there
    assert not fetch_checkpoint(bucket, "s/t", there, no_word)


def test_a_trial_that_begins_anew_takes_its_place_in_the_bucket(
    bucket: Bucket, tmp_path: Path
) -> None:
    """What was copied of later epochs is of other weights; what was damaged here is fetched."""
    here = tmp_path / "here"
    write_checkpoint(here, 7, 6)
    thread = copies(bucket)
    thread.checkpoint("s/t", here)
    assert thread.settle(600)
    (here / "state-7.pt").unlink()
    said: list[str] = []
    assert fetch_checkpoint(bucket, "s/t", here, said.append) and (here / "state-7.pt").exists()
    assert ["the bucket is asked for another" in word for word in said] == [True], said
    anew = tmp_path / "anew"
    write_checkpoint(anew, 1, 1)
    thread.rewind("s/t", 0)
    thread.checkpoint("s/t", anew)
    assert thread.settle(600)
    found = latest(bucket, "s/t")
    assert found is not None and found[0] == 1


def test_a_bucket_that_is_away_is_tried_again(bucket: Bucket, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "w", 1, 1)
    problems: list[str] = []
    away = Bucket(bucket.name, bucket.prefix, Refusing(bucket.client, times=2))
    thread = Copies(away, problems.append)
    thread.checkpoint("s/t", tmp_path / "w")
    assert thread.settle(600)
    assert len(problems) == 2 and "the server is away" in problems[0]
    assert latest(bucket, "s/t") is not None


HOSTILE = ["../../../out", "/out", "a/../../../out", "model-2/../../../../out", "trial.log"]


@pytest.mark.parametrize("sealed", [True, False], ids=["with SHA-256", "of an earlier version"])
def test_a_hostile_key_is_refused_and_the_checkpoint_counts(
    sealed: bool, bucket: Bucket, tmp_path: Path
) -> None:
    """Whoever may write into the bucket must not write elsewhere on each worker."""
    here, there = tmp_path / "here", tmp_path / "a" / "b" / "there"
    write_checkpoint(here, 3, 2)
    if sealed:
        seal(here)
    folder = copied(bucket, here)
    hostile = [
        name.replace("/out", f"{tmp_path}/out") if name[0] == "/" else name for name in HOSTILE
    ]
    for name in hostile:
        bucket.write(f"{folder}/{name}", io.BytesIO(b"planted"))
    said: list[str] = []
    assert fetch_checkpoint(bucket, "s/t", there, said.append)
    assert files(there) == files(here) and set(tmp_path.iterdir()) == {here, tmp_path / "a"}
    assert not [path for path in tmp_path.rglob("*") if "out" in path.name]
    (word,) = said
    assert "and 4 more, which no trial writes" in word and "who else may write" in word
    # a name that a trial may write, but not this one
    bucket.write(f"{folder}/model-9/config.json", io.BytesIO(b"planted"))
    again = tmp_path / "again"
    assert fetch_checkpoint(bucket, "s/t", again, said.append)
    assert files(again) == files(here) if sealed else {"state-3.pt", "last.json"} < {*files(again)}


def test_a_hostile_key_among_weights_is_an_error(bucket: Bucket, tmp_path: Path) -> None:
    for name in ("config.json", "../../../../out"):
        bucket.write(f"s/t/model-3/{name}", io.BytesIO(b"planted"))
    model = tmp_path / "a" / "model-3"
    with pytest.raises(InputError, match=r"out' is no file of a trial.*delete it from the bucket"):
        fetch_model(bucket, "s/t", model)
    assert files(tmp_path) == {}


@pytest.mark.parametrize("damaged", ["state-5.pt", "model-4/model.safetensors", "last.json"])
@pytest.mark.parametrize("how", ["changed", "missing"])
def test_a_damaged_checkpoint_is_deleted_and_the_one_before_counts(
    damaged: str, how: str, bucket: Bucket, tmp_path: Path
) -> None:
    old, new, there = tmp_path / "old", tmp_path / "new", tmp_path / "there"
    for workdir, epoch, best in ((new, 5, 4), (old, 3, 2)):
        write_checkpoint(workdir, epoch, best)
        seal(workdir)
    folder = copied(bucket, new)
    for name, text in files(old).items():  # which a copy that was killed has not deleted
        bucket.write(f"s/t/checkpoint/000003-00000000/{name}", io.BytesIO(text.encode()))
    bucket.remove([f"{folder}/{damaged}"])
    if how == "changed":
        body = (new / damaged).read_bytes().replace(b"e 5", b"e 6").replace(b" 4", b" 2")
        bucket.write(f"{folder}/{damaged}", io.BytesIO(body))
    said: list[str] = []
    assert fetch_checkpoint(bucket, "s/t", there, said.append)
    assert files(there) == files(old)
    if (damaged, how) == ("last.json", "missing"):
        assert said == []  # it was never whole
        return
    (word,) = said
    assert folder in word and "is deleted" in word and damaged.rpartition("/")[2] in word
    assert latest(bucket, "s/t") == (3, "s/t/checkpoint/000003-00000000")
    assert not list(bucket.keys(folder))


def test_names_in_a_hostile_last_json_are_refused(bucket: Bucket, tmp_path: Path) -> None:
    """Its SHA-256 fits: whoever may write into the bucket may write that too."""
    here, there = tmp_path / "here", tmp_path / "there"
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for number, facts in enumerate(
        (
            {"files": {"../secret": "0" * 64}},
            {"best_epoch": "2/../../../secret"},
            {"epoch": "3/../../secret"},
            {"fold": "1/../.."},
        )
    ):
        write_checkpoint(here, 3, 2)
        seal(here)
        folder = copied(bucket, here, f"s/{number}")
        seal(here, **facts)
        bucket.write(f"{folder}/last.json", io.BytesIO((here / "last.json").read_bytes()))
        said: list[str] = []
        assert not fetch_checkpoint(bucket, f"s/{number}", there, said.append)
        assert len(said) == 1 and "last.json is damaged" in said[0], said
        assert files(there) == {}
    assert secret.read_text() == "secret"


def test_a_damaged_checkpoint_here_gives_way_to_the_buckets(bucket: Bucket, tmp_path: Path) -> None:
    here = tmp_path / "here"
    write_checkpoint(here, 3, 2)
    seal(here)
    copied(bucket, here)
    whole = files(here)
    (here / "state-3.pt").write_bytes(b"stale 3")
    said: list[str] = []
    assert fetch_checkpoint(bucket, "s/t", here, said.append)
    assert files(here) == whole and "state-3.pt is damaged" in said[0]


def test_links_in_a_trials_folder_are_not_copied(bucket: Bucket, tmp_path: Path) -> None:
    """A shared folder: what somebody links to there must not be published in the bucket."""
    here, secret = tmp_path / "here", tmp_path / "secret"
    secret.write_text("secret")
    write_checkpoint(here, 3, 2)
    (here / "model-2" / "config.json").symlink_to(secret)
    said: list[str] = []
    thread = Copies(bucket, said.append)
    thread.checkpoint("s/t", here)
    thread.model("s/t", here / "model-2")
    assert thread.settle(600)
    assert len(said) == 2 and all("config.json must be a plain file" in word for word in said)
    found = [bucket.read(name).read() for name in bucket.keys("s/t/")]
    assert b"secret" not in found


class Refusing:
    """A client whose first uploads fail."""

    def __init__(self, client: Any, times: int) -> None:
        self.client, self.times = client, times

    def upload_fileobj(self, *args: Any) -> None:
        if self.times:
            self.times -= 1
            raise ConnectionError("the server is away")
        self.client.upload_fileobj(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)


class Notes:
    """A watcher that takes notes of epochs."""

    def __init__(self) -> None:
        self.reports: list[EpochReport] = []
        self.attempts: list[int] = []

    def trial_started(self, number: int, config: Any, attempt: int) -> None:
        self.attempts.append(attempt)

    def trial_resumed(self, number: int, epoch: int, dropped: int) -> None: ...

    def epoch_ended(self, number: int, report: EpochReport) -> None:
        self.reports.append(report)

    def trial_ended(
        self, number: int, state: str, reason: str, value: float | None, epochs: int
    ) -> None: ...

    def store_away(self, error: BaseException) -> None:
        raise AssertionError(error)

    def not_shown(self, number: int | None, problem: str) -> None:
        raise AssertionError(problem)

    def paused(self, message: str) -> None:
        raise AssertionError(message)


def test_a_trial_waits_for_the_bucket_that_has_its_checkpoint(
    bucket: Bucket, postgres_url: str, make_spec: MakeSpec, tmp_path: Path
) -> None:
    """It must not begin anew while nobody knows."""
    store = open_store(postgres_url)
    spec = make_spec(trials=1)
    data = load_data(spec.data)
    study = create_or_resume(store, spec, data.fingerprint, None)
    network = Network(bucket.client)

    class Patient(Notes):
        def paused(self, message: str) -> None:
            assert "the server is away" in message
            network.refusals += 1
            network.away = network.refusals < 2

    def child(*given: Any) -> FakeChild:
        assert not network.away
        return whole(*given)

    notes = Patient()
    artifacts = Artifacts(tmp_path / "a", Bucket(bucket.name, bucket.prefix, network))
    assert new_worker(study, data, artifacts, notes, Interrupt(), make_child=child).run()
    assert network.refusals == 2 and [report.epoch for report in notes.reports] == [1, 2]
    assert study.slots.counts()["COMPLETE"] == 1
    store.close()


class Network:
    """A client whose server is away at first."""

    def __init__(self, client: Any) -> None:
        self.client, self.away, self.refusals = client, True, 0

    def __getattr__(self, name: str) -> Any:
        if self.away:
            raise ConnectionError("the server is away")
        return getattr(self.client, name)


def test_another_machine_resumes_what_a_killed_worker_has_copied(
    bucket: Bucket, postgres_url: str, make_spec: MakeSpec, tmp_path: Path
) -> None:
    """Worker A is killed; B, whose disk is empty, takes its trial up; C exports it."""
    store = open_store(postgres_url)
    spec = make_spec(trials=1, epochs=12)
    data = load_data(spec.data)
    study = create_or_resume(store, spec, data.fingerprint, None)
    elsewhere = Artifacts(tmp_path / "b", bucket)
    key = elsewhere.key(study, 0)
    a = Running.segtune(
        "worker", "--study", "small", "--until-idle",
        env={
            "SEGTUNE_HOME": str(tmp_path / "a"),
            "SEGTUNE_STORE": postgres_url,
            "SEGTUNE_ARTIFACTS": bucket.url,
        },
    )  # fmt: skip
    try:
        until(lambda: (latest(bucket, key) or (0, ""))[0] >= 3, progress=a.progress)
    finally:
        a.kill()
    known = study.history(0)
    resumed, _ = latest(bucket, key) or (0, "")
    assert 3 <= resumed <= len(known) < 12

    notes = Notes()
    assert new_worker(study, data, elsewhere, notes, Interrupt()).run()
    assert notes.attempts == [2]
    assert [report.epoch for report in notes.reports] == [*range(1, 13)]
    # what A has trained is repeated, not trained anew: to the microsecond as long
    assert notes.reports[:resumed] == known[:resumed]
    assert [report.epoch for report in study.history(0)] == [*range(1, 13)]
    assert not list(bucket.keys(f"{key}/checkpoint/"))

    c = Artifacts(tmp_path / "c", bucket)
    to = export_study(study, c, tmp_path / "best")
    assert json.loads((to / "provenance.json").read_text())["value"] == study.trial(0).value
    assert "Pictures of trial 0" in report_text(study, "html", c)
    served = dashboard_files(store, c)
    assert served and all(body.startswith(b"\x89PNG") for body in served)
    store.close()


def dashboard_files(store: Any, artifacts: Artifacts) -> list[bytes]:
    """What the dashboard answers where a page asks for a trial's pictures."""
    client = Client(make_app(store, artifacts))
    study = open_study(store, "small")
    trial = study.trial_id(0)
    found = []
    for key in store.study_attrs(study.study_id, f"dashboard:artifacts:{trial}:%"):
        name = key.rpartition(":")[2]
        answer = client.get(f"http://127.0.0.1/artifacts/{study.study_id}/{trial}/{name}")
        assert answer.status_code == 200
        assert answer.content_length == len(answer.data)
        found.append(answer.data)
    return found


def test_models_of_overtaken_trials_leave_the_bucket(
    bucket: Bucket, postgres_url: str, make_spec: MakeSpec, tmp_path: Path
) -> None:
    store = open_store(postgres_url)
    spec = make_spec(trials=3, epochs=1).model_copy(update={"keep_models": 1})
    data = load_data(spec.data)
    study = create_or_resume(store, spec, data.fingerprint, None)
    artifacts = Artifacts(tmp_path / "a", bucket)
    assert new_worker(study, data, artifacts, Notes(), Interrupt()).run()
    best = max(study.trials(), key=lambda trial: trial.value or 0)
    folders = {name.split("/")[1] for name in bucket.keys(artifacts.key(study, 0)[:8])}
    assert folders == {f"trial-{best.number:04d}"}
    model = tmp_path / "fetched" / f"model-{best.user_attrs['best_epoch']}"
    assert fetch_model(bucket, artifacts.key(study, best.number), model)
    assert sorted(path.name for path in model.iterdir()) == [
        "README.md",
        "config.json",
        "images.npz",
        "model.safetensors",
    ]
    assert not fetch_model(bucket, artifacts.key(study, best.number), model.with_name("model-99"))
    store.close()


def test_shown_files_come_and_go(
    bucket: Bucket, postgres_url: str, make_spec: MakeSpec, tmp_path: Path
) -> None:
    store = open_store(postgres_url)
    study = create_or_resume(store, make_spec(), "f" * 64, None)
    shown = Artifacts(tmp_path, bucket).shown
    picture = tmp_path / "curves.png"
    picture.write_bytes(b"png")
    name = attach(shown, study, 0, picture)
    with contextlib.closing(shown.open_reader(name)) as body:
        assert body.read() == b"png"
    for wrong in ("../x", "x", name.upper(), UUID):
        with pytest.raises(ArtifactNotFound):
            shown.open_reader(wrong)
    detach(shown, study, 0)
    assert list(bucket.keys("")) == []
    store.close()


def test_what_a_job_has_made_is_streamed_out_of_the_bucket(
    bucket: Bucket, store: Store, tmp_path: Path
) -> None:
    artifacts = Artifacts(tmp_path / "cache", bucket)
    results, content = Results(artifacts), os.urandom(300_000)
    (tmp_path / "result.zip").write_bytes(content)
    results.write(UUID, tmp_path / "result.zip")
    assert list(bucket.keys("")) == [f"jobs/{UUID}"] and not (tmp_path / "cache").exists()
    number = ask(store, "export", "{}", "roads")
    job = claim(store, "far:1:runner")
    assert job is not None and beat(store, job, result=UUID) == "ours"
    assert end(store, job, ENDED, 0, "")
    client = Client(make_app(store, artifacts))
    for _ in range(5):  # each gives its place back
        answer = client.get(f"/jobs/{number}/result")
        assert answer.data == content and answer.headers["Content-Length"] == str(len(content))
        answer.close()  # as a server does
        assert client.head(f"/jobs/{number}/result").status_code == 200
    results.remove(UUID)
    results.remove(UUID)
    assert client.get(f"/jobs/{number}/result").status_code == 404
    for key in (UUID, "../x", "", f"{UUID}/x"):
        with pytest.raises(ArtifactNotFound):
            results.open(key)


def test_a_deleted_study_leaves_nothing_in_the_bucket(
    bucket: Bucket, store: Store, make_spec: MakeSpec, tmp_path: Path
) -> None:
    artifacts = Artifacts(tmp_path, bucket)
    picture = tmp_path / "a.png"
    picture.write_bytes(b"png")

    def fill(name: str) -> Study:
        study = create_or_resume(store, make_spec(name=name), "f" * 64, None)
        bucket.write(f"{artifacts.key(study, 0)}/model-1/weights", io.BytesIO(b"x" * 100))
        attach(artifacts.shown, study, None, picture)
        return study

    fill("other")
    before = sorted(bucket.keys(""))
    study = fill("small")
    assert len(before) == 2 and files_size(artifacts, study) == 100
    assert delete_study(study, artifacts) == []
    assert sorted(bucket.keys("")) == before
