"""Confirmation: what runs again, that it counts exactly, and that the search never hears of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.cli.settings import with_confirm
from search.confirm import confirm_study
from search.dashboard.importance_card import ATTRIBUTE
from search.database.store import Store, open_store
from search.database.tables import AFTER, NOW, control_table, study_table
from search.files.artifacts import Artifacts
from search.findings.answer import read_answer
from search.findings.export import export_study
from search.findings.facts import gather, summary
from search.findings.report import report_text
from search.findings.search_graphs import importances_graph
from search.findings.weights import MissingWeights, weights_of
from search.launch import run
from search.studies.confirmations import fresh_seed, open_confirmation, with_confirmation
from search.studies.finishing import close_all
from search.studies.heartbeats import Registration
from search.studies.limits import close, limits, reopen
from search.studies.slots import Result
from search.studies.study import Study, create_or_resume, open_study, study_names
from search.studies.trial_facts import TrialFacts
from search.work.confirming import advance, is_due
from search.work.service import Service
from search.work.supervision import Timing
from search.work.watchers import Interrupt
from spaces.errors import DONE, InputError
from spaces.sections import ConfirmSpec
from tests.fake_child import FakeChild
from tests.noop import crew, victims
from tests.scripted import NoData, make_spec
from tests.scripted import Quiet as Unheard
from tests.stores import sqlite_too, worker_too
from tests.waiting import Running
from trainers.image_counts import FILE, ImageCounts

VALUES = (0.30, 0.52, 0.50, 0.41, 0.48, 0.20)  # of the search, by trial
BASELINE = 3
KILLED = (  # a worker, while the confirmation is planned, and while it runs
    "created-not-planned",
    "half-planned",
    "claim-not-committed",
    "mid-checkpoint",
    "report-not-committed",
    "result-not-told",
    "before-give-back",
)


def searched(
    store: Store,
    folder: Path,
    confirm: Any,
    values: Sequence[float] = VALUES,
    name: str = "small",
    stopped: int | None = None,
    **budget: Any,
) -> Study:
    """A study whose search has ended with these values; trial BASELINE is a starting point.

    Args:
        stopped: a trial that a rule has ended.
    """
    spec = make_spec(folder, name, trials=len(values), sampler="random", confirm=confirm)
    if budget:
        spec = spec.model_copy(update={"budget": spec.budget.model_copy(update=budget)})
    study = create_or_resume(store, spec, NoData.fingerprint, None)
    for number, value in enumerate(values):
        claim = study.slots.claim(study.ask)
        assert claim is not None and claim.trial_number == number
        facts = TrialFacts(epochs=30, best_epoch=30, seconds=30.0, hardware={"device": "cpu"})
        origin = {"origin": "a recipe"} if number == BASELINE else {}
        state, reason = ("PRUNED", "median") if number == stopped else ("COMPLETE", "completed")
        result = Result(state, value, reason, {**facts.at_end(), **origin})
        assert study.slots.end(claim, result)
    return study


def child(metrics: list[float], workdir: Path, counts: Any) -> FakeChild:
    """One whose model is there, with what it scored on each image."""
    model = workdir / "model-30"
    model.mkdir(parents=True, exist_ok=True)
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "config.json").write_text("{}")
    ImageCounts(counts).save(model / FILE)
    return FakeChild(metrics, model=model)


@dataclass
class Children:
    """Trains nothing: the value of a run is its trial's in the search, less what a seed takes."""

    study: Study
    folder: Path
    minus: dict[int, float] = field(default_factory=dict)  # by trial of the search
    begun: list[tuple[int, int]] = field(default_factory=list)  # (trial, seed)

    def start(self, config: Any, data: Any, workdir: Path, *given: Any) -> FakeChild:
        confirmation = open_confirmation(self.study)
        assert confirmation is not None
        run = confirmation.trial(int(workdir.name.removeprefix("trial-")))
        number = TrialFacts.of(run).confirms
        assert number is not None
        self.begun.append((number, config.train.seed))
        value = VALUES[number] - self.minus.get(number, 0.01)
        hits = np.full((4, 2, 3), 100)
        hits[:, :, 0] = round(100 * value)
        return child([value * (e + 1) / 30 for e in range(30)], workdir, hits)


