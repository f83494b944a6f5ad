"""segtune's own pages beside optuna-dashboard's: what they say, what a poll costs, who may ask."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from html.parser import HTMLParser
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from search.dashboard.pages.frame import POLICY
from search.dashboard.publish import Publisher
from search.dashboard.server import make_app
from search.database.store import Store, open_store
from search.database.tables import AFTER, GAIN, GPU_HOURS, slot_table
from search.files.artifacts import Artifacts
from search.findings.facts import gather
from search.studies.confirmations import create_confirmation, plan
from search.studies.heartbeats import Registration
from search.studies.limits import close, reopen
from search.studies.owners import user
from search.studies.slots import Result
from search.studies.study import Study, create_or_resume
from spaces.spec import StudySpec
from tests.conftest import HOSTILE
from tests.service.test_dashboard import HOST, PASSWORD, Answer, Client, Clock
from tests.statements import Statements
from trainers.report import EpochReport, Losses

MakeSpec = Callable[..., StudySpec]
LOG = "/studies/scripted-segmentation/trials/0/log"
ROUTES = ("/studies", "/studies/NAME", LOG, "/workers", "/pages/page.css", "/pages/page.js", "/")


class Cells(HTMLParser):
    """The rows of a page's last table, as texts, and what each start tag says."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.rows = []
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] = " ".join(f"{self.rows[-1][-1]} {data}".split())


def page(client: Client, path: str = "/studies") -> list[list[str]]:
    """The body of a page's last table."""
    answer = client("GET", path)
    assert answer.status == 200, answer.body
    return Cells(answer.body).rows[1:]


def end(study: Study, value: float | None, reason: str = "completed") -> int:
    claim = study.slots.claim(study.ask)
    assert claim
    report(study, claim, value or 0.1)
    facts = {"epochs": 2, "best_epoch": 2, "seconds": 4.0}
    state = "COMPLETE" if reason == "completed" else "PRUNED"
    assert study.slots.end(claim, Result(state, value, reason, facts))
    return claim.trial_number


def report(study: Study, claim: Any, value: float, epoch: int = 1) -> None:
    losses = Losses(total=1.0, pixel=1.0, region=0.5)
    study.report(claim, EpochReport(epoch=epoch, metric=value, train=losses, val=losses))


def age(study: Study) -> None:
    """Let leases be older: sqlite's clock counts whole seconds, and a report prolongs them."""
    with study.store.engine.begin() as connection:
        earlier = {"lease_until": slot_table.c.lease_until - 5}
        connection.execute(sa.update(slot_table).values(**earlier))


@pytest.fixture
def client(store: Store, tmp_path: Path) -> Client:
    """A reader to whom a second passes with each look."""
    return Client(make_app(store, Artifacts(tmp_path), clock=count().__next__))


@pytest.fixture
def study(store: Store, make_spec: MakeSpec) -> Study:
    spec = make_spec(trials=4, epochs=4, starting_points="true")
    return create_or_resume(store, spec, "f" * 64, None)


@pytest.fixture(scope="module")
def hostile(hostile_stores: dict[str, str], tmp_path_factory: Any) -> Iterator[Client]:
    """A reader of a store in which all texts that may be markup are."""
    with closing(open_store(hostile_stores["segmentation"], create=False)) as store:
        yield Client(make_app(store, Artifacts(tmp_path_factory.mktemp("pages"))))


def again(client: Client, path: str, before: Answer) -> int:
    """The status of a poll that has what is shown."""
    return client("GET", path, If_None_Match=before.header("ETag")).status


# --- what they say ---


