"""Limits of a study: what is outside ends before it trains, and leaves its slot to another."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from search.database.store import Store
from search.findings.facts import gather, summary
from search.findings.front_section import fronts
from search.findings.markup import Table, Text
from search.findings.tables import show_study
from search.studies.learning_curves import curves_ended_after
from search.studies.study import Study, create_or_resume
from search.studies.trial_facts import TrialFacts
from search.work.child import Done
from search.work.worker import Worker
from spaces.config import TrialConfig
from spaces.limits import Cost, Probe
from tests.fake_child import FakeChild, result
from tests.scripted import EPOCHS, make_spec, new_worker
from tests.stores import sqlite_too

RISING = [(epoch + 1) / 40 for epoch in range(EPOCHS)]
SIZES = ["32x32", "64x64", "96x96"]
MS = {"32x32": 5.0, "64x64": 10.0, "96x96": 40.0}


class Measuring:
    """Children that say a latency by their resolution, as trainers.cost would measure it."""

    def __init__(self, latency: Callable[[TrialConfig], float], seconds: float = 0.0) -> None:
        self.latency, self.seconds = latency, seconds
        self.measured: list[str] = []  # resolutions, in the order in which they were
        self.networks: list[tuple[str, str]] = []  # (encoder, resolution) of all
        self.trained: list[str] = []

    def start(
        self, config: TrialConfig, data: Any, workdir: Path, free: Any, probe: Probe
    ) -> FakeChild:
        size, known = str(config.flat()["data.resolution"]), probe.known
        cost = known
        self.networks.append((str(config.flat()["model.encoder"]), size))
        if known.latency_ms is None:
            self.measured.append(size)
            cost = replace(known, latency_ms=self.latency(config))
        if probe.limits.outside(cost) is not None:
            done = replace(result([], "limit"), cost=cost)
            return FakeChild([], said=[Done(done)])
        self.trained.append(size)
        return _Costing(RISING, cost, seconds=self.seconds)


class _Costing(FakeChild):
    def __init__(self, metrics: list[float], cost: Cost, **given: Any) -> None:
        super().__init__(metrics, **given)
        self.cost = cost

    def receive(self, timeout: float) -> Any:
        message = super().receive(timeout)
        if isinstance(message, Done):
            return Done(replace(message.result, cost=self.cost))
        return message


def study_with(
    store: Store, folder: Path, limits: dict[str, Any], trials: int = 8, **given: Any
) -> Study:
    spec = make_spec(folder, "limited", trials=trials, **{"sampler": "random", **given})
    searched = {"data.resolution": SIZES, "model.encoder": ["resnet18", "mobilenet_v2"]}
    space = {**spec.space, **searched}
    tree = spec.model_dump(mode="json", exclude={"left_out", "init_sha256"})
    return create_or_resume(
        store, type(spec).of({**tree, "space": space, "limits": limits}), "f" * 64, None
    )


def serve(study: Study, folder: Path, children: Measuring) -> Worker:
    worker = new_worker(study, folder, make_child=children.start)
    while worker.serve_one():
        pass
    return worker


@sqlite_too
def test_what_is_outside_trains_nothing_and_takes_no_slot(store: Store, tmp_path: Path) -> None:
    study = study_with(store, tmp_path, {"latency_ms": 20})
    children = Measuring(lambda config: MS[config.flat()["data.resolution"]])
    serve(study, tmp_path, children)
    trials = study.trials()
    refused = [t for t in trials if TrialFacts.of(t).reason == "limit"]
    assert len(trials) - len(refused) == 8 == len(children.trained)
    assert study.slots.counts()["COMPLETE"] == 8
    assert "96x96" not in children.trained
    assert len(children.measured) == len({*children.networks})  # each network and size once
    assert 1 <= len(refused) <= 2  # what is known to be outside is not drawn again
    facts = TrialFacts.of(refused[0])
    assert (facts.epochs, facts.latency_ms, refused[0].value) == (0, 40.0, None)
    assert facts.outside == "latency_ms 40, above 20"
    assert refused[0].constraints == {"latency_ms": 1.0}  # as Optuna's samplers read them
    inside = [t for t in trials if t not in refused]
    assert all(t.constraints["latency_ms"] < 0 for t in inside)
    assert {TrialFacts.of(t).latency_ms for t in inside} == {5.0, 10.0}
    out = io.StringIO()
    show_study(summary(study), Console(file=out, width=300))
    assert re.findall(r"trained on cpu in .*: (\d+) trials", out.getvalue()) == ["8"]


def test_another_worker_remembers_what_this_one_measured(store: Store, tmp_path: Path) -> None:
    study = study_with(store, tmp_path, {"latency_ms": 20}, trials=6)
    first = Measuring(lambda config: MS[config.flat()["data.resolution"]])
    worker = new_worker(study, tmp_path, make_child=first.start)
    while {TrialFacts.of(t).latency_ms for t in study.trials()} < {*MS.values()}:
        assert worker.serve_one()
    second = Measuring(first.latency)
    serve(study, tmp_path, second)
    assert len(second.measured) <= 1  # its first trial tells which device it has
    assert "96x96" not in second.trained


def test_a_study_that_keeps_nothing_ends(store: Store, tmp_path: Path) -> None:
    """So many trials as it has slots leave theirs to others; then each takes one."""
    study = study_with(store, tmp_path, {"latency_ms": 1}, trials=3)
    children = Measuring(lambda config: 5.0)
    serve(study, tmp_path, children)
    reasons = [TrialFacts.of(trial).reason for trial in study.trials()]
    assert reasons == ["limit"] * 6 and not children.trained
    assert study.slots.counts()["PRUNED"] == 3
    assert gather(study).best is None


def test_slow_epochs_end_a_trial_after_the_second(store: Store, tmp_path: Path) -> None:
    """The first one also decodes images. What it scored until then is no value of the study."""
    study = study_with(store, tmp_path, {"seconds_per_epoch": 0.5}, trials=2, pruner="none")
    children = Measuring(lambda config: 5.0)  # its epochs take 1 s, as they say
    serve(study, tmp_path, children)
    slow = [t for t in study.trials() if TrialFacts.of(t).epochs]
    assert slow and all(TrialFacts.of(t).reason == "limit" for t in slow)
    assert {TrialFacts.of(t).outside for t in slow} == {"seconds_per_epoch 1, above 0.5"}
    assert all(t.value is None for t in slow)
    assert max(TrialFacts.of(t).epochs or 0 for t in slow) <= 3
    assert curves_ended_after(study, 0, warmups=False)[1] == {}  # nobody is held against them


def test_parameters_are_known_before_a_trial_begins(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"resnet18": 14_000_000, "mobilenet_v2": 6_000_000}
    monkeypatch.setattr(
        "search.work.measured.count_parameters",
        lambda config, data: counts[config.flat()["model.encoder"]],
    )
    study = study_with(store, tmp_path, {"parameters": "7M"}, trials=6)
    children = Measuring(lambda config: 5.0)
    serve(study, tmp_path, children)
    trials = study.trials()
    assert len(trials) == 6  # no trial was begun in vain
    assert {study.config(t).flat()["model.encoder"] for t in trials} == {"mobilenet_v2"}


@pytest.mark.parametrize("sampler", ["tpe", "gp", "qmc"])
def test_every_sampler_stays_inside(sampler: str, store: Store, tmp_path: Path) -> None:
    spec = {"name": sampler, "startup_trials": 2}
    study = study_with(store, tmp_path, {"latency_ms": 20}, trials=5, sampler=spec)
    children = Measuring(lambda config: MS[config.flat()["data.resolution"]])
    serve(study, tmp_path, children)
    assert len(children.trained) == 5 and "96x96" not in children.trained


def test_what_waits_in_the_queue_ends_without_a_process(store: Store, tmp_path: Path) -> None:
    """A starting point is tried as it is: that it is outside shall be seen."""
    study = study_with(store, tmp_path, {"latency_ms": 20}, trials=30)
    children = Measuring(lambda config: MS[config.flat()["data.resolution"]])
    worker = new_worker(study, tmp_path, make_child=children.start)
    while "96x96" not in children.measured:
        assert worker.serve_one()
    started = len(children.measured) + len(children.trained)
    outside = next(t for t in study.trials() if TrialFacts.of(t).reason == "limit")
    study.optuna().enqueue_trial(outside.params)
    assert worker.serve_one()
    last = study.trials()[-1]
    assert last.params == outside.params and TrialFacts.of(last).reason == "limit"
    assert len(children.measured) + len(children.trained) == started
    assert TrialFacts.of(last).latency_ms == 40.0


def test_the_report_names_who_is_good_and_cheap(store: Store, tmp_path: Path) -> None:
    study = study_with(store, tmp_path, {}, trials=4)
    assert fronts(gather(study), graphs=True) == []
    serve(study, tmp_path, Measuring(lambda config: MS[config.flat()["data.resolution"]]))
    _, text, table = fronts(gather(study), graphs=False)
    assert isinstance(text, Text) and isinstance(table, Table)
    [fastest] = {row[2] for row in table.rows}  # all have scored the same
    assert fastest == f"{min(TrialFacts.of(t).latency_ms or 0.0 for t in study.trials()):.3g}"
    assert "segtune export limited --fastest-within 0.01" in text.text
