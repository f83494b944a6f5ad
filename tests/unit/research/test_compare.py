"""The replayed searches: nearest runs, one-epoch selection, intervals, the committed curves."""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest

import peers
import record
from compare import (
    NONE,
    OURS,
    Task,
    entries,
    mean_interval,
    recorded,
    report,
    run,
    share_interval,
    spent,
)
from one_epoch import TopK
from search.stopping.replay import InOrder, Outcome, Recorded, Unpruned, replay
from search.studies.samplers import build_sampler
from spaces.config import SegmentationConfig
from spaces.sections import SamplerSpec
from spaces.space import Choice, Float, Int, Space
from table import Nearest, Table

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]

SPACE = Space(
    {
        "loss.pixel": Choice(("ce", "focal")),
        "loss.focal_gamma": Float(0.5, 4.0),
        "optim.lr": Float(1e-4, 1e-2, log=True),
        "loss.warmup_epochs": Int(0, 4),
    },
    {"loss.focal_gamma": {"loss.pixel": ("focal",)}},
    SegmentationConfig(),
)


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def params(pixel: str, lr: float, warmup: int, gamma: float | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "loss.pixel": pixel,
        "optim.lr": lr,
        "loss.warmup_epochs": warmup,
    }
    return found if gamma is None else {**found, "loss.focal_gamma": gamma}


def runs_of(*all_params: dict[str, Any]) -> list[Recorded]:
    return [Recorded(p, (0.1 * i, 0.2 * i), (1.0, 1.0)) for i, p in enumerate(all_params, 1)]


GRID = runs_of(
    params("ce", 1e-4, 0),
    params("ce", 1e-3, 0),
    params("ce", 1e-2, 0),
    params("focal", 1e-3, 0, 0.5),
    params("focal", 1e-3, 4, 4.0),
)


@pytest.mark.parametrize(
    ("wanted", "among", "index", "why"),
    [
        (params("ce", 1.1e-3, 0), [0, 1, 2, 3, 4], 1, "its own neighbour"),
        (params("ce", 4e-4, 0), [0, 1, 2, 3, 4], 1, "0.0004 is nearer to 0.001 than to 0.0001"),
        (params("ce", 3e-4, 0), [0, 1, 2, 3, 4], 0, "and 0.0003 is not: rates are logarithms"),
        (params("ce", 1.1e-3, 0), [0, 2, 3, 4], 2, "0.52 and 0.48 of the range away"),
        (params("focal", 1e-3, 4, 3.5), [0, 1, 2, 3, 4], 4, "gamma and warm-up"),
        (params("focal", 1e-2, 0, 0.5), [2, 4], 2, "2 choices off, but no gamma and warm-up apart"),
    ],
)
def test_the_nearest_recorded_run(
    wanted: dict[str, Any], among: list[int], index: int, why: str
) -> None:
    assert Table(SPACE, GRID).nearest(wanted, among) == index, why


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_search_has_every_recorded_run_once_and_tells_its_parameters(sampler: str) -> None:
    generator = build_sampler(SamplerSpec(name="random"), 5, 0)
    study = optuna.create_study(sampler=generator)
    drawn = []
    for _ in range(40):
        trial = study.ask()
        SPACE.sample(trial)
        drawn.append(dict(trial.params))
    runs = Table(SPACE, runs_of(*drawn))
    proposals = Nearest(runs, build_sampler(SamplerSpec(name=sampler), 1, 0))
    told = optuna.create_study(direction="maximize", sampler=proposals.sampler)
    seen = []
    while proposals.left:
        trial, run_ = proposals.begin(told)
        assert trial.params == run_.params
        seen.append(run_.value)
        told.tell(trial, run_.value)
    assert sorted(seen) == sorted(run_.value for run_ in runs.runs)


def test_tpe_reaches_a_planted_optimum_sooner_than_random_draws() -> None:
    """A bowl over the learning rate: the model must be seen to act through the table."""
    study = optuna.create_study(sampler=build_sampler(SamplerSpec(name="random"), 3, 0))
    runs = []
    for _ in range(150):
        trial = study.ask()
        SPACE.sample(trial)
        off = math.log10(trial.params["optim.lr"]) + 3.5
        runs.append(Recorded(dict(trial.params), (1.0 - off * off,), (1.0,)))
    table = Table(SPACE, runs)
    target = sorted(run_.value for run_ in runs)[-3]
    spent_by = {
        name: sum(
            replay(
                Nearest(table, build_sampler(SamplerSpec(name=name), seed, 0)),
                Unpruned(),
                1,
                target=target,
            ).epochs
            for seed in range(8)
        )
        for name in ("random", "tpe")
    }
    assert spent_by["tpe"] < 0.8 * spent_by["random"]


