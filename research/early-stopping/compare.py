"""Epochs that a search spends until it is within 0.01 of the best config: rules and samplers.

    python research/early-stopping/compare.py --to FILE      # about 25 minutes on two cores

Replays the recorded curves of camvid.jsonl (record.py), see search/stopping/replay.py; each search
has a random half of them. Each row is many searches that differ in their seed alone; row by row the
seeds are the same. Ray Tune's and Syne Tune's rules are left out where those are not installed, and
the report says so (peers.py). Other tables, and our rule with other settings: across.py.
"""

from __future__ import annotations

import math
import multiprocessing
import random
import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    PatientPruner,
    SuccessiveHalvingPruner,
)

import peers
from benchmarks.report import called, heading, parser, publish, table
from forecast import forecasts
from one_epoch import TopK
from record import read_table, space
from search.stopping.curves import Curve
from search.stopping.replay import (
    OptunaRule,
    OurRule,
    Outcome,
    Recorded,
    Rule,
    Run,
    Unpruned,
    replay,
)
from search.stopping.rules import QuantileRule, Verdict, our_rule
from search.studies.samplers import build_sampler
from spaces.sections import PrunerSpec, SamplerSpec
from table import Nearest, Table

NEAR = 0.01  # of the table's best: a search that has come so near has arrived
SAMPLERS = ("random", "tpe")
WORKERS = (1, 8)
OURS, STOCK, NONE = "segtune median (default)", "Optuna MedianPruner", "unpruned"


@dataclass(frozen=True)
class Entry:
    """A row of the report: a stopping rule, made anew for each search."""

    make: Callable[[int], Rule]
    """Seed -> rule."""
    pruner: Callable[[], BasePruner] | None = None
    needs: str | None = None
    """Library that must be installed."""


def entries(runs: Table) -> dict[str, Entry]:
    """The rules of the report, for searches among these runs."""
    epochs = runs.epochs

    def of_optuna(pruner: Callable[[], BasePruner]) -> Entry:
        return Entry(lambda seed: OptunaRule(), pruner)

    def ours(**settings: Any) -> Entry:
        rule = our_rule(PrunerSpec(**settings), epochs, len(runs.runs))
        return Entry(lambda seed: OurRule(rule))

    def clairvoyant(first: int) -> Entry:
        return Entry(lambda seed: Clairvoyant(runs.best - NEAR, first))

    def ray(grace: int, factor: int) -> Entry:
        return Entry(lambda seed: peers.RayAsha(epochs, seed, grace, factor), needs="ray")

    def syne_tune(name: str) -> Entry:
        return Entry(lambda seed: peers.SyneTune(name, epochs, seed), needs="syne-tune")

    return {
        NONE: Entry(lambda seed: Unpruned()),
        OURS: ours(),
        "segtune median, pause_below: null": ours(pause_below=None),
        "segtune median, align: warmup": ours(align="warmup"),
        "segtune thrifty": ours(name="thrifty"),
        "segtune quantile": ours(name="quantile"),
        "segtune ended_median": ours(name="ended_median"),
        STOCK: of_optuna(MedianPruner),
        "Optuna MedianPruner(n_warmup_steps=5)": of_optuna(lambda: MedianPruner(5, 5)),
        "Optuna PatientPruner(MedianPruner(), 3)": of_optuna(
            lambda: PatientPruner(MedianPruner(), 3)
        ),
        "Optuna HyperbandPruner": of_optuna(lambda: HyperbandPruner(1, epochs)),
        "Optuna SuccessiveHalvingPruner": of_optuna(SuccessiveHalvingPruner),
        "Ray Tune ASHA (its defaults)": ray(1, 4),
        "Ray Tune ASHA, grace 3, factor 3": ray(3, 3),
        "Syne Tune ASHA": syne_tune("ASHA"),
        "Syne Tune PASHA": syne_tune("PASHA"),
        "(clairvoyant, after 1)": clairvoyant(1),
        "(clairvoyant, after 2)": clairvoyant(2),
        "(segtune median on forecasts with hindsight)": Entry(
            lambda seed: OnForecasts(our_rule(PrunerSpec(), epochs, len(runs.runs)), runs)
        ),
        "one epoch, best 4 of 16": Entry(lambda seed: TopK(16, 4)),
        "one epoch, best 8 of 32": Entry(lambda seed: TopK(32, 8)),
    }


@dataclass
class Clairvoyant(Unpruned):
    """Knows which runs come near the best, and stops all others after so many epochs.

    No rule that keeps its workers busy, and judges no sooner, spends less.
    """

    target: float
    first: int

    def epoch_ended(self, run: Run) -> Verdict:
        lost = run.recorded.value < self.target and run.epoch >= self.first
        return Verdict.STOP if lost else Verdict.GO


class OnForecasts(OurRule):
    """Our rule, which knows how good runs become as well as the whole table tells, and no better.

    Each is judged by its forecast instead of its metric.
    """

    def __init__(self, rule: QuantileRule, runs: Table) -> None:
        super().__init__(rule)
        found = forecasts(runs.runs, runs.points)
        self.forecasts = {id(run): row for run, row in zip(runs.runs, found, strict=True)}

    def curve(self, run: Run) -> Curve:
        return Curve(tuple(self.forecasts[id(run.recorded)][: run.epoch].tolist()))


class Task(NamedTuple):
    """One search."""

    sampler: str
    workers: int
    rule: str
    seed: int

    @property
    def runs(self) -> Table:
        """The recorded runs that this search may find, the same for every rule."""
        return recorded(self.seed)