def test_the_list_says_how_far_a_study_is_and_what_is_best(
    client: Client, study: Study, tmp_path: Path
) -> None:
    name = study.spec.name
    assert page(client) == [
        [name, "waiting for workers", "0 of 4", *("-" * 4), "0", "segmentation", user()]
    ]
    end(study, 0.25)
    best = end(study, 0.5, "median")
    claim = study.slots.claim(study.ask)
    assert claim
    [row] = page(client)
    assert row[1:3] == ["running", "2 of 4"]
    assert row[4] == f"0.5000 mIoU trial {best}, epoch 2"
    assert row[5:7] == ["not confirmed", "-"]  # nobody has written the answer yet
    Publisher(study, Artifacts(tmp_path)).refresh(gather(study))
    assert page(client)[0][6] == "it is the baseline"
    crew = Registration(study.store, study.owner, "cuda:0")
    crew.enter()
    crew.works_on(name, claim.trial_number)
    assert page(client)[0][7] == "1"
    close(study.store, study.study_id, AFTER)
    assert page(client)[0][1] == "running its last trials; stopped by a user"
    study.slots.end(claim, Result("FAILED", None, "crashed", {}))
    assert page(client)[0][1] == "stopped by a user"
    close(study.store, study.study_id, GPU_HOURS)
    assert page(client)[0][1] == "stopped its GPU hours are spent"
    close(study.store, study.study_id, GAIN)
    assert page(client)[0][1] == "ended by itself: little is left to gain"
    reopen(study.store, study.study_id)
    end(study, 0.125)
    assert page(client)[0][1:4] == ["ended", "4 of 4", "-"]
    assert page(client)[0][4] == f"0.5000 mIoU trial {best}, epoch 2"


def test_the_list_says_how_far_a_study_is_in_epochs_and_how_long_it_takes(
    client: Client, study: Study
) -> None:
    claim = study.slots.claim(study.ask)
    assert claim
    report(study, claim, 0.25)
    assert page(client)[0][3] == "not known yet 1 of at most 16 epochs"
    study.slots.extend(8)
    for _ in range(3):
        end(study, 0.5)  # 2 epochs in 4 s; the first is the one that ran
    claim = study.slots.claim(study.ask)
    assert claim
    for epoch in (1, 2):
        report(study, claim, 0.5, epoch)
    left, told = re.split(" s ", page(client)[0][3].removeprefix("about "))
    assert told == "8 of at most 32 epochs" and 0 < int(left) <= 4 * 4 * 2 + 4
    close(study.store, study.study_id, AFTER)
    assert page(client)[0][3].endswith("8 of at most 16 epochs")  # only what runs goes on
    study.slots.end(claim, Result("FAILED", None, "crashed", {}))
    assert page(client)[0][3] == "-"


def test_the_list_says_what_fresh_seeds_have_shown(
    client: Client, study: Study, tmp_path: Path
) -> None:
    while study.slots.counts()["OPEN"]:
        number = end(study, 0.25)
    study.slots.extend(number + 3)
    best = max(end(study, value) for value in (0.5, 0.625))
    answer = gather(study).answer
    assert answer is not None and answer.baseline is not None
    confirmation = create_confirmation(study)
    confirmation.slots.extend(4)
    for seed in (1, 2):
        for trial in (study.trial(best), answer.baseline):
            plan(confirmation, trial, study.config(trial), seed)
    assert page(client)[0][1] == "waiting for workers, to confirm"
    assert page(client)[0][5] == "0 of 4 runs"
    claim = confirmation.slots.claim(confirmation.ask)
    assert claim
    report(confirmation, claim, 0.5)
    assert page(client)[0][3] == "not known yet 1 of at most 16 epochs, to confirm"
    confirmation.slots.give_back(claim, counts=False)
    for value in (0.5, 0.25, 0.625, 0.125):
        end(confirmation, value)
    Publisher(study, Artifacts(tmp_path)).refresh(gather(study))
    answer = gather(study).answer
    assert answer is not None and answer.confirmed is not None and answer.confirmed.sd is not None
    gain = answer.evidence.gain
    assert gain is not None
    [row] = page(client)
    assert row[1] == "ended"
    assert row[5] == f"0.5625 ± {answer.confirmed.sd:.4f} 2 seeds"
    assert row[6] == f"{gain.mean:+.4f} ± {gain.half:.4f}"
    trials = page(client, f"/studies/{study.spec.name}")
    assert len(trials) == number + 3  # a confirmation's runs are no trials of the study
    assert client("GET", f"/studies/{confirmation.spec.name}").status == 404