def confirmed(study: Study, folder: Path, **minus: float) -> Children:
    """Run a study's confirmation in this process."""
    children = Children(study, folder, {int(k[1:]): v for k, v in minus.items()})
    artifacts = Artifacts(folder / "artifacts")
    console = Quiet()
    code = run(study, NoData(), artifacts, console, make_child=children.start)  # type: ignore[arg-type]
    assert code == DONE, console.text
    return children


@dataclass
class NoisyChildren(Children):
    """As of a network that has learned nothing: each value is chance."""

    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def start(self, config: Any, data: Any, workdir: Path, *given: Any) -> FakeChild:
        hits = np.full((20, 2, 3), 100)
        hits[:, :, 0] = self.rng.integers(40, 60, (20, 2))
        return child([float(hits[:, :, 0].mean() / 100)] * 30, workdir, hits)


class Quiet:
    """A console that keeps what it is told."""

    def __init__(self) -> None:
        import io

        from rich.console import Console

        self.file = io.StringIO()
        self.console = Console(file=self.file, width=160)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.console, name)

    @property
    def text(self) -> str:
        return self.file.getvalue()


# five studies in a hundred name something, which tests/unit/search/test_importances.py counts
@pytest.mark.parametrize("chance", [0, 2, 3])
def test_a_study_of_pure_noise_claims_and_names_nothing(
    postgres_url: str, tmp_path: Path, chance: int
) -> None:
    store, rng = open_store(postgres_url), np.random.default_rng(chance)
    values = rng.normal(0.5, 0.015, 16).round(6).tolist()
    study = searched(store, tmp_path, {"top": 2, "seeds": 2, "share": 2.0}, values)
    children = NoisyChildren(study, tmp_path, rng=rng)
    code = run(study, NoData(), Artifacts(tmp_path), Quiet(), make_child=children.start)  # type: ignore[arg-type]
    assert code == DONE
    facts = gather(study)
    assert facts.answer is not None and facts.answer.confirmed is not None
    claim = facts.answer.claim
    assert claim is not None and (
        "no better than the baseline within noise" in claim or "found nothing better" in claim
    )
    assert facts.importances == {} and importances_graph(facts) is None
    page = report_text(study, "md", Artifacts(tmp_path))
    assert "by the search" not in page and "Nothing can be named" in page
    assert all("by the search" not in line for line in summary(study)["says"])
    attrs = study.store.study_attrs(study.study_id, ATTRIBUTE)
    assert attrs == {ATTRIBUTE: []}  # what optuna-dashboard's card has to show
    store.close()


def test_what_a_rule_has_stopped_is_ranked_by_its_fresh_seeds(
    postgres_url: str, tmp_path: Path
) -> None:
    store = open_store(postgres_url)
    study = searched(store, tmp_path, {"top": 2, "seeds": 2, "share": 2.0}, stopped=BASELINE)
    confirmed(study, tmp_path, t3=-0.2)  # in full it is by far the best
    answer = read_answer(study, study.trials())
    assert answer is not None and answer.trial.number == BASELINE
    assert answer.value == pytest.approx(VALUES[BASELINE] + 0.2)  # what it came to early is no part
    assert "(stopped in the search" in answer.headline
    store.close()


@sqlite_too
def test_the_best_run_again_beside_the_baseline(store: Store, tmp_path: Path) -> None:
    study = searched(store, tmp_path, {"top": 3, "seeds": 2, "share": 2.0})
    before = [(t.number, t.state, t.params, t.value, t.user_attrs) for t in study.trials()]
    children = confirmed(study, tmp_path, t1=0.06)  # the best was lucky
    seeds = [fresh_seed(study, round_) for round_ in range(2)]
    first = {(number, seeds[0]) for number in (1, 2, 4, BASELINE)}
    assert set(children.begun[:4]) == first
    assert {seed for _, seed in children.begun[4:]} <= {seeds[1]}
    assert len(children.begun) == len(set(children.begun))

    confirmation = open_confirmation(study)
    assert confirmation is not None
    counts = confirmation.slots.counts()
    assert counts["COMPLETE"] == len(children.begun) == sum(counts.values())
    # the search has not heard of it: no trial more, and nothing of it changed
    after = [(t.number, t.state, t.params, t.value, t.user_attrs) for t in study.trials()]
    assert after == before and sum(study.slots.counts().values()) == len(VALUES)
    assert study_names(store) == ["small"]

    answer = read_answer(study, study.trials())
    assert answer is not None and answer.confirmed is not None
    assert answer.trial.number == 2 and answer.value == pytest.approx(0.49)
    said = "\n".join(answer.lines)
    assert "by the search, beside the best starting point (trial 3, a recipe)" in said
    assert advance(study) is None and not is_due(study)
    facts = summary(study)
    assert facts["answer"]["trial"] == 2 and facts["answer"]["by_the_search"]
    assert json.loads(json.dumps(facts)) == facts


