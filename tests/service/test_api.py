"""The HTTP API: who may do what, what is refused, and that its document says all of it."""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from search.dashboard.api import BASE, ROUTES
from search.dashboard.api.routes import Route
from search.dashboard.doors import Proxy
from search.dashboard.server import make_app
from search.database.audit import deeds
from search.database.people import add_user
from search.database.sessions import new_token
from search.database.store import Store, open_store
from search.database.tables import AFTER, NOW
from search.files.artifacts import Artifacts
from search.files.results import Results
from search.studies.job_kinds import FILE_LENGTH, KINDS, parsed
from search.studies.job_runs import beat, claim, end
from search.studies.jobs import ENDED, MOST_OF_USER, ask, find, latest
from search.studies.limits import stopped
from search.studies.owners import LAUNCHED_BY
from search.studies.slots import Result
from search.studies.study import Study, create_or_resume
from spaces.spec import StudySpec
from tests.browsing import PASSWORD, Answer, Client
from tests.statements import Statements

ROLES = {"olga": "owner", "max": "member", "mia": "member", "ray": "reader"}
NAME = "roads"
FILE = b"name: lanes\ntask: segmentation\n"  # the rest is for the runner to check
YAML = "application/yaml"
KEY = "0" * 8 + "-0000-0000-0000-" + "0" * 12
OWNER = "far:1:runner"
WRITES = [route for route in ROUTES if route.method == "POST"]


@dataclass
class Site:
    """A study that max has launched, and a dashboard with people that may write."""

    study: Study
    artifacts: Artifacts
    tokens: dict[str, str]

    def app(self, **options: Any) -> Any:
        return make_app(self.study.store, self.artifacts, **{"allow_writes": True, **options})

    def program(self, name: str | None, **options: Any) -> Program:
        return Program(Client(self.app(**options)), self.tokens[name] if name else None)

    @property
    def untouched(self) -> bool:
        asked = [job for job in latest(self.study.store) if job.number > 1 or job.cancelled_by]
        written = [d for d in deeds(self.study.store) if d.study is not None]
        return not asked and not written and stopped(self.study) is None


@dataclass
class Program:
    """Sends a user's token, or none."""

    client: Client
    token: str | None

    def __call__(self, method: str, path: str, body: Any = b"", **given: Any) -> Answer:
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        if self.token is not None:
            given.setdefault("Authorization", f"Bearer {self.token}")
        if path in ("/studies", "/check") and method == "POST":
            given.setdefault("kind", YAML)
        return self.client(method, BASE + path, sent, **given)


def make_site(store: Store, spec: StudySpec, folder: Path) -> Site:
    study = create_or_resume(store, spec, "f" * 64, None)
    store.storage.set_study_user_attr(study.study_id, LAUNCHED_BY, "max")
    for name, role in ROLES.items():
        add_user(store, name, role, PASSWORD, "test")
    tokens = {name: new_token(store, name, "ci", "test") for name in ROLES}
    return Site(study, Artifacts(folder), tokens)


@pytest.fixture
def site(store: Store, make_spec: Callable[..., StudySpec], tmp_path: Path) -> Site:
    return make_site(store, make_spec(name=NAME, trials=3, epochs=4), tmp_path / "artifacts")


@pytest.fixture
def refusing(tmp_path: Path, make_spec: Callable[..., StudySpec]) -> Iterator[Site]:
    """With one job, of max; the test that asks for it sees to it that nothing else is done."""
    store = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    made = make_site(store, make_spec(name=NAME, trials=3, epochs=4), tmp_path / "artifacts")
    assert ask(store, "export", "{}", NAME, by="max") == 1
    yield made
    store.close()


def path_of(route: Route) -> str:
    return route.path.replace("{name}", NAME).replace("{number}", "1")


def body_of(route: Route) -> bytes:
    return FILE if route.takes is str else b"{}"


def asked(answer: Answer) -> int:
    """The number of the job that was asked for."""
    assert answer.status == 202, answer.body
    assert answer.json["url"] == answer.header("Location") == f"{BASE}/jobs/{answer.json['job']}"
    return int(answer.json["job"])


def test_the_document_is_valid_and_says_what_there_is(refusing: Site) -> None:
    answer = refusing.program("ray")("GET", "/openapi.json")
    assert answer.header("Content-Type") == "application/json; charset=utf-8"
    found = answer.json
    OpenAPIV31SpecValidator(found).validate()
    said = {(m.upper(), path) for path, item in found["paths"].items() for m in item}
    assert said == {(route.method, BASE + route.path) for route in ROUTES}
    fields = found["components"]["schemas"]["Export"]["properties"]
    assert list(fields) == list(KINDS["export"].model_fields)
    assert "required" not in found["components"]["schemas"]["Export"]
    read = refusing.program("ray")("GET", "/studies").json["studies"][0]
    assert list(found["components"]["schemas"]["StudyRow"]["properties"]) == list(read)


