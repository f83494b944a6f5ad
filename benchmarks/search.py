"""Epochs that a search spends until it is within 0.01 of the best config: rules and samplers.

    python -m benchmarks.search --to benchmarks/search.md        # about 10 minutes on two cores
    python -m benchmarks.search --variants --to FILE             # ours with other settings
    python -m benchmarks.search --without 1 --to FILE            # the best run left out

Replays the recorded curves of benchmarks/camvid_table.jsonl (`python -m benchmarks.record`), see
search/replay.py. Each row is many searches that differ in their seed alone; row by row the seeds
are the same. Ray Tune's and Syne Tune's rules need the extra `peers`; without it their rows are
left out, and the report says so (see benchmarks/peers.py).
"""

from __future__ import annotations

import math
import multiprocessing
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
import optuna
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    PatientPruner,
    SuccessiveHalvingPruner,
)

from benchmarks import peers
from benchmarks.one_epoch import TopK
from benchmarks.record import SPEC, read_table
from benchmarks.report import called, heading, parser, publish, table
from benchmarks.table import Nearest, Table
from search.pruning import QuantileRule, quantile_rule
from search.replay import (
    OptunaRule,
    OurRule,
    Outcome,
    Recorded,
    Rule,
    Run,
    Unpruned,
    Verdict,
    replay,
)
from search.study import build_sampler
from spaces.spec import PrunerSpec, SamplerSpec, StudySpec

NEAR = 0.01  # of the table's best: a search that has come so near has arrived
SAMPLERS = ("random", "tpe")
WORKERS = (1, 8)
OURS, STOCK, NONE = "segtune quantile (default)", "Optuna MedianPruner", "unpruned"


@dataclass(frozen=True)
class Entry:
    """A row of the report: a stopping rule, made anew for each search."""

    make: Callable[[int], Rule]
    """Seed -> rule."""
    pruner: Callable[[], BasePruner] | None = None
    needs: str | None = None
    """Library that must be installed."""


def entries(epochs: int) -> dict[str, Entry]:
    """The rules of the report, for runs of this many epochs."""

    def of_optuna(pruner: Callable[[], BasePruner]) -> Entry:
        return Entry(lambda seed: OptunaRule(), pruner)

    def ray(grace: int, factor: int) -> Entry:
        return Entry(lambda seed: peers.RayAsha(epochs, seed, grace, factor), needs="ray")

    def syne_tune(name: str) -> Entry:
        return Entry(lambda seed: peers.SyneTune(name, epochs, seed), needs="syne-tune")

    return {
        NONE: Entry(lambda seed: Unpruned()),
        OURS: _ours(PrunerSpec(), epochs),
        "segtune quantile, align: warmup": _ours(PrunerSpec(align="warmup"), epochs),
        "segtune median": _ours(PrunerSpec(name="median"), epochs),
        "segtune median, align: warmup": _ours(PrunerSpec(name="median", align="warmup"), epochs),
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
        "one epoch, best 4 of 16": Entry(lambda seed: TopK(16, 4)),
        "one epoch, best 8 of 32": Entry(lambda seed: TopK(32, 8)),
    }


def variants(epochs: int) -> dict[str, Entry]:
    """Our rule with other settings than its defaults."""
    known = entries(epochs)
    found = {name: known[name] for name in (NONE, OURS, STOCK)}
    default = quantile_rule(PrunerSpec(), epochs)
    for quantile in (0.5, 0.65, 0.75, 0.8, 0.9):
        for first in (1, 2, 3, 5):
            rule = replace(default, quantile=quantile, min_epochs=first)
            found |= {} if rule == default else _variant(rule)
    for margin in (0.01, 0.02, 0.04):
        found |= _variant(replace(default, margin=margin))
    for startup in (1, 2, 5, 10):
        found |= _variant(replace(default, startup_trials=startup))
    for first in (1, 3):
        found |= _variant(replace(default, min_epochs=first, align_warmup=True, running=False))
    found |= _variant(replace(default, running=False))
    for rungs in ((1, 4), (1, 3, 9), (1, 2, 4, 8), (3, 9)):
        found |= _variant(replace(default, min_epochs=1), rungs)
    return found


def _variant(rule: QuantileRule, rungs: tuple[int, ...] = ()) -> dict[str, Entry]:
    judged = f"at epochs {', '.join(map(str, rungs))}" if rungs else f"from {rule.min_epochs}"
    name = (
        f"quantile {rule.quantile}, margin {rule.margin}, {judged}, after {rule.startup_trials} "
        f"trials{'' if rule.running else ', ended ones only'}"
        f"{', aligned at warm-up' if rule.align_warmup else ''}"
    )
    return {name: Entry(lambda seed: OnRungs(rule, rungs))}