def test_the_list_is_filtered_and_sorted(client: Client, store: Store, make_spec: MakeSpec) -> None:
    values = {"alpha": 0.5, "beta": None, "Gamma": 0.75}
    for name, value in values.items():
        spec = make_spec(name=name, trials=1)
        study = create_or_resume(store, spec, "f" * 64, None)
        if value is not None:
            end(study, value)

    def names(query: str) -> list[str]:
        return [row[0] for row in page(client, f"/studies?{query}")]

    assert names("") == ["Gamma", "beta", "alpha"]  # the newest first
    assert names("sort=name") == ["alpha", "beta", "Gamma"]
    assert names("sort=-best") == ["Gamma", "alpha", "beta"]  # without a value: last
    assert names("sort=best") == ["alpha", "Gamma", "beta"]
    assert names("state=ended&sort=name") == ["alpha", "Gamma"]
    assert names("text=ALP") == names("text=+seg+alpha") == ["alpha"]
    [row] = page(client, "/studies?text=nothing")
    assert row[0].startswith("No study is like this.")
    heads = [a for tag, a in Cells(client("GET", "/studies?sort=-best").body).tags if tag == "th"]
    assert [one.get("aria-sort") for one in heads].count("descending") == 1


def test_a_study_tells_what_its_note_tells_and_every_trial(client: Client, study: Study) -> None:
    path = f"/studies/{study.spec.name}"
    assert page(client, path) == [["No trial has begun yet."]]
    end(study, 0.25)
    end(study, 0.5, "median")
    claim = study.slots.claim(study.ask)
    assert claim
    report(study, claim, 0.125)
    body = client("GET", path).body.decode()
    facts = gather(study)
    assert facts.answer is not None and facts.answer.headline in body
    assert f'href="/dashboard/studies/{study.study_id}"' in body
    rows = page(client, path)
    assert [row[0] for row in rows] == ["2", "1 the answer", "0"]
    assert rows[0][2:5] == ["0.1250 so far", "1", "1/4"]
    assert rows[1][5].startswith("median below the median") and rows[1][6] == "4 s"
    assert "optim.lr=" in rows[1][7]
    best = page(client, f"{path}?order=best")
    assert [row[0] for row in best] == ["1 the answer", "0", "2"]


