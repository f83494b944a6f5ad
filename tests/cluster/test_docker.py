"""docker/ and docker-compose.yml used as docs/deployment.md says: built, run, broken, taken down.

The engine is real and the lines are the document's. Two things are not: the images of a hub have
stand-ins (tests/cluster/docker_engine.py), and there is no GPU, so docker-compose.cpu.yml is taken.
"""

from __future__ import annotations

import html
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from search.samples.streets import write_streets
from tests.cluster.docker_engine import Engine, run, what_is_missing
from tests.compose import DOCKERFILE, ROOT, SERVICES
from tests.stores import small_study
from tests.waiting import until

pytestmark = pytest.mark.timeout(1800)  # the first test builds the images

DOCUMENT = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
IMAGES = ("segtune-worker:local", "segtune-dashboard:local")
BUILT_FROM = (
    "pyproject.toml", "constraints.txt", "README.md", "LICENSE", "spaces", "trainers", "search",
    "docker", "docker-compose.yml", "docker-compose.cpu.yml", ".dockerignore", ".env.example",
)  # fmt: skip
TRIALS, EPOCHS = 4, 15
PASSWORD = "a long enough password"

# run in an image: what pip has installed there
INSTALLED = """\
import importlib.metadata, json
found = (d for d in importlib.metadata.distributions() if "/usr/local/" in str(d.locate_file("")))
print(json.dumps({d.metadata["Name"]: d.version for d in found}))
"""


# run in a container: sends a statement as the role that the service has; why it was refused
SEND = """\
import os, sys, psycopg2
try:
    psycopg2.connect(os.environ["SEGTUNE_STORE"]).cursor().execute(sys.argv[1])
except psycopg2.Error as error:
    print(error.pgcode)
"""
NO_RIGHT = "42501\n"


@dataclass(frozen=True)
class Deployment:
    """A folder with the project's files, as its user has it, and the engine beside it."""

    engine: Engine
    folder: Path
    port: int

    def documented(self, line: str) -> str:
        """Run a line that docs/deployment.md has; what it prints."""
        assert re.search(rf"^    {re.escape(line)}(?= *(#|$))", DOCUMENT, re.M), line
        return run(["bash", "-c", line], self.engine.environment, self.folder)

    def compose(self, *words: str) -> str:
        return run(["docker", "compose", *words], self.engine.environment, self.folder)

    def rows(self, query: str) -> list[list[str]]:
        """Ask the store."""
        asked = f"psql --username=segtune --no-align --tuples-only --command={shlex.quote(query)}"
        secret = 'PGPASSWORD="$(cat /run/secrets/postgres_password)"'
        out = self.compose("exec", "-T", "postgres", "sh", "-c", f"{secret} {asked}")
        return [line.split("|") for line in out.splitlines()]

    def containers(self) -> list[dict[str, Any]]:
        """All that run, as `docker inspect` shows them."""
        found = self.engine.docker("ps", "--quiet").split()
        shown: list[dict[str, Any]] = json.loads(self.engine.docker("inspect", *found))
        return shown

    def workers(self) -> list[dict[str, Any]]:
        return [c for c in self.containers() if service(c) == "worker"]

    def until_healthy(self) -> None:
        def states() -> dict[str, str]:
            return {c["Name"]: c["State"]["Health"]["Status"] for c in self.containers()}

        until(lambda: set(states().values()) == {"healthy"}, progress=states, every=1.0)

    def password(self, name: str) -> str:
        return (self.folder / "secrets" / f"{name}_password.txt").read_text().strip()

    def browser(self, **sign_in: str) -> Callable[..., Any]:
        """Somebody who has signed in: takes a path, and the fields of a form to be posted."""
        url = f"http://127.0.0.1:{self.port}"
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())

        def ask(path: str, **fields: str) -> Any:
            form = urllib.parse.urlencode(fields).encode() if fields else None
            request = urllib.request.Request(f"{url}{path}", form, {"Origin": url})
            return opener.open(request, timeout=60)

        ask("/login", **sign_in).close()
        return ask

    def add_user(self, name: str, role: str) -> None:
        """Name somebody who may sign in with PASSWORD."""
        (self.folder / "password.txt").write_text(PASSWORD)
        mounted = f"{self.folder / 'password.txt'}:/password.txt:ro"
        words = ["users", "add", name, "--role", role, "--password-file", "/password.txt"]
        self.compose("run", "--rm", "--volume", mounted, "admin", *words)

    def secrets(self) -> list[str]:
        files = sorted((self.folder / "secrets").iterdir())
        assert len(files) == 5
        return [path.read_text().strip() for path in files]


