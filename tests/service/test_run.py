"""Studies that really run: children, verdicts, crashes, interrupts, exports."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from rich.console import Console

from search.export import export_study
from search.launch import DONE, launch
from search.results import best_trial, ranked, summary
from search.store import Store, open_store
from search.study import open_study
from search.worker import Interrupt, Worker
from spaces.config import TrialConfig
from spaces.spec import StudySpec, load_run_config
from trainers.tasks import load_data

MakeSpec = Callable[..., StudySpec]


@pytest.fixture
def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


class Silent:
    """A watcher that only takes notes."""

    def __init__(self, on_epoch: Callable[[int, dict[str, Any]], None] | None = None) -> None:
        self.ended: list[tuple[int, str, str]] = []
        self.attempts: list[int] = []
        self.on_epoch = on_epoch

    def trial_started(self, number: int, config: TrialConfig, attempt: int) -> None:
        self.attempts.append(attempt)

    def epoch_ended(self, number: int, report: dict[str, Any]) -> None:
        if self.on_epoch:
            self.on_epoch(number, report)

    def trial_ended(
        self, number: int, state: str, reason: str, value: float | None, epochs: int
    ) -> None:
        self.ended.append((number, state, reason))


def test_a_study_runs_to_its_budget_and_is_exported(
    store: Store, make_spec: MakeSpec, tmp_path: Path, quiet: Console
) -> None:
    spec = make_spec(trials=2)
    assert launch(spec, store, tmp_path / "artifacts", quiet) == DONE
    study = open_study(store, "small")
    assert study.budget.counts()["COMPLETE"] == 2
    assert [t.user_attrs["reason"] for t in study.trials()] == ["completed"] * 2
    found = summary(study)
    assert found["epochs"] == 4 and found["epochs_saved"] == 0
    assert json.loads(json.dumps(found)) == found
    to = export_study(study, tmp_path / "artifacts", tmp_path / "best")
    best = best_trial(study)
    data, config = load_run_config(to / "config.yaml")
    assert config == study.config(best)
    assert data == spec.data
    facts = json.loads((to / "provenance.json").read_text())
    assert (facts["trial"], facts["value"]) == (best.number, best.value)
    assert facts["data_fingerprint"] == load_data(spec.data).fingerprint
    assert (to / "curves.png").read_bytes().startswith(b"\x89PNG")
    # extending goes on where it ended
    assert launch(spec, store, tmp_path / "artifacts", quiet, trials=3) == DONE
    assert study.budget.counts()["COMPLETE"] == 3


def test_the_median_rule_stops_a_trial_and_its_best_value_counts(
    postgres_url: str, make_spec: MakeSpec, tmp_path: Path
) -> None:
    pruner = "{name: median, startup_trials: 1, min_epochs: 1}"
    store = open_store(postgres_url)
    from search.study import create_or_resume

    spec = make_spec(trials=2, epochs=40, pruner=pruner)
    data = load_data(spec.data)
    study = create_or_resume(store, spec, data.fingerprint, None)
    ended = study.ask(99)  # an ended trial that nobody can match
    study.report(ended, {"epoch": 1, "metric": 2.0})
    study.tell(ended, TrialState.COMPLETE, 2.0, reason="completed")
    first = study.budget.claim(lambda slot: ended)
    assert first is not None and study.budget.end(first, "COMPLETE", "completed")
    watcher = Silent()
    assert Worker(study, data, tmp_path / "a", watcher, Interrupt()).run()
    [(number, state, reason)] = watcher.ended
    assert (state, reason) == ("PRUNED", "median")
    trial = study.trial(number)
    assert 1 <= trial.user_attrs["epochs"] < 40
    assert trial.value == max(study.curve(number).values)
    store.close()


def test_a_killed_child_is_resumed_with_its_reports(
    store: Store, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from search import worker as worker_module
    from search.study import create_or_resume

    spec = make_spec(trials=1, epochs=4)
    data = load_data(spec.data)
    study = create_or_resume(store, spec, data.fingerprint, None)
    children: list[Any] = []
    original = worker_module.TrialProcess

    def remember(*args: Any) -> Any:
        children.append(original(*args))
        return children[-1]

    monkeypatch.setattr(worker_module, "TrialProcess", remember)

    def kill_first(number: int, report: dict[str, Any]) -> None:
        if len(children) == 1 and report["epoch"] == 2:
            os.kill(children[0].pid, signal.SIGKILL)

    watcher = Silent(kill_first)
    assert Worker(study, data, tmp_path / "a", watcher, Interrupt()).run()
    assert watcher.attempts == [1, 2]
    assert watcher.ended[0][1] == "RETRY" and "SIGKILL" in watcher.ended[0][2]
    assert watcher.ended[1] == (0, "COMPLETE", "completed")
    assert len(study.trials()) == 1
    assert [r["epoch"] for r in study.history(0)] == [1, 2, 3, 4]


def test_only_the_best_models_are_kept(
    postgres_url: str, make_spec: MakeSpec, tmp_path: Path, quiet: Console
) -> None:
    store = open_store(postgres_url)
    spec = make_spec(trials=3, epochs=1).model_copy(update={"keep_models": 1})
    launch(spec, store, tmp_path / "a", quiet)
    study = open_study(store, "small")
    best = ranked(study.trials())[0]
    models = list((tmp_path / "a").glob("*/*/model-*"))
    assert [path.parent for path in models] == [study.workdir(tmp_path / "a", best.number)]
    assert not [*(tmp_path / "a").glob("*/*/last.json"), *(tmp_path / "a").glob("*/*/state-*")]
    store.close()


@pytest.mark.parametrize("interruption", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_launch_resumes_where_it_was(
    interruption: signal.Signals, postgres_url: str, make_spec: MakeSpec, tmp_path: Path
) -> None:
    make_spec(trials=1, epochs=12)
    command = [
        str(Path(sys.executable).with_name("segtune")), "launch", str(tmp_path / "small.yaml"),
        "--store", postgres_url, "--artifacts", str(tmp_path / "a"),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    store = open_store(postgres_url)
    deadline = time.monotonic() + 120
    study = None
    while time.monotonic() < deadline:
        if study is None and "small" in _names(store):
            study = open_study(store, "small")
        if study is not None and study.trials() and len(study.history(0)) >= 2:
            break
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    assert study is not None
    process.send_signal(interruption)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == (130 if interruption == signal.SIGINT else -signal.SIGKILL), out
    before = study.history(0)
    counts = study.budget.counts()
    assert counts["OPEN" if interruption == signal.SIGINT else "RUNNING"] == 1
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert study.history(0)[: len(before)] == before
    assert [r["epoch"] for r in study.history(0)] == list(range(1, 13))
    assert study.trial(0).state == TrialState.COMPLETE
    assert len(study.trials()) == 1
    store.close()


def _names(store: Store) -> list[str]:
    from search.study import study_names

    return study_names(store)