def test_trials_come_in_pages(
    client: Client, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.dashboard.pages.study.TRIALS", 2)
    for value in (0.1, 0.2, 0.3):
        end(study, value)
    path = f"/studies/{study.spec.name}"
    assert [row[0][0] for row in page(client, path)] == ["2", "1"]
    assert [row[0][0] for row in page(client, f"{path}?page=2")] == ["0"]
    answer = client("GET", f"{path}?page=3")
    assert answer.status == 400 and b"page must be 1 to 2" in answer.body


def test_workers_are_shown_with_what_they_run(client: Client, study: Study) -> None:
    assert page(client, "/workers")[0][0].startswith("No worker serves this store now.")
    crew = Registration(study.store, study.owner, HOSTILE)
    crew.enter()
    crew.works_on(f"{study.spec.name}:confirm", 3)
    body = client("GET", "/workers").body
    [row] = Cells(body).rows[1:]
    assert row[1:5] == [" ".join(HOSTILE.split()), "running", f"{study.spec.name}:confirm", "3 log"]
    assert HOSTILE.encode() not in body
    assert f'href="/studies/{study.spec.name}"'.encode() in body
    assert f'href="/studies/{study.spec.name}%3Aconfirm/trials/3/log#end"'.encode() in body


# --- what a poll costs ---


def test_a_poll_costs_one_statement_until_something_changes(client: Client, study: Study) -> None:
    end(study, 0.25)
    claim = study.slots.claim(study.ask)
    assert claim
    age(study)
    name = f"/studies/{study.spec.name}"
    crashed = Result("FAILED", None, "crashed", {})
    for path, change in (
        (name, lambda: report(study, claim, 0.5)),
        ("/studies", lambda: report(study, claim, 0.5, epoch=2)),
        ("/studies", lambda: study.slots.end(claim, crashed)),
        (name, lambda: end(study, 0.5)),
        ("/studies", lambda: close(study.store, study.study_id, AFTER)),
        (name, lambda: reopen(study.store, study.study_id)),
        (name, lambda: study.slots.extend(5)),
    ):
        before = client("GET", path)
        with Statements.of(study.store) as asked:
            poll = client("GET", path, If_None_Match=before.header("ETag"))
        assert (poll.status, poll.body, len(asked)) == (304, b"", 1), asked.texts
        assert poll.header("ETag") == before.header("ETag")
        change()
        assert again(client, path, before) == 200


def test_viewers_share_what_one_of_them_has_read(study: Study, tmp_path: Path) -> None:
    clock = Clock()
    app = make_app(study.store, Artifacts(tmp_path), clock=clock)
    first, other = Client(app), Client(app)
    before = first("GET", "/studies")
    end(study, 0.5)
    clock.now = 0.9
    with Statements.of(study.store) as asked:
        assert again(other, "/studies", before) == 304 and len(asked) == 0
    clock.now = 1.0
    assert again(other, "/studies", before) == 200 and page(first)[0][2] == "1 of 4"


def test_the_list_costs_as_many_statements_at_any_number_of_studies(
    store: Store, make_spec: MakeSpec, tmp_path: Path
) -> None:
    counts = []
    for many in (2, 20):
        for index in range(many):
            spec = make_spec(name=f"study-{many}-{index}", trials=2)
            study = create_or_resume(store, spec, "f" * 64, None)
            end(study, 0.5)
            study.slots.claim(study.ask)
        client = Client(make_app(store, Artifacts(tmp_path), clock=count().__next__))
        with Statements.of(store) as first:
            assert len(page(client)) >= many
        with Statements.of(store) as after:
            page(client, "/studies?sort=-best")
        counts.append((len(first), len(after)))
    assert counts == [(5, 1), (5, 1)]


# --- who may ask, and for what ---


@pytest.mark.parametrize("path", ["/studies", "/studies/scripted-segmentation", "/workers"])
def test_markup_in_the_store_stays_text(hostile: Client, path: str) -> None:
    answer = hostile("GET", path)
    assert answer.status == 200 and HOSTILE.encode() not in answer.body
    tags = Cells(answer.body).tags
    scripts = [attrs for tag, attrs in tags if tag == "script"]
    assert scripts == [{"src": "/pages/page.js", "defer": None}]
    assert not [t for t, a in tags if t in ("style", "iframe", "img") or "style" in a]
    assert not [name for _, a in tags for name in a if name.startswith("on")]
    if path.startswith("/studies/"):
        assert HOSTILE in " ".join(" ".join(row) for row in Cells(answer.body).rows)


def test_a_report_is_taken_away_by_whoever_reads(hostile: Client) -> None:
    shown = hostile("GET", "/studies/scripted-segmentation").body
    assert b'href="/studies/scripted-segmentation/report"' in shown
    sent = hostile("GET", "/studies/scripted-segmentation/report")
    assert sent.status == 200 and sent.header("Content-Type") == "application/octet-stream"
    disposition = sent.header("Content-Disposition") or ""
    assert disposition.startswith('attachment; filename="scripted-segmentation-report.html"')
    assert "sandbox" in (sent.header("Content-Security-Policy") or "")
    page = sent.body.decode()
    assert page.startswith("<!DOCTYPE html>") and HOSTILE not in page and "Best config" in page
    head = hostile("HEAD", "/studies/scripted-segmentation/report")
    assert (head.body, head.header("Content-Length")) == (b"", str(len(sent.body)))
    assert hostile("GET", "/studies/scripted/report").status == 404
    inside: list[int] = []

    def slowly(*given: Any) -> str:
        inside.append(hostile("GET", "/studies/scripted-segmentation/report").status)
        return ""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.dashboard.pages.report.report_text", slowly)
        assert hostile("GET", "/studies/scripted-segmentation/report").status == 200
    assert inside == [503]
    assert hostile("POST", "/studies/scripted-segmentation/report").status in (403, 405)


def test_a_page_of_a_name_that_is_no_study_is_404_with_the_nearest(hostile: Client) -> None:
    answer = hostile("GET", "/studies/scripted-segmentatoin")
    assert answer.status == 404 and b"did you mean scripted-segmentation?" in answer.body
    script = "%3Cscript%3Ealert(1)%3C/script%3E"
    for name in (script, "%3Cb%3E", "..", "%F0%9F%92%A5", "a" * 5000):
        answer = hostile("GET", f"/studies/{name}")
        assert answer.status == 404 and b"<script>alert" not in answer.body, name
        assert b"<b>" not in answer.body


@pytest.mark.parametrize(
    "query",
    [
        "sort=bst", "sort=--best", "state=%3Cscript%3E", "&".join(["a=1"] * 20),
        "page=0", "page=x", "page=%D9%A3", "page=9999999", "order=worst",
    ],
)  # fmt: skip
def test_a_query_that_means_nothing_is_400(hostile: Client, query: str) -> None:
    of_study = query.startswith(("page", "order"))
    answer = hostile("GET", f"/studies{'/scripted-segmentation' * of_study}?{query}")
    assert (answer.status == 400 and b"must be" in answer.body) or b"may have" in answer.body
    assert b"<script>" not in answer.body


@pytest.mark.parametrize("allow_writes", [False, True])
def test_pages_are_for_reading(
    hostile_stores: dict[str, str], tmp_path: Path, allow_writes: bool
) -> None:
    with closing(open_store(hostile_stores["segmentation"], create=False)) as store:
        app = make_app(store, Artifacts(tmp_path), allow_writes=allow_writes)
        client = Client(app)
        for route in ROUTES:
            path = route.replace("NAME", "scripted-segmentation")
            for url in (path, f"/{path}", f"{path}/"):
                for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "get"):
                    answer = client(method, url, b"x", Origin=f"http://{HOST}")
                    assert answer.status == (405 if allow_writes else 403), (method, url)
                foreign = client("POST", url, b"x", Origin="http://evil.example")
                assert foreign.status == 403
            got, head = client("GET", path), client("HEAD", path)
            assert head.status == got.status == (302 if path == "/" else 200)
            assert head.body == b"" and head.header("ETag") == got.header("ETag")
            assert head.header("Content-Type") == got.header("Content-Type")
        assert client("GET", "/").header("Location") == "/studies"