def test_a_reader_sees_what_the_pages_show(site: Site) -> None:
    ray = site.program("ray", clock=count(0.0, 2.0).__next__)  # what is read is old at once
    [row] = ray("GET", "/studies").json["studies"]
    said = ("roads", "segmentation", "waiting", 0, 3, None, "max")
    keys = ("name", "task", "state", "ended", "trials", "best", "launched_by")
    assert tuple(row[key] for key in keys) == said
    slot = site.study.slots.claim(site.study.ask)
    assert slot and site.study.slots.end(slot, Result("COMPLETE", 0.5, "completed", {}))
    found = ray("GET", "/studies/roads")
    assert found.json["best"] == {"trial": 0, "value": 0.5, "epoch": None}
    assert (found.json["ended"], found.json["yours"]) == (1, False)
    assert found.json["summary"]["slots"]["COMPLETE"] == 1
    assert site.program("max")("GET", "/studies/roads").json["yours"]
    assert ray("GET", "/studies/roads", If_None_Match=found.header("ETag")).status == 304
    head = ray("HEAD", "/studies/roads/")
    assert head.status == 200 and head.body == b""
    near = ray("GET", "/studies/road")
    assert near.status == 404 and "did you mean roads?" in near.json["reason"]


def test_what_is_no_number_is_sent_as_null(site: Site) -> None:
    """JSON has no NaN, and what a trial reports may be one."""
    slot = site.study.slots.claim(site.study.ask)
    assert slot
    facts = {"folds": [0.5, math.nan]}
    assert site.study.slots.end(slot, Result("COMPLETE", 0.5, "completed", facts))
    found = site.program("ray")("GET", "/studies/roads").json
    assert found["summary"]["trials"][0]["folds"] == [0.5, None]


def test_a_member_launches_and_follows_a_job_to_its_file(site: Site, tmp_path: Path) -> None:
    max_, store = site.program("max"), site.study.store
    numbers = [asked(max_("POST", path, FILE)) for path in ("/check", "/studies")]
    found = [find(store, number) for number in numbers]
    assert [(j and j.kind, j and j.study, j and j.asked_by) for j in found] == [
        ("check", "lanes", "max"),
        ("launch", "lanes", "max"),
    ]
    assert parsed("launch", found[1].arguments).file == FILE.decode()  # type: ignore
    number = asked(max_("POST", "/studies/roads/export", {"trial": 0, "test": False}))
    deed = deeds(store)[0]
    said = (deed.who, deed.what, deed.study, deed.address)
    assert said == ("max", "export --trial 0 --no-test", NAME, "192.0.2.1")
    path = f"/jobs/{number}"
    seen = max_("GET", path)
    assert (seen.json["state"], seen.json["open"], seen.json["served"]) == ("waiting", True, False)
    assert max_("GET", f"{path}/result").status == 404
    for _ in numbers:
        other = claim(store, OWNER)
        assert other and end(store, other, "failed", 2, "why")
    job = claim(store, OWNER)
    assert job is not None and job.number == number
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("roads/config.yaml", "a: 1")
    Results(site.artifacts).write(KEY, tmp_path / "a.zip")
    assert beat(store, job, lines="a line", result=KEY) == "ours"
    seen = max_("GET", path, If_None_Match=seen.header("ETag"))
    assert (seen.json["state"], seen.json["lines"], seen.json["file"]) == (
        "running",
        "a line",
        False,
    )
    with Statements.of(store) as polled:
        assert max_("GET", path, If_None_Match=seen.header("ETag")).status == 304
    assert len(polled) == 2, polled.texts  # whose token it is, and the job
    assert end(store, job, ENDED, 0, "a line\nwrote roads")
    seen = max_("GET", path)
    assert (seen.json["state"], seen.json["code"], seen.json["file"]) == ("ended", 0, True)
    sent = max_("GET", f"{path}/result")
    assert zipfile.ZipFile(io.BytesIO(sent.body)).namelist() == ["roads/config.yaml"]
    assert "sandbox" in (sent.header("Content-Security-Policy") or "")


