"""What a study's page shows of what was found: pictures of the best trials, bars of settings."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from search.dashboard.importance_card import ATTRIBUTE
from search.dashboard.publish import Publisher
from search.dashboard.server import make_app
from search.database.store import Store
from search.files.artifacts import Artifacts
from search.files.shown import OF_TRIALS, attach, bring
from search.findings import importances
from search.findings.facts import gather
from search.studies.study import Study, create_or_resume
from spaces.spec import StudySpec
from tests.conftest import HOSTILE
from tests.service.test_dashboard import Client
from tests.service.test_pages import Cells, again, age, client, end, report, study
from tests.service.test_publish import end as end_by
from tests.service.test_publish import note
from tests.statements import Statements

__all__ = ["client", "study"]  # fixtures
DRAWN = ("best-1-a", "best-2-b", "best-3-c", "worst-1-d", "worst-2-e", "curves", "per-class")


def draw(study: Study, number: int, folder: Path, *names: str) -> None:
    """Show pictures with a trial, as a worker does."""
    for name in names or DRAWN:
        path = folder / f"{name}.png"
        Image.new("RGB", (60, 20)).save(path)
        attach(Artifacts(folder).shown, study, study.trial_id(number), path)


def tags(client: Client, study: Study, wanted: str) -> list[dict[str, str | None]]:
    """The attributes of all elements of a kind on a study's page."""
    body = client("GET", f"/studies/{study.spec.name}").body
    return [attrs for tag, attrs in Cells(body).tags if tag == wanted]


# --- pictures ---


def test_pictures_of_the_best_trials_come_by_themselves(
    client: Client, study: Study, tmp_path: Path
) -> None:
    path = f"/studies/{study.spec.name}"
    assert b'id="pictures"' not in client("GET", path).body
    for value in (0.25, 0.5, 0.375, 0.125):
        end(study, value)
    before = client("GET", path)
    assert b"<code>keep_models: 3</code>" in before.body and b"<img" not in before.body
    for number in (3, 2, 1, 0):  # the answer is trial 1
        draw(study, number, tmp_path)
        after = client("GET", path)
        assert again(client, path, before) == 200 and again(client, path, after) == 304
        before = after
    shown = tags(client, study, "img")
    of = [str(one["alt"]).partition(",")[0] for one in shown]
    assert of == ["Trial 1"] * 6 + ["Trial 2"] * 6 + ["Trial 0"] * 6
    assert [str(one["alt"]).removeprefix("Trial 1, ") for one in shown[:6]] == [
        f"the {which} of its val images, {stem}: ground truth, prediction and errors side by side"
        for which, stem in zip(
            ("best", "second best", "worst", "second worst"), "abde", strict=True
        )
    ] + ["loss parts and metric by epoch", "IoU of each class"]
    assert {(one["width"], one["height"], one["loading"]) for one in shown} == {
        ("60", "20", "lazy")
    }
    body = client("GET", path).body.decode()
    assert "Trial 1, the answer: mIoU 0.5000, one seed" in body and "1 more of trial 2" in body
    for one in shown:
        assert f'<a href="{one["src"]}">' in body
        sent = client("GET", str(one["src"]))
        assert (sent.status, sent.header("Content-Type")) == (200, "image/png")


def test_a_picture_that_was_removed_is_shown_no_more(
    client: Client, study: Study, tmp_path: Path
) -> None:
    path, number = f"/studies/{study.spec.name}", end(study, 0.5)
    draw(study, number, tmp_path, "best-1-a", "curves")
    before = client("GET", path)
    assert before.body.count(b"<img") == 2
    [key] = [
        key
        for key, stored in study.store.study_attrs(study.study_id, f"{OF_TRIALS}%").items()
        if "best-1-a" in stored
    ]
    # as optuna-dashboard removes a file
    study.store.storage.set_study_system_attr(study.study_id, key, json.dumps(None))
    assert again(client, path, before) == 200
    assert client("GET", path).body.count(b"<img") == 1
    bring(Artifacts(tmp_path).shown, study, study.trial_id(number), tmp_path / "brought")
    assert [one.name for one in (tmp_path / "brought").iterdir()] == ["curves.png"]


def test_markup_in_the_names_of_pictures_stays_text_and_other_files_are_no_pictures(
    client: Client, study: Study, tmp_path: Path
) -> None:
    number = end(study, 0.5)
    name = HOSTILE.replace("/", ":")
    draw(study, number, tmp_path, f"best-1-{name}", "mine", "best-11-z", "best-0-z")
    for other in ("best-2-b.svg", "curves.html"):
        (tmp_path / other).write_text(HOSTILE)
        attach(Artifacts(tmp_path).shown, study, study.trial_id(number), tmp_path / other)
    broken = tmp_path / "curves.png"
    broken.write_bytes(b"\x89PNG")  # as any that an earlier version has shown: without its size
    attach(Artifacts(tmp_path).shown, study, study.trial_id(number), broken)
    found = Cells(client("GET", f"/studies/{study.spec.name}").body).tags
    first, chart = [attrs for tag, attrs in found if tag == "img"]
    assert name in str(first["alt"]) and first["width"] == "60"
    assert chart["alt"] == f"Trial {number}, loss parts and metric by epoch"
    assert "width" not in chart
    assert not [attr for _, attrs in found for attr in attrs if attr.startswith("on")]
    assert [attrs for tag, attrs in found if tag == "script"] == [
        {"src": "/pages/page.js", "defer": None}
    ]


