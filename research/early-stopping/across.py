"""One stopping rule for several tables: chosen on all but one of them, reported on that one.

    python research/early-stopping/across.py --to research/early-stopping/across.md

A rule looks better on the curves that it was chosen on than it is. So every setting of our rule is
replayed on halves of each table (record.py). For each table the best setting of the other tables is
looked up, and the report says what it does on this one. The runs of a search come in a random
order, as random search draws them, and each search goes on to its end, so that its whole cost is
known too.
"""

from __future__ import annotations

import math
import multiprocessing
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, SuccessiveHalvingPruner

import peers
from benchmarks.report import called, heading, parser, publish
from benchmarks.report import table as markdown
from compare import NEAR, Clairvoyant
from record import TABLES, read_table, space
from search.stopping.replay import (
    InOrder,
    OptunaRule,
    OurRule,
    Recorded,
    Rule,
    Run,
    Stopped,
    Unpruned,
    replay,
)
from search.stopping.rules import MEDIAN, STARTUP_TRIALS, QuantileRule, Verdict, our_rule
from spaces.sections import PrunerSpec

WORKERS = (1, 8)
MOST_LOST = 0.01  # share of the searches, of a rule that may be chosen
ALIKE = 0.02  # of the unpruned epochs: a smaller difference does not choose
TRIALS = 50  # of a search, for rules that ask; a half has as many, or fewer
DEFAULT, UNPRUNED = "segtune median (default)", "unpruned"
SPARED = f"{DEFAULT[:14]}, which spares warm-ups"


class Known(NamedTuple):
    """A recorded run, and the epoch at which its warm-up and the ramp of its loss have ended."""

    run: Recorded
    settled: int


class Task(NamedTuple):
    """One search.

    Attributes:
        part: of these runs of the table, from the first to before the second; None: of all.
    """

    table: str
    workers: int
    rule: str
    seed: int
    part: tuple[int, int] | None = None


class Found(NamedTuple):
    """What became of a search, in epochs.

    Attributes:
        reached: until a run was near the best; those of all runs where none ever was.
        lost: whether none ever was.
        total: of the whole search.
        full: of all its runs.
    """

    reached: int
    lost: bool
    total: int
    full: int


class Spared(OurRule):
    """Our rule, which stops no run before the epoch after its own warm-up and ramp."""

    def __init__(self, rule: QuantileRule, half: Sequence[Known]) -> None:
        super().__init__(rule)
        self.settled = {id(known.run): known.settled for known in half}

    def next(self, can_begin: bool) -> Run | Stopped | str:
        chosen = super().next(can_begin)
        if isinstance(chosen, Stopped) and self._spares(chosen.run):
            return self._take_up(chosen.run.number)
        return chosen

    def epoch_ended(self, run: Run) -> Verdict:
        whole = self.rule
        if self._spares(run):
            self.rule = replace(whole, bars=())
        verdict = super().epoch_ended(run)
        self.rule = whole
        return verdict

    def _spares(self, run: Run) -> bool:
        return run.epoch <= self.settled[id(run.recorded)] + 1


Make = Callable[[Sequence[Known], int, int], Rule]
"""(the runs of a search, epochs of a run in full, seed) -> the rule."""


def ours(quantile: float | None, share: float, pause: float | None) -> Make:
    """Our rule: stops below a quantile (None: never) from a share of the run on, and pauses."""

    def make(half: Sequence[Known], epochs: int, seed: int) -> Rule:
        first, tenth = max(1, math.ceil(share * epochs)), max(2, math.ceil(0.1 * epochs))
        return OurRule(
            QuantileRule(
                STARTUP_TRIALS,
                () if quantile is None else ((first, quantile),),
                min(first, tenth),
                running=True,
                pause_below=pause,
                pause_early=None if pause is None else MEDIAN,
            )
        )

    return make


def written(**pruner: Any) -> Make:
    """A rule of segtune's as a study file says it."""
    return lambda half, epochs, seed: OurRule(our_rule(PrunerSpec(**pruner), epochs, TRIALS))


def _optuna(half: Sequence[Known], epochs: int, seed: int) -> Rule:
    return OptunaRule()


def _near_best(half: Sequence[Known], epochs: int, seed: int) -> Rule:
    return Clairvoyant(max(known.run.value for known in half) - NEAR, max(1, round(0.1 * epochs)))


