"""What a study's page shows beside its note: curves, runs on fresh seeds, the size of its files."""

from __future__ import annotations

import math
import threading
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from search.dashboard.pages import curves as drawing
from search.dashboard.pages import disk_use
from search.dashboard.pages.disk_use import AGE, DiskUse
from search.database.store import Store
from search.files.artifacts import Artifacts
from search.files.bucket import Bucket
from search.studies.confirmations import create_confirmation, plan
from search.studies.slots import Result
from search.studies.study import Study
from tests.service.test_dashboard import Client, Clock
from tests.service.test_pages import Cells, again, age, client, end, report, study
from tests.waiting import until

__all__ = ["client", "study"]  # fixtures


def curves(client: Client, study: Study) -> dict[str, str]:
    """{trial or legend: its line's kind and points} of a study's page."""
    found, title = {}, ""
    for tag, attrs in Cells(client("GET", f"/studies/{study.spec.name}").body).tags:
        assert "style" not in attrs
        if tag == "svg" and attrs.get("role") == "img":
            title = attrs["aria-label"] or ""
        elif tag == "polyline":
            kind, points = (attrs["class"] or "").split()[1], attrs["points"] or ""
            found[f"{kind} {len(found)}"] = points
    return {"said": title, **found}


def test_curves_show_how_trials_went_and_what_runs(client: Client, study: Study) -> None:
    path = f"/studies/{study.spec.name}"
    assert b"<polyline" not in client("GET", path).body
    end(study, 0.25)
    end(study, 0.5, "median")
    claim = study.slots.claim(study.ask)
    assert claim
    report(study, claim, 0.125)
    age(study)
    before = client("GET", path)
    first = curves(client, study)
    assert [*first] == ["said", "end 0", "runs 1", "best 2"]
    assert first["said"] == (
        "mIoU by epoch of 3 trials. The best is trial 1: 0.5000 in epoch 1. "
        "There runs trial 2: 0.1250 in epoch 1."
    )
    for legend in ("the best", "runs: 1", "trained to its end: 1"):
        assert legend in before.body.decode()
    report(study, claim, 0.375, epoch=2)
    assert again(client, path, before) == 200
    assert len(curves(client, study)["runs 1"].split()) == 2
    study.slots.end(claim, Result("PRUNED", 0.375, "median", {"epochs": 2, "bar": 0.4375}))
    after = curves(client, study)
    assert [*after] == ["said", "rule 0", "end 1", "best 2"]
    body = client("GET", path).body
    assert b'class="held"' in body and b"what it was held against" in body


def test_curves_are_few_and_short_in_a_large_study(
    client: Client, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "MOST_LINES", 3)
    study.slots.extend(6)
    for value in (0.5, 0.1, 0.2, 0.3, 0.4):
        end(study, value)
    claim = study.slots.claim(study.ask)
    assert claim
    report(study, claim, 0.25)
    shown = curves(client, study)
    assert [*shown] == ["said", "end 0", "runs 1", "best 2"]
    body = client("GET", f"/studies/{study.spec.name}").body
    assert b"3 of 6 trials: those that run, the best and the latest" in body
    thinned = drawing._thinned(dict.fromkeys(range(1, 1001), 0.5))
    assert len(thinned) <= drawing.MOST_POINTS and max(thinned) == 1000


def test_curves_of_no_number_or_of_one_value_are_drawn(client: Client, study: Study) -> None:
    claim = study.slots.claim(study.ask)
    assert claim
    report(study, claim, math.nan)
    age(study)
    assert [*curves(client, study)] == ["said"]
    report(study, claim, 0.0, epoch=2)
    assert [*curves(client, study)] == ["said", "runs 0"]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.31, 0.62, [0.4, 0.5, 0.6]),
        (0.5, 0.5, [0.46, 0.48, 0.5, 0.52, 0.54]),
        (0.0, 0.0, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, ticks: list[float]) -> None:
    assert drawing._Axis(low, high, 0, 100).ticks() == ticks


def test_the_ticks_of_epochs_are_whole() -> None:
    assert drawing._Axis(0, 1, 0, 100).ticks(whole=True) == [0, 1]
    assert drawing._Axis(0, 12, 0, 100).ticks(whole=True) == [0, 5, 10]


def test_runs_on_fresh_seeds_are_listed(client: Client, study: Study) -> None:
    number = end(study, 0.25)
    confirmation = create_confirmation(study)
    confirmation.slots.extend(3)
    for seed in (7, 8, 9):
        plan(confirmation, study.trial(number), study.config(study.trial(number)), seed)
    end(confirmation, 0.5)
    claim = confirmation.slots.claim(confirmation.ask)
    assert claim
    report(confirmation, claim, 0.375)
    body = client("GET", f"/studies/{study.spec.name}").body
    head, _, rest = body.partition(b"Runs on fresh seeds</h2>")
    assert rest, head
    rows = Cells(rest.partition(b"</section>")[0]).rows[1:]
    assert rows == [
        ["2", "0", "9", "waiting", "-", "0/4", "-"],
        ["1", "0", "8", "running log", "0.3750 so far", "1/4", "-"],
        ["0", "0", "7", "complete log", "0.5000", "2", "completed"],
    ]


# --- how large its files are ---


def test_a_study_says_how_large_its_files_are(
    client: Client, store: Store, study: Study, tmp_path: Path
) -> None:
    path = f"/studies/{study.spec.name}"
    folder = Artifacts(tmp_path).workdir(study, 0)
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(b"x" * 3_000_000)
    before = client("GET", path)
    assert b"Files of its trials" not in before.body  # nobody waits for it
    until(lambda: b"Files of its trials: 3 MB" in client("GET", path).body)
    assert again(client, path, before) == 200


class Sizes:
    """Measures when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.go = threading.Event()
        monkeypatch.setattr(disk_use, "size_of", self)

    def __call__(self, artifacts: Artifacts, name: str, uid: str) -> int:
        self.asked.append(name)
        assert self.go.wait(60)
        return 100


def test_one_study_is_measured_at_a_time_and_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, clock = Sizes(monkeypatch), Clock()
    found = DiskUse(Artifacts(tmp_path), clock)
    roads, cells = [("roads", "a"), ("roads:confirm", "b")], [("cells", "c")]
    assert found.of(roads) is None and found.of(cells) is None and found.of(roads) is None
    sizes.go.set()
    found.wait()
    assert found.of(roads) == 200 and sizes.asked == ["roads", "roads:confirm"]
    clock.now = AGE - 1
    assert found.of(roads) == 200
    found.wait()
    assert len(sizes.asked) == 2
    clock.now = AGE
    assert found.of(roads) == 200  # and it is measured again
    found.wait()
    assert len(sizes.asked) == 4


def test_what_is_not_here_or_in_a_bucket_has_no_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = "f" * 32
    here = DiskUse(Artifacts(tmp_path / "artifacts"), count().__next__)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("private")
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / f"linked-{uid[:8]}").symlink_to(elsewhere)
    for name in ("roads", "linked", "../elsewhere"):
        assert here.of([(name, uid)]) is None
        here.wait()
        assert here.of([(name, uid)]) is None, name
        here.wait()
    bucket: Any = Bucket("bucket", "", None)
    assert DiskUse(Artifacts(tmp_path, bucket), Clock()).of([("roads", uid)]) is None