def test_who_may_stops_resumes_and_confirms(site: Site) -> None:
    for who in ("max", "olga"):
        program = site.program(who)
        for given, how in (({}, AFTER), ({"now": True}, NOW)):
            answer = program("POST", "/studies/roads/stop", given)
            assert answer.status == 200 and answer.json == {"name": NAME, "stop": how}
            assert stopped(site.study) == how
            assert program("GET", "/studies").json["studies"][0]["state"] == "stopped"  # at once
            assert program("POST", "/studies/roads/resume").json == {"name": NAME, "stop": None}
            assert stopped(site.study) is None
    found = [(deed.who, deed.what) for deed in deeds(site.study.store)][:4]
    assert found == [("olga", w) for w in ("resume", "stop now", "resume", "stop after")]
    max_ = site.program("max")
    more = asked(max_("POST", "/studies/roads/resume", {"trials": 5}))
    again = asked(max_("POST", "/studies/roads/confirm", {"top": 1}))
    words = [job.words for job in latest(site.study.store)]
    assert words == ["confirm --top 1", "resume --trials 5"]
    assert max_("POST", f"/jobs/{more}/cancel").json["state"] == "cancelled"
    left = site.program("olga")("POST", f"/jobs/{again}/cancel").json
    assert (left["state"], left["cancelled_by"]) == ("cancelled", "olga")


def test_others_change_nothing_of_what_is_not_theirs(refusing: Site) -> None:
    own = ("stop", "resume", "confirm")
    for route in WRITES:
        path, body = path_of(route), body_of(route)
        last = path.rpartition("/")[2]
        for who, status in ((None, 401), ("ray", 403), ("mia", 404 if last == "cancel" else 403)):
            if who == "mia" and last not in (*own, "cancel"):
                continue  # every member may ask for those
            answer = refusing.program(who)("POST", path, body)
            assert answer.status == status and answer.json["reason"], (who, path)
    for path in ("/jobs/1", "/jobs/1/result"):
        assert refusing.program(None)("GET", path).status == 401
        for who in ("ray", "mia"):
            assert refusing.program(who)("GET", path).status == 404, (who, path)
    assert refusing.untouched


def test_a_session_a_proxy_or_a_shared_password_changes_nothing(refusing: Site) -> None:
    """A browser sends them for a page of another site too, where that fools it."""
    cookie = Client(refusing.app())
    assert cookie.sign_in(name="olga").status == 303
    proxied = Client(refusing.app(proxy=Proxy("X-User", ("192.0.2.1",))))
    bearer = f"Bearer {refusing.tokens['olga']}"  # a proxy may add one of its own to all requests
    for route in WRITES:
        sent = ("POST", BASE + path_of(route), body_of(route), route.kind)
        for answer in (cookie(*sent), proxied(*sent, X_User="olga", Authorization=bearer)):
            assert answer.status == 403 and "Authorization" in answer.json["reason"]
        foreign = refusing.program("olga")
        for header in ("Origin", "Referer"):
            given = {header: "https://elsewhere.example"}
            assert foreign(*("POST", path_of(route), body_of(route)), **given).status == 403
    assert cookie("GET", f"{BASE}/studies").status == 200
    assert refusing.untouched