RULES: dict[str, Make] = {
    UNPRUNED: lambda half, epochs, seed: Unpruned(),
    DEFAULT: written(name="median"),
    SPARED: lambda half, epochs, seed: Spared(
        our_rule(PrunerSpec(name="median"), epochs, TRIALS), half
    ),
    "segtune thrifty": written(name="thrifty"),
    "segtune quantile": written(name="quantile"),
    "segtune median, never pauses": written(name="median", pause_below=None),
    "segtune, pauses, never stops": ours(None, 0.25, 0.9),
    "segtune ended_median": written(name="ended_median"),
    "Optuna MedianPruner": _optuna,
    "Optuna HyperbandPruner": _optuna,
    "Optuna SuccessiveHalvingPruner": _optuna,
    "Ray Tune ASHA": lambda half, epochs, seed: peers.RayAsha(epochs, seed, 1, 4),
    "Syne Tune ASHA": lambda half, epochs, seed: peers.SyneTune("ASHA", epochs, seed),
    "(clairvoyant, after a tenth)": _near_best,
}
PRUNERS: dict[str, Callable[[int], BasePruner]] = {
    "Optuna MedianPruner": lambda epochs: MedianPruner(),
    "Optuna HyperbandPruner": lambda epochs: HyperbandPruner(1, epochs),
    "Optuna SuccessiveHalvingPruner": lambda epochs: SuccessiveHalvingPruner(),
}
NEEDS = {"Ray Tune ASHA": "ray", "Syne Tune ASHA": "syne-tune"}
CANDIDATES: dict[str, Make] = {
    f"below {quantile:g} from {share:.0%}, "
    + (f"pauses below {pause:g}" if pause else "no pause"): (ours(quantile, share, pause))
    for quantile, share, pause in product((0.3, 0.5, 0.65, 0.8), (0.1, 0.25, 0.4), (None, 0.8, 0.9))
    if pause is None or pause >= quantile
}
"""Settings of our rule among which each fold chooses."""


def main() -> None:
    """Replay every search and write the report."""
    given = parser(__doc__)
    given.add_argument("--seeds", type=int, default=200, help="searches a row")
    given.add_argument(
        "--choices", type=int, default=100, help="searches a row of settings; 0 leaves these out"
    )
    given.add_argument("--part", type=_part, help="FROM:TO, runs of each table, where not all")
    given.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    given.add_argument("--processes", type=int, default=2)
    args = given.parse_args()
    installed = peers.available()
    rules = [name for name in RULES if name not in NEEDS or installed[NEEDS[name]] is not None]
    tasks = [
        Task(table, workers, rule, seed, args.part)
        for table in args.tables
        for workers in WORKERS
        for rule in (*rules, *CANDIDATES)
        for seed in range(args.seeds if rule in rules else args.choices)
    ]
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        found = dict(zip(tasks, pool.map(search, tasks, chunksize=20), strict=True))
    text = report(found, rules, called("across.py"))
    publish(text, args.to)


def _part(given: str) -> tuple[int, int]:
    first, _, end = given.partition(":")
    return int(first), int(end)


@cache
def recorded(table: str, part: tuple[int, int] | None = None) -> list[Known]:
    """The runs of a table; `part` as of `Task`."""
    runs = []
    own = space(table)
    for row in read_table(table):
        metric = tuple(math.nan if value is None else value for value in row["metric"])
        seconds, warmup = tuple(row["cpu_seconds"]), row["warmup"]
        settled = max(warmup, sum(own.config(row["params"]).loss_warmup))
        runs.append(Known(Recorded(row["params"], metric, seconds, warmup), settled))
    return runs if part is None else runs[slice(*part)]