class OnRungs(OurRule):
    """Our rule, asked after some epochs only, or after all where none are given."""

    def __init__(self, rule: QuantileRule, rungs: tuple[int, ...]) -> None:
        super().__init__(rule)
        self.rungs = rungs

    def epoch_ended(self, run: Run) -> Verdict:
        verdict = super().epoch_ended(run)
        return verdict if not self.rungs or run.epoch in self.rungs else Verdict.GO


def _ours(spec: PrunerSpec, epochs: int) -> Entry:
    return Entry(lambda seed: OurRule(quantile_rule(spec, epochs)))


class Task(NamedTuple):
    """One search."""

    sampler: str
    workers: int
    rule: str
    seed: int
    variants: bool
    without: int = 0
    """The best runs that are left out of the table."""


def main() -> None:
    """Replay every search and write the report."""
    given = parser(__doc__)
    given.add_argument("--seeds", type=int, default=30, help="searches a row")
    given.add_argument("--processes", type=int, default=2)
    given.add_argument("--variants", action="store_true", help="settings of our own rule instead")
    given.add_argument("--without", type=int, default=0, help="leave out so many of the best runs")
    given.add_argument("--samplers", nargs="+", default=SAMPLERS, choices=SAMPLERS)
    args = given.parse_args()
    runs = recorded(args.without)
    rules = (variants if args.variants else entries)(runs.epochs)
    installed = peers.available()
    missing = {
        entry.needs for entry in rules.values() if entry.needs and not installed[entry.needs]
    }
    names = [name for name, entry in rules.items() if entry.needs not in missing]
    tasks = [
        Task(sampler, workers, name, seed, args.variants, args.without)
        for sampler in args.samplers
        for workers in WORKERS
        for name in names
        for seed in range(args.seeds)
    ]
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        outcomes = dict(zip(tasks, pool.map(run, tasks, chunksize=5), strict=True))
    text = report(runs, names, outcomes, sorted(missing), called("search"))
    publish(text, args.to)


@cache
def recorded(without: int = 0) -> Table:
    """The recorded runs, but for so many of the best."""
    rows = [
        Recorded(
            row["params"],
            tuple(math.nan if value is None else value for value in row["metric"]),
            tuple(row["cpu_seconds"]),
            row["warmup"],
        )
        for row in read_table()
    ]
    kept = sorted(range(len(rows)), key=lambda row: -rows[row].value)[without:]
    return Table(StudySpec.load(SPEC).search_space(), [rows[row] for row in sorted(kept)])


def run(task: Task) -> Outcome:
    """Replay one search."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # PatientPruner
    runs = recorded(task.without)
    entry = (variants if task.variants else entries)(runs.epochs)[task.rule]
    return replay(
        Nearest(runs, build_sampler(SamplerSpec(name=task.sampler), task.seed, 0)),
        entry.make(task.seed),
        runs.epochs,
        target=runs.best - NEAR,
        workers=task.workers,
        pruner=entry.pruner() if entry.pruner else None,
    )


# ---------------------------------------------------------------- the report


def spent(outcome: Outcome, runs: Table) -> int:
    """Epochs that count: an unsolved search is charged with training the whole table."""
    return outcome.epochs if outcome.solved else runs.total_epochs


def report(
    runs: Table,
    names: list[str],
    outcomes: dict[Task, Outcome],
    missing: list[str],
    command: str = "search",
) -> str:
    """Return the Markdown report."""
    near = sum(run.value >= runs.best - NEAR for run in runs.runs)
    seeds = 1 + max(task.seed for task in outcomes)
    text = heading("Epochs until a search has come near the best config", command)
    text += f"""
{len(runs.runs)} recorded runs of {runs.epochs} epochs (`python -m benchmarks.record`: CamVid, the
default space, our trainer). Best val mIoU {runs.best:.4f}; runs within {NEAR} of it: {near}.
{seeds} searches a row, the same seeds in every row, no recorded run twice in one search. Unsolved:
every run that comes near the best had been stopped before it got there; such a search is charged
with training the whole table, {runs.total_epochs} epochs. In brackets the 95 % interval of the
mean (bootstrap) and of the share (Wilson). Of stock: beside Optuna's MedianPruner(). Hours: in
simulated time, of one-thread epochs.
"""
    if missing:
        text += f"\nNot installed, so their rows are missing: {', '.join(missing)}.\n"
    for sampler in SAMPLERS:
        for workers in WORKERS:
            block = {
                name: [o for t, o in outcomes.items() if t[:3] == (sampler, workers, name)]
                for name in names
            }
            if block.get(NONE):
                noun = "worker" if workers == 1 else "workers"
                text += f"\n## {sampler}, {workers} {noun}\n\n{_block(runs, block)}\n"
    return text


def _block(runs: Table, block: dict[str, list[Outcome]]) -> str:
    unpruned = statistics.mean(spent(outcome, runs) for outcome in block[NONE])
    stock = block.get(STOCK)
    beside = statistics.mean(spent(outcome, runs) for outcome in stock) if stock else math.nan
    rows = []
    for name, found in block.items():
        epochs = [spent(outcome, runs) for outcome in found]
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