def test_without_users_a_shared_password_reads_and_nobody_asks_on_the_loopback(
    store: Store, make_spec: Callable[..., StudySpec], tmp_path: Path
) -> None:
    study = create_or_resume(store, make_spec(name=NAME, trials=3, epochs=4), "f" * 64, None)
    shared = Client(make_app(store, Artifacts(tmp_path), allow_writes=True, password=PASSWORD))
    assert shared("GET", f"{BASE}/studies").status == 401
    assert shared.sign_in().status == 303
    assert shared("GET", f"{BASE}/studies").status == 200
    for header in ({}, {"Authorization": f"Bearer {PASSWORD}"}):
        refused = shared("POST", f"{BASE}/studies/roads/stop", **header)
        assert refused.status == 403 and "segtune users add" in refused.json["reason"]
    alone = Client(make_app(store, Artifacts(tmp_path), allow_writes=True))
    stop = f"{BASE}/studies/roads/stop"
    for kind in ("", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert alone("POST", stop, kind=kind).status == 415  # what a page can send unasked
    assert alone("POST", stop, Origin="http://elsewhere.example").status == 403
    assert alone("POST", stop, Origin="null").status == 403
    assert stopped(study) is None
    assert alone("POST", stop).status == 200 and stopped(study) == AFTER
    assert asked(alone("POST", f"{BASE}/studies", FILE, YAML)) == 1
    assert deeds(store) == []


def test_a_dashboard_that_is_for_reading_answers_reads(refusing: Site) -> None:
    program = Program(Client(refusing.app(allow_writes=False)), refusing.tokens["olga"])
    for route in WRITES:
        answer = program("POST", path_of(route), body_of(route))
        assert answer.status == 403 and "--allow-writes" in answer.json["reason"]
    assert program("GET", "/studies").status == program("GET", "/jobs/1").status == 200
    assert not program("GET", "/studies/roads").json["yours"]
    assert refusing.untouched


EXPORT, STOP = "/studies/roads/export", "/studies/roads/stop"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", "/studies", b"x" * (FILE_LENGTH + 1), 413, f"{FILE_LENGTH} bytes"),
        ("POST", STOP, b" " * (FILE_LENGTH + 1), 413, f"{FILE_LENGTH} bytes"),
        ("POST", "/studies", b"", 400, "the file is empty"),
        ("POST", "/studies", b"\xff", 400, "UTF-8"),
        ("POST", "/studies", b"[" * 60_000, 400, "nested too deep"),
        ("POST", "/studies", b"- a\n- b", 400, "is not a mapping"),
        ("POST", "/studies", b"name: 5", 400, "name: must be text, but got 5 (study.yaml line 1)"),
        ("POST", "/check", b"task: x", 400, "name: must be text"),
        ("POST", "/check", b"name: ../x", 400, "name: must be 1 to 100 letters"),
        ("POST", "/studies", b"name: --store", 400, "name: must be 1 to 100 letters"),
        ("POST", "/studies", b"name: roads:confirm", 400, "name: must be 1 to 100 letters"),
        ("POST", STOP, b'{"how": "now"}', 400, "how"),
        ("POST", STOP, b'{"now": 1}', 400, "now: must be true or false"),
        ("POST", STOP, b"[]", 400, "the body"),
        ("POST", STOP, b"{", 400, "the body"),
        ("POST", STOP, b"[" * 60_000, 400, "the body"),
        ("POST", "/studies/roads/resume", b'{"trials": 0}', 400, "trials"),
        ("POST", "/studies/roads/confirm", b'{"top": 99}', 400, "top"),
        ("POST", EXPORT, b'{"to": "/etc"}', 400, "to"),
        ("POST", EXPORT, b'{"trial": "1;ls"}', 400, "trial: must be a whole number"),
        ("POST", EXPORT, b'{"onnx": true, "config_only": true}', 400, "exclude each other"),
        ("POST", "/studies/road/stop", b"", 404, "did you mean roads?"),
        ("POST", "/studies/roads:confirm/stop", b"", 404, "no study"),
        ("POST", "/studies/--to/export", b"", 404, "no study"),
        ("POST", "/studies/..%2F..%2Fetc/export", b"", 404, "no such route"),
        ("POST", "/jobs/7/cancel", b"", 404, "no job 7"),
        ("GET", "/jobs/7", b"", 404, "no job 7"),
        ("GET", "/jobs/0", b"", 404, "no such route"),
        ("GET", "", b"", 404, "openapi.json"),
        ("GET", "/studies/roads/delete", b"", 404, "openapi.json"),
        ("DELETE", "/studies/roads", b"", 405, "GET and HEAD"),
        ("PUT", "/studies", b"", 405, "GET and HEAD and POST"),
        ("GET", STOP, b"", 405, "POST"),
        ("OPTIONS", "/studies", b"", 405, "GET and HEAD and POST"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused_with_the_reason(
    refusing: Site, method: str, path: str, body: bytes, status: int, said: str
) -> None:
    answer = refusing.program("olga")(method, path, body)
    assert answer.status == status and said in answer.json["reason"], answer.body
    assert answer.header("Access-Control-Allow-Origin") is None
    assert (answer.header("Allow") is not None) == (status == 405)
    assert refusing.untouched


def test_a_body_of_another_type_is_415(refusing: Site) -> None:
    olga = refusing.program("olga")
    for route in WRITES:
        other = "application/json" if route.kind == YAML else YAML
        for kind in (other, "text/plain", "", f"x{route.kind}"):
            answer = olga("POST", path_of(route), body_of(route), kind=kind)
            assert answer.status == 415 and route.kind in answer.json["reason"], (route.path, kind)
    assert refusing.untouched
    assert olga("POST", STOP, kind="Application/JSON; charset=utf-8").status == 200


def test_too_many_jobs_are_429(site: Site) -> None:
    max_ = site.program("max")
    for _ in range(MOST_OF_USER):
        asked(max_("POST", EXPORT))
    refused = max_("POST", EXPORT)
    assert refused.status == 429 and "of your jobs wait already" in refused.json["reason"]
    assert len(latest(site.study.store)) == MOST_OF_USER


def test_it_stands_in_nobodys_way(site: Site) -> None:
    """optuna-dashboard's own routes, and guards that know them, are other ones."""
    olga = site.program("olga").client
    bearer = {"Authorization": f"Bearer {site.tokens['olga']}"}
    [found] = olga("GET", "/api/studies", **bearer).json["study_summaries"]
    assert found["study_name"] == NAME
    assert olga("DELETE", "/api/studies/1", **bearer).status == 403
    for path in ("/api/v11/studies", "/api/v1x"):
        assert not re.search(b"openapi", olga("GET", path, **bearer).body)