def main() -> None:
    """Replay every search and write the report."""
    given = parser(__doc__)
    given.add_argument("--seeds", type=int, default=100, help="searches a row")
    given.add_argument("--first-seed", type=int, default=0)
    given.add_argument("--processes", type=int, default=2)
    given.add_argument("--samplers", nargs="+", default=SAMPLERS, choices=SAMPLERS)
    args = given.parse_args()
    runs = recorded()
    rules = entries(runs)
    installed = peers.available()
    missing = {
        entry.needs for entry in rules.values() if entry.needs and not installed[entry.needs]
    }
    names = [name for name, entry in rules.items() if entry.needs not in missing]
    tasks = [
        Task(sampler, workers, name, seed)
        for sampler in args.samplers
        for workers in WORKERS
        for name in names
        for seed in range(args.first_seed, args.first_seed + args.seeds)
    ]
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        outcomes = dict(zip(tasks, pool.map(run, tasks, chunksize=5), strict=True))
    text = report(runs, names, outcomes, sorted(missing), called("compare.py"))
    publish(text, args.to)


@cache
def recorded(half: int | None = None) -> Table:
    """The recorded runs; with a seed, a random half of them."""
    rows = [
        Recorded(
            row["params"],
            tuple(math.nan if value is None else value for value in row["metric"]),
            tuple(row["cpu_seconds"]),
            row["warmup"],
        )
        for row in read_table()
    ]
    if half is not None:
        kept = random.Random(half).sample(range(len(rows)), len(rows) // 2)
        rows = [rows[row] for row in sorted(kept)]
    return Table(space(), rows)


def run(task: Task) -> Outcome:
    """Replay one search."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # PatientPruner
    runs = task.runs
    entry = entries(runs)[task.rule]
    return replay(
        Nearest(runs, build_sampler(SamplerSpec(name=task.sampler), task.seed, 0)),
        entry.make(task.seed),
        runs.epochs,
        target=runs.best - NEAR,
        workers=task.workers,
        pruner=entry.pruner() if entry.pruner else None,
    )


# ---------------------------------------------------------------- the report


def spent(task: Task, outcome: Outcome) -> int:
    """Epochs that count: an unsolved search is charged with training its whole table."""
    return outcome.epochs if outcome.solved else task.runs.total_epochs


def report(
    runs: Table,
    names: list[str],
    outcomes: dict[Task, Outcome],
    missing: list[str],
    command: str = "compare.py",
) -> str:
    """Return the Markdown report."""
    seeds = len({task.seed for task in outcomes})
    text = heading(
        "Epochs until a search has come near the best config",
        command,
        program="research/early-stopping/",
    )
    text += f"""
{len(runs.runs)} recorded runs of {runs.epochs} epochs (record.py: CamVid, the default space,
our trainer). {_targets(list(outcomes))}
{seeds} searches a row, the same seeds in every row, no recorded run twice in one search. Unsolved:
every run that comes near the best had been stopped before it got there; such a search is charged
with training its whole table. In brackets the 95 % interval of the mean (bootstrap) and of the
share (Wilson). Of stock: beside Optuna's MedianPruner(). Hours: in simulated time, of one-thread
epochs.
"""
    if missing:
        text += f"\nNot installed, so their rows are missing: {', '.join(missing)}.\n"
    for sampler in SAMPLERS:
        for workers in WORKERS:
            block = {
                name: {t: o for t, o in outcomes.items() if t[:3] == (sampler, workers, name)}
                for name in names
            }
            if block.get(NONE):
                noun = "worker" if workers == 1 else "workers"
                text += f"\n## {sampler}, {workers} {noun}\n\n{_block(block)}\n"
    return text


def _targets(tasks: Sequence[Task]) -> str:
    """What a search must come near to."""
    tables = {task.seed: task.runs for task in tasks}.values()
    low, high = min(t.best for t in tables), max(t.best for t in tables)
    return (
        f"Each search has a random half of them, the same one for every\nrule: "
        f"{len(next(iter(tables)).runs)} runs, whose best is {low:.4f} to {high:.4f}."
    )


def _block(block: dict[str, dict[Task, Outcome]]) -> str:
    stock = block.get(STOCK)
    costs = {name: [spent(*pair) for pair in found.items()] for name, found in block.items()}
    unpruned = statistics.mean(costs[NONE])
    beside = statistics.mean(costs[STOCK]) if stock else math.nan
    rows = []
    for name, searches in block.items():
        epochs, found = costs[name], list(searches.values())
        mean, (low, high) = statistics.mean(epochs), mean_interval(epochs)
        lost = sum(not outcome.solved for outcome in found)
        least, most = share_interval(lost, len(found))
        hours = statistics.mean(outcome.seconds for outcome in found) / 3600
        rows.append(
            [
                name,
                f"{mean:.0f} ({low:.0f} to {high:.0f})",
                f"{statistics.median(epochs):.0f}",
                f"{mean / unpruned:.2f}",
                f"{mean / beside:.2f}" if stock else "",
                f"{lost} of {len(found)} ({least:.0%} to {most:.0%})",
                f"{hours:.2f}",
            ]
        )
    columns = ["rule", "epochs, mean", "median", "of unpruned", "of stock", "unsolved", "hours"]
    return table(columns, rows)


def mean_interval(values: list[int], draws: int = 2000) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean; the same values give the same interval."""
    numbers = np.asarray(values, dtype=float)
    means = np.random.default_rng(0).choice(numbers, (draws, len(numbers))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def share_interval(hits: int, of: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    z = 1.959964
    share = hits / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return max(0.0, middle - half), min(1.0, middle + half)


if __name__ == "__main__":
    main()
