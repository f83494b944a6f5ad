"""A study that begins with earlier ones: what it knows, what it tries first, what stays its own."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from typer.testing import CliRunner

from search.cli import app
from search.database.store import Store
from search.findings.beginning import read_beginning
from search.findings.facts import gather, summary
from search.findings.notes import headline
from search.studies.deletion import delete_rows
from search.studies.earlier import EARLIER
from search.studies.samplers import build_sampler, other_seed
from search.studies.slots import Result
from search.studies.study import Study, create_or_resume, open_study
from search.studies.trial_facts import TrialFacts
from spaces.sections import PrunerSpec
from spaces.spec import StudySpec
from tests.fake_child import report
from tests.scripted import EPOCHS, SPACE, curve, make_spec, new_worker, scripted
from tests.statements import Statements
from tests.stores import sqlite_too

SAME, OTHER = "f" * 64, "0" * 64


def spec_of(folder: Path, name: str, *earlier: str, **changed: Any) -> StudySpec:
    """A scripted study; `optim__lr` changes that entry of its space."""
    tree = make_spec(folder, name, trials=12, pruner="median").model_dump(mode="json")
    named = {key.replace("__", "."): entry for key, entry in changed.items()}
    tree |= {"from_studies": list(earlier), "space": {"train.epochs": EPOCHS, **SPACE, **named}}
    return StudySpec.of(tree)


def begin(store: Store, spec: StudySpec, fingerprint: str = SAME) -> Study:
    return create_or_resume(
        store, spec, fingerprint, None, lambda: read_beginning(store, spec, fingerprint)
    )


@pytest.fixture
def first(store: Store, tmp_path: Path) -> Study:
    """A study of 12 trials, the last of which has not ended."""
    study, rng = begin(store, spec_of(tmp_path, "first")), random.Random(1)
    worker = new_worker(study, tmp_path)
    curves = [curve(rng) for _ in range(12)]
    for metrics in curves:
        claim = study.slots.claim(study.ask)
        assert claim
        for epoch, metric in enumerate(metrics, 1):
            assert study.report(claim, report(epoch, metric))
        if metrics is curves[-1]:
            study.slots.give_back(claim, counts=False)
        else:
            end = Result("COMPLETE", max(metrics), "completed", TrialFacts(epochs=30).at_end())
            assert study.slots.end(claim, end)
    assert worker.study is study
    return study


NARROW = {"low": 1e-3, "high": 1e-2, "log": True}


@sqlite_too
def test_it_begins_with_the_trials_that_lie_in_its_space(
    first: Study, store: Store, tmp_path: Path
) -> None:
    spec = spec_of(tmp_path, "then", "first", optim__lr=NARROW)
    study = begin(store, spec)
    ended = [trial for trial in first.trials() if trial.state.is_finished()]
    inside = [trial for trial in ended if trial.params["optim.lr"] >= 1e-3]
    assert 0 < len(inside) < len(ended) == 11
    assert [trial.value for trial in study.earlier] == [trial.value for trial in inside]
    for found, trial in zip(study.earlier, inside, strict=True):
        facts = TrialFacts.of(found)
        assert (facts.from_study, facts.from_trial) == ("first", trial.number)
        assert facts.reason == "completed" and facts.model_sha256 is None
        assert found.params == trial.params and found.state == trial.state
        assert found.intermediate_values == trial.intermediate_values
        assert found.distributions["optim.lr"].low == 1e-3  # type: ignore[attr-defined]
    assert study.beginning is not None
    said = " ".join(study.beginning.lines)
    assert f"begins with {len(inside)} of 12 trials of first" in said
    assert f"{11 - len(inside)} outside of the space by optim.lr, 1 not ended" in said

    # none of them is its own
    assert study.trials() == [] and study.slots.counts()["OPEN"] == 12
    assert summary(study)["best"] is None and gather(study).ended == []
    assert summary(study)["begins_with"] == {"first": len(inside)}
    assert f"begins with {len(inside)} trials of first" in str(headline(gather(study)))

    best = max(ended, key=lambda trial: trial.value or 0)
    number = study.ask(0)
    assert number == 0 and "trial" in (TrialFacts.of(study.trial(0)).origin or "")
    again = study.trial(0).params  # the winner, moved where it lies outside
    assert again["optim.lr"] == pytest.approx(max(best.params["optim.lr"], 1e-3))
    assert study.ask(1) == 1

    # what is there is not read again, and the first may go
    create_or_resume(store, spec, SAME, None, lambda: pytest.fail("it exists"))
    delete_rows([first])
    assert len(open_study(store, "then").earlier) == len(inside)
    delete_rows([study])
    left = [one.study_name for one in store.storage.get_all_studies()]
    assert left == [], left


def test_its_sampler_draws_as_if_they_were_its_own(
    first: Study, store: Store, tmp_path: Path
) -> None:
    """TPE, past its random draws at once; the same draw in a study of Optuna's with all trials."""
    study = begin(store, spec_of(tmp_path, "then", "first"))
    study.ask(0)  # the winner
    plain = optuna.create_study(
        sampler=build_sampler(study.spec.sampler, other_seed(0, ["first"]), 1),
        direction="maximize",
    )
    plain.add_trials(study.earlier)
    plain.enqueue_trial(study.trial(0).params)
    study.space.sample(plain.ask())
    expected = plain.ask()
    study.space.sample(expected)
    assert study.trial(study.ask(1)).params == expected.params
    fresh = begin(store, spec_of(tmp_path, "fresh"))
    assert fresh.trial(fresh.ask(1)).params != expected.params
    assert other_seed(0, []) == 0