def test_a_difference_within_noise_is_no_claim(store: Store, tmp_path: Path) -> None:
    study = searched(store, tmp_path, {"top": 1, "seeds": 1}, (0.30, 0.42, 0.33, 0.41))
    confirmed(study, tmp_path, t1=0.52 - 0.40, t3=0.41 - 0.39)
    answer = read_answer(study, study.trials())
    assert answer is not None
    assert any(line.startswith("no better than the baseline within noise") for line in answer.lines)
    assert not any("by the search" in line for line in answer.lines)


def test_none_confirms_nothing_and_says_one_seed(store: Store, tmp_path: Path) -> None:
    study = searched(store, tmp_path, None)
    assert confirmed(study, tmp_path).begun == []
    assert open_confirmation(study) is None
    answer = read_answer(study, study.trials())
    assert answer is not None
    assert answer.headline == "trial 1: mIoU 0.5200, one seed, at epoch 30"
    assert "segtune confirm small" in answer.lines[-1]
    assert any("at an end of what was offered" in line for line in answer.lines)
    assert "train.batch_size 4 (4 .. 16)" in (answer.edge or "")
    assert not any("by the search" in line for line in answer.lines)


def ask(study: Study, folder: Path, monkeypatch: pytest.MonkeyPatch, **confirm: int) -> Children:
    """`segtune confirm`, with children that train nothing."""
    children = Children(study, folder)
    monkeypatch.setattr("search.work.preflight.preflight", lambda spec: NoData())
    spec = with_confirm(study.spec, confirm)
    artifacts = Artifacts(folder / "artifacts")
    assert confirm_study(study, spec, artifacts, Quiet(), make_child=children.start) == DONE  # type: ignore[arg-type]
    return children


