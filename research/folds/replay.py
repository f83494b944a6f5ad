"""Folds that a search saves by stopping between folds, and whether it keeps its best trial: rules.

    python -m benchmarks.folds --record research/folds/folds.json    # trains; about 20 minutes
    python research/folds/replay.py --to research/folds/replay.md    # a few minutes

Replays the recorded trials of a study that stopped none, in the order in which they were begun and
in random ones. A trial goes on after a fold where the rule says so; curves play no part.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from scipy import stats

from benchmarks.report import called, heading, parser, publish, table
from search.stopping.folds import CHANCE, Folds, chance, is_hopeless

RECORDED = Path(__file__).with_name("folds.json")
ORDERS = 300
NOISES = (0.0, 0.02, 0.04)  # added to what was recorded, whose own residuals are small

Rule = Callable[[Folds, Sequence[Folds]], bool]
"""(A trial's folds so far, those of all whole trials) -> whether it stops."""


def pooled(least: float, trial: Folds, whole: Sequence[Folds]) -> bool:
    """The product's rule, at another chance."""
    return len(whole) >= 2 and chance(trial, max(whole, key=fmean), whole) < least


def paired_t(most: float, trial: Folds, whole: Sequence[Folds]) -> bool:
    """Student's paired test of one pair by its own scatter; from the second fold on."""
    if not whole or len(trial) < 2:
        return False
    best = max(whole, key=fmean)
    return bool(stats.ttest_rel(trial, best[: len(trial)], alternative="less").pvalue < most)


def always_below(folds: int, trial: Folds, whole: Sequence[Folds]) -> bool:
    """Below the best trial on each of so many first folds."""
    if not whole or len(trial) < folds:
        return False
    best = max(whole, key=fmean)
    return all(one < other for one, other in zip(trial, best, strict=False))


def wilcoxon(most: float, trial: Folds, whole: Sequence[Folds]) -> bool:
    """Optuna's WilcoxonPruner, asked as a study of Optuna asks it."""
    if not whole:
        return False
    study = optuna.create_study(
        direction="maximize", pruner=optuna.pruners.WilcoxonPruner(p_threshold=most)
    )
    steps = [dict(enumerate(values)) for values in (max(whole, key=fmean), trial)]
    study.add_trial(
        optuna.trial.create_trial(value=fmean(steps[0].values()), intermediate_values=steps[0])
    )
    asked = study.ask()
    for step, value in steps[1].items():
        asked.report(value, step)
    return asked.should_prune()


RULES: dict[str, Rule] = {
    "none": lambda trial, whole: False,
    "Optuna's WilcoxonPruner, p < 0.1 (its default)": partial(wilcoxon, 0.1),
    "Optuna's WilcoxonPruner, p < 0.3": partial(wilcoxon, 0.3),
    "paired t of one pair, p < 0.05": partial(paired_t, 0.05),
    "below the best on each of 2 folds": partial(always_below, 2),
    "below the best on the first fold": partial(always_below, 1),
    "pooled noise, chance < 0.01": partial(pooled, 0.01),
    f"pooled noise, chance < {CHANCE:g} (segtune)": is_hopeless,
    "pooled noise, chance < 0.1": partial(pooled, 0.1),
    "pooled noise, chance < 0.2": partial(pooled, 0.2),
}


@dataclass(frozen=True)
class Outcome:
    """What a search came to.

    Attributes:
        folds: trained in all.
        value: the highest mean of a trial that trained all folds.
    """

    folds: int
    value: float


def replay(trials: Sequence[Folds], count: int, rule: Rule) -> Outcome:
    """Run one search: each trial trains fold by fold until the rule stops it.

    Args:
        trials: recorded values, in the order in which they begin; fewer than `count` where an
            alarm has ended one.
    """
    spent, whole = 0, []
    for folds in trials:
        for done in range(1, len(folds) + 1):
            spent += 1
            if done == count:
                whole.append(folds)
            elif rule(folds[:done], whole):
                break
    return Outcome(spent, max(map(fmean, whole)))


@dataclass(frozen=True)
class Row:
    """A rule over many orders: savings, and how far below the best of all the best left lies."""

    savings: list[float]
    losses: list[float]

    @property
    def cells(self) -> list[str]:
        return [
            f"{fmean(self.savings):.0%}",
            f"{min(self.savings):.0%}",
            f"{fmean(loss == 0 for loss in self.losses):.1%}",
            f"{fmean(self.losses):.4f}",
            f"{max(self.losses):.4f}",
        ]


def many(trials: Sequence[Folds], rule: Rule, orders: int, noise: float) -> Row:
    """Replay random orders of the trials, with noise of this deviation added to each value."""
    count, full = max(map(len, trials)), sum(map(len, trials))
    found = Row([], [])
    for number in range(orders):
        rng = random.Random(number)
        seen = [[value + rng.gauss(0, noise) for value in folds] for folds in trials]
        rng.shuffle(seen)
        best = max(fmean(folds) for folds in seen if len(folds) == count)
        outcome = replay(seen, count, rule)
        found.savings.append(1 - outcome.folds / full)
        found.losses.append(best - outcome.value)
    return found


def main() -> None:
    """Replay all rules and publish the report."""
    given = parser(__doc__ or "")
    given.add_argument("--orders", type=int, default=ORDERS)
    options = given.parse_args()
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    recorded = json.loads(RECORDED.read_text())
    command = called("research/folds/replay.py")
    publish(report(recorded, options.orders, command), options.to)


def report(recorded: dict[str, Any], orders: int, command: str) -> str:
    """The Markdown report."""
    trials: list[Folds] = [trial["folds"] for trial in recorded["trials"] if trial["folds"]]
    count, full = max(map(len, trials)), sum(map(len, trials))
    best = max(fmean(folds) for folds in trials if len(folds) == count)
    rows = []
    for name, rule in RULES.items():
        begun = replay(trials, count, rule)
        once = [f"{1 - begun.folds / full:.0%}", f"{best - begun.value:.4f}"]
        for noise in NOISES:
            rows.append([name, f"{noise:g}", *once, *many(trials, rule, orders, noise).cells])
            name, once = "", ["", ""]
    values = [
        [str(number), *(f"{value:.4f}" for value in folds), f"{fmean(folds):.4f}"]
        for number, folds in enumerate(trials)
    ]
    columns = ["rule", "noise", "saved", "lost"]
    columns += ["mean saved", "worst", "best kept", "mean lost", "most lost"]
    return "\n".join(
        [
            heading("Stopping between folds", command, program=""),
            f"{len(trials)} recorded trials of {count} folds ({recorded['images']}; "
            f"{recorded['epochs']} epochs a fold; benchmarks/folds.py). *saved*: share of all "
            f"{full} folds that was not trained, *lost*: how far the best trial that was left lies "
            "below the best of all; both in the order of the recording. Then over "
            f"{orders} random orders, with noise of this deviation added to each recorded value: "
            "the mean and the worst saving, in how many orders the best trial was left, the mean "
            "and the largest loss.\n",
            table(columns, rows),
            f"\nA rank test of f pairs has p-values of at least 1 / 2^f: {0.5**3:g} after 3 folds, "
            f"{0.5**4:g} after 4, {0.5**5:g} after 5. In an order in which trials get better and "
            "better there is nothing to stop: that bounds the worst saving of all rules that keep "
            "the best.\n",
            "The recorded values:\n",
            table(["trial", *(f"fold {k}" for k in range(1, count + 1)), "mean"], values),
            "",
        ]
    )


if __name__ == "__main__":
    main()