def test_one_epoch_selection_trains_the_best_of_each_batch() -> None:
    firsts = (0.1, 0.4, 0.3, 0.2)
    runs = [Recorded({}, (first, first + 0.3), (1.0, 1.0)) for first in firsts]
    found = replay(InOrder(runs * 2), TopK(batch=4, keep=2), 2)
    assert found.epochs == 2 * (4 + 2)  # each batch: four first epochs, then the best two go on
    assert found.best == 0.7
    part = replay(InOrder(runs), TopK(batch=3, keep=1), 2, workers=3)
    assert part.epochs == 3 + 1 + 1 + 1  # a last batch of one is trained too


def test_an_unsolved_search_is_charged_with_the_whole_table() -> None:
    task = Task("random", 1, OURS, 0)
    assert spent(task, Outcome(False, 3, 1.0, 0.1)) == task.runs.total_epochs < 800
    assert spent(task, Outcome(True, 3, 1.0, 0.1)) == 3


def test_halves_are_of_a_seed_and_the_same_for_every_rule() -> None:
    tables = [Task("random", 1, OURS, seed).runs for seed in range(12)]
    assert {len(table.runs) for table in tables} == {len(recorded().runs) // 2}
    assert len({table.best for table in tables}) > 2
    again = Task("tpe", 8, "unpruned", 3).runs
    assert [run.params for run in again.runs] == [run.params for run in tables[3].runs]


def test_intervals() -> None:
    low, high = mean_interval([10, 20, 30, 40] * 25)
    assert 22 < low < 25 < high < 28
    assert share_interval(0, 50) == pytest.approx((0.0, 0.0713), abs=1e-4)
    assert share_interval(5, 50) == pytest.approx((0.0435, 0.2136), abs=1e-4)


def test_the_recorded_table_is_of_whole_runs() -> None:
    rows = record.read_table()
    assert len({row["config"] for row in rows}) == len(rows) >= 100
    space = record.space()
    for row in rows:
        params, _ = record.draw(space, row["config"])
        assert params == row["params"]  # the draw of its seed, from the space as it is now
        assert row["reason"] in ("completed", "nonfinite")
        assert len(row["metric"]) == len(row["cpu_seconds"])
        assert len(row["metric"]) == 15 or row["reason"] == "nonfinite"
        assert all(second > 0 for second in row["cpu_seconds"])


@pytest.mark.parametrize("workers", [1, 8])
def test_the_default_rule_on_the_recorded_table(workers: int) -> None:
    """A few of the report's searches: none is lost, and together they are cheaper."""
    names = ("unpruned", OURS)
    found = {n: [run(Task("random", workers, n, seed)) for seed in range(6)] for n in names}
    assert all(outcome.solved for outcome in found[OURS])
    cost = {name: sum(outcome.epochs for outcome in of) for name, of in found.items()}
    assert cost[OURS] < cost["unpruned"]
    text = report(
        recorded(),
        list(names),
        {
            Task("random", workers, name, seed): outcome
            for name, of in found.items()
            for seed, outcome in enumerate(of)
        },
        ["ray"],
    )
    assert f"| {OURS} | {cost[OURS] / 6:.0f} (" in text and "rows are missing: ray" in text


def installed_peers() -> list[str]:
    """Rules of other packages, where those are here: only research installs them."""
    found = peers.available()
    return [
        name for name, entry in entries(recorded()).items() if entry.needs and found[entry.needs]
    ]


if installed_peers():

    @pytest.mark.parametrize("name", installed_peers())
    def test_the_peers_rules_run_in_the_replay(name: str) -> None:
        outcome = run(Task("random", 8, name, 0))
        assert 0 < outcome.epochs < recorded().total_epochs


@pytest.mark.parametrize("workers", [1, 8])
def test_no_rule_that_judges_as_late_spends_less_than_one_that_knows(workers: int) -> None:
    def epochs(rule: str) -> int:
        outcome = run(Task("random", workers, rule, 3))
        assert outcome.solved
        return outcome.epochs

    first, second = (epochs(f"(clairvoyant, after {first})") for first in (1, 2))
    assert first < second < epochs(OURS) < epochs(NONE)
