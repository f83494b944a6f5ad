"""What each stopping rule would have saved of a study, and what it would have lost."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from dataclasses import replace as changed
from typing import Any

import optuna
from rich.console import Console
from rich.table import Table
from rich.text import Text

from search.findings.stopped import Stopped, read_stopped
from search.stopping.curves import raised
from search.stopping.replay import InOrder, OptunaRule, OurRule, Recorded, Rule, Unpruned, replay
from search.stopping.rules import OURS, optuna_pruner, our_rule, warmup_end
from search.studies.finishing import read_finished
from search.studies.reasons import known, reason
from search.studies.study import Study
from search.studies.trial_facts import TrialFacts
from spaces.errors import InputError
from spaces.sections import PrunerSpec
from trainers.health import trivial_below

LOST = 0.01  # a search whose best is this far below the study's has lost something
MIN_RUNS = 10  # fewer say nothing about a rule that waits for five


@dataclass(frozen=True)
class Curves:
    """A study's runs, as far as they went.

    Attributes:
        cut: runs that the study itself stopped, of which nobody knows how they would have gone on.
        stopped: what is known of those that its rule has stopped; None: it has stopped none.
        floor: scores up to here are those of constant answers, and equal to our rules.
    """

    runs: list[Recorded]
    cut: int
    floor: float = -math.inf
    stopped: Stopped | None = None

    @property
    def floored(self) -> list[Recorded]:
        """The runs as our rules see them; NaN stays."""
        return [changed(run, metric=raised(run.metric, self.floor)) for run in self.runs]

    @property
    def best(self) -> float:
        return max(run.value for run in self.runs)

    @property
    def epochs(self) -> int:
        return sum(len(run.metric) for run in self.runs)


@dataclass(frozen=True)
class Row:
    """A rule on the study's runs.

    Attributes:
        epochs: spent with the runs in the order in which they were begun.
        best: what it found in that order.
        mean_epochs: spent, over the random orders.
        to_best: epochs until a run was within LOST of the best; mean over the random orders that
            came so near, or None.
        lost: share of the random orders that never did.
    """

    rule: str
    epochs: int
    best: float
    mean_epochs: float
    to_best: float | None
    lost: float


def read_curves(study: Study) -> Curves:
    """Read the curves of all ended trials; of stopped ones that were finished, their whole curves.

    Raises:
        InputError: there are too few to judge a rule by.
    """
    runs, cut = [], 0
    trials = study.trials()
    ended = [trial for trial in trials if trial.state.is_finished()]
    histories = study.histories(trial.number for trial in ended)
    finished = read_finished(study)
    if finished.study is not None:
        whole = finished.study.histories(trial.number for trial in finished.runs.values())
        histories |= {number: whole[trial.number] for number, trial in finished.runs.items()}
    for trial in ended:
        history = [r for r in histories[trial.number] if r.fold in (None, 1)]  # where rules look
        if not history:
            continue
        cut += known(reason(trial)).cut and trial.number not in finished.runs
        runs.append(
            Recorded(
                trial.params,
                tuple(report.metric for report in history),
                tuple(report.seconds for report in history),
                warmup_end(study.config(trial)),
            )
        )
    if len(runs) < MIN_RUNS:
        raise InputError(
            f"study {study.spec.name} has {len(runs)} ended trials with an epoch, but a replay "
            f"needs {MIN_RUNS}; raise its budget: segtune launch FILE --trials N"
        )
    scores = (TrialFacts.of(trial).trivial_score for trial in ended)
    constant = max((score for score in scores if score is not None), default=-math.inf)
    floor = trivial_below(constant, study.space.base.health.trivial)
    return Curves(runs, cut, floor, read_stopped(study, trials, finished))


def compare(study: Study, curves: Curves, orders: int, workers: int, seed: int = 0) -> list[Row]:
    """Replay the study's runs under every rule.

    Args:
        orders: random orders of the runs, beside the one in which they were begun.
        workers: that train at once, in simulated time.
    """
    epochs = study.space.base.train.epochs
    places = [[*range(len(curves.runs))] for _ in range(orders)]
    for number, order in enumerate(places):
        random.Random(f"{seed}/{number}").shuffle(order)
    target = curves.best - LOST
    rows = []
    for name, make, pruner in _rules(study.spec.pruner, epochs, len(curves.runs)):
        runs = curves.floored if isinstance(make(), OurRule) else curves.runs
        as_it_was, *whole = (
            replay(
                InOrder(runs[place] for place in order),
                make(),
                epochs,
                workers=workers,
                pruner=pruner(),
            )
            for order in ([*range(len(runs))], *places)
        )
        arrivals = (outcome.epochs_to(target) for outcome in whole)
        arrived = [epochs_ for epochs_ in arrivals if epochs_ is not None]
        rows.append(
            Row(
                name,
                as_it_was.epochs,
                min(as_it_was.best, curves.best),  # where nothing was learned it is the floor
                statistics.mean(outcome.epochs for outcome in whole),
                statistics.mean(arrived) if arrived else None,
                1 - len(arrived) / orders,
            )
        )
    return rows


def show(study: Study, curves: Curves, rows: Sequence[Row], orders: int, console: Console) -> None:
    """Print the comparison, and what it cannot know."""
    name = study.spec.name
    if curves.stopped is not None:
        for line in curves.stopped.lines(study.metric, name):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    table = Table(title=Text(f"{name}: stopping rules on its {len(curves.runs)} recorded runs"))
    for heading in (
        "rule",
        "epochs",
        "saved",
        f"best {study.metric}",
        f"epochs, {orders} orders",
        f"to within {LOST}",
        "never",
    ):
        table.add_column(heading, justify="left" if heading == "rule" else "right")
    for row in rows:
        table.add_row(
            Text(row.rule),
            str(row.epochs),
            f"{1 - row.epochs / curves.epochs:.0%}",
            f"{row.best:.4f}",
            f"{row.mean_epochs:.0f}",
            "-" if row.to_best is None else f"{row.to_best:.0f}",
            f"{row.lost:.0%}",
        )
    console.print(table)
    console.print(
        "epochs, saved, best: with the runs in the order in which they were begun; then means over "
        f"{orders} random orders: epochs in all, epochs until a run was within {LOST} of the best, "
        "and the share of orders that never got there",
        style="dim",
    )
    if curves.cut:
        console.print(
            f"{curves.cut} of the {len(curves.runs)} runs were stopped by the study itself and "
            "not finished; a rule that lets them go on counts them as far as they went, so it "
            "would have spent more (and perhaps found more)"
        )


def as_json(curves: Curves, rows: Sequence[Row]) -> str:
    """The comparison for programs."""
    facts: dict[str, Any] = {
        "runs": len(curves.runs),
        "cut": curves.cut,
        "epochs": curves.epochs,
        "stopped": None if curves.stopped is None else curves.stopped.to_json(),
    }
    return json.dumps({**facts, "best": curves.best, "rules": [asdict(row) for row in rows]})


def _rules(
    own: PrunerSpec, epochs: int, trials: int
) -> list[tuple[str, Callable[[], Rule], Callable[[], optuna.pruners.BasePruner]]]:
    """(name, rule, Optuna's pruner) of each rule; the study's own settings where it is its rule."""
    known = [
        PrunerSpec(),
        PrunerSpec(name="thrifty"),
        PrunerSpec(name="quantile"),
        PrunerSpec(name="ended_median"),
        PrunerSpec(name="stock_median"),
        PrunerSpec(name="percentile"),
        PrunerSpec(name="hyperband"),
    ]
    specs: dict[str, PrunerSpec] = {spec.name: spec for spec in known}
    if own.name != "none" and own not in known:
        specs[f"{own.name}, as this study has it"] = own
    return [
        ("none", Unpruned, optuna.pruners.NopPruner),
        *(
            (name, _maker(spec, epochs, trials), _pruner(spec, epochs))
            for name, spec in specs.items()
        ),
    ]


def _maker(spec: PrunerSpec, epochs: int, trials: int) -> Callable[[], Rule]:
    if spec.name in OURS:
        return lambda: OurRule(our_rule(spec, epochs, trials))
    return OptunaRule


def _pruner(spec: PrunerSpec, epochs: int) -> Callable[[], optuna.pruners.BasePruner]:
    return lambda: optuna_pruner(spec, epochs)