def test_its_rule_knows_their_curves(first: Study, store: Store, tmp_path: Path) -> None:
    """The first trial of its own is judged, and stops, beside eleven that have ended elsewhere."""
    pruner = PrunerSpec(name="median", pause_below=None)
    ended = []
    for name, earlier in (("fresh", ()), ("then", ("first",))):
        spec = spec_of(tmp_path, name, *earlier).model_copy(update={"pruner": pruner})
        study = begin(store, spec)
        worker = new_worker(study, tmp_path)
        with scripted(worker, lambda: [0.001] * EPOCHS):
            assert worker.serve_one()
        (trial,) = study.trials()
        ended.append((TrialFacts.of(trial).reason, len(trial.intermediate_values)))
    assert ended == [("completed", EPOCHS), ("median", 8)]


def test_of_other_data_the_best_are_tried_first(first: Study, store: Store, tmp_path: Path) -> None:
    study = begin(store, spec_of(tmp_path, "then", "first"), OTHER)
    assert study.earlier == [] and study.begins_with == {}
    assert study.beginning is not None
    assert "its images, splits or classes are others" in study.beginning.lines[0]
    best = sorted(first.trials()[:11], key=lambda trial: -(trial.value or 0))[:3]
    begun = [study.trial(study.ask(slot)) for slot in range(4)]
    assert [trial.params for trial in begun[:3]] == [trial.params for trial in best]
    origins = [TrialFacts.of(trial).origin for trial in begun]
    assert origins == [*(f"trial {trial.number} of first" for trial in best), None]
    names = [one.study_name for one in store.storage.get_all_studies()]
    assert f"then{EARLIER}" not in names


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"metric": {"name": "dice"}}, "its metric is mIoU, here mDice"),
        ({"space": {"train.epochs": 20}}, "its trials train 30 epochs, here 20"),
    ],
)
def test_values_that_say_nothing_here_are_not_taken_over(
    changed: dict[str, Any], why: str, first: Study, store: Store, tmp_path: Path
) -> None:
    tree = spec_of(tmp_path, "then", "first").model_dump(mode="json")
    for key, value in changed.items():
        tree[key] = {**tree[key], **value}
    found = read_beginning(store, StudySpec.of(tree), SAME)
    assert why in found.lines[0] and not found.known and len(found.first) == 3


def test_values_that_none_of_them_could_have_are_spread_over_the_next_trials(
    first: Study, store: Store, tmp_path: Path
) -> None:
    wide = {"low": 1e-4, "high": 1e-1, "log": True}
    study = begin(store, spec_of(tmp_path, "then", "first", optim__lr=wide))
    assert study.beginning is not None and len(study.earlier) == 11
    assert "by 10 trials that are spread out: optim.lr" in study.beginning.lines[-1]
    params = [study.trial(study.ask(slot)).params for slot in range(11)]
    assert len({one["optim.lr"] for one in params}) == 11
    assert sum(one["optim.lr"] > 1e-2 for one in params) >= 2
    assert all(len(one) == len(SPACE) for one in params)  # the sampler drew the others
    assert not any(TrialFacts.of(study.trial(n)).origin for n in range(1, 11))


def test_what_an_earlier_study_began_with_is_handed_on_once(
    first: Study, store: Store, tmp_path: Path
) -> None:
    begin(store, spec_of(tmp_path, "second", "first"))
    third = begin(store, spec_of(tmp_path, "third", "second", "first"))
    assert third.begins_with == {"first": 11}


def test_a_trial_of_it_costs_no_statement_more(first: Study, store: Store, tmp_path: Path) -> None:
    counts = []
    for name, earlier in (("plain", ()), ("after", ("first",))):
        study = begin(store, spec_of(tmp_path, name, *earlier))
        assert study.slots.claim(study.ask)
        study.owner = "another"
        with Statements.of(store) as counted:
            assert study.slots.claim(study.ask)
        counts.append(len(counted))
    assert counts[0] == counts[1], counts


def test_an_earlier_study_that_is_not_there_is_an_error_with_its_line(
    store_url: str,
    store: Store,
    tmp_path: Path,
    make_spec: Callable[..., StudySpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SEGTUNE_STORE", store_url)
    begin(store, make_spec("roads"))
    path = tmp_path / "small.yaml"
    make_spec("small")
    path.write_text(path.read_text() + "from_studies:\n  - roads\n  - road\n")
    line = len(path.read_text().splitlines())
    result = CliRunner().invoke(app, ["launch", str(path)])
    assert result.exit_code == 2 and "no study road" in result.output
    assert "did you mean roads?" in result.output.replace("\n", " ")
    assert f"line {line}" in result.output
    assert [one.study_name for one in store.storage.get_all_studies()] == ["roads"]