def search(task: Task) -> Found:
    """Replay one search: a random half of its table, in a random order."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    runs = recorded(task.table, task.part)
    half = random.Random(task.seed).sample(runs, len(runs) // 2)
    epochs = max(len(known.run.metric) for known in runs)
    make, pruner = RULES.get(task.rule) or CANDIDATES[task.rule], PRUNERS.get(task.rule)
    outcome = replay(
        InOrder(known.run for known in half),
        make(half, epochs, task.seed),
        epochs,
        workers=task.workers,
        pruner=pruner(epochs) if pruner else None,
    )
    full = sum(len(known.run.metric) for known in half)
    reached = outcome.epochs_to(max(known.run.value for known in half) - NEAR)
    return Found(full if reached is None else reached, reached is None, outcome.epochs, full)


# ---------------------------------------------------------------- what they come to


class Row(NamedTuple):
    """A rule on a table, with so many workers.

    Attributes:
        reached: epochs until a search was near the best, beside those without a rule.
        lost: share of the searches.
        total: epochs of the whole search, beside those of all its runs.
    """

    reached: float
    lost: float
    total: float


def summed(found: Mapping[Task, Found]) -> dict[tuple[str, int, str], Row]:
    """{(table, workers, rule): its row}."""
    groups: dict[tuple[str, int, str], list[tuple[Found, Found]]] = {}
    for task, one in found.items():
        unpruned = found[task._replace(rule=UNPRUNED)]  # of the same seed
        groups.setdefault((task.table, task.workers, task.rule), []).append((one, unpruned))
    return {
        key: Row(
            sum(one.reached for one, _ in pairs) / sum(unpruned.reached for _, unpruned in pairs),
            statistics.mean(one.lost for one, _ in pairs),
            statistics.mean(one.total / one.full for one, _ in pairs),
        )
        for key, pairs in groups.items()
    }


def chosen(rows: Mapping[tuple[str, int, str], Row], tables: Sequence[str]) -> str | None:
    """The best of CANDIDATES on some tables; None where all lose too much.

    Of those that lose at most MOST_LOST of the searches of each table, and that are ALIKE the
    fastest to the best: the one whose whole search costs least.
    """
    of = {
        rule: [rows[table, workers, rule] for table in tables for workers in WORKERS]
        for rule in CANDIDATES
    }
    kept = {rule: own for rule, own in of.items() if max(row.lost for row in own) <= MOST_LOST}
    if not kept:
        return None
    speed = {rule: statistics.mean(row.reached for row in own) for rule, own in kept.items()}
    fast = [rule for rule in kept if speed[rule] <= min(speed.values()) + ALIKE]
    return min(fast, key=lambda rule: statistics.mean(row.total for row in kept[rule]))


def report(found: Mapping[Task, Found], rules: Sequence[str], command: str) -> str:
    """The Markdown report."""
    rows = summed(found)
    shown = dict.fromkeys((task.table, task.part) for task in found)
    tables = [table for table, _ in shown]
    seeds = len({task.seed for task in found if task.rule in rules})
    choices = len({task.seed for task in found if task.rule not in rules})
    text = heading(
        "Stopping rules on several tables of recorded runs",
        command,
        program="research/early-stopping/",
    )
    sizes = "; ".join(
        f"{table}: {len(recorded(table, part))} runs of {len(recorded(table)[0].run.metric)} epochs"
        for table, part in shown
    )
    text += f"""
{sizes}.

{seeds} searches a row ({choices} of the settings that could be chosen), each of a random
half of a table in a random order, the same ones in every row. *to the best*: epochs until a run is
within {NEAR} of the best of its half, beside the unpruned search's; a search that never gets there
is charged with all its epochs. *lost*: searches that never get there. *total*: epochs of the
whole search, beside all runs in full.
"""
    for table in tables:
        text += f"\n## {table}\n\n{_block(rows, table, rules)}\n"
    if not choices:
        return text
    if len(tables) > 1:
        text += f"\n## Chosen on the others\n\n{_folds(rows, tables)}\n"
    every = list(CANDIDATES)
    text += "\n## All settings that could be chosen\n"
    for table in tables:
        text += f"\n{table}:\n\n{_block(rows, table, every)}\n"
    return text


def _block(rows: Mapping[tuple[str, int, str], Row], table: str, rules: Sequence[str]) -> str:
    columns = ["rule", "to the best, 1 worker", "8", "lost, 1", "8", "total, 1", "8"]
    lines = []
    for rule in rules:
        one, eight = (rows[table, workers, rule] for workers in WORKERS)
        lines.append(
            [
                rule,
                f"{one.reached:.2f}",
                f"{eight.reached:.2f}",
                f"{one.lost:.1%}",
                f"{eight.lost:.1%}",
                f"{one.total:.2f}",
                f"{eight.total:.2f}",
            ]
        )
    return markdown(columns, lines)


def _folds(rows: Mapping[tuple[str, int, str], Row], tables: Sequence[str]) -> str:
    lines = []
    for held_out in tables:
        others = [table for table in tables if table != held_out]
        rule = chosen(rows, others)
        for name in (rule, DEFAULT):
            if name is None:
                lines.append([held_out, "none loses so little", "", "", ""])
                continue
            own = [rows[held_out, workers, name] for workers in WORKERS]
            lines.append(
                [
                    held_out,
                    name,
                    ", ".join(f"{row.reached:.2f}" for row in own),
                    ", ".join(f"{row.lost:.1%}" for row in own),
                    ", ".join(f"{row.total:.2f}" for row in own),
                ]
            )
    return markdown(["held out", "rule", "to the best, 1 and 8 workers", "lost", "total"], lines)


if __name__ == "__main__":
    main()