def test_pages_ask_for_the_password_and_say_how_to_sign_out(
    hostile_stores: dict[str, str], tmp_path: Path
) -> None:
    with closing(open_store(hostile_stores["segmentation"], create=False)) as store:
        client = Client(make_app(store, Artifacts(tmp_path), password=PASSWORD))
        for route in ROUTES[:-1]:
            path = route.replace("NAME", "scripted-segmentation")
            assert client("GET", path).status == 401
            answer = client("GET", path, Accept="text/html,*/*")
            assert answer.status == 303 and b"scripted" not in answer.body
        client.sign_in()
        assert b'href="/logout"' in client("GET", "/studies").body


def test_pages_run_their_own_script_alone(hostile: Client) -> None:
    for path in ("/studies", "/studies/scripted-segmentation", LOG, "/workers", "/studies/none"):
        answer = hostile("GET", path)
        assert answer.header("Content-Security-Policy") == POLICY
        assert answer.header("Cache-Control") == "no-store"
    assert "unsafe" not in POLICY
    for path, kind, most in (
        ("/pages/page.js", "text/javascript", 6000),
        ("/pages/page.css", "text/css", 12000),
    ):
        answer = hostile("GET", path)
        assert answer.header("Content-Type") == f"{kind}; charset=utf-8"
        assert len(answer.body) < most
        assert again(hostile, path, answer) == 304
    assert hostile("GET", "/pages/../pages/page.py").status == 404


def test_a_long_page_is_packed_where_the_browser_takes_it(hostile: Client) -> None:
    path = "/studies/scripted-segmentation"
    plain, packed = hostile("GET", path), hostile("GET", path, Accept_Encoding="gzip")
    assert packed.header("Content-Encoding") == "gzip" and plain.header("Content-Encoding") is None
    assert len(packed.body) < len(plain.body) / 3
    assert packed.header("Vary") == "Accept-Encoding"


def test_optuna_dashboards_page_leads_back(hostile: Client) -> None:
    for path in ("/dashboard", "/dashboard/studies/1/trials"):
        answer = hostile("GET", path, If_Modified_Since="Fri, 01 Jan 2100 00:00:00 GMT")
        assert answer.status == 200 and answer.header("Last-Modified") is None
        assert answer.header("Content-Length") == str(len(answer.body))
        assert re.search(rb'<nav[^>]*>\s*<a href="/studies">', answer.body)
        assert answer.body.index(b'id="dashboard"') < answer.body.index(b'href="/studies"')