def service(container: dict[str, Any]) -> str:
    name: str = container["Config"]["Labels"]["com.docker.compose.service"]
    return name


def ended_job(browser: Callable[..., Any], page: str, place: str, **fields: str) -> str:
    """Send a form that a page has, and wait for the end of the job that it asks for; its number."""
    found = re.search('name="token" value="([0-9a-f]{64})"', browser(page).read().decode())
    assert found, page
    with browser(place, token=found[1], **fields) as answer:
        asked = re.fullmatch(r"/jobs/(\d+)", urllib.parse.urlsplit(answer.url).path)
    assert asked, place

    def shown() -> str:
        return html.unescape(browser(f"/jobs/{asked[1]}").read().decode())

    def state() -> str:
        found = re.search('class="state ([a-z]+)"', shown())
        assert found
        return found[1]

    until(lambda: state() not in ("waiting", "running"), progress=shown, every=1.0)
    assert state() == "ended", shown()
    return asked[1]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """An engine with the base images; absent on a laptop is a skip, in CI an error."""
    if why := what_is_missing():
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    running = Engine(Path(tempfile.mkdtemp(prefix="segtune-docker-")))
    running.start()
    try:
        [python] = re.findall(r"^FROM (\S+:\S+) AS", DOCKERFILE, re.M)
        running.make_bases(python, SERVICES["postgres"]["image"])
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def built(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """The images, built by one who followed the document."""
    folder = tmp_path_factory.mktemp("deployed")
    for name in BUILT_FROM:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        deployment = Deployment(engine, folder, probe.getsockname()[1])
    write_streets(folder / "data" / "streets", train=8, val=4, size=(40, 48))
    (folder / "data" / "study.yaml").write_text(
        small_study(Path("streets"), name="other", trials=1, epochs=1)
    )
    for line in (
        "install -d -m 700 secrets",
        "openssl rand -base64 24 > secrets/postgres_password.txt",
        "openssl rand -base64 24 > secrets/worker_password.txt",
        "openssl rand -base64 24 > secrets/jobs_password.txt",
        "openssl rand -base64 24 > secrets/dashboard_role_password.txt",
        "openssl rand -base64 24 > secrets/dashboard_password.txt",
        "chmod 644 secrets/*.txt",
        "cp .env.example .env",
    ):
        deployment.documented(line)
    settings = (folder / ".env").read_text()
    for line, mine in (
        ("SEGTUNE_DASHBOARD_PORT=8080", f"SEGTUNE_DASHBOARD_PORT={deployment.port}"),
        ("SEGTUNE_WORKERS=1", "SEGTUNE_WORKERS=2"),
        ("# COMPOSE_FILE=", "COMPOSE_FILE="),
    ):
        assert settings.count(f"\n{line}") == 1
        settings = settings.replace(line, mine)
    (folder / ".env").write_text(settings)
    deployment.documented("docker compose build")
    return deployment


@pytest.fixture(scope="module")
def running(built: Deployment) -> Deployment:
    """The services, all of them healthy."""
    built.documented("docker compose up --detach")
    built.until_healthy()
    return built


@dataclass(frozen=True)
class Studied:
    """A study that has ended, and the containers from before its worker was killed."""

    deployment: Deployment
    killed: str
    spared: str


@pytest.fixture(scope="module")
def studied(running: Deployment) -> Studied:
    """A study that a member begins in the browser, and two workers train.

    One of them is killed in a trial, and then Postgres is started anew.
    """
    running.add_user("olga", "owner")
    running.add_user("max", "member")
    running.documented("docker compose restart dashboard")
    running.until_healthy()
    browser = running.browser(username="max", password=PASSWORD)
    place = "/data?folder=/data/streets"
    found = ended_job(browser, place, "/data", folder="/data/streets")
    text = html.unescape(browser(f"/new?job={found}").read().decode())
    assert "images: /data/streets/train/images" in text, text
    text = small_study(Path("streets"), name="my-study", trials=TRIALS, epochs=EPOCHS)
    checked = ended_job(browser, "/new", "/new", do="check", text=text)
    launched = ended_job(browser, f"/jobs/{checked}", "/new", do="launch", job=checked)
    assert 'href="/studies/my-study"' in browser(f"/jobs/{launched}").read().decode()

    def begun() -> list[list[str]]:
        return running.rows("SELECT DISTINCT trial_number FROM segtune_epoch")

    until(lambda: len(begun()) == 2, progress=begun, every=0.5)
    killed, spared = running.workers()
    os.kill(killed["State"]["Pid"], signal.SIGKILL)  # not `docker kill`, which would keep it down
    running.documented("docker compose restart postgres")

    def states() -> list[list[str]]:
        epochs = "SELECT count(*) FROM segtune_epoch"
        return running.rows(f"SELECT state, ({epochs}) FROM segtune_slot")

    until(lambda: {s for s, _ in states()} == {"COMPLETE"}, progress=states, every=1.0)
    return Studied(running, killed["Id"], spared["Id"])


def test_images_hold_what_is_pinned_and_no_more(built: Deployment) -> None:
    """Every package in the version of constraints.txt; torch and the trackers are the worker's."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(name): v for name, _, v in (x.partition("==") for x in lines)}
    found = {}
    for image in IMAGES:
        python = ["run", "--rm", "--entrypoint", "python", image, "-c"]
        installed = json.loads(built.engine.docker(*python, INSTALLED))
        versions = {canonicalize_name(name): version for name, version in installed.items()}
        del versions["segtune"]
        assert {name: pinned.get(name) for name in versions} == versions
        found[image] = set(versions)
    worker, dashboard = (found[image] for image in IMAGES)
    assert worker > dashboard | {"torch", "tensorboard", "wandb", "mlflow-skinny", "boto3"}
    assert not worker & {"pytest", "moto", "ray", "submitit"} and "torch" not in dashboard


def test_a_secret_that_an_older_installation_lacks_is_named(built: Deployment) -> None:
    secret = built.folder / "secrets" / "jobs_password.txt"
    kept = secret.rename(built.folder / "kept.txt")
    words, environment = ["docker", "compose", "up", "--detach"], built.engine.environment
    done = subprocess.run(words, env=environment, cwd=built.folder, capture_output=True, text=True)
    kept.rename(secret)
    said = f"bind source path does not exist: {secret}"
    assert done.returncode != 0 and said in done.stderr, done.stderr


def test_nothing_runs_as_root_or_is_published_beyond_this_machine(running: Deployment) -> None:
    published = {}
    for container in running.containers():
        name = service(container)
        ids = running.engine.docker("top", container["Id"], "-eo", "uid,pid").splitlines()[1:]
        assert ids and not any(line.split()[0] == "0" for line in ids), (name, ids)
        host = container["HostConfig"]
        assert host["CapDrop"] == ["ALL"] and not host["CapAdd"] and not host["Privileged"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        ports = container["NetworkSettings"]["Ports"].values()
        bound = [(end["HostIp"], end["HostPort"]) for ends in ports if ends for end in ends]
        published |= {name: bound} if bound else {}
        if name == "dashboard":  # which writes what people put beside studies, and nothing else
            assert host["ReadonlyRootfs"]
            assert [m["Destination"] for m in container["Mounts"] if m["RW"]] == ["/artifacts"]
    assert published == {"dashboard": [("127.0.0.1", str(running.port))]}


def test_postgres_asks_everyone_for_a_password(running: Deployment) -> None:
    rules = running.compose("exec", "-T", "postgres", "sh", "-c", "cat $PGDATA/pg_hba.conf")
    methods = {x.split()[-1] for x in rules.splitlines() if x.strip() and x[0] != "#"}
    assert methods == {"scram-sha-256"}


def test_each_service_has_the_role_that_it_needs(running: Deployment) -> None:
    secrets, addresses = {}, {}
    for container in running.containers():
        name = service(container)
        [network] = container["NetworkSettings"]["Networks"].values()
        addresses[network["IPAddress"]] = name
        places = [Path(mount["Destination"]) for mount in container["Mounts"]]
        secrets[name] = {place.name for place in places if place.parent.name == "secrets"}
    assert secrets == {
        "postgres": {"postgres_password"},
        "worker": {"worker_password"},
        "jobs": {"jobs_password"},
        "dashboard": {"dashboard_role_password", "dashboard_password"},
    }
    sessions = "SELECT host(client_addr), usename FROM pg_stat_activity WHERE client_port > 0"
    roles = {(addresses[address], role) for address, role in running.rows(sessions)}
    assert roles == {
        ("worker", "segtune_worker"),
        ("jobs", "segtune_jobs"),
        ("dashboard", "segtune_dashboard"),
    }
    for name, statement in (
        ("worker", "DROP TABLE segtune_slot"),
        ("worker", "DELETE FROM segtune_slot"),
        ("worker", "UPDATE segtune_job SET kind = 'delete'"),
        ("jobs", "DROP TABLE segtune_slot"),
        ("dashboard", "UPDATE segtune_slot SET state = 'OPEN'"),
        ("dashboard", "DELETE FROM segtune_worker"),
    ):
        sent = ["segtune-entrypoint", "python", "-c", SEND, statement]
        assert running.compose("exec", "-T", name, *sent) == NO_RIGHT, statement


def test_one_password_opens_the_dashboard_until_people_have_names(running: Deployment) -> None:
    url = f"http://127.0.0.1:{running.port}"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{url}/api/studies", timeout=20)
    refused.value.close()
    assert refused.value.code == 401
    browser = running.browser(password=running.password("dashboard"))
    assert json.loads(browser("/api/studies").read()) == {"study_summaries": []}


def test_a_killed_worker_and_a_restarted_postgres_lose_nothing(studied: Studied) -> None:
    deployment = studied.deployment
    epochs = deployment.rows("SELECT trial_number, count(*) FROM segtune_epoch GROUP BY 1")
    assert sorted(epochs) == [[str(number), str(EPOCHS)] for number in range(TRIALS)]
    deployment.until_healthy()
    restarts = {c["Id"]: c["RestartCount"] for c in deployment.workers()}
    assert restarts == {studied.killed: 1, studied.spared: 0}
    logs = deployment.compose("logs", "--no-color")
    assert "Traceback" not in logs, logs


def test_the_dashboard_shows_it_to_those_who_sign_in(studied: Studied) -> None:
    """From an image without torch and whatever else only workers need."""
    browser = studied.deployment.browser(username="max", password=PASSWORD)

    def get(path: str) -> Any:
        return json.loads(browser(path).read())

    [study] = get("/api/studies")["study_summaries"]
    assert study["study_name"] == "my-study"
    here = f"/api/studies/{study['study_id']}"
    assert len(get(f"{here}?after=0")["trials"]) == TRIALS
    for plot in ("contour", "slice", "parallel_coordinate", "rank", "edf", "timeline"):
        assert get(f"{here}/plot/{plot}")["data"], plot
    page = browser("/studies/my-study").read().decode()
    assert page.count('class="state complete"') == TRIALS
    assert 'class="state ended"' in page, page
    assert "<td>max</td>" in browser("/studies").read().decode()


def test_a_member_takes_the_best_away(studied: Studied) -> None:
    """The job that exports it runs in a container of its own."""
    deployment = studied.deployment
    browser = deployment.browser(username="max", password=PASSWORD)
    place = "/studies/my-study/export"
    job = ended_job(browser, place, place)
    archive = zipfile.ZipFile(io.BytesIO(browser(f"/jobs/{job}/result").read()))
    facts = json.loads(archive.read("my-study/provenance.json"))
    [[best]] = deployment.rows("SELECT max(value) FROM trial_values")
    assert facts["value"] == float(best)
    assert "my-study/model/model.safetensors" in archive.namelist()


def test_the_export_has_the_value_of_the_study(studied: Studied) -> None:
    deployment = studied.deployment
    deployment.documented(
        "docker compose run --rm segtune export my-study --to /artifacts/exported/my-study"
    )
    deployment.documented("docker compose cp worker:/artifacts/exported/my-study best")
    facts = json.loads((deployment.folder / "best" / "provenance.json").read_text())
    [[best]] = deployment.rows("SELECT max(value) FROM trial_values")
    assert facts["value"] == float(best) > 0
    exported = "/artifacts/exported/my-study"
    words = ["run", "--rm", "--no-deps", "segtune", "evaluate", exported, "--data", "val"]
    scored = re.search(r"mIoU ([\d.]+)", deployment.compose(*words))
    assert scored and float(scored[1]) == pytest.approx(facts["value"], abs=1e-4)


def test_a_backup_holds_the_store_and_the_files(studied: Studied) -> None:
    deployment = studied.deployment
    text = DOCUMENT.split("## Backup")[1].split("## ")[0]
    lines = "\n".join(x.strip() for x in text.splitlines() if x.startswith("    "))
    run(["bash", "-ec", lines], deployment.engine.environment, deployment.folder)
    assert (deployment.folder / "segtune.dump").read_bytes().startswith(b"PGDMP")
    kept = run(["tar", "-tf", "artifacts.tar"], deployment.engine.environment, deployment.folder)
    assert "model" in kept


def test_a_changed_password_file_changes_the_password(studied: Studied) -> None:
    deployment = studied.deployment
    for name in ("worker_password", "jobs_password", "dashboard_role_password"):
        deployment.documented(f"openssl rand -base64 24 > secrets/{name}.txt")
    deployment.documented("docker compose up --detach --force-recreate")
    deployment.until_healthy()  # which a worker is that the store has heard of


def test_the_passwords_stand_nowhere_but_in_their_files(studied: Studied) -> None:
    """In no layer, environment, log or volume: nowhere in what the engine has stored."""
    deployment = studied.deployment
    shown = [deployment.engine.docker("history", "--no-trunc", image) for image in IMAGES]
    shown += [json.dumps(deployment.containers()), deployment.engine.docker("inspect", *IMAGES)]
    patterns = [word for secret in deployment.secrets() for word in ("-e", secret)]
    for secret in deployment.secrets():
        assert len(secret) == 32 and not any(secret in text for text in shown)
    # merged: the layers once more, of containers that run
    words = ["grep", "-rlF", "--exclude-dir=merged", *patterns, str(deployment.engine.root)]
    found = subprocess.run(words, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (1, ""), found  # 1: grep has found nothing


def test_a_study_is_launched_and_deleted_from_the_command_line(studied: Studied) -> None:
    deployment = studied.deployment
    deployment.documented("docker compose run --rm launch study.yaml")

    def states() -> list[list[str]]:
        named = "JOIN studies USING (study_id) WHERE study_name = 'other'"
        return deployment.rows(f"SELECT state FROM segtune_slot {named}")

    until(lambda: states() == [["COMPLETE"]], progress=states, every=1.0)
    deployment.compose("run", "--rm", "admin", "delete", "other", "--yes")
    assert states() == []


def test_a_member_deletes_a_study_in_the_browser(studied: Studied) -> None:
    deployment = studied.deployment
    browser = deployment.browser(username="max", password=PASSWORD)
    place = "/studies/my-study/delete"
    ended_job(browser, place, place, name="my-study")
    assert deployment.rows("SELECT count(*) FROM segtune_slot") == [["0"]]
    left = deployment.compose("exec", "-T", "worker", "find", "/artifacts", "-name", "trial-*")
    assert left == ""


def test_it_is_taken_down_and_its_studies_stay(studied: Studied) -> None:
    deployment = studied.deployment
    deployment.documented("docker compose up --detach --scale worker=1")
    [worker] = deployment.workers()
    deployment.compose("stop", "worker")  # the signal reaches the worker itself
    [stopped] = json.loads(deployment.engine.docker("inspect", worker["Id"]))
    assert stopped["State"]["ExitCode"] == 130
    deployment.documented("docker compose down")
    assert deployment.engine.docker("ps", "--all", "--quiet") == ""
    volumes = deployment.engine.docker("volume", "ls", "--quiet").split()
    assert {f"segtune_{name}" for name in ("artifacts", "gpus", "postgres")} <= set(volumes)