def test_a_page_costs_as_many_statements_with_any_number_of_trials_and_pictures(
    store: Store, make_spec: Callable[..., StudySpec], tmp_path: Path
) -> None:
    counts = []
    for trials in (1, 12):
        spec = make_spec(name=f"of-{trials}", trials=trials + 1)
        study = create_or_resume(store, spec, "f" * 64, None)
        for index in range(trials):
            draw(study, end(study, 0.5 + index / 100), tmp_path)
        claim = study.slots.claim(study.ask)
        assert claim
        age(study)
        client, path = Client(make_app(store, Artifacts(tmp_path))), f"/studies/{spec.name}"
        with Statements.of(store) as first:
            before = client("GET", path)
        with Statements.of(store) as poll:
            assert again(client, path, before) == 304
        report(study, claim, 0.25)
        with Statements.of(store) as epoch:
            assert again(client, path, before) == 200
        counts.append((len(first), len(poll), len(epoch)))
    assert counts[0] == counts[1] and counts[0][1] == 1
    assert counts[0][2] < counts[0][0] <= 20, counts


# --- what each setting explains ---


@pytest.fixture
def decided(store: Store, make_spec: Callable[..., StudySpec]) -> Study:
    """A study in which the learning rate decides."""
    study = create_or_resume(store, make_spec(trials=25), "f" * 64, None)
    for _ in range(24):
        end_by(study, lambda params: 0.5 + 0.1 * math.log10(params["optim.lr"]))
    return study


def test_bars_say_what_note_and_card_say(client: Client, decided: Study, tmp_path: Path) -> None:
    Publisher(decided, Artifacts(tmp_path)).refresh(gather(decided))
    body = client("GET", f"/studies/{decided.spec.name}").body.decode()
    [drawing] = re.findall(r'<figure class="curves bars">.*?</figure>', body, re.DOTALL)
    rows = re.findall(
        r'<g><title>(.*?)</title>\s*<text class="tick name".*?>(.*?)</text>\s*'
        r'<text.*?>(.*?)</text>\s*<rect class="chance".*?width="(.*?)".*?\s*'
        r'<rect class="bar( named)?".*?width="(.*?)"',
        drawing,
    )
    assert [name for _, name, *_ in rows] == ["optim.lr", "loss.warmup_epochs"]
    [in_words] = re.findall(r'role="img" aria-label="(.*?)"', drawing)
    shares = gather(decided).importances
    stored = decided.store.study_attrs(decided.study_id, ATTRIBUTE)[ATTRIBUTE]
    assert (
        {one["name"]: one["importance"] for one in stored}
        == shares
        == {"optim.lr": shares["optim.lr"]}
    )
    for said, name, label, chance, named, length in rows:
        assert bool(named) == (name in shares) == (float(length) > float(chance))
        share, reach = label.split(", chance up to ")
        assert said == f"{name} {share}, where chance reaches {reach}"
        assert said in in_words
        if named:
            assert f"`{name}` {share}" in note(decided) and share == f"{shares[name]:.0%}"
    assert "2 of the 2 searched settings, over the 24 trials that ended by themselves" in drawing


def test_with_few_trials_it_is_said_what_bars_take(client: Client, study: Study) -> None:
    path = f"/studies/{study.spec.name}"
    for count, there in enumerate(("are 0", "is 1", "are 2")):
        body = client("GET", path).body.decode()
        assert f"It takes {importances.MIN_TRIALS} trials" in body and f"there {there}." in body
        assert 'class="curves bars"' not in body
        end(study, 0.25 + count / 8)
    end(study, 0.75, "median")  # a stopped one does not count
    assert b"there are 3." in client("GET", path).body


def test_bars_are_reckoned_once_for_all_looks_until_a_trial_ends(
    client: Client, decided: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    whole = importances.shares

    def counted(*given: Any) -> Any:
        asked.append(given)
        return whole(*given)

    monkeypatch.setattr("search.findings.facts.shares", counted)
    path = f"/studies/{decided.spec.name}"
    claim = decided.slots.claim(decided.ask)
    assert claim
    age(decided)
    for epoch in (1, 2):
        for look in ("", "?order=best"):
            before = client("GET", path + look)
            assert before.status == 200 and again(client, path + look, before) == 304
        report(decided, claim, 0.5, epoch)
        age(decided)
    assert len(asked) == 1
    decided.slots.give_back(claim, counts=False)
    assert client("GET", path).status == 200
    assert len(asked) == 2