def leave(study: Study, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """`segtune confirm --leave --top 2 --seeds 2`; returns what it prints."""
    monkeypatch.setattr("search.work.preflight.preflight", lambda spec: NoData())
    spec, console = with_confirm(study.spec, {"top": 2, "seeds": 2}), Quiet()
    artifacts = Artifacts(folder / "artifacts")
    assert confirm_study(study, spec, artifacts, console, here=False) == DONE  # type: ignore[arg-type]
    return console.text


def serve(study: Study, folder: Path, make_child: Any) -> None:
    """A worker of the store, until nothing is left for it."""
    service = Service(
        study.store,
        Artifacts(folder / "artifacts"),
        Quiet(),  # type: ignore[arg-type]
        Interrupt(),
        Registration(study.store, "here:1:x", "cpu"),
        lambda study: Unheard(),
        until_idle=True,
        load_data=lambda spec: NoData(),  # type: ignore[arg-type,return-value]
        make_child=make_child,
        timing=Timing(0.02, look=0.05),
        idle_seconds=0.05,
    )
    assert service.run()


@worker_too
@pytest.mark.parametrize("stop", [None, NOW])
def test_what_is_left_to_the_workers_runs_round_by_round_also_of_a_stopped_study(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str | None
) -> None:
    study, children = left(store, tmp_path, stop)
    if stop:
        serve(study, tmp_path, children.start)
        assert open_confirmation(study) is None  # whoever stopped it did not ask for it
    assert "small: 3 runs are left to the workers" in leave(study, tmp_path, monkeypatch)
    assert children.begun == []
    serve(study, tmp_path, children.start)
    first, second = (fresh_seed(study, round_) for round_ in range(2))
    assert sorted(children.begun[:3]) == [(number, first) for number in (1, 2, BASELINE)]
    assert {(1, second), (2, second)} <= set(children.begun[3:])
    assert {seed for _, seed in children.begun[3:]} == {second}
    assert "small: nothing is left to run" in leave(study, tmp_path, monkeypatch)
    assert study.slots.counts()["OPEN"] == (1 if stop else 0)  # the search does not go on


def test_who_stops_a_study_once_more_stops_its_confirmation(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, children = left(store, tmp_path, AFTER)
    leave(study, tmp_path, monkeypatch)

    def start(*given: Any) -> FakeChild:
        child = children.start(*given)
        if len(children.begun) == 3:
            close_all(study, AFTER)
        return child

    serve(study, tmp_path, start)
    assert len(children.begun) == 3 and advance(study) is None and not is_due(study)
    leave(study, tmp_path, monkeypatch)  # asked for anew
    serve(study, tmp_path, start)
    assert len(children.begun) > 3


def left(store: Store, folder: Path, stop: str | None) -> tuple[Study, Children]:
    """A study without a confirmation, of which a trial is open where it is stopped.

    On fresh seeds its two best are close to each other, so that there is a second round.
    """
    study = searched(store, folder, None)
    if stop:
        study.slots.extend(len(VALUES) + 1)
        close_all(study, stop)
    return study, Children(study, folder, {1: 0.03})


@worker_too
def test_a_study_of_before_is_confirmed_when_it_is_asked_for(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = searched(store, tmp_path, None)
    tree = json.loads(study.spec.to_json())
    del tree["confirm"]
    with store.engine.begin() as connection:  # as it was stored then
        connection.execute(study_table.update().values(spec=json.dumps(tree)))
    study = open_study(store, "small")
    assert study.spec.confirm is None and advance(study) is None
    answer = read_answer(study, study.trials())
    assert answer is not None and "one seed" in answer.headline
    children = ask(study, tmp_path, monkeypatch, top=1, seeds=1)
    assert {number for number, _ in children.begun} == {1, BASELINE}
    study = open_study(store, "small")
    assert study.spec.confirm == ConfirmSpec(top=1, seeds=1, share=10)
    # once more, with more: what is known is not run again
    more = ask(study, tmp_path, monkeypatch, top=2, seeds=1)
    assert {number for number, _ in more.begun} == {2}


def test_a_search_that_has_not_ended_is_not_confirmed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = searched(store, tmp_path, {})
    study.slots.extend(len(VALUES) + 1)
    assert advance(study) is None
    with pytest.raises(InputError, match="has not ended: 0 of its trials run and 1 are open"):
        ask(study, tmp_path, monkeypatch)
    close(store, study.study_id, AFTER)
    assert advance(study) is None  # whoever stopped it did not ask for more
    assert ask(study, tmp_path, monkeypatch, top=1, seeds=1).begun
    empty = create_or_resume(store, make_spec(tmp_path, "empty", trials=1), "f" * 64, None)
    claim = empty.slots.claim(empty.ask)
    assert claim is not None
    empty.slots.end(claim, Result("PRUNED", None, "nonfinite", {}))
    with pytest.raises(InputError, match="no trial with a value"):
        ask(empty, tmp_path, monkeypatch)


def test_hours_leave_time_for_the_confirmation(store: Store, tmp_path: Path) -> None:
    study = searched(store, tmp_path, {"share": 0.25}, hours=10)
    study.slots.extend(len(VALUES) + 1)

    def opened(hours_ago: float, of: Study) -> str | None:
        with store.engine.begin() as connection:
            connection.execute(
                control_table.update()
                .where(control_table.c.study_id == of.study_id)
                .values(stop=None, opened_at=store.now() - 3600 * hours_ago)
            )
        return limits(of).now

    assert opened(7.9, study) is None and opened(8.1, study) == "stopped"
    confirmation = advance(study)
    assert confirmation is not None and limits(confirmation).now is None
    assert opened(9.9, confirmation) is None and opened(10.1, confirmation) == "stopped"
    assert advance(study) is None and not is_due(study)


def test_export_takes_the_median_seed(store: Store, tmp_path: Path) -> None:
    study = searched(store, tmp_path, {"top": 3, "seeds": 1, "share": 9})
    confirmed(study, tmp_path, t1=0.06)
    artifacts = Artifacts(tmp_path / "artifacts")
    confirmation = open_confirmation(study)
    answer = read_answer(study, study.trials())
    assert confirmation is not None and answer is not None and answer.confirmed is not None
    export_study(study, artifacts, tmp_path / "best")
    facts = json.loads((tmp_path / "best" / "provenance.json").read_text())
    winner = answer.confirmed.median_run
    assert (facts["trial"], facts["value"]) == (2, pytest.approx(0.49))
    assert facts["seed"] == confirmation.trial(winner.number).params["train.seed"]
    assert facts["answer"]["claim"] == answer.claim
    # the weights of the search's own trial were never made here
    with pytest.raises(MissingWeights, match="the weights of trial 1 are not in"):
        weights_of(answer, study.trial(1), artifacts, fresh=False)


def facts_of(study: Study) -> list[Any]:
    return [(t.number, t.state, t.params, t.value, t.user_attrs) for t in study.trials()]


def test_a_worker_killed_anywhere_loses_and_doubles_no_run(
    any_postgres: str, tmp_path: Path
) -> None:
    url, store = any_postgres, open_store(any_postgres)
    studies = {
        point: searched(store, tmp_path, {"top": 2, "seeds": 2, "share": 9}, name=point)
        for point in KILLED
    }
    before = {point: facts_of(study) for point, study in studies.items()}
    lines = Running.fork(victims, url, tmp_path / "a", KILLED, 3).finish(0).splitlines()
    fates = [line for line in lines if line.startswith(("killed", "survived"))]
    assert fates == [f"killed {point}" for point in KILLED], "\n".join(lines)
    Running.fork(crew, url, tmp_path / "a", "", 3, 0.0, 60, 2).finish(0)
    for point, study in studies.items():
        confirmation = open_confirmation(study)
        assert confirmation is not None, point
        runs = confirmation.all_trials()
        planned = [(TrialFacts.of(one).confirms, one.params["train.seed"]) for one in runs]
        expected = {(n, fresh_seed(study, r)) for n in (1, 2, BASELINE) for r in (0, 1)}
        assert len(planned) == len(expected) and set(planned) == expected, point
        assert confirmation.slots.counts()["COMPLETE"] == len(expected)
        assert sum(confirmation.slots.counts().values()) == len(expected)
        for one in runs:
            assert [r.epoch for r in confirmation.history(one.number)] == [1, 2, 3], point
        assert facts_of(study) == before[point]
    store.close()


@sqlite_too
def test_a_stopped_confirmation_goes_on_where_it_was(store: Store, tmp_path: Path) -> None:
    study = searched(store, tmp_path, {"top": 2, "seeds": 1, "share": 9})
    children = Children(study, tmp_path)
    artifacts, stops = Artifacts(tmp_path / "artifacts"), [2]

    def start(config: Any, data: Any, workdir: Path, *given: Any) -> FakeChild:
        child = children.start(config, data, workdir, *given)
        if len(children.begun) == 2 and stops:
            stops.pop()
            for one in with_confirmation(study):
                close(store, one.study_id, NOW)
            child.word = "preempted"  # as its supervisor tells it at its next look
        return child

    settings: Any = {"make_child": start}
    assert run(study, NoData(), artifacts, Quiet(), **settings) == DONE  # type: ignore[arg-type]
    confirmation = open_confirmation(study)
    assert confirmation is not None
    assert confirmation.slots.counts() | {"OPEN": 2, "COMPLETE": 1} == confirmation.slots.counts()
    assert advance(study) is None
    for one in with_confirmation(study):
        reopen(store, one.study_id)
    assert run(study, NoData(), artifacts, Quiet(), **settings) == DONE  # type: ignore[arg-type]
    counts = confirmation.slots.counts()
    assert counts["COMPLETE"] == 3 == sum(counts.values())
    again = [begun for begun in children.begun if children.begun.count(begun) > 1]
    assert len(children.begun) == 4 and len(set(again)) == 1
